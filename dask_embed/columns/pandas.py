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
    is_arrow_text,
    is_number,
    of_another_type,
    one_array,
    require_null_value,
    require_vectors,
    separate_unusable,
    text_column,
    vector_dimension,
    wrong_dimensions,
)

__all__ = ["DataFrame", "Series"]


def check_text(series: pd.Series) -> None:
    """Raise TypeError unless the type of `series` can hold text."""
    if _holds_text(series.dtype):
        return
    raise TypeError(
        f"column {series.name!r} has dtype {series.dtype}, text is needed; allowed are str, "
        "object with strings, Arrow strings and categories of strings "
        f"(for numbers: .astype({{{series.name!r}: str}}))"
    )


def read_text(series: pd.Series) -> TextColumn:
    """Return the texts of `series`, nulls as None; rows without text are told apart."""
    null = np.asarray(series.isna(), bool)
    if not _holds_text(series.dtype):  # checked of the frame, but this may be another partition
        errors = of_another_type(series.tolist(), null, _type_name(series.dtype), "text")
        return TextColumn([None] * len(series), errors)
    if isinstance(series.dtype, pd.CategoricalDtype):
        series = series.astype(object)
    if series.dtype == object:
        return separate_unusable(series.tolist(), null)
    try:
        return text_column(one_array(series.array))
    except UnicodeEncodeError:  # a lone surrogate in one of pandas' Python strings
        return separate_unusable(series.tolist(), null)


def stored_vectors(series: pd.Series) -> tuple[pa.DataType, int | None]:
    """Return the type of the values of a vector column, and its dimension where all have one.

    Raises
    ------
    TypeError
        If the column does not hold lists of numbers.
    """
    dtype = _arrow_type(series.dtype)
    if _is_vector(dtype):
        return dtype.value_type, vector_dimension(dtype)
    raise TypeError(
        f"column {series.name!r} has dtype {series.dtype}, vectors are needed: an Arrow list of "
        "numbers, as Embedder and dask_embed.read_parquet give"
    )


def read_vectors(series: pd.Series, dimension: int) -> VectorColumn:
    """Return the vectors of `series`; zero-copy where all rows have one, or lists are fixed."""
    valid = ~np.asarray(series.isna(), bool)
    if not _is_vector(
        _arrow_type(series.dtype)
    ):  # checked of the frame, but this may be another partition
        errors = of_another_type(series.tolist(), ~valid, series.dtype, "a vector")
        none = np.zeros((len(series), dimension), np.float32)
        return VectorColumn(none, np.zeros_like(valid), errors)
    array = one_array(series.array)
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
    out = (frame.iloc[:0] if len(frame) else frame).copy(deep=False)
    for name, dtype in types.items():
        out[name] = pd.Series([], index=out.index, dtype=_dtype(dtype))
    return out


def vectors_to_array(series: pd.Series, dimension: int) -> np.ndarray:
    """Return the vectors as an array of shape (rows, dimension); zero-copy without nulls."""
    column = read_vectors(series, dimension)
    require_vectors(series.name, column)
    matrix, missing = column.values, ~column.valid
    require_null_value(series.name, matrix.dtype, missing.sum())
    if missing.any():
        matrix = matrix.copy()
        matrix[missing] = np.nan
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


def series_to_arrow(series: pd.Series, dtype: pa.DataType) -> pa.Array:
    """Return the values of `series` as an array of `dtype`."""
    return one_array(series, dtype)


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


def _holds_text(dtype: Any) -> bool:
    if isinstance(dtype, pd.CategoricalDtype):
        dtype = dtype.categories.dtype if dtype.categories is not None else np.dtype(object)
    if isinstance(dtype, pd.ArrowDtype):
        return is_arrow_text(dtype.pyarrow_dtype)
    return isinstance(dtype, pd.StringDtype) or dtype == np.dtype(object)


def _arrow_type(dtype: Any) -> pa.DataType:
    """Return the type of one of pandas' Arrow columns, Arrow's null type of any other column."""
    return dtype.pyarrow_dtype if isinstance(dtype, pd.ArrowDtype) else pa.null()


def _is_vector(dtype: pa.DataType) -> bool:
    lists = (pa.types.is_fixed_size_list, pa.types.is_list, pa.types.is_large_list)
    return any(test(dtype) for test in lists) and is_number(dtype.value_type)


def _type_name(dtype: Any) -> str:
    categories = getattr(dtype, "categories", None)
    return str(dtype) if categories is None else f"category of {categories.dtype}"
