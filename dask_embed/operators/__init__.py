"""What a user calls: a room for each family of operators, and their public names."""

from dask_embed.operators.base import ColumnOperator
from dask_embed.operators.filters.language import LanguageDetector
from dask_embed.operators.filters.personal_data import PersonalDataReplacer
from dask_embed.operators.filters.quality import TextQuality
from dask_embed.operators.filters.statistics import TextStatistics
from dask_embed.operators.labels.classifier import Classifier
from dask_embed.operators.labels.reranker import Reranker
from dask_embed.operators.labels.zero_shot import ZeroShotClassifier
from dask_embed.operators.language.candidate_scorer import CandidateScorer
from dask_embed.operators.language.generator import Generator
from dask_embed.operators.language.text_scorers import NextTokenScorer, PerplexityScorer
from dask_embed.operators.model import ModelOperator
from dask_embed.operators.spans.mask_filler import MaskFiller
from dask_embed.operators.spans.question_answerer import QuestionAnswerer
from dask_embed.operators.spans.token_classifier import TokenClassifier
from dask_embed.operators.tokens.chunker import Chunker
from dask_embed.operators.tokens.late_chunks import LateChunkEmbedder
from dask_embed.operators.tokens.tokenizer import Tokenizer
from dask_embed.operators.vectors.embedder import Embedder
from dask_embed.operators.vectors.linear_head import LinearHead
from dask_embed.operators.vectors.multi_vector import MultiVectorEmbedder
from dask_embed.operators.vectors.similarity import Similarity
from dask_embed.operators.vectors.sparse import SparseEmbedder

__all__ = [
    "CandidateScorer",
    "Chunker",
    "Classifier",
    "ColumnOperator",
    "Embedder",
    "Generator",
    "LanguageDetector",
    "LateChunkEmbedder",
    "LinearHead",
    "MaskFiller",
    "ModelOperator",
    "MultiVectorEmbedder",
    "NextTokenScorer",
    "PerplexityScorer",
    "PersonalDataReplacer",
    "QuestionAnswerer",
    "Reranker",
    "Similarity",
    "SparseEmbedder",
    "TextQuality",
    "TextStatistics",
    "TokenClassifier",
    "Tokenizer",
    "ZeroShotClassifier",
]
