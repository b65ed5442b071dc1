"""How many rows failed in a job: counted where they are computed, told when it is written."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

from dask_embed.jobs.lineage import mapped_operator
from dask_embed.lazy._dask import Blockwise, Expr, MapPartitions
from dask_embed.lazy.append import OperatorRows
from dask_embed.operators.fused import parts_of

# A reason is told up to so many characters.
_LONGEST = 300


@dataclasses.dataclass(frozen=True)
class Failures:
    """Rows of one result column, and those that ``on_error="null"`` made null.

    Attributes
    ----------
    rows : int
        All that its operator gave.
    failed : int
    first : str, optional
        Why the first of them failed.
    """

    rows: int = 0
    failed: int = 0
    first: str | None = None

    def __add__(self, other: Failures) -> Failures:
        first = other.first if self.first is None else self.first
        return Failures(self.rows + other.rows, self.failed + other.failed, first)


Counts = dict[str, Failures]
"""Of each result column."""


class CountFailures(Blockwise):
    """The `Counts` of each partition that the operator node `frame` gave.

    A task that runs again gives the same counts under the same key, so none is counted twice.
    """

    _parameters = ["frame", "columns"]  # noqa: RUF012 - the form of every Dask expression
    _meta = None

    @staticmethod
    def operation(partition: Any, columns: dict[str, str]) -> Counts:
        counts = {}
        for result, error in columns.items():
            messages = partition[error].dropna()
            first = str(messages.iloc[0]) if len(messages) else None
            counts[result] = Failures(len(partition), len(messages), first)
        return counts


def counts_of(plan: Expr) -> tuple[list[CountFailures], list[CountFailures]]:
    """Return the nodes that count the failed rows of a simplified plan, the first operator first.

    The former have the partitions of the plan, and are counted in the tasks that write these.
    """
    counts = list(_counts_of(plan))
    here = [each for each in counts if each.npartitions == plan.npartitions]
    return here, [each for each in counts if each.npartitions != plan.npartitions]


def further(node: Expr) -> list[Any]:
    """Return the operands behind the parameters of a node: those that count for it."""
    return node.operands[len(node._parameters) :]


def _counts_of(plan: Expr) -> Iterator[CountFailures]:
    kinds: Any = (OperatorRows, MapPartitions)  # annotated by Dask as a tuple of one
    for node in reversed(list(plan.find_operations(kinds))):
        columns: dict[str, str] = {}
        for operator in _operators_of(node):
            for error in set(operator.output_columns) - set(operator.result_columns):
                if error in node.columns:
                    columns[operator.result_columns[0]] = error
        if columns:
            yield CountFailures(node, columns)


def _operators_of(node: Any) -> tuple[Any, ...]:
    operator: Any = node.operator if isinstance(node, OperatorRows) else mapped_operator(node)
    return () if operator is None else parts_of(operator)


def together(counts: Iterable[Counts]) -> Counts:
    """Return the counts of several partitions or operators as those of one."""
    summed: Counts = {}
    for each in counts:
        for column, failures in each.items():
            summed[column] = summed.get(column, Failures()) + failures
    return summed


def warn_of_failures(counts: Counts, path: str, stacklevel: int) -> None:
    """Warn of each column of which rows failed."""
    for column, failures in counts.items():
        if failures.failed:
            reason = " ".join(str(failures.first).split())
            warnings.warn(
                f"{failures.failed} of {failures.rows} rows that were written to {path!r} failed "
                f"and have no {column!r} (on_error='null'); the first: {reason:.{_LONGEST}}",
                stacklevel=stacklevel,
            )
