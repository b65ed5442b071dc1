"""Texts as hashes of 128 bits: the kernel, free of Dask."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from dask_embed._validation import meant, shown
from dask_embed.columns import check_text, read_text, to_host
from dask_embed.columns.frames import row_label

BITS = 128
# In no text: UTF-8 has no such bytes.
_SEPARATOR, _NULL = b"\xff", b"\xfe"

Normalize = str | Callable[[str], str]


def _whitespace(text: str) -> str:
    return " ".join(text.split())


_WAYS: dict[str, Callable[[str], str]] = {"whitespace": _whitespace, "casefold": str.casefold}


def normalizers(normalize: Any) -> tuple[Normalize, ...]:
    """Return the ways to normalize a text that an argument names, in order.

    Raises
    ------
    TypeError, ValueError
        If it is none.
    """
    ways = normalize if isinstance(normalize, list | tuple) else [normalize]
    for way in ways if normalize is not None else ():
        if isinstance(way, str) and way not in _WAYS:
            raise ValueError(
                f"normalize must be {', '.join(map(repr, _WAYS))}, a function of a text, or "
                f"several of them; got {shown(way)}{meant(way, [*_WAYS])}"
            )
        if not isinstance(way, str) and not callable(way):
            raise TypeError(f"normalize must be a name or a function, got {shown(way)}")
    return () if normalize is None else tuple(ways)


def normalized(text: str, ways: Iterable[Normalize]) -> str:
    """Return a text after each of some ways to normalize it."""
    for way in ways:
        text = (_WAYS[way] if isinstance(way, str) else way)(text)
        if not isinstance(text, str):
            raise TypeError(f"normalize must return a text, it returned {shown(text)}")
    return text


def texts_of(partition: pd.DataFrame, column: Any) -> list[str | None]:
    """Return the texts of a column, nulls as None.

    Raises
    ------
    ValueError
        If a row holds something else.
    """
    read = read_text(partition[column])
    if read.errors:
        place, message = min(read.errors.items())
        raise ValueError(
            f"column {column!r} has {len(read.errors)} rows that are not text, the first at "
            f"index {shown(row_label(partition.index, place))}: {message}"
        )
    return read.values


def is_text(series: Any) -> bool:
    """Return whether a column is of a type that can hold texts."""
    try:
        check_text(series)
    except TypeError:
        return False
    return True


def hashable(series: Any) -> None:
    """Raise TypeError unless the values of a column can be written as text."""
    if not is_text(series):
        [(_, empty)] = to_host(series.iloc[:0].to_frame()).items()  # of cuDF, too
        array = pa.array(empty, from_pandas=True)
        if pa.types.is_nested(array.type) or not pa.types.is_primitive(array.type):
            raise TypeError(
                f"column {series.name!r} has dtype {series.dtype}; duplicates are found by "
                "columns of text, numbers, dates and booleans"
            )


def mixed(values: np.ndarray) -> np.ndarray:
    """Return a mixture of all bits of each number, uint64 (the last step of splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def hashes_of(
    partition: pd.DataFrame, columns: Sequence[Any], ways: Sequence[Normalize] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Return a hash of 128 bits for each row of some columns, and which rows have a null.

    Parameters
    ----------
    partition : pandas.DataFrame
    columns : sequence of str
        Text is normalized; other values are hashed as Arrow writes them.
    ways : sequence of str or callable

    Returns
    -------
    hashes : numpy.ndarray
        BLAKE2b, int64, shape (rows, 2): the same in every process and on every machine.
    null : numpy.ndarray
        bool, shape (rows,): rows in which a value is null.
    """
    values = [_texts(partition, column, ways) for column in columns]
    null = np.zeros(len(partition), bool)
    for column in values:
        null |= np.fromiter((text is None for text in column), bool, len(column))
    digests = b"".join(_digest(row) for row in zip(*values, strict=True))
    return np.frombuffer(digests, "<i8").reshape(-1, 2), null


def _texts(partition: pd.DataFrame, column: Any, ways: Sequence[Normalize]) -> list[str | None]:
    try:
        check_text(partition[column])
    except TypeError:
        array = pa.array(partition[column].array, from_pandas=True)
        if pa.types.is_float16(array.type):
            array = array.cast(pa.float32())
        if pa.types.is_floating(array.type):
            array = pc.add(array, pa.scalar(0, array.type))  # -0.0 equals 0.0, its text does not
        return array.cast(pa.string()).to_pylist()
    texts = texts_of(partition, column)
    if not ways:
        return texts
    return [None if text is None else normalized(text, ways) for text in texts]


def _digest(row: tuple[str | None, ...]) -> bytes:
    parts = [_NULL if text is None else text.encode() for text in row]
    return hashlib.blake2b(_SEPARATOR.join(parts), digest_size=BITS // 8).digest()
