"""Operators that rise above frames behind each other.

Where each frame has the operator, it runs on the rows of all. Where some have it, it reads copies
of its inputs, which are null in the rows of the others, as its results are there.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any

from dask.base import tokenize

from dask_embed.lazy._dask import Assign, Expr, Filter, Projection
from dask_embed.lazy.computed import ComputedRows
from dask_embed.lazy.concatenated import Concatenated
from dask_embed.lazy.held import held_by, words
from dask_embed.lazy.readers import dependents_of, readers_of
from dask_embed.lazy.rewrites import rewriting
from dask_embed.lazy.rising import same_kind
from dask_embed.lazy.steps import Rows, Step
from dask_embed.lazy.surroundings import in_written_parts, runs_anyway
from dask_embed.lazy.worth import is_worth_it, needs_none


@rewriting
def _above_all(top: Any, node: Any, dependents: Any) -> Expr | None:
    """Return an operator above frames behind each other, where fewer rows are wanted of them."""
    if type(node) is not Concatenated or not getattr(type(top.computing), "one_row_each", False):
        return None
    sides = _sides(top.computing, node)
    if sides is None or obstacle(top.computing, node, dependents) is not None:
        return None
    if _goes_on_below(node, dependents):
        return None
    if not is_worth_it(held_by(top), Step(Rows.SAME), node, dependents):
        return None
    if any(runs_anyway(side.computing, dependents) for side in sides):
        return None
    below = {
        side._name: in_written_parts(side.computing.frame, dependents, ComputedRows)
        for side in sides
    }
    risen = _on_all_rows(sides, below, node)
    risen = _on_some_rows(sides, below, node) if risen is None else risen
    if risen is None:
        return None
    above = risen if list(risen.columns) == list(node.columns) else risen.selected(node.columns)
    return above if same_kind(above._meta, node._meta) else None


def obstacle(operator: ComputedRows, node: Concatenated, dependents: Any) -> str | None:
    """Return in words why an operator stays below frames behind each other, None if it may rise."""
    made, sides = set(operator.made), _sides(operator, node)
    if sides is None:
        return f"has another {words(frozenset(made))}"
    if len({side.computing._name for side in sides}) < len(sides):
        return "has rows twice, which run once"
    if len(sides) < len(node._frames) and not operator.keeps_nulls:
        return f"has rows without {words(frozenset(made))}"
    for side in sides:
        if node._name not in dependents_of(side, dependents):
            return "is read by what is not known yet"
        for each in {side._name: side, side.computing._name: side.computing}.values():
            for reader in readers_of(each, dependents):
                known = getattr(reader, "_name", None) in (node._name, side._name)
                if not known and not needs_none(reader, made):
                    return f"shares its rows with {type(reader).__name__.lower()}"
    return None


def _sides(operator: ComputedRows, node: Concatenated) -> list[Any] | None:
    """Return the frames that an operator makes its results of, None if others have such columns."""
    sides, made = [], set(operator.made)
    for frame in node._frames:
        computing = getattr(frame, "computing", None)
        has = computing is not None and _same(computing, operator)
        if has:
            sides.append(frame)
        if made & set(frame.columns) != (made if has else set()):
            return None
    reads = sorted(operator.reads, key=str)
    types = [side.computing.frame._meta.dtypes[reads] for side in sides]
    return sides if all(each.equals(types[0]) for each in types) else None


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and tokenize(*one.operands[1:]) == tokenize(*other.operands[1:])


def _goes_on_below(node: Concatenated, dependents: Any) -> bool:
    """Return whether all that reads the frames passes them as it is."""
    readers = list(readers_of(node, dependents))
    filters = [each for each in readers if isinstance(each, Filter)]
    return any(node._filter_passthrough_available(each, dependents) for each in filters)


def _on_all_rows(
    sides: list[Any], below: dict[str, Expr], node: Concatenated
) -> ComputedRows | None:
    """Return an operator that each frame has, on the rows of all of them."""
    operator = sides[0].computing
    reads, made = operator.reads, operator.made
    visible = set().union(*(each.columns for each in node._frames))
    shown = [reads <= set(side.columns) for side in sides]
    alike = all(shown) or not reads & visible
    if len(sides) < len(node._frames) or not alike:
        return None
    frames = []
    for side in sides:
        frame = below[side._name]
        kept = [each for each in side.columns if each not in made]
        kept += [each for each in frame.columns if each in reads and each not in kept]
        frames.append(frame if kept == list(frame.columns) else Projection(frame, kept))
    return operator.on(node.of(frames))


def _on_some_rows(
    sides: list[Any], below: dict[str, Expr], node: Concatenated
) -> ComputedRows | None:
    """Return an operator that some frames have, on inputs that are null in the others' rows."""
    operator = sides[0].computing
    if node.join != "outer" or not operator.keeps_nulls:
        return None
    taken = set().union(*(each.columns for each in node._frames))
    names = dict(_hidden_names(sorted(operator.reads, key=str), taken))
    renamed = operator.renamed(names)
    if renamed is None:
        return None
    frames = [
        _marked(each, below[each._name], names) if each._name in below else each
        for each in node._frames
    ]
    return renamed.on(node.of(frames))


def _marked(side: Any, below: Expr, names: dict[Hashable, str]) -> Expr:
    """Return a frame without results, with copies of what they are made of."""
    made = side.computing.made
    pairs = [(new, Projection(below, old)) for old, new in names.items()]
    copied = Assign(below, *(each for pair in pairs for each in pair))
    return Projection(copied, [c for c in side.columns if c not in made] + list(names.values()))


def _hidden_names(columns: list[Any], taken: set[Any]) -> Iterator[tuple[Hashable, str]]:
    for column in columns:
        name = f"{column} of some frames"
        while name in taken:
            name += "'"
        yield column, name
