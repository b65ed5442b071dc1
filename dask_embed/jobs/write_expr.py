"""The lazy nodes that write a folder: begin, one task per partition, end."""

from __future__ import annotations

import copy
import pickle
from typing import Any

from dask._task_spec import List, Task, TaskRef
from dask.dataframe.dask_expr._expr import Expr
from dask.dataframe.dask_expr.io.parquet import ToParquet, ToParquetBarrier, ToParquetData

from dask_embed.jobs.folder import Job, Run

# What a task gives: the names of its files, and for ``_metadata`` what Dask's engine gave.
Written = tuple[list[str], list[dict[str, Any]]]


class WriteParquet(ToParquet):
    """Dask's node, between the begin and the end of a `Job`.

    `empty` says which partitions are written though they have no row: "none", "first" or "all".
    """

    _parameters = [*ToParquet._parameters, "job", "empty"]  # noqa: RUF012

    def _lower(self) -> Expr:
        parts = WriteParts(*self.operands, Begin(self.job))
        return End(parts, *self.operands[1:])


class Begin(Expr):
    """Marks the folder as the job's."""

    _parameters = ["job"]  # noqa: RUF012

    @property
    def _meta(self) -> None:
        return None

    def _divisions(self) -> tuple[None, None]:
        return (None, None)

    def _layer(self) -> dict[Any, Any]:
        key = (self._name, 0)
        return {key: Task(key, self.job.begin)}


class WriteParts(ToParquetData):
    """Writes each partition, once the folder is marked."""

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
        )


class End(ToParquetBarrier):
    """Ends the job once all partitions are written."""

    _parameters = WriteParquet._parameters

    def _layer(self) -> dict[Any, Any]:
        key = (self._name, 0)
        written = List(*(TaskRef(part) for part in self.frame.__dask_keys__()))
        summary = None
        if self.write_metadata_file:
            compression = self.write_kwargs.get("compression")
            summary = (self.engine, self.fmd, self.append, compression)
        return {key: Task(key, end, self.job, summary, written)}


def write_part(
    writer: Any, run: Run, skips_empty: bool, partition: Any, place: int, begun: None
) -> Written:
    """Write one partition by Dask's function `writer`, while the folder is the run's.

    A second run of the task writes the same file again.
    """
    run.require_held()
    if skips_empty and not len(partition):
        return [], [{"meta": None}]
    # Dask's engine sets the index in place, and the task may run again on the same partition.
    told = writer(copy.copy(partition), (place,))
    run.require_held()
    names = [writer.name_function(place + writer.i_offset)] if len(partition) else []
    return names, told


def end(job: Job, summary: Any, written: list[Written]) -> None:
    """Write ``_metadata`` if it is wanted, and end the job."""
    if summary is not None and job.run.holds():
        engine, before, append, compression = summary
        # Dask adds to these in place, and the task may run again.
        before, parts = pickle.loads(pickle.dumps((before, [part for _, part in written])))
        engine.write_metadata(
            parts, before, job.run.fs, job.run.path, append=append, compression=compression
        )
    job.end(name for names, _ in written for name in names)
