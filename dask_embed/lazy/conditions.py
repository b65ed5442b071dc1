"""The conditions of a filter: which columns each reads, and whether it is of one row alone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from dask_embed.lazy._dask import (
    And,
    AssignIndex,
    Elemwise,
    Expr,
    Filter,
    FilterAlign,
    Index,
    Projection,
    RenameSeries,
    ResetIndex,
    _DelayedExpr,
)

# Element-wise for Dask, but a filter finds rows by their labels.
_OTHER_LABELS = (AssignIndex, RenameSeries, ResetIndex)


def conditions_of(predicate: Expr) -> list[Expr]:
    """Return the conditions that all have to hold."""
    if isinstance(predicate, And):
        return conditions_of(predicate.left) + conditions_of(predicate.right)
    return [predicate]


def all_of(conditions: list[Expr]) -> Expr:
    """Return the predicate that all `conditions` hold."""
    return functools.reduce(And, conditions)


def reads_any(expression: Expr, source: Expr, columns: set[str], *others: Expr) -> bool:
    """Return whether `expression` reads one of `columns`, or all columns, of `source`.

    Or of one of `others`: nodes above the source whose columns of these names are the same.
    """
    names = {each._name for each in (source, *others)}
    if expression._name in names:
        return True
    for node in walk(expression, names):
        reads_source = any(operand._name in names for operand in node.dependencies())
        if not reads_source or isinstance(node, Index):
            continue
        if not isinstance(node, Projection) or columns.intersection(node.columns):
            return True
    return False


def is_rowwise(expression: Expr, sources: Iterable[Expr], *, scalars: bool = False) -> bool:
    """Return whether `expression` computes each row from the same row of `sources` alone.

    The row has its label in the index, too. With `scalars` it may also read numbers that are
    computed from all rows, such as a mean.
    """
    names = {source._name for source in sources}
    if scalars:
        names |= {node._name for node in walk(expression, names) if node.ndim == 0}
    return all(
        isinstance(node, _DelayedExpr)  # the values of `isin`
        or (keeps_rows(node) and node.dependencies())
        for node in walk(expression, names)
    )


def reads_index(expression: Expr, sources: Iterable[Expr]) -> bool:
    """Return whether `expression` reads the index of one of `sources`, or of what is below."""
    return any(isinstance(node, Index) for node in walk(expression, (s._name for s in sources)))


def is_of_the_rest(node: Filter | FilterAlign) -> bool:
    """Return whether a filter depends on which other rows its frame has, or on their labels.

    Dask joins it with a filter further down all the same.
    """
    rows = list(of_same_rows(node.frame))
    return not is_rowwise(node.predicate, rows) or reads_index(node.predicate, rows)


def of_same_rows(node: Expr) -> Iterator[Expr]:
    """Yield `node` and all that it computes each of its rows from the same row of."""
    stack, seen = [node], set()
    while stack:
        found = stack.pop()
        if found._name in seen or found.ndim == 0:
            continue
        seen.add(found._name)
        yield found
        if keeps_rows(found):
            stack.extend(_inputs(found))


def keeps_rows(node: Expr) -> bool:
    """Return whether a node computes each row, with its label, from the same row of its inputs."""
    keeps = isinstance(node, Elemwise) or getattr(node, "keeps_rows", False)
    return keeps and not isinstance(node, _OTHER_LABELS)


def walk(expression: Expr, stop: Iterable[str]) -> Iterator[Expr]:
    stack, seen = [expression], set(stop)
    while stack:
        node = stack.pop()
        if node._name in seen:
            continue
        seen.add(node._name)
        yield node
        stack.extend(_inputs(node))


def _inputs(node: Expr) -> Iterator[Expr]:
    # Nodes of ours depend on one more, `Unfuse`, that no row is computed from.
    return (operand for operand in node.operands if isinstance(operand, Expr))


def replaced(expression: Expr, *pairs: tuple[Expr, Expr]) -> Expr:
    """Return an expression with others in place of some that it reads.

    Dask's own `substitute` goes down each way to a node that changes: of a plan that reads a node
    twice, which reads another twice, these are more than can be gone.
    """
    return rebuilt(expression, {old._name: new for old, new in pairs})


def rebuilt(node: Expr, done: dict[str, Expr], plain: Callable[[Any], Expr] | None = None) -> Expr:
    """Return a plan made anew where what it is made of is another.

    Parameters
    ----------
    node : Expr
    done : dict
        Names of nodes to what stands in their place; what is made is added.
    plain : callable, optional
        ``(node)`` to what each node is taken for.
    """
    if node._name not in done:
        form = node if plain is None else plain(node)
        operands = [rebuilt(o, done, plain) if isinstance(o, Expr) else o for o in form.operands]
        same = all(new is old for new, old in zip(operands, form.operands, strict=True))
        done[node._name] = form if same else type(form)(*operands)
    return done[node._name]
