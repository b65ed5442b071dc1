"""Rows that were computed before, under keys of 16 bytes, in Parquet files that never change.

Any number of processes read and write one folder at a time: a file has the name of its content, and
is whole when it has it. What cannot be read is not there.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import threading
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dask_embed._validation import shown_error
from dask_embed.runtime.files import create_file, put_file
from dask_embed.runtime.key_index import KEY_BYTES, KeyIndex
from dask_embed.runtime.least_used import note_use, trim

KEY = "key"
_KEY_TYPE = pa.binary(KEY_BYTES)
# Rows that are read at least where one of them is wanted.
_GROUP_ROWS = 4096
# Seconds after which a process looks for files of others.
_REFRESH = 10.0
# Seconds between two times that a process puts files together, and removes some.
_TIDY = 30.0
# So many small files are put together, of at most so many bytes in all.
_MANY, _SMALL = 64, 2**23
# Seconds after which it is noted again that a file is in use.
_NOTED = 3600.0
_UNREADABLE = (OSError, pa.ArrowException, ValueError, KeyError)


@dataclass(frozen=True)
class Place:
    """Where rows are kept.

    Attributes
    ----------
    fs : fsspec.AbstractFileSystem
    root : str
        The folder of this kind of rows and others.
    kind : str
        Name of the folder below that these rows are in.
    about : bytes
        What is written there of what made them.
    """

    fs: Any
    root: str
    kind: str
    about: bytes


class Segments:
    """The rows of one folder.

    Parameters
    ----------
    place : Place
        Made by the first row that is added.
    schema : pyarrow.Schema
        Of the rows, which have no column ``key``. A file of other columns is not read.
    most_bytes : int
        When there are more in the root, the least recently used files go.

    Notes
    -----
    May be used from several threads. A process holds 24 bytes for each row of the folder, and sees
    what others add some seconds later.
    """

    def __init__(self, place: Place, schema: pa.Schema, most_bytes: int) -> None:
        self._place, self._schema, self._most_bytes = place, schema, most_bytes
        self._fs, self._folder = place.fs, f"{place.root}/{place.kind}"
        self._lock = threading.RLock()
        self._keys = KeyIndex()
        self._looked = self._tidied = -np.inf
        self._used: dict[str, float] = {}
        self._told = self._lost = self._explained = False

    def find(self, keys: np.ndarray) -> tuple[np.ndarray, pa.Table]:
        """Return which keys have a row, as bool, and these rows in the order of the keys.

        Parameters
        ----------
        keys : numpy.ndarray
            bytes of length 16 (``"S16"``), shape (rows,).
        """
        order, parts = self._found(keys)
        missing = np.setdiff1d(np.arange(len(keys)), np.concatenate([np.empty(0, int), *order]))
        if len(missing) and self._lost:  # others have put files together: look again
            self._lost, self._looked = False, -np.inf
            more, tables = self._found(keys[missing])
            order += [missing[places] for places in more]
            parts += tables
            self._lost = False  # what is damaged and stays is not looked for again at once
        hit = np.zeros(len(keys), bool)
        if not parts:
            return hit, self._schema.empty_table()
        places = np.concatenate(order)
        hit[places] = True
        return hit, pa.concat_tables(parts).take(np.argsort(places))

    def _found(self, keys: np.ndarray) -> tuple[list[np.ndarray], list[pa.Table]]:
        """Return which keys each file has, and their rows."""
        with self._lock:
            self._refresh()
            files, rows = self._keys.find(keys)
        found = np.flatnonzero(files >= 0)
        order, parts = [], []
        for number in np.unique(files[found]).tolist():
            here = found[files[found] == number]
            part = self._read(number, rows[here])
            if part is not None:
                parts.append(part)
                order.append(here)
        return order, parts

    def add(self, keys: np.ndarray, rows: pa.Table) -> None:
        """Add rows, each under its key; where they cannot be written, warn."""
        keys, first = np.unique(keys, return_index=True)
        if not len(keys):
            return
        order = np.argsort(first)  # as in the partition: neighbours are wanted together
        keys, rows = keys[order], rows.take(first[order])
        try:
            # not synced: what a machine without power leaves half is a row that runs again
            name = self._put(keys, rows, synced=False)
        except OSError as error:
            if not self._told:
                self._told = True
                warnings.warn(
                    f"results cannot be kept in {self._folder!r}: {shown_error(error)}; they are "
                    "computed, and will be again",
                    stacklevel=2,
                )
            return
        with self._lock:
            self._keys.add(name, keys)
        self._tidy()

    def _put(self, keys: np.ndarray, rows: pa.Table, *, synced: bool) -> str:
        column = pa.FixedSizeBinaryArray.from_buffers(
            _KEY_TYPE, len(keys), [None, pa.py_buffer(np.ascontiguousarray(keys).tobytes())]
        )
        table = rows.cast(self._schema).add_column(0, pa.field(KEY, _KEY_TYPE), column)
        content = io.BytesIO()
        pq.write_table(
            table,
            content,
            row_group_size=_GROUP_ROWS,
            use_dictionary=False,
            write_page_checksum=True,
        )
        name = _name_of(content.getvalue())
        self._fs.makedirs(self._folder, exist_ok=True)
        if not self._explained:
            create_file(self._fs, f"{self._folder}/about.json", self._place.about)
            self._explained = True
        put_file(self._fs, f"{self._folder}/{name}", content.getvalue(), synced=synced)
        return name

    def _refresh(self) -> None:
        """Look for files that others added or removed, if that is some time ago."""
        if time.monotonic() - self._looked < _REFRESH:
            return
        self._looked = time.monotonic()
        listed = self._listed()
        if listed is None:
            return
        for name in self._keys.unknown(listed):
            self._keys.add(name, self._keys_of(name))

    def _listed(self) -> dict[str, int] | None:
        """Return the files of rows with their sizes, None where the store cannot be reached."""
        self._fs.invalidate_cache(self._folder)
        try:
            found = self._fs.ls(self._folder, detail=True)
        except FileNotFoundError:  # not there yet
            return {}
        except OSError:
            return None
        names = ((each["name"].rpartition("/")[2], each["size"]) for each in found)
        return {name: size for name, size in names if name.endswith(".parquet")}

    def _keys_of(self, name: str) -> np.ndarray:
        """Return the keys of a file, none where it cannot be read."""
        try:
            with self._opened(name) as file:
                return _keys_in(file.read(columns=[KEY]))
        except _UNREADABLE:
            return np.empty(0, f"S{KEY_BYTES}")

    @contextlib.contextmanager
    def _opened(self, name: str) -> Iterator[pq.ParquetFile]:
        with self._fs.open(f"{self._folder}/{name}", "rb") as opened:
            file = pq.ParquetFile(opened, page_checksum_verification=True)
            if file.schema_arrow.names != [KEY, *self._schema.names]:
                raise ValueError(f"{name} has other columns")
            yield file

    def _read(self, number: int, rows: np.ndarray) -> pa.Table | None:
        """Return some rows of a file, None where it cannot be read."""
        name = self._keys.files[number]
        groups, inverse = np.unique(rows // _GROUP_ROWS, return_inverse=True)
        try:
            with self._opened(name) as file:
                table = file.read_row_groups(groups.tolist(), columns=self._schema.names)
            found = table.cast(self._schema).take(inverse * _GROUP_ROWS + rows % _GROUP_ROWS)
        except _UNREADABLE:
            with self._lock:
                self._keys.drop(number)
                self._lost = True
            self._remove_damaged(name)
            return None
        self._note_use(name)
        return found

    def _remove_damaged(self, name: str) -> None:
        """Remove a file that is not what its name says; one that cannot be reached stays."""
        with contextlib.suppress(OSError):
            content = self._fs.cat_file(f"{self._folder}/{name}")
            if _name_of(content) != name:
                self._fs.rm_file(f"{self._folder}/{name}")

    def _note_use(self, name: str) -> None:
        """Note now and then that a file is in use."""
        if time.monotonic() - self._used.get(name, -np.inf) > _NOTED:
            self._used[name] = time.monotonic()
            note_use(self._fs, f"{self._folder}/{name}")

    def _tidy(self) -> None:
        with self._lock:
            if time.monotonic() - self._tidied < _TIDY:
                return
            self._tidied = time.monotonic()
        self._put_together()
        with contextlib.suppress(OSError):
            trim(self._fs, self._place.root, self._most_bytes)

    def _put_together(self) -> None:
        """Make one file of many small ones, which go then."""
        listed = self._listed() or {}
        small = sorted(name for name, size in listed.items() if size < _SMALL // 8)
        if len(small) < _MANY:
            return
        tables: dict[str, pa.Table] = {}
        for name in small:
            with contextlib.suppress(*_UNREADABLE), self._opened(name) as file:
                tables[name] = file.read()
            if sum(table.nbytes for table in tables.values()) > _SMALL:
                break
        if len(tables) < 2:
            return
        together = pa.concat_tables(tables.values())
        keys = _keys_in(together)
        with contextlib.suppress(OSError):
            # synced: the files that it is made of go
            name = self._put(keys, together.drop_columns([KEY]), synced=True)
            with self._lock:
                self._keys.add(name, keys)
            self._remove(each for each in tables if each != name)

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            with contextlib.suppress(OSError):  # another process was first
                self._fs.rm_file(f"{self._folder}/{name}")
        with self._lock:
            self._looked = -np.inf


def _keys_in(table: pa.Table) -> np.ndarray:
    column = table[KEY].combine_chunks()
    values = np.frombuffer(column.buffers()[1], f"S{KEY_BYTES}")
    return values[column.offset : column.offset + len(column)]


def _name_of(content: bytes) -> str:
    return f"{hashlib.blake2b(content, digest_size=16).hexdigest()}.parquet"
