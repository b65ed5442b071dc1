"""What a user calls: one class per kind of model output."""

from dask_embed.operators.base import ModelOperator
from dask_embed.operators.embedder import Embedder

__all__ = ["Embedder", "ModelOperator"]
