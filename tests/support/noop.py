"""A model operator without a model, for what is about tasks and not about vectors."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa
import torch

import dask_embed as de
from dask_embed.columns import Result, TextColumn, Vectors
from dask_embed.columns.types import vector_type
from dask_embed.models.checkpoint import Checkpoint


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextLengths(de.ModelOperator):
    """Append the number of characters of each text as a vector of one value."""

    column: str = "text"
    output: str = "length"

    def output_types(self, checkpoint: Checkpoint) -> dict[str, pa.DataType]:
        return {self.output: vector_type(1)}

    def describe(self, checkpoint: Checkpoint) -> str:
        return "number of characters"

    def run(
        self, columns: list[TextColumn], *, on_device: bool, meter: Any
    ) -> tuple[dict[str, Result], dict[int, str]]:
        lengths = [len(text or "") for text in columns[0].values]
        valid = np.array([text is not None for text in columns[0].values])
        return {self.output: Vectors(torch.tensor(lengths).float()[:, None], valid)}, {}
