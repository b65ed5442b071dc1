"""Vector columns as arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from dask_embed.columns import vectors_to_array


def to_array(series: Any) -> Any:
    """Return a vector column as an array of shape (rows, dimension); lazy for Dask.

    Parameters
    ----------
    series : pandas.Series, cudf.Series or dask.dataframe.Series
        A column that `Embedder` made.

    Returns
    -------
    numpy.ndarray, cupy.ndarray or dask.array.Array
        float32; rows without a vector are NaN. For pandas the array shares memory with the
        column unless there are such rows. For Dask there is one chunk per partition, of unknown
        length: call ``compute_chunk_sizes()`` where a length is needed.

    Raises
    ------
    TypeError
        If the column does not hold vectors of one dimension.
    """
    if not hasattr(series, "dask"):
        return vectors_to_array(series, _dimension(series))
    dimension = _dimension(series._meta)
    return series.map_partitions(
        vectors_to_array, dimension, meta=np.empty((0, dimension), np.float32)
    )


def _dimension(series: Any) -> int:
    dtype = getattr(series, "dtype", None)
    if isinstance(dtype, pd.ArrowDtype):
        from dask_embed.columns.types import vector_dimension

        dimension = vector_dimension(dtype.pyarrow_dtype)
        if dimension is not None:
            return dimension
    if type(series).__module__.startswith("cudf") and hasattr(dtype, "element_type"):
        return _first_length(series)
    raise TypeError(
        f"to_array takes a column of vectors, got {type(series).__name__} of dtype {dtype}"
    )


def _first_length(series: Any) -> int:
    present = series.dropna()
    if not len(present):
        raise ValueError(f"column {series.name!r} has no vector that would tell its dimension")
    return int(present.list.len().iloc[0])
