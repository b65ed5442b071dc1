"""The lazy nodes that write a folder: begin, one task per partition, end."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dask_embed.jobs.commit import Aside, take_back
from dask_embed.jobs.failures import Counts, counts_of, further, together
from dask_embed.jobs.folder import NotHeldError, Run, read_mark
from dask_embed.jobs.job import Job
from dask_embed.jobs.manifest import record, require_complete
from dask_embed.jobs.row_expr import unpacked
from dask_embed.jobs.rows import Rewrite
from dask_embed.lazy._dask import (
    Expr,
    List,
    Task,
    TaskRef,
    ToParquet,
    ToParquetBarrier,
    ToParquetData,
)
from dask_embed.lazy.nodes import LoweredFirst, OneTask
from dask_embed.runtime import planned
from dask_embed.runtime.stats import writing

# What a task gives: the names of its files, for ``_metadata`` what Dask's engine gave, and how many
# rows of its partition failed.
Written = tuple[list[str], list[dict[str, Any]], Counts]


class WriteParquet(LoweredFirst, ToParquet):
    """Dask's node, between the begin and the end of a `Job`.

    `empty` says which partitions are written though they have no row: "none", "first" or "all".
    """

    _parameters = [*ToParquet._parameters, "job", "empty"]  # noqa: RUF012

    def _tune_down(self) -> None:
        planned.tell(self)

    def _lower(self) -> Expr:
        # What the plan computes is settled now: another reader before would keep filters above it.
        here, elsewhere = counts_of(self.frame)
        number = self.frame.npartitions
        if self.job.there is not None:
            self.job.there.missing(number + len(self.job.rewrites))  # or raise on the client
        parts = WriteParts(*self.operands, Begin(self.job), *here)
        if self.job.there is not None and self.job.there.done:
            elsewhere = []  # would run for rows that are there
        further = (
            [Rewrites(self.job, number, self.offset, Begin(self.job))] if self.job.rewrites else []
        )
        return End(parts, *self.operands[1:], *elsewhere, *further)


class Begin(OneTask):
    """Marks the folder as the job's."""

    _parameters = ["job"]  # noqa: RUF012

    def _layer(self) -> dict[Any, Any]:
        key = (self._name, 0)
        return {key: Task(key, self.job.begin)}


class WriteParts(ToParquetData):
    """Writes each partition, once the folder is marked.

    Nodes behind its parameters count the rows of each partition that failed.
    """

    _parameters = [*WriteParquet._parameters, "begun"]  # noqa: RUF012

    def _task(self, name: Any, index: int) -> Task:
        skipped = self.empty == "none" or (self.empty == "first" and index > 0)
        return Task(
            name,
            write_part,
            self.io_func,
            self.job.run,
            skipped,
            TaskRef((self.frame._name, index)),
            index,
            TaskRef((self.begun._name, 0)),
            List(*(TaskRef((count._name, index)) for count in further(self))),
            None if self.job.there is None else self.frame.npartitions + len(self.job.rewrites),
        )


class Rewrites(Expr):
    """Writes what stays of files that lose some of their rows, as partitions from `first` on."""

    _parameters = ["job", "first", "offset", "begun"]  # noqa: RUF012
    _meta = None

    def _divisions(self) -> tuple[None, ...]:
        return (None,) * (len(self.job.rewrites) + 1)

    def _layer(self) -> dict[Any, Any]:
        first, number = self.first, self.first + len(self.job.rewrites)
        tasks = {}
        for n, rewrite in enumerate(self.job.rewrites):
            name = self.job.run.part_name(first + n + self.offset)
            begun = TaskRef((self.begun._name, 0))
            key = (self._name, n)
            arguments = (self.job.run, rewrite, name, first + n, number, begun)
            tasks[key] = Task(key, rewrite_part, *arguments)
        return tasks


def rewrite_part(
    run: Run, rewrite: Rewrite, name: str, place: int, partitions: int, begun: None
) -> Written:
    """Write what stays of a file to another one beside it, and note that this is done."""
    run.require_held()
    with run.fs.open(f"{run.path}/{rewrite.file}", "rb") as opened:
        file = pq.ParquetFile(opened)
        table = file.read()
        groups = file.metadata.num_row_groups
        compression = file.metadata.row_group(0).column(0).compression if groups else "SNAPPY"
    table = table.filter(pa.array(unpacked(rewrite.rows, len(table))))
    within = rewrite.file.rpartition("/")[0]
    aside = Aside(run.fs)
    try:
        path = "/".join(filter(None, (run.path, within, name)))
        with aside.open(path, "wb") as written:
            pq.write_table(table, written, compression=compression)
        run.require_held()
        sizes = aside.commit()
    finally:
        aside.discard()
    _require_still_held(run, aside.made)
    record(run, place, partitions, sizes, {})
    return [name], [], {}


class End(ToParquetBarrier):
    """Ends the job once all partitions are written, and gives its `Counts`.

    Nodes behind its parameters count failed rows that `WriteParts` does not. What nothing refers
    to no scheduler computes: of a job that is gone on with, the partitions that are done. All
    partitions keep their numbers, by which nodes such as Dask's samples look up what they need.
    """

    _parameters = WriteParquet._parameters

    def _layer(self) -> dict[Any, Any]:
        key = (self._name, 0)
        parts: list[Any] = self.frame.__dask_keys__()
        counts: list[Any] = []
        for each in further(self):
            (parts if isinstance(each, Rewrites) else counts).extend(each.__dask_keys__())
        needed: list[int] = []
        if self.job.there is not None:
            places = self.job.there.missing(len(parts))
            needed = sorted({*places, *self.job.there.done})
            number, parts = len(parts), [parts[place] for place in places]
        written = List(*(TaskRef(part) for part in parts))
        summary = None
        if self.write_metadata_file:
            compression = self.write_kwargs.get("compression")
            summary = (self.engine, self.fmd, self.append, compression)
        failed = List(*map(TaskRef, counts))
        if self.job.there is not None:
            return {key: Task(key, resumed_end, self.job, needed, number, written, failed)}
        return {key: Task(key, end, self.job, summary, written, failed)}


def write_part(
    writer: Any,
    run: Run,
    skips_empty: bool,
    partition: Any,
    place: int,
    begun: None,
    counts: list[Counts],
    partitions: int | None,
) -> Written:
    """Write one partition by Dask's function `writer`, while the folder is the run's.

    A second run of the task writes the same file again. Where a number of `partitions` is given, a
    record says that this one is done.
    """
    run.require_held()
    told: list[dict[str, Any]] = [{"meta": None}]
    skipped = skips_empty and not len(partition)
    if not skipped:
        # Dask's engine sets the index in place, and the task may run again on the same partition.
        with writing():
            told = writer(copy.copy(partition), (place,))
        _require_still_held(run, told[0]["made"])
    counted = together(counts)
    if partitions is not None:
        files = told[0].get("files", {})
        record(run, place, partitions, files, counted)
        return [path.rpartition("/")[2] for path in files], [], counted
    names = [writer.name_function(place + writer.i_offset)] if len(partition) else []
    return names, told, counted


def _require_still_held(run: Run, made: dict[str, int]) -> None:
    """Raise unless the folder is the run's; what a task has `made` there on a disk is removed then.

    The mark of a job that failed goes where it has written nothing: without one, the files of a
    task that was not over yet would be the whole folder. It goes, too, when another start of the
    job has ended: that has written the same files since.
    """
    try:
        run.require_held()
    except NotHeldError:
        take_back(made)
        raise


def end(job: Job, summary: Any, written: list[Written], counts: list[Counts]) -> Counts:
    """Write ``_metadata`` if it is wanted, end the job, and return how many of its rows failed."""
    if summary is not None and job.run.holds():
        engine, before, append, compression = summary
        # Dask adds to these in place, and the task may run again.
        before, parts = pickle.loads(pickle.dumps((before, [part for _, part, _ in written])))
        engine.write_metadata(
            parts, before, job.run.fs, job.run.path, append=append, compression=compression
        )
    job.end(name for names, _, _ in written for name in names)
    return together([*(counted for _, _, counted in written), *counts])


def _is_ending(run: Run) -> bool:
    """Return whether another start of the same job found it complete: its records go, or are gone.

    It says so in the mark before it removes the first.
    """
    mark = read_mark(run.fs, run.path)
    return mark is None or "removes" in mark


def resumed_end(
    job: Job, needed: list[int], partitions: int, written: list[Written], counts: list[Counts]
) -> Counts:
    """End a job of which some partitions were done before; return how many rows of all failed."""
    if job.finished:
        return {}
    run, counted = job.run, {}
    if job.there is not None and not (job.there.finished or _is_ending(run)):
        try:
            counted = require_complete(run, needed, partitions)
        except RuntimeError:
            if not _is_ending(run):
                raise
    job.end(name for names, _, _ in written for name in names)
    return together([counted, *counts])
