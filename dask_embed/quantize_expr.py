"""The lazy nodes of vector columns in smaller types, and their optimizer rules."""

from __future__ import annotations

import functools
from typing import Any

from dask.dataframe.dask_expr import new_collection
from dask.dataframe.dask_expr._expr import Blockwise, Expr, Projection
from dask.dataframe.dask_expr._reductions import ApplyConcatApply

from dask_embed.arrays import lazy_dimension
from dask_embed.expr import wanted_columns
from dask_embed.operators.ranges import CALIBRATED
from dask_embed.quantization import (
    joined_ranges,
    of_more_than_one_value,
    partition_ranges,
    quantize_partition,
)


def quantize_lazily(frame: Any, ranges: Any, column: str, precision: str) -> Any:
    """Return the Dask DataFrame with a vector column in another precision.

    Without `ranges`, precisions that need them are calibrated over the whole column.
    """
    dimension = lazy_dimension(frame[column])
    if ranges is None and precision in CALIBRATED:
        ranges = ranges_lazily(frame[[column]], column, dimension).expr
    return new_collection(Quantize(frame, ranges, column, precision, dimension))


def ranges_lazily(frame: Any, column: str, dimension: int) -> Any:
    """Return the lowest and highest values of a vector column as a lazy Series."""
    return new_collection(Ranges(frame, column, dimension))


class Ranges(ApplyConcatApply):
    """Lowest and highest value of each dimension of a vector column, over all partitions."""

    _parameters = ["frame", "column", "dimension"]  # noqa: RUF012

    ndim = 0  # Dask broadcasts what has no dimension: frames that share it stay aligned

    @property
    def chunk_kwargs(self) -> dict[str, Any]:  # type: ignore[override]
        return {"column": self.column, "dimension": self.dimension}

    @staticmethod
    def chunk(partition: Any, column: str, dimension: int) -> Any:
        return partition_ranges(partition[column], dimension)

    @classmethod
    def combine(cls, parts: list[Any]) -> Any:
        return joined_ranges(parts)

    @classmethod
    def aggregate(cls, parts: list[Any]) -> Any:
        return of_more_than_one_value(joined_ranges(parts))

    @functools.cached_property
    def _meta(self) -> Any:
        return partition_ranges(self.frame._meta[self.column], self.dimension)

    def _divisions(self) -> tuple[None, None]:
        return (None, None)


class Quantize(Blockwise):
    """`frame` with a vector column in another precision.

    Not element-wise: with ranges that are calibrated every row depends on all of them, so no
    filter may pass below.
    """

    _parameters = ["frame", "ranges", "column", "precision", "dimension"]  # noqa: RUF012
    operation = staticmethod(quantize_partition)

    @functools.cached_property
    def _meta(self) -> Any:
        ranges = self.operand("ranges")
        ranges = ranges._meta if isinstance(ranges, Expr) else ranges
        return quantize_partition(self.frame._meta, ranges, *self.operands[2:])

    def _simplify_up(self, parent: Expr, dependents: Any) -> Expr | None:
        if not isinstance(parent, Projection):
            return None
        wanted = wanted_columns(self, parent, dependents)
        if self.column not in wanted:
            return type(parent)(self.frame, *parent.operands[1:])
        needed = [column for column in self.frame.columns if column in wanted]
        if needed == self.frame.columns:
            return None
        narrowed = type(self)(Projection(self.frame, needed), *self.operands[1:])
        return type(parent)(narrowed, *parent.operands[1:])
