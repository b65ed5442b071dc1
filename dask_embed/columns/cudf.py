"""cuDF partitions: text from GPU strings, vectors as list columns built on the device.

Written against cuDF 26.10. Vectors never visit the host: the model's output tensor becomes the
leaves of a list column (at most 2**31 - 1 values a column, libcudf's limit).
"""

from __future__ import annotations

from typing import Any

import cudf
import cupy
import numpy as np
import pandas as pd
import pyarrow as pa
import pylibcudf as plc
from cudf import DataFrame, Series

from dask_embed.columns import pandas as on_host
from dask_embed.columns.types import (
    Result,
    TextColumn,
    VectorColumn,
    Vectors,
    is_number,
    of_another_type,
    require_null_value,
    require_vectors,
    text_column,
    wrong_dimensions,
)

__all__ = ["DataFrame", "Series"]

_MOST_VALUES = 2**31 - 1
_NO_FLOAT16 = "cuDF has no float16 columns; choose another precision, such as 'int8'"


def check_text(series: cudf.Series) -> None:
    """Raise TypeError unless the type of `series` can hold text."""
    if not _holds_text(series):
        raise TypeError(f"column {series.name!r} has dtype {series.dtype}, text is needed")


def read_text(series: cudf.Series) -> TextColumn:
    """Return the texts of `series` as Python strings, nulls as None; others are told apart."""
    if _holds_text(series):
        return text_column(series.to_arrow())
    values, null = series.to_arrow().to_pylist(), series.isna().to_numpy()
    errors = of_another_type(values, null, series.dtype, "text")
    return TextColumn([None] * len(series), errors)


def stored_vectors(series: cudf.Series) -> tuple[pa.DataType, int | None]:
    """Return the type of the values of a vector column; its lists do not tell a dimension.

    Raises
    ------
    TypeError
        If the column does not hold lists of numbers.
    """
    if _holds_vectors(series):
        return series.dtype.to_arrow().value_type, None
    raise TypeError(
        f"column {series.name!r} has dtype {series.dtype}, vectors are needed: a list of numbers"
    )


def read_vectors(series: cudf.Series, dimension: int) -> VectorColumn:
    """Return the vectors of `series` as a CuPy array; no copy where all rows have one."""
    valid = ~series.isna().to_numpy()
    if not _holds_vectors(series):
        errors = of_another_type(series.to_arrow().to_pylist(), ~valid, series.dtype, "a vector")
        none = cupy.zeros((len(series), dimension), np.float32)
        return VectorColumn(none, np.zeros_like(valid), errors)
    lengths = series.list.len().fillna(0).to_numpy()
    errors = wrong_dimensions(lengths, valid, dimension)
    valid[list(errors)] = False
    if valid.all():
        return VectorColumn(series.list.leaves.values.reshape(-1, dimension), valid)
    present = series[cupy.asarray(valid)].list.leaves.values.reshape(-1, dimension)
    matrix = cupy.zeros((len(series), dimension), present.dtype)
    matrix[cupy.asarray(valid)] = present
    return VectorColumn(matrix, valid, errors)


def _holds_text(series: cudf.Series) -> bool:
    dtype = series.dtype
    if isinstance(dtype, cudf.CategoricalDtype):
        dtype = series.cat.categories.dtype
    # cuDF has no object columns: where it says object, the column holds strings.
    return isinstance(dtype, pd.StringDtype) or dtype == np.dtype(object)


def _holds_vectors(series: cudf.Series) -> bool:
    return isinstance(series.dtype, cudf.ListDtype) and is_number(
        series.dtype.to_arrow().value_type
    )


def append_columns(frame: cudf.DataFrame, columns: dict[str, Result]) -> cudf.DataFrame:
    """Return `frame` with `columns` at its end; its own data is not copied."""
    out = frame.copy(deep=False)
    for name, result in columns.items():
        if isinstance(result, Vectors):
            series = _vector_series(result)
        else:
            series = cudf.Series.from_arrow(_without_fixed_size(on_host.to_arrow(result)))
        series.index = frame.index
        out[name] = series
    return out


def empty_columns(frame: cudf.DataFrame, types: dict[str, pa.DataType]) -> cudf.DataFrame:
    """Return `frame`, which has no rows, with empty columns of `types` at its end."""
    out = frame.iloc[:0].copy(deep=False)
    for name, dtype in types.items():
        series = cudf.Series.from_arrow(pa.array([], _variable_size(dtype)))
        series.index = out.index
        out[name] = series
    return out


def vectors_to_array(series: cudf.Series, dimension: int) -> cupy.ndarray:
    """Return the vectors as a CuPy array of shape (rows, dimension), null rows NaN."""
    column = read_vectors(series, dimension)
    require_vectors(series.name, column)
    missing = ~column.valid
    require_null_value(series.name, column.values.dtype, missing.sum())
    if missing.any():
        column.values[cupy.asarray(missing)] = cupy.nan  # not the column's own: see `read_vectors`
    return column.values


def to_host(frame: cudf.DataFrame) -> pd.DataFrame:
    """Return a pandas frame, with Arrow columns where pandas would lose values or their type."""
    by_arrow = [name for name in frame.columns if _is_lost_in_pandas(frame[name])]
    out = frame.drop(columns=by_arrow).to_pandas()
    for name in by_arrow:
        array = pd.arrays.ArrowExtensionArray(frame[name].to_arrow())
        out[name] = pd.Series(array, index=out.index)
    return out[list(frame.columns)]


def _is_lost_in_pandas(series: cudf.Series) -> bool:
    """Return whether `to_pandas` makes objects of nested values, or floats of integers."""
    nested = isinstance(series.dtype, cudf.ListDtype | cudf.StructDtype)
    return nested or (series.dtype.kind in "iub" and series.null_count > 0)


def keeps_on_device(frame: Any) -> bool:
    return True


def _vector_series(result: Vectors) -> cudf.Series:
    values = result.values.contiguous()
    if values.is_floating_point() and values.element_size() == 2:
        raise TypeError(_NO_FLOAT16)
    if values.numel() > _MOST_VALUES:
        raise ValueError(
            f"a cuDF column holds at most {_MOST_VALUES} values but this partition has "
            f"{values.shape[0]} vectors of {values.shape[1]}; use smaller partitions"
        )
    if not values.is_cuda:
        values = values.cuda()
    column = plc.Column.from_array(values)
    if not result.valid.all():
        column = _with_nulls(column, result.valid)
    return cudf.Series.from_pylibcudf(column)


def _with_nulls(column: plc.Column, valid: np.ndarray) -> plc.Column:
    """Return `column` with nulls where `valid` is false."""
    out_of_bounds = np.iinfo(np.int32).max  # which gives null
    positions = np.where(valid, np.arange(len(valid)), out_of_bounds).astype(np.int32)
    taken = plc.copying.gather(
        plc.Table([column]),
        plc.Column.from_array(cupy.asarray(positions)),
        plc.copying.OutOfBoundsPolicy.NULLIFY,
    )
    return taken.columns()[0]


def _variable_size(dtype: pa.DataType) -> pa.DataType:
    if pa.types.is_float16(dtype):
        raise TypeError(_NO_FLOAT16)
    if pa.types.is_fixed_size_list(dtype) or pa.types.is_list(dtype):
        return pa.list_(_variable_size(dtype.value_type))
    return dtype


def _without_fixed_size(array: pa.Array) -> pa.Array:
    return array.cast(_variable_size(array.type))
