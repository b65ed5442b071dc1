"""What a user calls: one module per family of operators."""

from dask_embed.operators.base import ColumnOperator
from dask_embed.operators.classifier import Classifier
from dask_embed.operators.embedder import Embedder
from dask_embed.operators.model import ModelOperator

__all__ = ["Classifier", "ColumnOperator", "Embedder", "ModelOperator"]
