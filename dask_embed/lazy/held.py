"""What an operator asks of steps above it, and what each of these does to it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Hashable, Mapping
from typing import Any

from dask_embed.lazy._dask import Assign, Expr, Index, Projection
from dask_embed.lazy.aligned import are_aligned
from dask_embed.lazy.conditions import is_rowwise, walk
from dask_embed.lazy.steps import Step


@dataclasses.dataclass(frozen=True)
class Held:
    """What an operator, and a selection of its columns, ask of a step that it is to rise above.

    Attributes
    ----------
    made, reads : frozenset
        Columns that it computes, and that it computes them from.
    hidden : frozenset
        Columns that it has and the selection has not.
    one_row_each : bool
        Whether it makes one row of each.
    keeps_nulls : bool
        Whether its results are known to be null where an input is.
    """

    made: frozenset[Any]
    reads: frozenset[Any]
    hidden: frozenset[Any]
    one_row_each: bool
    keeps_nulls: bool = False

    def renamed(self, names: Mapping[Hashable, Hashable] | None) -> Held:
        if not names:
            return self
        made, reads = (
            frozenset(names.get(column, column) for column in columns)
            for columns in (self.made, self.reads)
        )
        return dataclasses.replace(self, made=made, reads=reads)

    def hindrance(self, passage: Passage) -> str | None:
        """Return in words why it stays below a step, None if it may rise."""
        step = passage.step
        if step.reads & self.made:
            return f"reads {words(step.reads & self.made)}"
        if changed := step.changes & (self.made | self.reads):
            return f"changes {words(changed)}"
        if step.adds_nulls and not self.keeps_nulls:
            return f"adds rows without {words(self.made)}"
        if passage.repeats_names:
            return "has columns of one name"
        if passage.beside_another:
            return "takes partitions beside those of another frame or array"
        if self.hidden and (again := passage.new_columns & self.hidden):
            return f"makes another {words(again)}"
        if passage.reads_all or passage.reads & self.made:
            return f"reads {words(passage.reads & self.made or self.made)}"
        if not self.one_row_each and not passage.each_row_alone:
            return "depends on how many rows there are"
        return None


def held_by(top: Any) -> Held:
    """Return what the operator below asks of steps above it."""
    node = top.computing
    hidden = frozenset(node.columns) - frozenset(top.columns)
    made, reads = frozenset(node.made), frozenset(node.reads)
    return Held(made, reads, hidden, node.one_row_each, node.keeps_nulls)


class Passage:
    """A step above operators, and what it reads of them beside its frame.

    Parameters
    ----------
    step : Step
    node : Expr
        The step.
    sources : list of Expr
        What it is on: an operator, or a selection of its columns and this operator.
    """

    def __init__(self, step: Step, node: Any, sources: list[Expr]) -> None:
        self.step = step
        self.node = node
        self.sources = sources
        self._others = [
            each
            for place, each in enumerate(node.operands)
            if place != step.place and isinstance(each, Expr)
        ]

    @functools.cached_property
    def repeats_names(self) -> bool:
        columns = columns_of(self.node)
        return len(set(columns)) != len(columns)

    @functools.cached_property
    def beside_another(self) -> bool:
        """Whether it needs as many partitions of another frame, or of an array.

        Of files that few columns are read of Dask makes fewer: nodes of ours right below a step
        bring both to one number, where the step is right above the files nothing does.
        """
        if not self.step.rows.blockwise or not self._others:
            return False
        source = self.sources[0]
        return not are_aligned(source, self._others, [source])

    @functools.cached_property
    def new_columns(self) -> frozenset[Any]:
        return frozenset(columns_of(self.node)) - frozenset(columns_of(self.sources[0]))

    @functools.cached_property
    def _readers(self) -> list[Expr]:
        """What its other inputs compute from the sources at once."""
        names = {source._name for source in self.sources}
        return [
            node
            for each in self._others
            for node in walk(each, names)
            if not isinstance(node, Index)
            and any(below._name in names for below in node.dependencies())
        ]

    @functools.cached_property
    def reads_all(self) -> bool:
        """Whether its other inputs read all columns."""
        names = {source._name for source in self.sources}
        return any(each._name in names for each in self._others) or any(
            not isinstance(each, Projection) for each in self._readers
        )

    @functools.cached_property
    def reads(self) -> frozenset[Any]:
        """Columns that its other inputs read."""
        return frozenset(
            column
            for each in self._readers
            if isinstance(each, Projection)
            for column in each.columns
        )

    @functools.cached_property
    def each_row_alone(self) -> bool:
        return self.step.each_row_alone and all(
            is_rowwise(each, self.sources) for each in self._others
        )


def columns_of(node: Any) -> list[Any]:
    """Return the columns of a node: Dask asks pandas, which takes long where there are many."""
    if type(node) is not Assign:
        return list(node.columns)
    found = columns_of(node.frame)
    return [*found, *(key for key in dict.fromkeys(node.keys) if key not in found)]


def words(columns: frozenset[Any]) -> str:
    return ", ".join(sorted(map(str, columns)))
