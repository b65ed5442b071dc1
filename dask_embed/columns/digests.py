"""Digests of rows: what tells the values of some columns from all others."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from dask_embed.columns.pandas import series_to_arrow

_NULL = b"\0"


def row_digests(
    columns: Sequence[Sequence[bytes]], rows: int, size: int, key: bytes = b""
) -> bytes:
    """Return `size` bytes for each row, one after the other.

    Parameters
    ----------
    columns : sequence of sequence of bytes
        What `value_bytes` gives of each column that counts.
    rows : int
    size : int
    key : bytes
        What else the digests depend on.
    """
    digests = bytearray()
    each_row: Iterable[tuple[bytes, ...]] = zip(*columns, strict=True) if columns else [()] * rows
    for row in each_row:
        digest = hashlib.blake2b(digest_size=size, key=key)
        for value in row:
            digest.update(len(value).to_bytes(8, "little"))
            digest.update(value)
        digests += digest.digest()
    return bytes(digests)


def value_bytes(series: Any) -> list[bytes]:
    """Return what tells a value of a pandas column from all others of any type."""
    dtype = getattr(series.dtype, "pyarrow_dtype", None)
    if dtype is not None and pa.types.is_fixed_size_list(dtype):
        array = series_to_arrow(series, dtype)
        width = dtype.value_type.bit_width * dtype.list_size // 8
        if not array.null_count and not array.values.null_count and width:
            raw = array.flatten().to_numpy(zero_copy_only=False).tobytes()
            kind = str(dtype.value_type).encode()
            return [kind + raw[n : n + width] for n in range(0, len(raw), width)]
    null = series.isna().to_numpy(bool)
    values = series.array._pa_array.to_pylist() if dtype is not None else series.tolist()
    return [_NULL if null[row] else bytes_of(value) for row, value in enumerate(values)]


def bytes_of(value: Any) -> bytes:
    """Return what tells a value, which is not null, from all others."""
    if isinstance(value, str):
        return b"s" + value.encode("utf-8", "surrogatepass")
    if isinstance(value, bytes):
        return b"b" + value
    return f"o{type(value).__name__} {_whole(value)!r}".encode("utf-8", "surrogatepass")


def _whole(value: Any) -> Any:
    """Return a value that shows all it holds: NumPy leaves digits out, and the middle."""
    if isinstance(value, np.ndarray):
        if value.dtype == object:
            return [_whole(each) for each in value.tolist()]
        return str(value.dtype), value.shape, value.tobytes()
    if isinstance(value, dict):
        return {name: _whole(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_whole(each) for each in value]
    return value
