"""Steps of Dask that compute each row from the same row of an operator, as one node.

`assign` of what is computed from results reads them twice: as its frame, and in the values. Moved
one after the other, a filter would leave both without a common frame for a while, and rows that
have the same label could not be told apart. As one node they have one input.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

from dask_embed.lazy._dask import (
    Assign,
    Elemwise,
    Expr,
    Index,
    Mask,
    Projection,
    RenameFrame,
    Task,
    Where,
)
from dask_embed.lazy.computed import ComputedRows, SelectResult
from dask_embed.lazy.conditions import keeps_rows, replaced, walk
from dask_embed.lazy.held import Held
from dask_embed.lazy.rewrites import reads_made, rewriting
from dask_embed.lazy.same_rows import SameRows
from dask_embed.lazy.steps import Rows, Step, step_of
from dask_embed.lazy.worth import is_worth_it


class AnyFrame(Expr):
    """What a step is written on, before it is known: an empty frame."""

    _parameters = ["empty"]  # noqa: RUF012 - the form of every Dask expression

    @property
    def _meta(self) -> Any:
        return self.operand("empty")

    def _divisions(self) -> tuple[None, None]:
        return (None, None)


@dataclasses.dataclass(frozen=True)
class Written:
    """A step of Dask on any frame with the columns that it takes.

    Attributes
    ----------
    step : Expr
        The step on `hole`.
    hole : Expr
    made, reads : frozenset
        Columns that it computes or changes, and that others are computed from.
    """

    step: Expr
    hole: Expr
    made: frozenset[Any]
    reads: frozenset[Any]

    def on(self, frame: Expr) -> Any:
        return replaced(self.step, (self.hole, frame))

    def renamed(self, names: Mapping[Any, Any]) -> Written:
        """Return the step for a frame in which columns have other names."""
        names = _exchanged(names)
        hole = AnyFrame(self.hole._meta.rename(columns=names))
        before = {new: old for old, new in names.items()}
        step = RenameFrame(self.on(RenameFrame(hole, before)), names)
        made, reads = (
            frozenset(names.get(column, column) for column in columns)
            for columns in (self.made, self.reads)
        )
        return Written(step, hole, made, reads)

    def __dask_tokenize__(self) -> tuple[str, list[Any], list[Any]]:
        return self.step._name, sorted(self.made, key=str), sorted(self.reads, key=str)


class EachRow(SameRows):
    """What a step of Dask computes of each row of `frame`.

    Parameters
    ----------
    frame : Expr
    written : Written
    """

    _parameters = ["frame", "written"]  # noqa: RUF012

    @functools.cached_property
    def _step(self) -> Any:
        return self.written.on(self.frame)

    @functools.cached_property
    def _meta(self) -> Any:
        return self._step._meta

    @property
    def made(self) -> set[Any]:
        return set(self.written.made & frozenset(self.columns))

    @property
    def reads(self) -> set[Any]:
        return set(self.written.reads)

    @property
    def labels(self) -> list[str]:
        return [type(self.written.step).__name__.lower()]

    def _depth(self, cache: Any = None) -> int:
        return 1  # after an operator, which takes longer

    def keeping(self, wanted: set[Any]) -> ComputedRows:
        step = self.written.step
        if not isinstance(step, Assign) or wanted.issuperset(step.keys):
            return self
        pairs = [(k, v) for k, v in zip(step.keys, step.vals, strict=True) if k in wanted]
        kept = Assign(step.frame, *(each for pair in pairs for each in pair))
        return type(self)(self.frame, written(kept, self.written.hole))

    def renamed(self, names: Mapping[Any, Any]) -> ComputedRows | None:
        hit = {old: new for old, new in names.items() if old in self.made | self.reads}
        if not hit:
            return self
        # what it makes is asked of the frame, whose columns are to have the new names as well
        return type(self)(RenameFrame(self.frame, _exchanged(hit)), self.written.renamed(hit))

    def _task(self, name: Any, index: int) -> Any:
        """Compute the whole step in one task, as a group that Dask fuses does."""
        tasks = []
        for node in walk(self._step, [self.frame._name]):
            key = name if node._name == self._step._name else (node._name, index)
            tasks.append(node._task(key, index))
        return Task.fuse(*tasks, key=name)


def _exchanged(names: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return new names by which no two columns get one.

    What a column is to be called another may be called now, that the step does not read.
    """
    whole, before = dict(names), {new: old for old, new in names.items()}
    for new in names.values():
        if new not in names:
            first = new
            while first in before:
                first = before[first]
            whole[new] = first
    return whole


def written(step: Any, hole: Expr) -> Written:
    """Return a step on `hole` with what it reads and makes."""
    columns = frozenset(hole.columns)
    known = step_of(step)
    made = columns if known is None else known.changes
    own = frozenset() if known is None else known.reads
    return Written(step, hole, made, own | frozenset(_read_beside(step, hole)))


def _read_beside(step: Any, hole: Expr) -> Iterator[Any]:
    """Yield the columns that the operands of a step read, but for its frame."""
    for operand in step.operands[1:]:
        if not isinstance(operand, Expr):
            continue
        if operand._name == hole._name:
            yield from hole.columns
        for node in walk(operand, [hole._name]):
            if any(each._name == hole._name for each in node.dependencies()):
                yield from node.columns if isinstance(node, Projection) else hole.columns


@rewriting
def _as_one_node(top: Any, node: Any, dependents: Any) -> Expr | None:
    """Return a step that needs results of the same row alone as one node, if fewer are wanted."""
    if isinstance(node, ComputedRows) or top.ndim < 2 or not _is_of_rows(node, top):
        return None
    known = step_of(node)
    changes = frozenset(top.columns) if known is None else known.changes
    made = frozenset(top.computing.made)
    beside = [each for each in node.operands[1:] if isinstance(each, Expr)]
    if not changes & made and not any(reads_made(top, each) for each in beside):
        return None
    hidden = frozenset(top.computing.columns) - frozenset(top.columns)
    held = Held(made | changes, frozenset(top.computing.reads), hidden, True)
    if not is_worth_it(held, Step(Rows.SAME), node, dependents):
        return None
    hole = AnyFrame(top._meta)
    sources = _sources(top)
    if not all(_reads_rows_of(each, sources, set(top.columns)) for each in beside):
        return None
    step = replaced(node, *((source, hole) for source, _ in sources))
    return EachRow(top, written(step, hole))


def _is_of_rows(node: Any, top: Any) -> bool:
    """Return whether a step gives a frame of the same rows, each of the same row of `top`."""
    if not isinstance(node, Elemwise) or getattr(node.operands[0], "_name", "") != top._name:
        return False
    known = step_of(node)
    if known is None:
        return isinstance(node, Where | Mask)
    columns = list(node.columns)
    alone = known.rows is Rows.SAME and known.each_row_alone and known.names is None
    return alone and bool(known.changes) and len(set(columns)) == len(columns)


def _sources(top: Any) -> list[tuple[Expr, frozenset[Any]]]:
    """Return the nodes that have a row for each of `top`, and columns that are others in it."""
    found: list[tuple[Expr, frozenset[Any]]] = [(top, frozenset())]
    others: frozenset[Any] = frozenset()
    node = top
    while isinstance(node, SameRows | SelectResult):
        if isinstance(node, SameRows):
            others |= frozenset(node.made)
        node = node.frame
        found.append((node, others))
    return found


def _reads_rows_of(
    expression: Expr, sources: list[tuple[Expr, frozenset[Any]]], columns: set[Any]
) -> bool:
    """Return whether each row is computed from the same row of `columns` of the first source."""
    by_name = {source._name: others for source, others in sources}
    if expression._name in by_name:
        return expression._name == sources[0][0]._name
    for node in walk(expression, by_name):
        inputs = node.dependencies()
        if not inputs or not keeps_rows(node):
            return False
        for name in {each._name for each in inputs} & set(by_name):
            if isinstance(node, Index) or name == sources[0][0]._name:
                continue
            if not isinstance(node, Projection):
                return False
            if not set(node.columns) <= columns - by_name[name]:
                return False
    return True
