"""Columns between a dataframe and a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from dask_embed._validation import shown


@dataclass(frozen=True)
class TextColumn:
    """The texts of a partition.

    Attributes
    ----------
    values : list of str or None
        None where the row is null or cannot be used.
    errors : dict
        Row number to message, for rows that hold something else than text.
    """

    values: list[str | None]
    errors: dict[int, str] = field(default_factory=dict)

    @property
    def valid(self) -> np.ndarray:
        """Which rows have a text, bool, shape (rows,)."""
        return np.array([value is not None for value in self.values], bool)


@dataclass(frozen=True)
class VectorColumn:
    """The vectors of a partition, as an operator reads them.

    Attributes
    ----------
    values : numpy.ndarray or cupy.ndarray
        Shape (rows, dimension), in the type that they are stored in; of rows without a vector
        anything.
    valid : numpy.ndarray
        bool, shape (rows,), on the host.
    errors : dict
        Row number to message, for rows whose vector is of another dimension.
    """

    values: Any
    valid: np.ndarray
    errors: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Vectors:
    """One vector per row.

    Attributes
    ----------
    values : torch.Tensor
        Shape (rows, dimension); of rows without a vector anything.
    valid : numpy.ndarray
        bool, shape (rows,): which rows have a vector; the others are null.
    """

    values: Any
    valid: np.ndarray


@dataclass(frozen=True)
class TokenVectors:
    """One list of token vectors per row.

    Attributes
    ----------
    values : torch.Tensor
        float32, shape (tokens, dimension), all rows one after the other.
    lengths : numpy.ndarray
        int64, shape (rows with vectors,): tokens of each.
    valid : numpy.ndarray
        bool, shape (rows,).
    """

    values: Any
    lengths: np.ndarray
    valid: np.ndarray


Result = Vectors | TokenVectors | pa.Array


# Type of a stored value, and how many dimensions of a vector it holds.
PRECISIONS = {
    "float32": (pa.float32(), 1),
    "float16": (pa.float16(), 1),
    "int8": (pa.int8(), 1),
    "uint8": (pa.uint8(), 1),
    "binary": (pa.int8(), 8),
    "ubinary": (pa.uint8(), 8),
}


def vector_type(dimension: int, precision: str = "float32") -> pa.DataType:
    """Return the Arrow type of a vector column: a fixed-size list.

    Raises
    ------
    ValueError
        If the vectors cannot be stored so.
    """
    dtype, dimensions = PRECISIONS[precision]
    if dimension % dimensions:
        raise ValueError(
            f"precision={precision!r} packs {dimensions} dimensions into a byte, but vectors have "
            f"{dimension}; truncate_dim can make it a multiple"
        )
    return pa.list_(dtype, dimension // dimensions)


def token_vectors_type(dimension: int) -> pa.DataType:
    """Return the Arrow type of a column of token vectors: a list of vectors."""
    return pa.list_(vector_type(dimension))


def token_vectors_array(rows: Sequence[np.ndarray], dimension: int) -> pa.ListArray:
    """Return matrices of shape (tokens, dimension) as a column of `token_vectors_type`."""
    offsets = np.cumsum([0, *map(len, rows)]).astype(np.int32)
    flat = np.concatenate([np.zeros((0, dimension), np.float32), *rows]).reshape(-1)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.float32()), dimension)
    return pa.ListArray.from_arrays(offsets, vectors)


def vector_dimension(dtype: pa.DataType) -> int | None:
    """Return the dimension of a vector type, None for any other type."""
    return dtype.list_size if pa.types.is_fixed_size_list(dtype) else None


def is_number(dtype: pa.DataType) -> bool:
    """Return whether a vector may consist of values of this type."""
    return pa.types.is_floating(dtype) or pa.types.is_integer(dtype)


def number_type(dtype: Any) -> pa.DataType | None:
    """Return what numbers and truth values of a pandas dtype are in Arrow, None for others.

    It is the same of the types of pandas that have nulls and those that have none.
    """
    plain = getattr(dtype, "numpy_dtype", dtype)
    if not isinstance(plain, np.dtype) or plain.kind not in "biuf" or plain.itemsize > 8:
        return None
    return pa.from_numpy_dtype(plain)


def of_children(dtype: pa.DataType, change: Callable[[pa.DataType], pa.DataType]) -> pa.DataType:
    """Return a nested type with its values' types changed; one that is not nested as it is."""
    if pa.types.is_fixed_size_list(dtype):
        return pa.list_(change(dtype.value_type), dtype.list_size)
    if pa.types.is_list(dtype) or pa.types.is_large_list(dtype):
        return pa.list_(change(dtype.value_type))
    if pa.types.is_struct(dtype):
        return pa.struct([(field.name, change(field.type)) for field in dtype])
    if pa.types.is_map(dtype):
        return pa.map_(change(dtype.key_type), change(dtype.item_type))
    return dtype


def one_array(values: Any, dtype: pa.DataType | None = None) -> pa.Array:
    """Return pandas values as one Arrow array, nulls as null."""
    array = pa.array(values, type=dtype, from_pandas=True)
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def wrong_dimensions(lengths: np.ndarray, present: np.ndarray, dimension: int) -> dict[int, str]:
    """Return the message of each row that holds a vector of another dimension.

    Parameters
    ----------
    lengths : numpy.ndarray
        Values of each row, shape (rows,); of null rows anything.
    present : numpy.ndarray
        bool, shape (rows,): which rows are not null.
    dimension : int
    """
    rows = np.flatnonzero(present & (lengths != dimension))
    return {
        int(row): f"its vector has {lengths[row]} dimensions, {dimension} are needed"
        for row in rows
    }


def require_vectors(name: Any, column: VectorColumn) -> None:
    """Raise ValueError, with the first of them, if rows of `column` hold no vector that fits."""
    if column.errors:
        row = min(column.errors)
        raise ValueError(
            f"row {row} of the partition: column {name!r}: {column.errors[row]} "
            f"({len(column.errors)} such rows)"
        )


def require_null_value(name: Any, dtype: np.dtype[Any], missing: int) -> None:
    """Raise ValueError if rows are `missing` and numbers of `dtype` have no value for them."""
    if missing and dtype.kind != "f":
        raise ValueError(
            f"column {name!r} has {missing} rows without a vector, and {dtype} has no value for "
            "them; drop them first (.dropna())"
        )


def of_another_type(values: list[Any], null: np.ndarray, found: Any, needed: str) -> dict[int, str]:
    """Return the message of each row of a partition whose column is not what its frame promised.

    Parameters
    ----------
    values : list
    null : numpy.ndarray
        bool, shape (rows,).
    found : object
        The type of the column.
    needed : str
        What it should hold.
    """
    return {
        row: f"{shown(value)} is not {needed}: the column is of type {found} in this partition, "
        f"where {needed} was promised"
        for row, value in enumerate(values)
        if not null[row]
    }


def is_arrow_text(dtype: pa.DataType) -> bool:
    """Return whether an Arrow column of this type holds strings, or nulls only."""
    if pa.types.is_dictionary(dtype):
        dtype = dtype.value_type
    text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    return any(test(dtype) for test in text)


def text_column(array: pa.Array) -> TextColumn:
    """Return strings of Arrow; rows whose bytes are not UTF-8 are told apart.

    Arrow does not look at the bytes of strings that it is handed, as by a file's reader.
    """
    array = array.cast(pa.large_string())
    try:
        return TextColumn(array.to_pylist())
    except UnicodeDecodeError:
        values = as_texts(array.cast(pa.large_binary()).to_pylist())
        return separate_unusable(values, np.array([value is None for value in values], bool))


def as_texts(value: Any) -> Any:
    """Return bytes, or those in lists, as strings where they are UTF-8, else as they are."""
    if isinstance(value, list):
        return [as_texts(each) for each in value]
    try:
        return value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        return value


def unusable_text(value: Any) -> str | None:
    """Return why `value` is not text that a tokenizer can take, None if it is."""
    if isinstance(value, bytes) and isinstance(as_texts(value), bytes):
        return f"its bytes are not UTF-8: {shown(value)}"
    if not isinstance(value, str):
        return f"{type(value).__name__} is not text: {shown(value)}"
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        return f"text cannot be encoded as UTF-8 ({error.reason} at position {error.start})"
    return None


def separate_unusable(values: list[Any], null: np.ndarray) -> TextColumn:
    """Return `values` with nulls and unusable rows as None, the latter with their message."""
    texts: list[str | None] = [None] * len(values)
    errors: dict[int, str] = {}
    for row, value in enumerate(values):
        if null[row]:
            continue
        problem = unusable_text(value)
        if problem is None:
            texts[row] = value
        else:
            errors[row] = problem
    return TextColumn(texts, errors)
