"""Vector columns as arrays, lazily too."""

from __future__ import annotations

from typing import Any

import dask
import pandas as pd

from dask_embed._options import named_options
from dask_embed._validation import positive_integer
from dask_embed.columns import vectors_to_array
from dask_embed.columns.arrays import array_of, dimension_of
from dask_embed.columns.frames import require_series
from dask_embed.columns.types import vector_dimension
from dask_embed.lazy.computed import ComputedRows


@named_options
def to_array(series: Any, dimension: int | None = None) -> Any:
    """Return a vector column as an array of shape (rows, dimension); lazy for Dask.

    Parameters
    ----------
    series : pandas.Series, cudf.Series or dask.dataframe.Series
        A column that `Embedder` made.
    dimension : int, optional
        Values of a vector; needed only for a lazy cuDF column that was read from a file, whose
        type does not tell.

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

    Notes
    -----
    For a column of scores `Similarity` is better: Dask optimizes an array apart from the frame, so
    ``frame.assign(score=to_array(frame.embedding) @ query)`` computes the vectors twice, and a
    filter after it is a shuffle where the divisions of `frame` are unknown.
    """
    positive_integer("dimension", dimension)
    require_series("to_array", series)
    if not hasattr(series, "expr"):
        return array_of(series, dimension)
    dimension = dimension or lazy_dimension(series)
    meta = vectors_to_array(series._meta, dimension)
    # Dask optimizes what it turns into an array, and would join files of which few columns are
    # read: the array would have fewer chunks than the frame has partitions.
    with dask.config.set({"optimization.tune.active": False}):
        return series.map_partitions(partition_to_array, dimension, meta.dtype, meta=meta)


def partition_to_array(series: Any, dimension: int, dtype: Any) -> Any:
    """Return the vectors of a partition, which have to be what the whole promised."""
    array = vectors_to_array(series, dimension)
    if array.dtype != dtype and len(array):
        raise TypeError(
            f"column {series.name!r} holds vectors of {array.dtype} in this partition, where "
            f"{dtype} was promised"
        )
    return array.astype(dtype, copy=False)


def lazy_dimension(series: Any) -> int:
    """Return the dimension from the type, or for cuDF, whose lists have none, from the plan."""
    if isinstance(series._meta, pd.Series):
        return dimension_of(series._meta)
    for node in series.expr.find_operations(ComputedRows):
        types = node.types()
        if series.name in types:
            return vector_dimension(types[series.name]) or dimension_of(series._meta)
    raise TypeError(f"the type of column {series.name!r} does not tell its dimension: give it")
