"""Columns that are computed from results, as a node that filters pass and that rises."""

from __future__ import annotations

import dataclasses
from typing import Any

from dask_embed.lazy._dask import Assign, Expr, Index, Projection
from dask_embed.lazy.computed import ComputedRows, SameRows
from dask_embed.lazy.conditions import is_rowwise, reads_any, replaced, walk
from dask_embed.lazy.rewrites import reads_made, rewriting
from dask_embed.lazy.rising import held_by, is_worth_it, same_kind
from dask_embed.lazy.steps import Rows, Step


class AssignResult(SameRows):
    """`frame` with columns that are computed from each of its rows, as Dask's `Assign` does it.

    Its operands are those of `Assign`: the frame, then a name and a value for each column.
    """

    _parameters = ["frame"]  # noqa: RUF012 - the form of every Dask expression
    operation = staticmethod(Assign.operation)

    @property
    def keys(self) -> list[Any]:
        return list(self.operands[1::2])

    @property
    def vals(self) -> list[Any]:
        return list(self.operands[2::2])

    @property
    def made(self) -> set[Any]:
        return set(self.keys)

    @property
    def reads(self) -> set[Any]:
        return {name for value in self.vals for name in _read(value, self.frame)}

    @property
    def labels(self) -> list[str]:
        return ["assign"]

    def _depth(self, cache: Any = None) -> int:
        return 1  # after an operator, which takes longer

    def on(self, frame: Expr) -> ComputedRows:
        return AssignResult(frame, *_substituted(self.operands[1:], self.frame, frame))

    def keeping(self, wanted: set[Any]) -> ComputedRows:
        pairs = zip(self.keys, self.vals, strict=True)
        kept = [each for pair in pairs if pair[0] in wanted for each in pair]
        return self if len(kept) == len(self.operands) - 1 else AssignResult(self.frame, *kept)


def _substituted(operands: list[Any], old: Expr, new: Expr) -> list[Any]:
    return [replaced(each, (old, new)) if isinstance(each, Expr) else each for each in operands]


def _read(value: Any, frame: Expr) -> set[Any]:
    """Return the columns of `frame` that a value is computed from."""
    if not isinstance(value, Expr):
        return set()
    if value._name == frame._name:
        return set(frame.columns)
    read: set[Any] = set()
    for node in walk(value, {frame._name}):
        if any(operand._name == frame._name for operand in node.dependencies()):
            chosen = isinstance(node, Projection)
            read.update(
                node.columns if chosen else [] if isinstance(node, Index) else frame.columns
            )
    return read


@rewriting
def _assigned_apart(top: Any, node: Any, dependents: Any) -> Expr | None:
    """Return `assign` in two steps: of what reads no result, then of what does, which rises too."""
    if not isinstance(node, Assign) or node.frame._name != top._name:
        return None
    pairs = list(zip(node.keys, node.vals, strict=True))
    late = [pair for pair in pairs if isinstance(pair[1], Expr) and reads_made(top, pair[1])]
    early = [pair for pair in pairs if pair not in late]
    names = {name for name, _ in early}
    if any(reads_any(value, top, names) for _, value in late):
        return None
    if not late or not all(is_rowwise(value, [top]) for _, value in late):
        return None
    held = held_by(top)
    made = held.made.union(name for name, _ in late)
    if not is_worth_it(dataclasses.replace(held, made=made), Step(Rows.SAME), node, dependents):
        return None
    frame = Assign(top, *(each for pair in early for each in pair)) if early else top
    values = [(name, replaced(value, (top, frame))) for name, value in late]
    risen: Expr = AssignResult(frame, *(each for pair in values for each in pair))
    if list(risen.columns) != list(node.columns):
        risen = risen.selected(list(node.columns))
    return risen if same_kind(risen._meta, node._meta) else None
