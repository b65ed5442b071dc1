"""Where in a plan the rows are that operators read, so that some of them can be left out there.

What stands above has to do the same to a row whatever other rows there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from dask_embed._validation import meant, shown
from dask_embed.jobs.lineage import below, mapped_operator
from dask_embed.lazy._dask import Blockwise, DropnaFrame, Elemwise, Expr, Filter, Projection, Query
from dask_embed.lazy.append import OperatorRows
from dask_embed.lazy.computed import ComputedRows
from dask_embed.lazy.conditions import replaced, walk
from dask_embed.lazy.steps import step_of


class Cut(Blockwise):
    """Rows that nothing is pushed below of: the place where some are left out."""

    _parameters = ["frame"]  # noqa: RUF012 - the form of every Dask expression

    @property
    def _meta(self) -> Any:
        return self.frame._meta

    @staticmethod
    def operation(partition: Any) -> Any:
        return partition


def row_source(plan: Expr) -> Expr:
    """Return the rows that the operators of a plan read, all of it where there are none.

    Raises
    ------
    ValueError
        If something above them is not known to take each row by itself.
    """
    above = {node._name: node for node in _of_each_row(plan)}
    running = [node for node in above.values() if _runs(node)]
    lowest = [
        node.frame
        for node in running
        if not any(_runs(each) for each in node.frame.walk() if each._name in above)
    ]
    sources = {frame._name: frame for frame in lowest} or {plan._name: plan}
    if len(sources) > 1:
        raise ValueError(
            "resume='rows' takes operators that read the same rows, and these read those of "
            f"{len(sources)} frames: write each by itself"
        )
    (source,) = sources.values()
    for node in walk(plan, [source._name]):
        if node._name not in above:
            raise ValueError(
                f"resume='rows' leaves rows out before operators run, so what comes after them has "
                f"to take each row by itself, and {type(node).__name__} does not, or is not known "
                "to: apply it before them, or write the rows first"
            )
    for node in source.walk():
        if isinstance(node, OperatorRows) and hasattr(node.operator, "model"):
            raise ValueError(
                f"resume='rows' cannot leave out rows of {type(node.operator).__name__}, whose "
                "results a later step reads together: write them first"
            )
    return source


def _of_each_row(plan: Expr) -> Iterator[Expr]:
    """Yield the nodes at the top of a plan that take each row by itself."""
    pending, seen = [plan], set()
    while pending:
        node = pending.pop()
        if node._name in seen or not _takes_each_row(node):
            continue
        seen.add(node._name)
        yield node
        pending += [each for each in node.operands if isinstance(each, Expr)]


def _takes_each_row(node: Expr) -> bool:
    if isinstance(node, ComputedRows) and not isinstance(node, OperatorRows):
        return node.one_row_each
    if isinstance(node, OperatorRows | Filter | Query | DropnaFrame | Projection):
        return True
    step = step_of(node)
    if step is not None:
        return step.each_row_alone
    return isinstance(node, Elemwise) or mapped_operator(node) is not None


def _runs(node: Expr) -> bool:
    return isinstance(node, OperatorRows) or mapped_operator(node) is not None


def id_in_source(plan: Expr, source: Expr, name: str) -> str:
    """Return the name that an id has in the rows that operators read.

    Raises
    ------
    ValueError, TypeError
        If it is no column of both that is the same, or none of integers or texts.
    """
    columns = [str(each) for each in plan.columns]
    if name not in columns:
        raise ValueError(
            f"id names the column {name!r}, which the frame has not{meant(name, columns)}; its "
            f"columns are {shown(columns)}"
        )
    node, column = plan, name
    while node._name != source._name:
        further = [] if _makes(node, column) else below(node, column)
        if len(further) != 1:
            raise ValueError(
                f"id must be a column that the operators' rows have before they run, and {name!r} "
                f"is made by {type(node).__name__} after that"
            )
        ((node, column),) = further
    kinds = {kind_of(each) for each in (plan._meta[name], source._meta[column])}
    if len(kinds) > 1 or "" in kinds:
        dtypes = shown([str(each.dtype) for each in (plan._meta[name], source._meta[column])])
        raise TypeError(
            f"id must be a column of integers or texts, the same before and after operators; "
            f"{name!r} is {dtypes}: cast it before"
        )
    return column


def _makes(node: Expr, column: str) -> bool:
    return isinstance(node, ComputedRows) and column in node.made


def kind_of(series: Any) -> str:
    """Return what ids a column has: integers or texts, "" for what can be none."""
    if pd.api.types.is_bool_dtype(series.dtype):
        return ""
    if pd.api.types.is_integer_dtype(series.dtype):
        return "integers"
    return "texts" if pd.api.types.is_string_dtype(series.dtype) else ""


def columns_read(plan: Expr, source: Expr) -> tuple[Any, Cut, list[Any]]:
    """Return the simplified plan, the cut in it where `source` was, and its columns that count."""
    if plan._name == source._name:
        cut = Cut(source)
        return cut, cut, list(source.columns)
    cut = Cut(source)
    simple: Any = replaced(plan, (source, cut)).simplify()
    read: set[Any] = set()
    for node in simple.walk():
        if any(isinstance(each, Expr) and each._name == cut._name for each in node.operands):
            read.update(node.columns if isinstance(node, Projection) else source.columns)
    return simple, cut, [name for name in source.columns if name in read]
