"""A table that a job adds its rows to in one commit: how it is written, and what it must be.

Workers write files that no reader sees before the commit, which names them all and the run that
they are of. So a table has all rows of a run or none, and a run that is there adds nothing again.
A commit is only made of the version that was looked at: of two with one run id the second looks
again, and finds the first.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import json
import random
import time
from collections.abc import Iterator
from typing import Any, ClassVar, Protocol

import pyarrow as pa

from dask_embed._validation import shown, shown_error
from dask_embed.columns.frames import encoding_told
from dask_embed.columns.types import of_children
from dask_embed.jobs.folder import METADATA_KEY
from dask_embed.jobs.origin import origins_in_file, require_same_origin

MODES = ("create", "append", "overwrite")
_TRIES = 100
_LONGEST_WAIT = 2.0  # seconds between two of them
_ALIGNMENT = 16  # bytes, of the largest numbers of Arrow


class ConflictError(Exception):
    """Another commit came between the look at a table and this one."""


@dataclasses.dataclass(frozen=True)
class Commit:
    """One version of a table.

    Attributes
    ----------
    version : int
    run : str, optional
        The run of this library that made it.
    replaces : bool
        Whether what was there before is gone with it.
    changes : bool
        Whether it changed rows, and not only how they are stored.
    restores : int, optional
        The version that it went back to.
    """

    version: int
    run: str | None = None
    replaces: bool = False
    changes: bool = True
    restores: int | None = None


class Snapshot(Protocol):
    """A version of a table that is there."""

    @property
    def version(self) -> int: ...

    @property
    def schema(self) -> pa.Schema:
        """Its columns, with what made them in the metadata, as `Table.schema` has it."""

    def commits(self, after: int) -> Iterator[Commit]:
        """Yield its versions after one, the last first."""

    def ran(self, run: str) -> bool | None:
        """Return whether a run ever added rows, None where only `commits` tell."""


@dataclasses.dataclass(frozen=True)
class Table(abc.ABC):
    """A table of one format, and the run that adds to it or replaces it.

    Attributes
    ----------
    uri : str
        A URL or an absolute path.
    mode : {"create", "append", "overwrite"}
    run : str
        What the job is known by when it is started again.
    options : dict, optional
        What opens the store.
    given : pyarrow.Schema
        Of the partitions.
    schema : pyarrow.Schema
        Of the files; its metadata says what made the columns.
    index : bool
        Whether the index is a column.
    seen : int, optional
        The version that was looked at when the job was built, and had no rows of the run; None
        where there was no table.
    """

    kind: ClassVar[str]
    """The name of the format."""

    uri: str
    mode: str
    run: str
    options: dict[str, str] | None
    given: pa.Schema = dataclasses.field(repr=False)
    schema: pa.Schema = dataclasses.field(repr=False)
    index: bool
    seen: int | None = None

    @abc.abstractmethod
    def look(self) -> Snapshot | None:
        """Return the table as it is now, None where there is none."""

    @abc.abstractmethod
    def owns(self, name: str) -> bool:
        """Return whether a file or folder of that name may be left of a job that died."""

    @abc.abstractmethod
    def write(self, rows: pa.Table, place: int) -> list[Any]:
        """Write the rows of a partition to files that nobody sees, and return what names them."""

    @abc.abstractmethod
    def add(self, found: Any, parts: list[Any]) -> None:
        """Make the files part of the table; raise ConflictError if it is no more what was found."""

    def fitting(self, found: Snapshot | None) -> Table:
        """Return this with the columns as the table has them, if they fit.

        Raises
        ------
        FileExistsError, ValueError
            If the table is there though the mode is "create", or for "append" has other columns,
            or others made them.
        """
        if found is None or self.mode == "overwrite":
            return self
        if self.mode == "create":
            raise FileExistsError(
                f"there is a {self.kind} table at {shown(self.uri)}, and it does not hold the rows "
                "of this job: choose another place, or mode='append', or mode='overwrite'"
            )
        _require_same_columns(self, found.schema)
        said = json.loads((self.schema.metadata or {}).get(METADATA_KEY.encode(), b"{}"))
        made = origins_in_file(said)
        require_same_origin(self.uri, found.schema, made, self.schema.names, "mode='append'")
        return dataclasses.replace(self, schema=found.schema)

    def has_run(self, found: Snapshot | None) -> bool:
        """Return whether a table holds the rows of the run, and for "overwrite" no others."""
        if found is None or found.ran(self.run) is False:
            return False
        alone = self.mode == "overwrite"
        after = self.seen if self.seen is not None and self.seen <= found.version else 0
        restored = reached = found.version
        for commit in found.commits(after):
            reached = commit.version
            if reached > restored:
                continue
            if commit.run == self.run:
                return not alone or commit.replaces or reached == 0
            if commit.replaces or (alone and commit.changes):
                return False
            if commit.restores is not None:
                restored = commit.restores
        # what the first versions said may be gone, but not that there was such a run
        forgotten = reached > 0 and self.seen is None
        return forgotten and not alone and bool(found.ran(self.run))

    def commit(self, parts: list[Any]) -> None:
        """Add files that workers wrote, all at once; nothing if the run is there.

        Raises
        ------
        RuntimeError
            If others changed the table again and again meanwhile, or made it while this job ran.
        """
        last: Exception | None = None
        for attempt in range(_TRIES):
            if last is not None:
                time.sleep(random.uniform(0, min(_LONGEST_WAIT, 0.02 * 2**attempt)))
            found = self.look()
            if self.has_run(found):
                return
            fitting = self.fitting(found)
            if not fitting.schema.equals(self.schema):
                raise RuntimeError(
                    f"the {self.kind} table at {shown(self.uri)} got other columns while this job "
                    "ran: nothing was added; start the job again"
                )
            try:
                fitting.add(found, parts)
            except ConflictError as error:
                last = error
            else:
                return
        raise RuntimeError(
            f"others changed the {self.kind} table at {shown(self.uri)} {_TRIES} times while this "
            "job wanted to: nothing was added; start the job again"
        ) from last

    def rows(self, partition: Any) -> pa.Table:
        """Return a partition as the rows of the table."""
        if self.index:
            partition = partition.reset_index()
        with encoding_told(f"a partition cannot be written to {shown(self.uri)}", partition):
            rows = pa.Table.from_pandas(
                partition, schema=self.given, preserve_index=False, nthreads=1
            )
        return _aligned(rows.select(self.schema.names).cast(self.schema))

    def __dask_tokenize__(self) -> Any:
        schemas = [each.serialize().to_pybytes() for each in (self.given, self.schema)]
        told = (self.kind, self.uri, self.mode, self.run, self.options, self.index, self.seen)
        return (*told, *schemas)


def _aligned(rows: pa.Table) -> pa.Table:
    """Return rows whose buffers begin where libraries in Rust can read numbers.

    What came to a worker in a message begins anywhere, and Rust panics there.
    """
    buffers = [
        buffer
        for column in rows.columns
        for chunk in column.chunks
        for buffer in chunk.buffers()
        if buffer is not None
    ]
    if all(buffer.address % _ALIGNMENT == 0 for buffer in buffers):
        return rows
    return rows.take(pa.array(range(len(rows)), pa.int64()))  # into memory of Arrow's own


@contextlib.contextmanager
def panics_told(what: str) -> Iterator[None]:
    """Raise RuntimeError for a panic of a library in Rust.

    It is no `Exception`, and a client of distributed would wait for ever for a task that ends so.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise RuntimeError(f"{what}: {shown_error(error)}") from None


def _require_same_columns(table: Table, written: pa.Schema) -> None:
    """Raise ValueError unless the columns of a table are those of the frame, in whatever order."""
    there = {field.name: plain(field.type) for field in written}
    here = {field.name: plain(field.type) for field in table.schema}
    for name in dict.fromkeys([*there, *here]):
        if there.get(name) != here.get(name):
            told = [str(each.get(name, "missing")) for each in (there, here)]
            raise ValueError(
                f"mode='append' needs the columns and types of the {table.kind} table at "
                f"{shown(table.uri)}: column {name!r} is {told[0]} there, and {told[1]} here"
            )


def plain(dtype: pa.DataType) -> pa.DataType:
    """Return a type as it is told from others: texts and lists have several of one meaning."""
    if pa.types.is_large_string(dtype) or pa.types.is_string_view(dtype):
        return pa.string()
    if pa.types.is_large_binary(dtype) or pa.types.is_binary_view(dtype):
        return pa.binary()
    if pa.types.is_dictionary(dtype):
        return plain(dtype.value_type)
    return of_children(dtype, plain)
