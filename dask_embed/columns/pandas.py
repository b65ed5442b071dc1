"""pandas partitions: text of any string type, vectors as Arrow fixed-size lists."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pandas import DataFrame, Series

from dask_embed.columns import transfer  # noqa: F401 - lets Dask shuffle list columns
from dask_embed.columns.types import (
    Result,
    TextColumn,
    TokenVectors,
    VectorColumn,
    Vectors,
    is_number,
    separate_unusable,
    vector_dimension,
    wrong_dimensions,
)

__all__ = ["DataFrame", "Series"]


def check_text(series: pd.Series) -> None:
    """Raise TypeError unless the type of `series` can hold text."""
    dtype = series.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        dtype = dtype.categories.dtype if dtype.categories is not None else np.dtype(object)
    if isinstance(dtype, pd.StringDtype) or dtype == np.dtype(object):
        return
    if isinstance(dtype, pd.ArrowDtype) and _is_arrow_text(dtype.pyarrow_dtype):
        return
    raise TypeError(
        f"column {series.name!r} has dtype {series.dtype}, text is needed; allowed are str, "
        "object with strings, Arrow strings and categories of strings "
        f"(for numbers: .astype({{{series.name!r}: str}}))"
    )


def read_text(series: pd.Series) -> TextColumn:
    """Return the texts of `series`, nulls as None; rows without text are told apart."""
    if isinstance(series.dtype, pd.CategoricalDtype):
        series = series.astype(object)
    if series.dtype == object:
        values = series.tolist()
        return separate_unusable(values, np.asarray(series.isna(), bool))
    try:
        return TextColumn(_to_arrow(series).cast(pa.large_string()).to_pylist())
    except UnicodeEncodeError:  # a lone surrogate in one of pandas' Python strings
        return separate_unusable(series.tolist(), np.asarray(series.isna(), bool))


def stored_vectors(series: pd.Series) -> tuple[pa.DataType, int | None]:
    """Return the type of the values of a vector column, and its dimension where all have one.

    Raises
    ------
    TypeError
        If the column does not hold lists of numbers.
    """
    dtype = getattr(series.dtype, "pyarrow_dtype", None)
    lists = (pa.types.is_fixed_size_list, pa.types.is_list, pa.types.is_large_list)
    if dtype is not None and any(test(dtype) for test in lists) and is_number(dtype.value_type):
        return dtype.value_type, vector_dimension(dtype)
    raise TypeError(
        f"column {series.name!r} has dtype {series.dtype}, vectors are needed: an Arrow list of "
        "numbers, as Embedder and dask_embed.read_parquet give"
    )


def read_vectors(series: pd.Series, dimension: int) -> VectorColumn:
    """Return the vectors of `series`; zero-copy where all rows have one, or lists are fixed."""
    array = _to_arrow(series)
    valid = ~np.asarray(series.isna(), bool)
    if pa.types.is_fixed_size_list(array.type):
        return _of_fixed_size(array, valid, dimension)
    offsets = array.offsets.to_numpy(zero_copy_only=False)
    errors = wrong_dimensions(np.diff(offsets), valid, dimension)
    valid[list(errors)] = False
    if valid.all():
        values = array.values.slice(offsets[0], len(array) * dimension)
        return VectorColumn(_to_numpy(values).reshape(-1, dimension), valid)
    present = _to_numpy(array.filter(pa.array(valid)).flatten()).reshape(-1, dimension)
    matrix = np.zeros((len(array), dimension), present.dtype)
    matrix[valid] = present
    return VectorColumn(matrix, valid, errors)


def _of_fixed_size(array: pa.Array, valid: np.ndarray, dimension: int) -> VectorColumn:
    size = array.type.list_size
    if size != dimension:
        lengths = np.full(len(array), size)
        errors = wrong_dimensions(lengths, valid, dimension)
        return VectorColumn(np.zeros((len(array), dimension)), np.zeros_like(valid), errors)
    values = array.values.slice(array.offset * size, len(array) * size)
    return VectorColumn(_to_numpy(values).reshape(-1, size), valid)


def _to_numpy(values: pa.Array) -> np.ndarray:
    """Return numbers as an array, a copy only where some are null: these are NaN."""
    return values.to_numpy(zero_copy_only=False)


def append_columns(frame: pd.DataFrame, columns: dict[str, Result]) -> pd.DataFrame:
    """Return `frame` with `columns` at its end; its own data is not copied."""
    out = frame.copy(deep=False)
    for name, result in columns.items():
        out[name] = _series(to_arrow(result), frame.index)
    return out


def empty_columns(frame: pd.DataFrame, types: dict[str, pa.DataType]) -> pd.DataFrame:
    """Return `frame`, which has no rows, with empty columns of `types` at its end."""
    out = frame.iloc[:0].copy(deep=False)
    for name, dtype in types.items():
        out[name] = pd.Series([], index=out.index, dtype=_dtype(dtype))
    return out


def vectors_to_array(series: pd.Series, dimension: int) -> np.ndarray:
    """Return the vectors as an array of shape (rows, dimension); zero-copy without nulls."""
    array = _to_arrow(series)
    start = array.offset * dimension
    values = array.values.slice(start, len(array) * dimension).to_numpy(zero_copy_only=False)
    matrix = values.reshape(len(array), dimension)
    if array.null_count:
        if matrix.dtype.kind != "f":
            raise ValueError(
                f"column {series.name!r} has {array.null_count} rows without a vector, and "
                f"{matrix.dtype} has no value for them; drop them first (.dropna())"
            )
        matrix = matrix.copy()
        matrix[np.asarray(series.isna(), bool)] = np.nan
    return matrix


def to_host(frame: pd.DataFrame) -> pd.DataFrame:
    return frame


def keeps_on_device(frame: Any) -> bool:
    return False


def to_arrow(result: Result) -> pa.Array:
    """Return a result as an Arrow array; zero-copy from a CPU tensor without nulls."""
    if isinstance(result, Vectors):
        return _vectors(result)
    if isinstance(result, TokenVectors):
        return _token_vectors(result)
    return result


def _vectors(result: Vectors) -> pa.Array:
    values = result.values.cpu().numpy()
    flat = pa.array(values.reshape(-1))
    mask = None if result.valid.all() else pa.array(~result.valid)
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1], mask=mask)


def _token_vectors(result: TokenVectors) -> pa.Array:
    values = result.values.cpu().numpy()
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
    lengths = np.zeros(len(result.valid), np.int64)
    lengths[result.valid] = result.lengths
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), vectors, mask=pa.array(~result.valid))


def _series(array: pa.Array, index: pd.Index) -> pd.Series:
    if pa.types.is_string(array.type):
        return pd.Series(array.to_pylist(), index=index, dtype=_dtype(array.type))
    return pd.Series(pd.arrays.ArrowExtensionArray(array), index=index)


def _dtype(arrow: pa.DataType) -> Any:
    """The pandas type of an output column: text as pandas' own, all else as Arrow."""
    return pd.StringDtype(na_value=np.nan) if pa.types.is_string(arrow) else pd.ArrowDtype(arrow)


def _is_arrow_text(dtype: pa.DataType) -> bool:
    if pa.types.is_dictionary(dtype):
        dtype = dtype.value_type
    text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    return any(test(dtype) for test in text)


def _to_arrow(series: pd.Series) -> pa.Array:
    array = pa.array(series.array, from_pandas=True)
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
