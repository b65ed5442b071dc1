"""What a user calls: one module per family of operators."""

from dask_embed.operators.base import ColumnOperator
from dask_embed.operators.chunker import Chunker
from dask_embed.operators.classifier import Classifier
from dask_embed.operators.embedder import Embedder
from dask_embed.operators.generator import Generator
from dask_embed.operators.late_chunks import LateChunkEmbedder
from dask_embed.operators.linear_head import LinearHead
from dask_embed.operators.mask_filler import MaskFiller
from dask_embed.operators.model import ModelOperator
from dask_embed.operators.question_answerer import QuestionAnswerer
from dask_embed.operators.reranker import Reranker
from dask_embed.operators.scorer import Scorer
from dask_embed.operators.similarity import Similarity
from dask_embed.operators.token_classifier import TokenClassifier
from dask_embed.operators.tokenizer import Tokenizer
from dask_embed.operators.zero_shot import ZeroShotClassifier

__all__ = [
    "Chunker",
    "Classifier",
    "ColumnOperator",
    "Embedder",
    "Generator",
    "LateChunkEmbedder",
    "LinearHead",
    "MaskFiller",
    "ModelOperator",
    "QuestionAnswerer",
    "Reranker",
    "Scorer",
    "Similarity",
    "TokenClassifier",
    "Tokenizer",
    "ZeroShotClassifier",
]
