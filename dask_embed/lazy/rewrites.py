"""Steps that are written as others before an operator rises above them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dask_embed.lazy._dask import (
    Assign,
    ColumnsSetter,
    DropnaFrame,
    Eval,
    Expr,
    Filter,
    Index,
    Len,
    Lengths,
    Loc,
    LocElement,
    LocList,
    LocSlice,
    LocUnknown,
    NotNull,
    Projection,
    Query,
    RenameFrame,
    Size,
)
from dask_embed.lazy.conditions import (
    all_of,
    conditions_of,
    is_of_the_rest,
    is_rowwise,
    of_same_rows,
    reads_any,
    replaced,
)
from dask_embed.lazy.formulas import conditions_in, is_condition, names_in
from dask_embed.lazy.readers import readers_of
from dask_embed.lazy.steps import step_of

Rewrite = Callable[[Any, Any, Any], Expr | None]
REWRITES: list[Rewrite] = []
"""``(top, node, dependents)`` to what is written instead of a step on an operator, or None."""


def rewriting(rewrite: Rewrite) -> Rewrite:
    """Have steps above operators written in another way."""
    REWRITES.append(rewrite)
    return rewrite


def reads_made(top: Any, expression: Expr) -> bool:
    """Return whether an expression reads what the operator below `top` computes."""
    made = top.computing.made
    return any(reads_any(expression, source, made) for source in (top, top.computing))


def _is(node: Any, other: Expr) -> bool:
    return isinstance(node, Expr) and node._name == other._name


@rewriting
def _rows_then_columns(top: Any, node: Any, dependents: Any) -> Expr | None:
    """Return `loc` of rows and columns as one step of each."""
    located = isinstance(node, Loc | LocElement | LocList | LocSlice | LocUnknown)
    if not located or not _is(node.operands[0], top) or node.operand("cindexer") is None:
        return None
    return Projection(type(node)(top, node.operand("iindexer"), None), node.operand("cindexer"))


@rewriting
def _named_anew(top: Any, node: Any, dependents: Any) -> Expr | None:
    """Return new names of columns as a mapping, which Dask takes column selections through."""
    if type(node) is not ColumnsSetter or top.ndim < 2:
        return None
    old, new = list(top.columns), list(node.columns)
    plain = node._meta.columns.names == top._meta.columns.names
    if not plain or len(set(old)) != len(old) or len(set(new)) != len(new):
        return None
    names = {a: b for a, b in zip(old, new, strict=True) if a != b}
    return RenameFrame(top, names) if names else top


@rewriting
def _overwritten(top: Any, node: Any, dependents: Any) -> Expr | None:
    """Return `assign` without the operator below, if it replaces all that this computes."""
    if not isinstance(node, Assign):
        return None
    computing, frame = top.computing, top.computing.frame
    made = computing.made
    if not _is(node.frame, top) or not made <= set(node.keys) or made & set(frame.columns):
        return None
    if any(isinstance(value, Expr) and reads_made(top, value) for value in node.vals):
        return None
    if not computing.one_row_each:
        return None
    values = [
        replaced(each, (top, frame), (computing, frame)) if isinstance(each, Expr) else each
        for each in node.operands[1:]
    ]
    return Projection(Assign(frame, *values), list(node.columns))


@rewriting
def _as_filter(top: Any, node: Any, dependents: Any) -> Expr | None:
    """Return the filter that `query`, `dropna` or `loc` is, if it leaves rows by columns not made.

    Filters have rules of their own: they are parted into conditions, and reach files. And Dask
    joins them with filters further up, which must not be by what depends on the rows left here.
    """
    if not isinstance(node, Query | DropnaFrame | Loc) or node.frame._name != top._name:
        return None
    if _decides_by_the_rest(top, node, dependents):
        return None
    predicate = _predicate(top, node)
    if predicate is None:
        return None
    checks = isinstance(node, DropnaFrame)  # of results, too: see `nulls`
    if not checks and all(reads_made(top, part) for part in conditions_of(predicate)):
        return None
    return Filter(top, predicate)


def _decides_by_the_rest(top: Any, node: Expr, dependents: Any) -> bool:
    """Return whether a filter above depends on which other rows a step leaves, or on labels.

    So does the index of rows that several filters leave: Dask takes it of all rows, by a mask of
    those that one of the filters leaves.
    """
    filters = any(isinstance(each, Filter) for each in of_same_rows(top))
    asked = False
    stack, seen = [node], {node._name}
    while stack:
        for reader in readers_of(stack.pop(), dependents):
            if not isinstance(reader, Expr) or reader._name in seen:
                continue
            seen.add(reader._name)
            stack.append(reader)
            if isinstance(reader, Filter) and is_of_the_rest(reader):
                return True
            filters |= isinstance(reader, Filter | Query | DropnaFrame | Loc)
            asked |= isinstance(reader, Index | Len | Lengths | Size)
    return filters and asked


def _predicate(top: Any, node: Any) -> Expr | None:
    if isinstance(node, Loc):
        mask = node.iindexer
        rows_alone = isinstance(mask, Expr) and is_rowwise(mask, [top, top.computing])
        return mask if rows_alone and node.cindexer is None else None
    step = step_of(node)
    if step is None:
        return None
    if isinstance(node, DropnaFrame):
        subset = step.reads
        columns = [column for column in top.columns if column in subset]
        return all_of([NotNull(Projection(top, column)) for column in columns])
    formula = node.operand("_expr")
    if not is_condition(formula):
        return None
    parts: list[Expr] = []
    for part in conditions_in(formula):
        read = names_in(part, top.columns)
        if read is None:
            return None
        parts.append(Eval(Projection(top, [c for c in top.columns if c in read]), part))
    return all_of(parts)
