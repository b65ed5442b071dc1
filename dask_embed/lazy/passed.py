"""How far a filter or a column selection goes down: past a node, and those below it in one go.

The optimizer takes a step past one node in each of its passes, which look at the whole plan.
"""

from __future__ import annotations

from typing import Any

from dask_embed.lazy._dask import Assign, Expr, Filter, Index, Projection
from dask_embed.lazy.aligned import are_aligned
from dask_embed.lazy.conditions import (
    all_of,
    conditions_of,
    is_rowwise,
    of_same_rows,
    reads_any,
    reads_index,
    replaced,
    walk,
)
from dask_embed.lazy.kept import Kept
from dask_embed.lazy.readers import dependents_of, with_meta_of


def is_selected_alone(node: Any, reader: Expr, dependents: Any) -> bool:
    """Return whether a node with a row for each is read by one other alone, and runs for it alone.

    What is to be read of it is then what that one needs.
    """
    return (
        getattr(type(node), "one_row_each", False)
        and dependents_of(node, dependents) == {reader._name}
        and node.rows_in_written_parts(dependents) is node.frame
    )


def lowest_without(node: Any, wanted: set[Any], dependents: Any) -> Any:
    """Return the lowest of a node and those right below it of which nobody needs a result."""
    below = node.frame
    if node.rows_in_written_parts(dependents) is not below:
        return node
    while is_selected_alone(below, node, dependents) and below.made.isdisjoint(wanted):
        node, below = below, below.frame
    return node


def split(node: Any, predicate: Expr, *sources: Expr) -> tuple[list[Expr], list[Expr]]:
    """Part the conditions of `predicate` into those that read no result and the others.

    Those are of the node, or of `sources` above it whose columns are the same.
    """
    before: list[Expr] = []
    after: list[Expr] = []
    for part in conditions_of(predicate):
        reads = reads_any(part, sources[0], node.made, *sources[1:])
        (after if reads else before).append(part)
    return before, after


def can_split(node: Any, predicate: Expr, *sources: Expr) -> bool:
    """Return whether part of `predicate` may run before a node, the rest after it.

    The rest must compute each row from results alone: a mean, say, has to see all rows.
    """
    before, after = split(node, predicate, *sources)
    aligned = bool(before) and are_aligned(node.frame, before, sources)
    return (
        aligned
        and all(is_rowwise(part, sources) for part in after)
        and all(node._may_go_before(part, sources) for part in before)
    )


def is_plain(node: Any, condition: Expr, sources: tuple[Expr, ...]) -> bool:
    """Return whether a condition that reads no result may move further down, as a filter.

    Dask joins filters that meet, and takes the index of filtered rows for a filtered index.
    What cumulates, or reads the index, would then be of rows that the lower filter takes away.
    And it takes filters below a cast as they are.
    """
    rows = list(of_same_rows(node.frame))
    if any(isinstance(each, Filter) for each in rows) and reads_index(condition, sources):
        return False
    if any(reads_any(condition, source, node.cast) for source in sources):
        return False
    return is_rowwise(condition, [*sources, *rows], scalars=True)


def filtered_below(node: Any, predicate: Expr, dependents: Any = None) -> Expr:
    """Return a node filtered before it by what reads no result, after it by the rest."""
    before, after = split(node, predicate, node)
    kind = Filter if all(is_plain(node, part, (node,)) for part in before) else Kept
    passed: list[Any] = [node]
    moved: list[tuple[Expr, Expr]] = [(part, node) for part in before]
    if kind is Filter and dependents is not None:
        passed, moved = passed_at_once(node, before, dependents)
    frame = passed[-1].frame
    conditions = [replaced(part, (source, frame)) for part, source in moved]
    filtered: Any = kind(frame, _read_below(all_of(conditions), frame))
    filtered = with_meta_of(filtered, frame)
    for each in reversed(passed):
        filtered = with_meta_of(each.on(filtered), each)
    if not after:
        return filtered
    return Filter(filtered, replaced(all_of(after), (node, filtered)))


def passed_at_once(
    node: Any, conditions: list[Expr], dependents: Any
) -> tuple[list[Any], list[tuple[Expr, Expr]]]:
    """Return a node, and those below that a filter passes as it passes the node.

    And the conditions, each with the node that it is of: other filters on the way go along.

    Parameters
    ----------
    node : ComputedRows
        The highest.
    conditions : list of Expr
        Of the filter: of the node, of single rows, and plain.
    dependents : mapping
        Of Dask, the expressions that read each.
    """
    passed, moved = [node], [(part, node) for part in conditions]
    read, names = _read_of(node, conditions)
    while (
        read is not None
        and (frame := passed[-1].frame)._name not in names
        and dependents_of(frame, dependents) == {passed[-1]._name}
    ):
        if type(frame) is Filter:
            joined = _that_go_along(frame, moved, dependents)
            frame = frame.frame
            more, further = _read_of(frame, joined)
            if not joined or more is None or not frame.made.isdisjoint(read):
                break
            moved = [*((part, frame) for part in joined), *moved]
            read, names = read | more, names | further
        elif not getattr(type(frame), "one_row_each", False) or not frame.made.isdisjoint(read):
            break
        passed.append(frame)
    return passed, moved


def _read_of(node: Expr, conditions: list[Expr]) -> tuple[set[Any] | None, set[str]]:
    """Return the columns of a node that conditions read, None for all, and what they consist of."""
    found = [each for part in conditions for each in walk(part, [node._name])]
    names = {each._name for each in found}
    read: set[Any] = set()
    for each in found:
        if isinstance(each, Index) or all(o._name != node._name for o in each.dependencies()):
            continue
        if not isinstance(each, Projection):
            return None, names
        read.update(each.columns)
    return read, names


def _that_go_along(lower: Filter, moved: list[tuple[Expr, Expr]], dependents: Any) -> list[Expr]:
    """Return the conditions of a filter that passes the node below it, if it is one with `moved`.

    Dask joins filters where they can pass nothing more, if what the upper asks is of single rows.
    """
    node: Any = lower.frame
    if not getattr(type(node), "one_row_each", False):
        return []
    if not all(is_rowwise(part, [source]) for part, source in moved):
        return []
    if not node._filter_passthrough_available(lower, dependents):
        return []
    before, after = split(node, lower.predicate, node)
    return [] if after or not all(is_plain(node, part, (node,)) for part in before) else before


def _read_below(predicate: Expr, frame: Expr) -> Expr:
    """Return a predicate on a frame that reads columns which `assign` leaves from below it.

    Dask finds the same in further passes, for which it computes what the frame looks like.
    """
    if not isinstance(frame, Assign):
        return predicate
    pairs: list[tuple[Expr, Expr]] = []
    for each in walk(predicate, [frame._name]):
        if isinstance(each, Projection) and each.frame._name == frame._name:
            lower: Any = frame
            while isinstance(lower, Assign) and set(lower.keys).isdisjoint(each.columns):
                lower = lower.frame
            pairs.append((each, Projection(lower, each.operand("columns"))))
    return replaced(predicate, *pairs)
