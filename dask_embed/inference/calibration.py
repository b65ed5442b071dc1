"""Vector columns of one partition in smaller number types, and the ranges that they need."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from dask_embed.columns import Vectors, append_columns
from dask_embed.columns.arrays import array_of
from dask_embed.columns.frames import require_columns
from dask_embed.columns.ranges import spread
from dask_embed.columns.types import vector_type


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
    import torch  # noqa: PLC0415 - run by workers

    from dask_embed.inference.precision import to_precision  # noqa: PLC0415 - run by workers

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
    array = array_of(series, dimension)
    if array.dtype != np.float32:
        raise TypeError(f"column {series.name!r} holds vectors of {array.dtype}; float32 is needed")
    return array
