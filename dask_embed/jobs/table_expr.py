"""The lazy nodes that write a table: one task per partition, then one commit."""

from __future__ import annotations

from typing import Any

from dask_embed._validation import shown
from dask_embed.jobs.failures import Counts, counts_of, further, together
from dask_embed.jobs.table import Table, panics_told
from dask_embed.lazy._dask import Blockwise, Expr, List, Task, TaskRef
from dask_embed.lazy.nodes import LoweredFirst, OneTask
from dask_embed.runtime import planned
from dask_embed.runtime.stats import writing

# What a task gives: what names its files, and how many rows of its partition failed.
_Written = tuple[list[Any], Counts]


class WriteTable(LoweredFirst, OneTask):
    """The rows of `frame` in a `Table`; nothing runs where its run is `done`."""

    _parameters = ["frame", "table", "done"]  # noqa: RUF012

    def _tune_down(self) -> None:
        if not self.done:
            planned.tell(self)

    def _lower(self) -> Expr:
        if self.done:
            return CommitTable(None, self.table)
        # as in `WriteParquet`: what the plan computes is settled now
        here, elsewhere = counts_of(self.frame)
        return CommitTable(TableParts(self.frame, self.table, *here), self.table, *elsewhere)


class TableParts(Blockwise):
    """Writes each partition. Nodes behind its parameters count the rows that failed."""

    _parameters = ["frame", "table"]  # noqa: RUF012
    _meta = None

    def _divisions(self) -> Any:
        return self.frame.divisions

    def _task(self, name: Any, index: int) -> Task:
        counts = (TaskRef((count._name, index)) for count in further(self))
        partition = TaskRef((self.frame._name, index))
        return Task(name, write_part, self.table, index, partition, List(*counts))


class CommitTable(OneTask):
    """Adds what `parts` wrote to the table in one commit, and gives the `Counts`."""

    _parameters = ["parts", "table"]  # noqa: RUF012

    def _layer(self) -> dict[Any, Any]:
        key = (self._name, 0)
        if self.parts is None:
            return {key: Task(key, dict)}
        written = List(*map(TaskRef, self.parts.__dask_keys__()))
        counts = [TaskRef(each) for node in further(self) for each in node.__dask_keys__()]
        return {key: Task(key, commit, self.table, written, List(*counts))}


def write_part(table: Table, place: int, partition: Any, counts: list[Counts]) -> _Written:
    """Write one partition; one without rows has no file."""
    parts: list[Any] = []
    if len(partition):
        what = f"partition {place} cannot be written to {shown(table.uri)}"
        with writing(f"to_{table.kind.lower()}"), panics_told(what):
            parts = table.write(table.rows(partition), place)
    return parts, together(counts)


def commit(table: Table, written: list[_Written], counts: list[Counts]) -> Counts:
    """Add all files to the table, and return how many rows failed."""
    table.commit([part for parts, _ in written for part in parts])
    return together([*(counted for _, counted in written), *counts])
