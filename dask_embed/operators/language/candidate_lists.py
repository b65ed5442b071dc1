"""Candidates as they are given: once for all rows, or as a column of lists."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from dask_embed._validation import shown, usable_text
from dask_embed.columns import TextColumn
from dask_embed.columns.types import as_texts, unusable_text


def fixed_candidates(candidates: Any) -> tuple[str, ...] | None:
    """Return candidates of all rows as a tuple.

    Raises
    ------
    TypeError
        If they are no strings.
    ValueError
        If there is none, an empty one, or one twice.
    """
    if candidates is None:
        return None
    if not isinstance(candidates, list | tuple):
        raise TypeError(
            "candidates must be a tuple of strings (for a column of lists: candidates_column), "
            f"got {shown(candidates)}"
        )
    for text in candidates:
        usable_text("candidates", text)
    if not candidates or not all(candidates):
        raise ValueError(f"candidates must be strings that are not empty, got {shown(candidates)}")
    if len(set(candidates)) != len(candidates):
        raise ValueError(f"candidates must differ, got {shown(candidates)}")
    return tuple(candidates)


def check_candidates(series: Any) -> None:
    """Raise TypeError unless the type of `series` can hold lists of strings."""
    dtype = series.dtype
    arrow = getattr(dtype, "pyarrow_dtype", None)  # of pandas' Arrow types
    if arrow is not None and _is_list(arrow) and _is_text(arrow.value_type):
        return
    to_arrow = getattr(dtype, "to_arrow", None)  # of cuDF's list type
    if dtype == np.dtype(object) or (to_arrow is not None and _is_list(to_arrow())):
        return
    raise TypeError(
        f"column {series.name!r} has dtype {dtype}, lists of strings are needed: an Arrow list of "
        "strings, or objects. Dask makes strings of objects unless "
        "dask.config.set({'dataframe.convert-string': False})"
    )


def read_candidates(series: Any) -> TextColumn:
    """Return a tuple of strings for each row, None for null and empty lists."""
    null = np.asarray(series.isna().to_numpy(), bool)
    values: list[Any] = [None] * len(series)
    errors: dict[int, str] = {}
    for row, value in enumerate(_lists(series)):
        if null[row]:
            continue
        problem = _unusable(value)
        if problem is None:
            values[row] = tuple(value) or None
        else:
            errors[row] = problem
    return TextColumn(values, errors)


def _lists(series: Any) -> list[Any]:
    if series.dtype == np.dtype(object):
        return series.tolist()
    to_arrow = getattr(series, "to_arrow", None)  # of cuDF
    array = pa.array(series.array, from_pandas=True) if to_arrow is None else to_arrow()
    try:
        return array.to_pylist()
    except UnicodeDecodeError:
        return as_texts(array.cast(pa.list_(pa.large_binary())).to_pylist())


def _unusable(value: Any) -> str | None:
    """Return why `value` is no list of candidates, None if it is one."""
    if not isinstance(value, list | tuple | np.ndarray):
        return f"{type(value).__name__} is not a list of strings: {shown(value)}"
    for text in value:
        problem = "a candidate is empty" if text == "" else unusable_text(text)
        if problem is not None:
            return problem
    return None


def _is_list(dtype: pa.DataType) -> bool:
    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(test(dtype) for test in tests)


def _is_text(dtype: pa.DataType) -> bool:
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(test(dtype) for test in (*tests, pa.types.is_null))
