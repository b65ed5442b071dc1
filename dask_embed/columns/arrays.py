"""Vector columns in memory as arrays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from dask_embed.columns import vectors_to_array
from dask_embed.columns.types import vector_dimension


def array_of(series: Any, dimension: int | None = None) -> Any:
    """Return a vector column of pandas or cuDF as an array; see `to_array`."""
    return vectors_to_array(series, dimension or dimension_of(series))


def dimension_of(series: Any) -> int:
    """Return the values of a vector: from the type of a column, or for cuDF from its values."""
    dtype = getattr(series, "dtype", None)
    if isinstance(dtype, pd.ArrowDtype):
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


def blocks(count: int, size: int) -> Iterator[slice]:
    """Yield slices of `count` rows, of `size` rows each."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
