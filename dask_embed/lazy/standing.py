"""What an operator stands below in a plan, and why it rises no higher: for `explain`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dask_embed.lazy import above_concat
from dask_embed.lazy._dask import Expr, Filter, GroupByBase, TreeReduce, collect_dependents
from dask_embed.lazy.computed import ComputedRows, SelectResult
from dask_embed.lazy.concatenated import Concatenated
from dask_embed.lazy.held import Passage, held_by, words
from dask_embed.lazy.readers import readers_of
from dask_embed.lazy.rising import filter_obstacle, obstacle
from dask_embed.lazy.steps import step_of
from dask_embed.lazy.worth import needs_none

UNASKED = "no step asks for fewer rows"


def reasons(plan: Expr) -> dict[str, tuple[Expr | None, str]]:
    """Return for each operator of a plan the step that it stays below, and why.

    By the name of its node; no step where nothing above it leaves rows out.
    """
    dependents = collect_dependents(plan)
    return {node._name: _reason(node, dependents) for node in plan.find_operations(ComputedRows)}


def _reason(operator: Any, dependents: Any) -> tuple[Expr | None, str]:
    if operator.computing is None:
        return None, "it needs all rows"
    held, top, between = held_by(operator), operator, None
    while (reader := _step_on(top, held.made, dependents)) is not None:
        sources: list[Any] = [top]
        if isinstance(top, SelectResult):
            sources.append(top.computing)
        if isinstance(reader, Filter):
            if (why := filter_obstacle(held, reader, sources)) is not None:
                return reader, why
            if between is None and _others(top, reader, held.made, dependents):
                return None, "several steps read its results, which are computed once"
            return (
                (None, UNASKED) if between is None else (between, "makes what rows are left out by")
            )
        if isinstance(reader, SelectResult) or getattr(type(reader), "one_row_each", False):
            if isinstance(reader, ComputedRows) and (read := reader.reads & held.made):
                return reader, f"reads {', '.join(sorted(map(str, read)))}"
            between = reader if isinstance(reader, ComputedRows) else between
            top = reader
            continue
        if isinstance(reader, Concatenated) and held.one_row_each:
            beside = above_concat.obstacle(operator, reader, dependents)
            return (reader, beside) if beside else (None, UNASKED)
        step = step_of(reader, top)
        if step is None or reader.operands[step.place]._name != top._name:
            return _filter_with(reader, dependents) or (reader, _needs(reader, held.made))
        why = obstacle(Passage(step, reader, sources), held, dependents)
        return (reader, why) if why else (None, UNASKED)
    return None, UNASKED


def _step_on(node: Expr, made: frozenset[Any], dependents: Any) -> Any:
    """Return what reads results of a node: a step on it rather than what such a step reads."""
    found = list(_needing(node, made, dependents))
    on_it = [each for each in found if _is(each.operands[0], node)]
    return next(iter(sorted(on_it or found, key=lambda each: not isinstance(each, Filter))), None)


def _others(node: Expr, reader: Filter, made: frozenset[Any], dependents: Any) -> bool:
    """Return whether others than a filter and its condition read results of a node."""
    own = {reader._name, *(each._name for each in reader.predicate.walk())}
    return any(each._name not in own for each in _needing(node, made, dependents))


def _needs(step: Any, made: frozenset[Any]) -> str:
    """Return in words what a step that is not in the table of steps needs."""
    columns = getattr(step.operands[0], "columns", ())
    reads = isinstance(step, TreeReduce | GroupByBase) and made.intersection(columns)
    return f"reads {words(made)} of all rows" if reads else "may need all columns and rows"


def _filter_with(condition: Expr, dependents: Any) -> tuple[Expr, str] | None:
    """Return the filter whose condition a column is part of, None if there is no such filter."""
    part: Any = condition
    while part is not None and part.ndim == 1:
        readers = [each for each in readers_of(part, dependents) if isinstance(each, Expr)]
        for each in readers:
            if isinstance(each, Filter) and _is(each.predicate, part):
                return each, "reads the result"
        part = readers[0] if readers else None
    return None


def _is(node: Any, other: Expr) -> bool:
    return isinstance(node, Expr) and node._name == other._name


def _needing(node: Expr, made: frozenset[Any], dependents: Any) -> Iterator[Any]:
    for reader in readers_of(node, dependents):
        if isinstance(reader, Expr) and not needs_none(reader, set(made)):
            yield reader
