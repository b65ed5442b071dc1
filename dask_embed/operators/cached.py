"""Rows that an operator has seen before, in this job or another, do not run.

A row is known by the values that the operator reads and by what makes its results of them: all
that `provenance` tells but the names of columns, and the version of this library.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable
from typing import Any, Protocol
from urllib.parse import urlsplit

import fsspec
import numpy as np
import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem

from dask_embed import config
from dask_embed._validation import local_path, require_url, shown, shown_error
from dask_embed._version import __version__
from dask_embed.columns import append_columns
from dask_embed.columns.digests import row_digests, value_bytes
from dask_embed.columns.frames import numbered
from dask_embed.columns.pandas import series_to_arrow
from dask_embed.operators.identity import without_places
from dask_embed.runtime.key_index import KEY_BYTES
from dask_embed.runtime.segments import Place, Segments

# Of the files; another one starts anew.
_FORMAT = 1


class Kept(Protocol):
    """An operator whose results can be kept; see `ColumnOperator`."""

    def __hash__(self) -> int: ...

    @property
    def cache(self) -> Any: ...

    @property
    def on_error(self) -> str: ...

    @property
    def input_columns(self) -> tuple[str, ...]: ...

    @property
    def error_column(self) -> str: ...

    @property
    def statistics_name(self) -> str: ...

    @property
    def subject(self) -> str: ...

    def types(self) -> dict[str, pa.DataType]: ...

    def provenance(self) -> dict[str, Any]: ...


def cache_path(given: Any) -> str | None:
    """Return where a cache is, as a URL or an absolute path.

    Raises
    ------
    TypeError, ValueError
        If it can be no folder.
    """
    if given is None:
        return None
    path = os.fspath(given) if isinstance(given, os.PathLike) else given
    if not isinstance(path, str):
        raise TypeError(f"cache must be the path or URL of a folder, or None; got {shown(given)}")
    require_url("cache", path)
    if not path.strip() or "\0" in path:
        raise ValueError(f"cache must be the path or URL of a folder, or None; got {shown(given)}")
    path = path if urlsplit(path).scheme else os.path.abspath(os.path.expanduser(path))
    try:
        fs, folder = fsspec.core.url_to_fs(path)
    except (ValueError, ImportError) as error:
        raise ValueError(f"cache={path!r} cannot be used: {shown_error(error)}") from error
    if isinstance(fs, LocalFileSystem) and local_path("cache", folder).is_file():
        raise NotADirectoryError(f"cache must be a folder, new or not, but {folder!r} is a file")
    return path


def through_cache(parts: tuple[Kept, ...], partition: Any, run: Callable[[Any], Any]) -> Any:
    """Return a pandas partition with the results of operators that have one `cache`.

    Parameters
    ----------
    parts : tuple of ColumnOperator
    partition : pandas.DataFrame
    run : callable
        Gives a partition of some of the rows with the results of all operators.
    """
    stores = [_store(part) for part in parts]
    keys = [row_keys(part, partition) for part in parts]
    found = [store.find(each) for store, each in zip(stores, keys, strict=True)]
    hit = np.logical_and.reduce([hits for hits, _ in found])
    rest = np.flatnonzero(~hit)
    ran = _ran(partition, rest, run) if len(rest) else None
    for part, store, each in zip(parts, stores, keys, strict=True):
        if ran is not None:
            _keep(part, store, each[rest], ran)
    if ran is not None and len(rest) == len(partition):
        return ran
    _count(parts, partition, hit)
    results: dict[str, pa.Array] = {}
    order = np.empty(len(partition), np.int64)
    order[hit], order[rest] = np.arange(hit.sum()), hit.sum() + np.arange(len(rest))
    for part, (hits, rows) in zip(parts, found, strict=True):
        old = rows.filter(pa.array(hit[hits]))
        results |= _together(part, old, ran, order)
    return append_columns(partition, results)


def _ran(partition: Any, rest: np.ndarray, run: Callable[[Any], Any]) -> Any:
    if len(rest) == len(partition):
        return run(partition)
    with numbered(rest):
        return run(partition.iloc[rest])


def _keep(part: Kept, store: Segments, keys: np.ndarray, ran: Any) -> None:
    """Add the results of rows that have not failed."""
    failed = np.zeros(len(ran), bool)
    if part.on_error == "null":
        failed = ~ran[part.error_column].isna().to_numpy(bool)
    store.add(keys[~failed], _table(part, ran[~failed] if failed.any() else ran))


def _table(part: Kept, ran: Any) -> pa.Table:
    types = part.types()
    arrays = [series_to_arrow(ran[name], dtype) for name, dtype in types.items()]
    return pa.table(arrays, schema=_schema(part))


def _schema(part: Kept) -> pa.Schema:
    """Return the columns of the files, which do not have the names of the frame's."""
    return pa.schema([(f"result-{n}", dtype) for n, dtype in enumerate(part.types().values())])


def _together(part: Kept, old: pa.Table, ran: Any, order: np.ndarray) -> dict[str, pa.Array]:
    results = {}
    for column, (name, dtype) in zip(old.columns, part.types().items(), strict=True):
        arrays = [*column.chunks, *([] if ran is None else [series_to_arrow(ran[name], dtype)])]
        results[name] = pa.concat_arrays(arrays).take(pa.array(order))
    if part.on_error == "null":
        new = (
            pa.nulls(0, pa.string())
            if ran is None
            else series_to_arrow(ran[part.error_column], pa.string())
        )
        errors = pa.concat_arrays([pa.nulls(len(old), pa.string()), new])
        results[part.error_column] = errors.take(pa.array(order))
    return results


def _count(parts: tuple[Kept, ...], partition: Any, hit: np.ndarray) -> None:
    """Count the rows that did not run."""
    from dask_embed.runtime.stats import metered

    for part in parts:
        null = partition[list(part.input_columns)].isna().any(axis=1).to_numpy(bool)
        with metered(part.statistics_name, part.subject, int(hit.sum())) as meter:
            rows = int((hit & ~null).sum())
            meter.count(rows=rows, cached=rows)


def row_keys(part: Kept, partition: Any) -> np.ndarray:
    """Return a key of 16 bytes for each row, ``"S16"``."""
    identity = _digest(_said(part))
    columns = [value_bytes(partition[name]) for name in part.input_columns]
    keys = row_digests(columns, len(partition), KEY_BYTES, key=identity)
    return np.frombuffer(keys, f"S{KEY_BYTES}")


@functools.lru_cache(maxsize=256)
def _said(part: Kept) -> str:
    told = without_places(part.provenance())
    told.pop("input", None)
    kinds = [str(dtype) for dtype in part.types().values()]
    said = {"format": _FORMAT, "version": __version__, **told, "types": kinds}
    return json.dumps(said, sort_keys=True)


def _digest(said: str) -> bytes:
    return hashlib.blake2b(said.encode(), digest_size=16).digest()


def _store(part: Kept) -> Segments:
    return _segments(str(part.cache), _said(part), _schema(part))


@functools.lru_cache(maxsize=256)
def _segments(cache: str, said: str, schema: pa.Schema) -> Segments:
    """Return the rows of an operator, in a folder of its own that says what made them."""
    fs, root = fsspec.core.url_to_fs(cache)
    place = Place(fs, root.rstrip("/"), _digest(said).hex(), said.encode())
    return Segments(place, schema, config.get("cache-bytes"))
