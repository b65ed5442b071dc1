"""How an operator rises in a plan: above steps that do not need it, so that fewer rows reach it."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping
from typing import Any

from dask_embed import config
from dask_embed.lazy._dask import (
    Expr,
    Filter,
    Head,
    Index,
    Len,
    Lengths,
    Partitions,
    Projection,
    RenameFrame,
    Tail,
)
from dask_embed.lazy.conditions import conditions_of, is_rowwise, reads_any, replaced
from dask_embed.lazy.readers import dependents_of, readers_of
from dask_embed.lazy.rewrites import REWRITES
from dask_embed.lazy.steps import Rows, Step, step_of

# What asks for fewer rows, or for none, and that nodes of ours let through.
_FEWER = (Head, Tail, Partitions, Len, Lengths, Index)
# An operator with more steps than this below its filter stays: each that it passes takes time.
_FARTHEST = 8


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
    """

    made: frozenset[Any]
    reads: frozenset[Any]
    hidden: frozenset[Any]
    one_row_each: bool

    def renamed(self, names: Mapping[Hashable, Hashable] | None) -> Held:
        if not names:
            return self
        made, reads = (
            frozenset(names.get(column, column) for column in columns)
            for columns in (self.made, self.reads)
        )
        return dataclasses.replace(self, made=made, reads=reads)

    def hindrance(self, step: Step, node: Expr, tops: list[Expr]) -> str | None:
        """Return why it stays below a step, None if it may rise."""
        if step.reads & self.made:
            return f"reads {_words(step.reads & self.made)}"
        if changed := step.changes & (self.made | self.reads):
            return f"changes {_words(changed)}"
        columns = list(node.columns)
        if len(set(columns)) != len(columns):
            return "has columns of one name"
        if again := (set(columns) - set(tops[0].columns)) & self.hidden:
            return f"makes another {_words(again)}"
        others = [
            each
            for place, each in enumerate(node.operands)
            if place != step.place and isinstance(each, Expr)
        ]
        if any(reads_any(each, top, set(self.made)) for each in others for top in tops):
            return f"reads {_words(self.made)}"
        if not self.one_row_each and not (
            step.each_row_alone and all(is_rowwise(each, tops) for each in others)
        ):
            return "depends on how many rows there are"
        return None


def _words(columns: frozenset[Any] | set[Any]) -> str:
    return ", ".join(sorted(map(str, columns)))


def raised(top: Any, node: Any, dependents: Any) -> Expr | None:
    """Return the step `node` below an operator instead of above, None where it stays.

    A step that leaves rows by columns that are not made becomes a filter, which nodes of ours let
    through.

    Parameters
    ----------
    top : Expr
        The operator's node, or a selection of its columns.
    node : Expr
        What reads it.
    dependents : mapping
        Of Dask, the expressions that read each.
    """
    computing = top.computing
    if computing is None or config.get("operators-rise") == "none":
        return None
    for rewrite in REWRITES:
        if (rewritten := rewrite(top, node, dependents)) is not None:
            return rewritten
    if obstacle(top, node, dependents) is not None:
        return None
    step = step_of(node, top)
    if step is None or not is_worth_it(held_by(top), step, node, dependents):
        return None
    risen = _risen(top, step, node, dependents)
    if risen is None:
        return None
    if top.ndim < 2:
        risen = risen.selected(top.operand("columns"))
    elif list(risen.columns) != list(node.columns):
        chosen = list(node.columns)
        risen = (
            risen.selected(chosen) if hasattr(type(risen), "made") else Projection(risen, chosen)
        )
    return risen if same_kind(risen._meta, node._meta) else None


def _risen(top: Any, step: Step, node: Any, dependents: Any) -> Any:
    """Return an operator, and those right below it, above a step; columns in any order."""
    computing = top.computing
    named = computing.renamed(step.names or {})
    if named is None:
        return None
    below = _below(top, step, node)
    lower = computing.frame
    if getattr(type(lower), "one_row_each", False) and not _is(below, lower):
        next_step = step_of(below, lower)
        alone = all(
            _is(reader, computing) or _needs_none(reader, lower, lower.made)
            for reader in readers_of(lower, dependents)
        )
        if next_step is not None and alone:
            hindered = held_by(lower).hindrance(next_step, below, [lower])
            if hindered is None:
                risen = _risen(lower, next_step, below, dependents)
                below = below if risen is None else risen
    return named.on(below)


def obstacle(top: Any, node: Any, dependents: Any) -> str | None:
    """Return in words why an operator stays below a step, None if it may rise above it."""
    kind = type(node).__name__.lower()
    step = step_of(node, top)
    if step is None or not _is(node.operands[step.place], top):
        return f"{kind} may need all of its columns and rows"
    allowed = config.get("operators-rise")
    if allowed == "none" or (allowed == "blockwise" and not step.rows.blockwise):
        return f"embed.operators-rise is {allowed!r}"
    if top.ndim < 2 and (node.ndim != top.ndim or step.names is not None):
        return f"{kind} makes a frame of a column"
    tops = [top, top.computing]
    if (why := held_by(top).hindrance(step, node, tops)) is not None:
        return f"{kind} {why}"
    if node._name not in dependents_of(top, dependents):
        return "its readers are not known yet"
    for each in {each._name: each for each in tops}.values():
        expected = {node._name, top._name}
        for reader in readers_of(each, dependents):
            if getattr(reader, "_name", None) not in expected and not _needs_none(
                reader, each, top.computing.made
            ):
                return f"{type(reader).__name__.lower()} reads the same rows"
    return None


def held_by(top: Any) -> Held:
    """Return what the operator below asks of steps above it."""
    node = top.computing
    hidden = frozenset(node.columns) - frozenset(top.columns)
    return Held(frozenset(node.made), frozenset(node.reads), hidden, node.one_row_each)


def _is(node: Any, other: Expr) -> bool:
    return isinstance(node, Expr) and node._name == other._name


def _needs_none(reader: Any, node: Expr, made: set[Any]) -> bool:
    """Return whether a reader of an operator's node needs no result: rules take it below."""
    if isinstance(reader, Projection):
        return not made.intersection(reader.columns)
    return isinstance(reader, Index | Len | Lengths)


def is_worth_it(held: Held, step: Step, node: Expr, dependents: Any) -> bool:
    """Return whether fewer rows reach an operator above a step, there or further up."""
    for _ in range(_FARTHEST):
        if step.rows.fewer:
            return True
        held = held.renamed(step.names)
        readers = [each for each in readers_of(node, dependents) if isinstance(each, Expr)]
        if any(_leaves_some(held, each, node) for each in readers):
            return True
        above = [each for each in readers if not _needs_none(each, node, set(held.made))]
        if len({each._name for each in above}) != 1 or not above[0].operands:
            return False
        below, node = node, above[0]
        if isinstance(node, Projection) or getattr(type(node), "one_row_each", False):
            step = Step(Rows.SAME)
            continue
        found = step_of(node, below)
        if found is None or held.hindrance(found, node, [below]) is not None:
            return False
        step = found
    return False


def _leaves_some(held: Held, reader: Any, node: Expr) -> bool:
    """Return whether a reader of a step needs an operator's results of fewer rows, or of none."""
    if isinstance(reader, Filter) and _is(reader.frame, node):
        parts = conditions_of(reader.predicate)
        return not all(reads_any(part, node, set(held.made)) for part in parts)
    return isinstance(reader, _FEWER)


def _below(top: Any, step: Step, node: Any) -> Expr:
    """Return the step on what is below the operator."""
    frame = top.computing.frame
    if step.names is not None:
        names = {old: new for old, new in step.names.items() if old in frame.columns}
        return RenameFrame(frame, names) if names else frame
    operands = [
        replaced(each, (top, frame), (top.computing, frame)) if isinstance(each, Expr) else each
        for each in node.operands
    ]
    return type(node)(*operands)


def same_kind(one: Any, other: Any) -> bool:
    """Return whether two empty frames or columns are of the same types and names."""
    if type(one) is not type(other) or one.index.dtype != other.index.dtype:
        return False
    if list(one.index.names) != list(other.index.names):
        return False
    if one.ndim < 2:
        return bool(one.dtype == other.dtype and one.name == other.name)
    same_names = one.columns.equals(other.columns) and one.columns.names == other.columns.names
    return bool(same_names and list(one.dtypes) == list(other.dtypes))
