"""Vector columns of a partition as arrays on the host, for steps that compare them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from dask_embed.columns import read_vectors, to_host
from dask_embed.columns.frames import require_columns
from dask_embed.columns.types import one_array, require_vectors, vector_dimension


def vectors_of(partition: Any, column: Any, dimension: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the vectors of a partition that there are, and which rows have one.

    Returns
    -------
    vectors : numpy.ndarray
        Shape (rows with a vector, dimension), in the type that they are stored in.
    valid : numpy.ndarray
        bool, shape (rows,).

    Raises
    ------
    ValueError
        If a row holds a vector of another dimension, NaN or infinite numbers.
    """
    require_columns(partition, [column])
    read = read_vectors(partition[column], dimension)
    require_vectors(column, read)
    values = read.values.get() if hasattr(read.values, "get") else read.values
    values = values if read.valid.all() else values[read.valid]
    if values.dtype.kind == "f":
        finite = np.isfinite(values).all(axis=1)
        if not finite.all():
            row = int(np.flatnonzero(read.valid)[int(np.argmin(finite))])
            raise ValueError(
                f"row {row} of the partition: column {column!r}: its vector holds NaN or infinite "
                f"numbers ({np.count_nonzero(~finite)} such rows)"
            )
    return values, read.valid


def scattered(values: np.ndarray, valid: np.ndarray) -> pa.Array:
    """Return values of the rows where `valid`, the others null, as an Arrow array."""
    full = np.zeros(len(valid), values.dtype)
    full[valid] = values
    return pa.array(full, mask=~valid)


def vector_series(vectors: np.ndarray, index: Any = None) -> pd.Series:
    """Return an array of shape (rows, dimension) as a vector column, without a copy."""
    flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
    array = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    return pd.Series(pd.arrays.ArrowExtensionArray(array), index=index)


def token_vectors_of(
    partition: Any, column: Any, dimension: int
) -> tuple[list[np.ndarray], np.ndarray]:
    """Return the token vectors of each row that has some, and which rows these are."""
    require_columns(partition, [column])
    series = to_host(partition[[column]])[column]
    array = one_array(series.array)
    lengths = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False)
    flat = array.flatten()
    values = flat.flatten().to_numpy(zero_copy_only=False).reshape(-1, dimension)
    if not np.isfinite(values).all():
        raise ValueError(f"column {column!r} has a partition with NaN or infinite numbers")
    texts = np.split(values.astype(np.float32, copy=False), np.cumsum(lengths)[:-1])
    return [text for text in texts if len(text)], lengths > 0


def token_dimension(series: pd.Series) -> int | None:
    """Return the dimension of a column of token vectors, None of any other column."""
    dtype = getattr(series.dtype, "pyarrow_dtype", pa.null())
    if pa.types.is_list(dtype) or pa.types.is_large_list(dtype):
        return vector_dimension(dtype.value_type)
    return None
