"""Whether an operator is to rise above a step: whether fewer rows are asked for there or above."""

from __future__ import annotations

from typing import Any

from dask_embed.lazy._dask import (
    Concat,
    DropnaFrame,
    ExplodeFrame,
    Expr,
    Filter,
    Head,
    Index,
    Len,
    Lengths,
    Partitions,
    Projection,
    Tail,
)
from dask_embed.lazy.conditions import conditions_of, reads_any
from dask_embed.lazy.held import Held, Passage
from dask_embed.lazy.kept import Kept
from dask_embed.lazy.readers import readers_of
from dask_embed.lazy.steps import Rows, Step, step_of

# What asks for fewer rows, or for none, and that nodes of ours let through.
_FEWER = (Head, Tail, Partitions, Len, Lengths, Index)
# An operator with more steps than this below its filter stays: each that it passes takes time.
_FARTHEST = 8


def is_worth_it(held: Held, step: Step, node: Expr, dependents: Any) -> bool:
    """Return whether fewer rows reach an operator above a step, there or further up."""
    for _ in range(_FARTHEST):
        if step.rows.fewer:
            return True
        held = held.renamed(step.names)
        readers = [each for each in readers_of(node, dependents) if isinstance(each, Expr)]
        if any(_leaves_some(held, each, node) for each in readers):
            return True
        above = [each for each in readers if not needs_none(each, set(held.made))]
        if readers and not above:
            return True
        if len({each._name for each in above}) != 1 or not above[0].operands:
            return False
        below, node = node, above[0]
        if _is_passed(node):
            step = Step(Rows.SAME)
            continue
        found = step_of(node, below)
        if found is None or held.hindrance(Passage(found, node, [below])) is not None:
            return False
        step = found
    return False


def _is_passed(node: Any) -> bool:
    """Return whether what leaves rows out above a node may pass it."""
    if isinstance(node, Concat):
        return bool(node.axis == 0)
    return isinstance(node, Projection | ExplodeFrame) or getattr(type(node), "one_row_each", False)


def _leaves_some(held: Held, reader: Any, node: Expr) -> bool:
    """Return whether a reader of a step needs an operator's results of fewer rows, or of none."""
    if isinstance(reader, Filter) and reader.frame._name == node._name:
        parts = conditions_of(reader.predicate)
        return not all(reads_any(part, node, set(held.made)) for part in parts)
    if isinstance(reader, Kept) and reader.frame._name == node._name:
        return not reads_any(reader.predicate, node, set(held.made))
    if isinstance(reader, DropnaFrame):
        return bool(reader.frame._name == node._name)  # of results, too: see `nulls`
    return isinstance(reader, _FEWER) or getattr(type(reader), "leaves_some", False)


def needs_none(reader: Any, made: set[Any]) -> bool:
    """Return whether a reader of an operator's node needs no result: rules take it below."""
    if isinstance(reader, Projection):
        return not made.intersection(reader.columns)
    return isinstance(reader, Index | Len | Lengths)
