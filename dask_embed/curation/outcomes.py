"""What decisions make of the rows of a partition: columns beside them, or the rows that stay."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from dask_embed.columns import append_columns, empty_columns
from dask_embed.columns.types import one_array
from dask_embed.curation.ranking import places, row_numbers
from dask_embed.lazy._dask import Blockwise, Expr

DECIDED = ("group", "duplicate_of", "similarity", "kept", "reason")
"""The columns of decisions, behind the number of the row."""


class Keep(Blockwise):
    """The rows of each partition that no decision takes away."""

    _parameters = ["frame", "decisions"]  # noqa: RUF012 - the form of every Dask expression

    @staticmethod
    def operation(partition: Any, decisions: pd.DataFrame) -> Any:
        kept = np.ones(len(partition), bool)
        kept[places(decisions["row"])] = decisions["kept"].to_numpy(bool)
        return partition[kept]

    @functools.cached_property
    def _meta(self) -> Any:
        return self.frame._meta

    def _divisions(self) -> Any:
        return self.frame.divisions

    def _broadcast_dep(self, dep: Expr) -> bool:
        return False


class Mark(Blockwise):
    """The rows of each partition with the decisions about them; where there is none a row is kept.

    Parameters
    ----------
    frame, decisions : Expr
        In the same partitions.
    numbers : Expr
        The number of each.
    types : dict
        Names and Arrow types of the new columns, of which the number of the row may be the first.
    """

    _parameters = ["frame", "decisions", "numbers", "types"]  # noqa: RUF012 - as all expressions

    @staticmethod
    def operation(partition: Any, decisions: Any, number: int, types: dict[str, Any]) -> Any:
        own, names = len(types) - len(DECIDED), list(types)
        made: dict[str, Any] = {}
        if own:
            made[names[0]] = pa.array(row_numbers(number, len(partition)))
        columns = whole_columns(len(partition), decisions, list(types.values())[own:])
        made |= dict(zip(names[own:], columns, strict=True))
        return _with_plain_kept(append_columns(partition, made), names)

    @functools.cached_property
    def _meta(self) -> Any:
        return with_types(self.frame._meta, self.operand("types"))

    def _divisions(self) -> Any:
        return self.frame.divisions

    def _broadcast_dep(self, dep: Expr) -> bool:
        return False


def with_types(meta: Any, types: dict[str, pa.DataType]) -> Any:
    """Return an empty frame with the columns that `Mark` appends."""
    return _with_plain_kept(empty_columns(meta, types), list(types))


def _with_plain_kept(frame: Any, names: list[str]) -> Any:
    """Return a frame whose ``kept`` is of plain booleans, which pandas aligns with any others."""
    return frame.astype({names[-len(DECIDED) + DECIDED.index("kept")]: bool})


def whole_columns(rows: int, decisions: pd.DataFrame, types: list[pa.DataType]) -> list[pa.Array]:
    """Return the columns of decisions for all rows of a partition, of which most have none."""
    where = np.full(rows, -1)
    where[places(decisions["row"])] = np.arange(len(decisions))
    decided = pa.array(where, mask=where < 0)
    columns = []
    for name, dtype in zip(DECIDED, types, strict=True):
        columns.append(one_array(decisions[name].array).cast(dtype).take(decided))
    columns[DECIDED.index("kept")] = columns[DECIDED.index("kept")].fill_null(True)
    return columns
