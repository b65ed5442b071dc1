"""Vector columns in smaller number types, calibrated over a whole dataset."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from dask_embed._validation import column_name, one_of, shown
from dask_embed.arrays import lazy_dimension, to_array
from dask_embed.columns import Vectors, append_columns
from dask_embed.columns.frames import (
    is_dask_frame,
    require_columns,
    require_frame,
    require_series,
)
from dask_embed.columns.types import PRECISIONS, vector_type
from dask_embed.operators.ranges import CALIBRATED, checked_ranges, spread


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
            f"column {column!r} is not in the dataframe; its columns are "
            f"{shown(list(frame.columns))}"
        )
    ranges = checked_ranges(precision, ranges)
    if not is_dask_frame(frame):
        if ranges is None and precision in CALIBRATED:
            ranges = calibration_ranges(frame[column])
        return quantize_partition(frame, ranges, column, precision)
    from dask_embed.quantize_expr import quantize_lazily

    return quantize_lazily(frame, ranges, column, precision)


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
        from dask_embed.quantize_expr import ranges_lazily

        dimension = lazy_dimension(series)
        found = ranges_lazily(series.to_frame(), series.name, dimension).compute()
    else:
        dimension = to_array(series.iloc[:0]).shape[1]
        found = of_more_than_one_value(partition_ranges(series))
    return ranges_of(found) if len(found) else np.zeros((2, dimension), np.float32)


def partition_ranges(series: Any, dimension: int | None = None) -> pd.Series:
    """Return the ranges of one partition in a form that partitions can be joined in.

    One entry per bound and dimension, the lowest values first; nothing without vectors.
    """
    array = _float_array(series, dimension)
    array = array[np.isfinite(array).all(axis=1)]
    if not len(array):
        return pd.Series([], dtype="float32")
    ranges = np.concatenate([array.min(axis=0), array.max(axis=0)])
    return pd.Series(ranges.get() if hasattr(ranges, "get") else ranges)  # from CuPy's array


def joined_ranges(parts: list[pd.Series]) -> pd.Series:
    """Return the ranges of several partitions."""
    every = [ranges_of(part) for part in parts if len(part)]
    if not every:
        return pd.Series([], dtype="float32")
    stacked = np.stack(every)
    ranges = np.concatenate([stacked[:, 0].min(axis=0), stacked[:, 1].max(axis=0)])
    return pd.Series(ranges, dtype="float32")


def of_more_than_one_value(ranges: pd.Series) -> pd.Series:
    """Return `ranges` as they are, if there are any in them, or nothing to take them from.

    Raises
    ------
    ValueError
        If every dimension ends where it begins: all vectors would become the same.
    """
    if len(ranges) and not spread(ranges_of(ranges)):
        raise ValueError(
            "int8 and uint8 are calibrated over vectors that differ, but there is only one, or all "
            "are equal; give ranges=, the lowest and highest value of each dimension, shape "
            "(2, dimension), such as calibration_ranges of more vectors"
        )
    return ranges


def ranges_of(series: pd.Series) -> np.ndarray:
    """Return what `partition_ranges` gave as an array of shape (2, dimension)."""
    return series.to_numpy().reshape(2, -1)


def quantize_partition(
    frame: Any, ranges: Any, column: str, precision: str, dimension: int | None = None
) -> Any:
    """Return `frame` with its vector column in another precision.

    Parameters
    ----------
    frame : pandas.DataFrame or cudf.DataFrame
    ranges : array-like, pandas.Series of `partition_ranges`, or None
    column, precision : str
    dimension : int, optional
        Values that each vector must have, by default what the column's type tells.
    """
    import torch

    from dask_embed.inference.precision import to_precision

    require_columns(frame, [column])
    series = frame[column]
    array = _float_array(series, dimension)
    vector_type(array.shape[1], precision)
    if isinstance(ranges, pd.Series):
        ranges = ranges_of(ranges)
    if ranges is not None and np.size(ranges) == 0:  # there was no vector to take them from
        ranges = np.zeros((2, array.shape[1]))
    bounds = None if ranges is None else torch.as_tensor(np.array(ranges, np.float32))
    if bounds is not None and bounds.shape[1] != array.shape[1]:
        raise ValueError(
            f"ranges are of {bounds.shape[1]} dimensions but the vectors of column {column!r} "
            f"have {array.shape[1]}"
        )
    valid = ~np.asarray(series.isna().to_numpy(), bool)
    vectors = torch.as_tensor(array.copy())
    vectors[torch.from_numpy(~valid).to(vectors.device)] = 0  # NaN has no integer
    result = Vectors(to_precision(vectors, precision, bounds), valid)
    replaced = append_columns(frame.drop(columns=column), {column: result})
    return replaced[list(frame.columns)]


def _float_array(series: Any, dimension: int | None = None) -> Any:
    array = to_array(series, dimension)
    if array.dtype != np.float32:
        raise TypeError(f"column {series.name!r} holds vectors of {array.dtype}; float32 is needed")
    return array
