"""The lazy nodes of rows that are known by an id: their keys, those that run, what tells them."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from dask_embed.columns import to_host
from dask_embed.columns.digests import bytes_of, row_digests, value_bytes
from dask_embed.lazy._dask import Blockwise, List, Task, TaskRef
from dask_embed.lazy.nodes import OneTask

DIGEST = "_dask_embed_digest"
"""Column of files that tells the content of a row; integers, as all readers have them."""
ID_BYTES, _DIGEST_BYTES = 16, 8


@dataclasses.dataclass(frozen=True)
class Keyed:
    """How rows are known.

    Attributes
    ----------
    id : str
        Column of their ids.
    columns : tuple of str
        Columns that make their content.
    with_index : bool
        Whether the index belongs to it.
    """

    id: str
    columns: tuple[Any, ...]
    with_index: bool

    def keys(self, partition: Any) -> Keys:
        """Return what tells the rows of a partition."""
        rows = to_host(partition)
        counting = [value_bytes(_as_in_any(rows[name])) for name in self.columns]
        if self.with_index:
            counting.append(value_bytes(rows.index.to_series()))
        contents = row_digests(counting, len(rows), _DIGEST_BYTES)
        null = int(rows[self.id].isna().sum())
        return Keys(hashed_ids(rows[self.id]), np.frombuffer(contents, np.int64), null)


@dataclasses.dataclass(frozen=True)
class Keys:
    """What tells some rows.

    Attributes
    ----------
    ids : numpy.ndarray
        A hash of each id, ``"S16"``.
    contents : numpy.ndarray
        A digest of what makes each row besides, int64.
    null : int
        How many have no id.
    """

    ids: np.ndarray
    contents: np.ndarray
    null: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    def token(self) -> bytes:
        """Return what tells these rows in this order from all others."""
        digest = hashlib.blake2b(self.ids.tobytes(), digest_size=ID_BYTES)
        digest.update(self.contents.tobytes())
        return digest.digest()


def _as_in_any(series: pd.Series) -> pd.Series:
    """Return numbers as they are in any partition: integers are floats where some are null."""
    if not pd.api.types.is_float_dtype(series.dtype):
        return series
    values = [
        int(value) if isinstance(value, float) and value.is_integer() else value
        for value in series.tolist()
    ]
    return pd.Series(values, dtype=object)


def hashed_ids(values: Any) -> np.ndarray:
    """Return a hash of each id of a pandas or Arrow column of integers or texts."""
    if isinstance(values, pa.ChunkedArray):
        ids = [b"" if value is None else bytes_of(value) for value in values.to_pylist()]
    else:
        ids = value_bytes(values)
    return np.frombuffer(row_digests([ids], len(ids), ID_BYTES), f"S{ID_BYTES}")


@dataclasses.dataclass(frozen=True)
class Part:
    """Which rows of a partition run.

    Attributes
    ----------
    rows : bytes, optional
        A bit for each row; None where all do.
    wanted : int
        How many do.
    token : bytes
        `Keys.token` of all of its rows.
    """

    rows: bytes | None
    wanted: int
    token: bytes


@dataclasses.dataclass(frozen=True)
class Wanted:
    """Which rows of all partitions run."""

    parts: tuple[Part, ...]

    def __dask_tokenize__(self) -> str:
        digest = hashlib.blake2b(digest_size=ID_BYTES)
        for part in self.parts:
            digest.update(part.token)
            digest.update(b"all" if part.rows is None else part.rows)
        return digest.hexdigest()


class RowKeys(Blockwise):
    """The `Keys` of each partition."""

    _parameters = ["frame", "keyed"]  # noqa: RUF012 - the form of every Dask expression
    _meta = None

    @staticmethod
    def operation(partition: Any, keyed: Keyed) -> Keys:
        return keyed.keys(partition)


class AllRowKeys(OneTask):
    """The `Keys` of all partitions as a list."""

    _parameters = ["frame"]  # noqa: RUF012

    def _layer(self) -> dict[Any, Any]:
        key = (self._name, 0)
        return {key: Task(key, list, List(*map(TaskRef, self.frame.__dask_keys__())))}


class NewRows(Blockwise):
    """The rows of each partition that are to run."""

    _parameters = ["frame", "keyed", "wanted"]  # noqa: RUF012

    @functools.cached_property
    def _meta(self) -> Any:
        return self.frame._meta

    def _task(self, name: Any, index: int) -> Task:
        rows = TaskRef((self.frame._name, index))
        return Task(name, new_rows, rows, self.keyed, self.wanted.parts[index], index)


def new_rows(partition: Any, keyed: Keyed, part: Part, index: int) -> Any:
    """Return the rows of a partition that are to run.

    Raises
    ------
    RuntimeError
        If they are not the rows that this was decided of.
    """
    if keyed.keys(partition).token() != part.token:
        raise RuntimeError(
            f"the rows of partition {index} are not what they were when it was decided which of "
            "them run: the input changed meanwhile, or what makes the rows gives others each time; "
            "start it again"
        )
    if part.rows is None:
        return partition
    return partition[unpacked(part.rows, len(partition))]


def packed(mask: np.ndarray) -> bytes:
    return np.packbits(mask).tobytes()


def unpacked(bits: bytes, length: int) -> np.ndarray:
    return np.unpackbits(np.frombuffer(bits, np.uint8), count=length).astype(bool)


class WithDigests(Blockwise):
    """`frame` with the content of the row in `rows` that each of its rows has the id of."""

    _parameters = ["frame", "rows", "id", "keyed"]  # noqa: RUF012

    @functools.cached_property
    def _meta(self) -> Any:
        return self.frame._meta.assign(**{DIGEST: np.array([], np.int64)})

    def _divisions(self) -> Any:
        return self.frame.divisions

    @staticmethod
    def operation(partition: Any, rows: Any, id: str, keyed: Keyed) -> Any:
        keys = keyed.keys(rows)
        order = np.argsort(keys.ids)
        wanted = hashed_ids(to_host(partition)[id])
        places = np.minimum(np.searchsorted(keys.ids[order], wanted), max(len(keys) - 1, 0))
        if len(wanted) and not (len(keys) and (keys.ids[order][places] == wanted).all()):
            raise RuntimeError(f"the id {id!r} is not what it was before operators ran")
        return partition.assign(**{DIGEST: keys.contents[order][places]})
