"""Operators on texts that run no transformer: what they share."""

from __future__ import annotations

import abc
import dataclasses
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pyarrow as pa

from dask_embed.columns import Result, TextColumn
from dask_embed.operators.base import ColumnOperator

if TYPE_CHECKING:
    from dask_embed.runtime.stats import Meter


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextFilter(ColumnOperator):
    """Values of each text, without a transformer and its tokenizer; filters can ask for them.

    A subclass gives `result_columns`, `types`, `plan` and `measured`.

    Parameters
    ----------
    column : str
        The text column.
    output : str
        What the columns that are appended begin with.
    on_error : {"raise", "null"}
        See `ColumnOperator`.
    """

    column: str = "text"
    output: str = "text"

    incidental: ClassVar[frozenset[str]] = frozenset({"column", "output"})

    @abc.abstractmethod
    def measured(self, texts: list[str]) -> dict[str, pa.Array]:
        """Return the values of every result column, one per text."""

    @property
    def error_column(self) -> str:
        return f"{self.output}_error"

    def run(
        self, columns: list[TextColumn], *, on_device: bool, meter: Meter
    ) -> tuple[dict[str, Result], dict[int, str]]:
        column = columns[0]
        valid = column.valid
        meter.record.rows = int(valid.sum())  # not in the totals: no text runs through a model
        with meter.seconds("forward"):
            results = self.measured([text for text in column.values if text is not None])
        places = pa.array(np.cumsum(valid) - 1, mask=~valid)
        return {name: array.take(places) for name, array in results.items()}, {}
