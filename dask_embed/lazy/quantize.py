"""Vector columns in smaller number types, calibrated over a whole dataset: the lazy nodes."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
import pyarrow as pa

from dask_embed._options import named_options
from dask_embed._validation import column_name, one_of, shown
from dask_embed.columns.arrays import dimension_of
from dask_embed.columns.frames import is_dask_frame, require_frame, require_series
from dask_embed.columns.ranges import CALIBRATED, checked_ranges
from dask_embed.columns.types import PRECISIONS, vector_type
from dask_embed.inference.calibration import (
    joined_ranges,
    of_more_than_one_value,
    partition_ranges,
    quantize_partition,
    ranges_of,
)
from dask_embed.lazy._dask import Expr, Projection, new_collection
from dask_embed.lazy.append import append_lazily
from dask_embed.lazy.arrays import lazy_dimension
from dask_embed.lazy.computed import ComputedRows
from dask_embed.lazy.nodes import PartByPart, Tree
from dask_embed.lazy.nulls import asks_for_nulls
from dask_embed.lazy.same_rows import OfAllRows, SameRows
from dask_embed.operators.dispatch import lazily
from dask_embed.operators.vectors.embedder import Embedder


@named_options
def quantize(frame: Any, column: str, precision: str, *, ranges: Any = None) -> Any:
    """Store a vector column in a smaller number type; lazy for Dask.

    Parameters
    ----------
    frame : pandas.DataFrame or dask.dataframe.DataFrame
        pandas or cuDF backed.
    column : str
        A float32 vector column, as `Embedder` makes it.
    precision : {"float16", "int8", "uint8", "binary", "ubinary"}
        As sentence-transformers' ``quantize_embeddings`` defines them.
    ranges : array-like, optional
        Lowest and highest value of each dimension, shape (2, dimension). By default ``"int8"``
        and ``"uint8"`` are calibrated over all rows of `frame`. A dimension that ends where it
        begins takes steps of 1, as in sentence-transformers: values up to there become the
        lowest integer.

    Returns
    -------
    DataFrame
        `frame` with the column replaced; rows without a vector stay null.

    Raises
    ------
    TypeError, ValueError
        If the column does not hold float32 vectors, or `ranges` do not fit them; of a Dask
        DataFrame when it is computed, if all vectors that calibrate are equal.

    Notes
    -----
    Calibrating over a Dask DataFrame needs all its vectors before the first one can be stored:
    workers hold (or spill) them in float32 meanwhile. To stream instead, take
    `calibration_ranges` of a sample and give them as `ranges`.

    Examples
    --------
    >>> import pandas as pd
    >>> import dask_embed as de
    >>> frame = de.Embedder(de.datasets.minilm())(pd.DataFrame({"text": ["one", "two"]}))
    >>> small = de.quantize(frame, "embedding", "binary")
    >>> de.to_array(small["embedding"]).shape
    (2, 48)
    """
    require_frame("quantize", frame)
    one_of("precision", precision, tuple(name for name in PRECISIONS if name != "float32"))
    column_name("column", column)
    if column not in frame.columns:
        raise ValueError(
            f"column {shown(column)} is not in the dataframe; its columns are "
            f"{shown(list(frame.columns))}"
        )
    ranges = checked_ranges(precision, ranges)
    if not is_dask_frame(frame):
        if ranges is None and precision in CALIBRATED:
            ranges = calibration_ranges(frame[column])
        return quantize_partition(frame, ranges, column, precision)
    return quantize_lazily(frame, ranges, column, precision)


@named_options
def calibration_ranges(series: Any) -> np.ndarray:
    """Return lowest and highest value of each dimension of a vector column; computes for Dask.

    Parameters
    ----------
    series : pandas.Series, cudf.Series or dask.dataframe.Series
        A float32 vector column.

    Returns
    -------
    numpy.ndarray
        float32, shape (2, dimension); zeros where there is no vector.

    Raises
    ------
    ValueError
        If there is one vector only, or all are equal: they tell no range.
    """
    require_series("calibration_ranges", series)
    if hasattr(series, "expr"):
        dimension = lazy_dimension(series)
        found = ranges_lazily(series.to_frame(), series.name, dimension).compute()
    else:
        found = of_more_than_one_value(partition_ranges(series))
        dimension = len(found) // 2 or dimension_of(series)
    return ranges_of(found) if len(found) else np.zeros((2, dimension), np.float32)


@lazily.register(Embedder)
def embed_lazily(operator: Embedder, frame: Any) -> Any:
    """Return the Dask DataFrame with vectors, calibrated over all of them where that is needed."""
    if not operator.calibrates:
        return append_lazily(operator, frame)
    exact = dataclasses.replace(operator, precision="float32")
    return quantize(append_lazily(exact, frame), operator.output, operator.precision)


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


class PartitionRanges(PartByPart):
    """Lowest and highest value of each dimension of a vector column, for each partition."""

    _parameters = ["frame", "column", "dimension"]  # noqa: RUF012

    @staticmethod
    def operation(partition: Any, column: str, dimension: int) -> Any:
        return partition_ranges(partition[column], dimension)


class Ranges(Tree):
    """Lowest and highest value of each dimension, over all partitions."""

    combine = staticmethod(joined_ranges)

    @staticmethod
    def aggregate(parts: list[Any]) -> Any:
        return of_more_than_one_value(joined_ranges(parts))


class Quantize(ComputedRows):
    """`frame` with a vector column in another precision."""

    _parameters = ["frame", "ranges", "column", "precision", "dimension"]  # noqa: RUF012
    operation = staticmethod(quantize_partition)

    @functools.cached_property
    def _meta(self) -> Any:
        ranges = self.operand("ranges")
        ranges = ranges._meta if isinstance(ranges, Expr) else ranges
        return quantize_partition(self.frame._meta, ranges, *self.operands[2:])

    def asked_for_nulls(self, selection: Expr, parent: Expr, dependents: Any) -> Expr | None:
        if not asks_for_nulls(parent):
            return None
        return type(parent)(Projection(self.frame, *selection.operands[1:]), *parent.operands[1:])

    @property
    def made(self) -> set[str]:
        return {self.column}

    @property
    def reads(self) -> set[str]:
        return {self.column}

    def types(self) -> dict[str, pa.DataType]:
        return {self.column: vector_type(self.dimension, self.precision)}

    @property
    def labels(self) -> list[str]:
        return ["quantize"]

    def _depth(self, cache: Any = None) -> int:
        return 1  # after an operator, which takes longer


class QuantizeEach(Quantize, SameRows):
    """With ranges that are known, or none: each row for itself."""


class QuantizeCalibrated(Quantize, OfAllRows):
    """With ranges over all rows."""
