"""The lazy nodes of vector columns in smaller types, and their optimizer rules."""

from __future__ import annotations

import functools
from typing import Any, ClassVar

from dask.dataframe.dask_expr import new_collection
from dask.dataframe.dask_expr._expr import Blockwise, Expr, Filter, Index, Projection
from dask.dataframe.dask_expr._reductions import TreeReduce

from dask_embed.arrays import lazy_dimension
from dask_embed.computed_expr import ComputedRows, SameRows, wanted_columns
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
        return new_collection(QuantizeCalibrated(frame, ranges, column, precision, dimension))
    return new_collection(QuantizeEach(frame, ranges, column, precision, dimension))


def ranges_lazily(frame: Any, column: str, dimension: int) -> Any:
    """Return the lowest and highest values of a vector column as a lazy Series."""
    return new_collection(Ranges(PartitionRanges(frame, column, dimension)))


class PartitionRanges(Blockwise):
    """Lowest and highest value of each dimension of a vector column, for each partition."""

    _parameters = ["frame", "column", "dimension"]  # noqa: RUF012

    @staticmethod
    def operation(partition: Any, column: str, dimension: int) -> Any:
        return partition_ranges(partition[column], dimension)

    def _divisions(self) -> tuple[None, ...]:
        return (None,) * (self.frame.npartitions + 1)


class Ranges(TreeReduce):
    """Lowest and highest value of each dimension, over all partitions.

    Not one of Dask's reductions, which get another name when the plan is lowered.
    """

    _parameters = ["frame"]  # noqa: RUF012
    _defaults = {}  # noqa: RUF012
    ndim = 0  # Dask broadcasts what has no dimension: frames that share it stay aligned
    kind = "ranges"
    split_every = 8
    combine = staticmethod(joined_ranges)
    combine_kwargs: ClassVar[dict[str, Any]] = {}
    aggregate_kwargs: ClassVar[dict[str, Any]] = {}

    @staticmethod
    def aggregate(parts: list[Any]) -> Any:
        return of_more_than_one_value(joined_ranges(parts))

    @functools.cached_property
    def _name(self) -> str:
        return f"ranges-{self.deterministic_token}"

    @property
    def _meta(self) -> Any:
        return self.frame._meta


class Quantize(ComputedRows):
    """`frame` with a vector column in another precision."""

    _parameters = ["frame", "ranges", "column", "precision", "dimension"]  # noqa: RUF012
    operation = staticmethod(quantize_partition)

    @functools.cached_property
    def _meta(self) -> Any:
        ranges = self.operand("ranges")
        ranges = ranges._meta if isinstance(ranges, Expr) else ranges
        return quantize_partition(self.frame._meta, ranges, *self.operands[2:])

    @property
    def made(self) -> set[str]:
        return {self.column}

    @property
    def reads(self) -> set[str]:
        return {self.column}

    @property
    def labels(self) -> list[str]:
        return ["quantize"]


class QuantizeEach(SameRows, Quantize):
    """With ranges that are known, or none: each row for itself."""


class QuantizeCalibrated(Quantize):
    """With ranges over all rows.

    Not element-wise: every row depends on all of them, so no filter may pass below.
    """

    def _filter_passthrough_available(self, parent: Filter, dependents: Any) -> bool:
        return False  # else Dask waits for it, and keeps column selections above the filter

    def _simplify_up(self, parent: Expr, dependents: Any) -> Expr | None:
        if isinstance(parent, Index):
            return Index(self.frame)
        if not isinstance(parent, Projection):
            return None
        wanted = wanted_columns(self, parent, dependents)
        if self.column not in wanted:
            return type(parent)(self.frame, *parent.operands[1:])
        narrowed = self.narrowed(wanted)
        return None if narrowed is self else type(parent)(narrowed, *parent.operands[1:])
