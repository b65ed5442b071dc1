"""The optimized plan of a Dask DataFrame in plain words."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from typing import Any, TextIO

import numpy as np
from dask.utils import funcname

from dask_embed._options import named_options
from dask_embed._secrets import without_secrets
from dask_embed._validation import shown, text_file
from dask_embed.columns.frames import require_frame
from dask_embed.lazy._dask import (
    IO,
    ArrowStringConversion,
    Binop,
    Eval,
    Expr,
    Filter,
    Index,
    Isin,
    Projection,
    RepartitionToFewer,
    Unaryop,
)
from dask_embed.lazy.append import OperatorRows, settled
from dask_embed.lazy.chunks import ChunkRows, End
from dask_embed.lazy.computed import ComputedRows
from dask_embed.lazy.given_text import GivenText
from dask_embed.lazy.kept import Between
from dask_embed.lazy.parts import InParts
from dask_embed.lazy.standing import reasons
from dask_embed.lazy.step_words import in_words
from dask_embed.operators.frame import FrameOperator
from dask_embed.operators.fused import Together, parts_of
from dask_embed.operators.renamed import plain, unwrapped
from dask_embed.operators.tokens.late_chunks import LateChunkEmbedder
from dask_embed.runtime.planned import looking_only


@named_options
def explain(frame: Any, file: TextIO | None = None) -> None:
    """Print what will run: the steps in order, which models, over which rows and columns.

    Parameters
    ----------
    frame : dask.dataframe.DataFrame or Series
        Nothing of it is computed.
    file : text file, optional
        Where to print, by default standard output.

    Raises
    ------
    TypeError
        If `frame` is not a Dask collection.
    """
    if not hasattr(frame, "expr"):
        require_frame("explain", frame, lazy=True)
    text_file("file", file)
    partitions = _partitions_computed(frame)
    lines = _lines(frame.expr, settled(frame.simplify().expr))
    title = f"Plan ({partitions} partitions), first step first:"
    # a plan names the files that it reads, whose URLs may be signed
    print(title, *map(without_secrets, lines), sep="\n", file=file)


def _partitions_computed(frame: Any) -> int:
    """Return the partitions of a frame that is computed, of which Dask joins those of small files.

    Not where partitions are what is wanted, as in `persist`: what is computed is one in the end.
    """
    whole = frame.repartition(npartitions=1) if frame.expr.ndim else frame
    with looking_only():
        tuned: Any = whole.optimize(fuse=False).expr
    joined = tuned.frame if isinstance(tuned, RepartitionToFewer) else tuned
    return int(joined.npartitions)


def _lines(written: Expr, plan: Expr) -> Iterator[str]:
    steps = list(_steps(plan, set()))
    stays = reasons(plan)
    for number, node in enumerate(steps, 1):
        yield f"  {number}. {described(node)}"
        if isinstance(node, OperatorRows):
            yield from (f"       {line}" for line in _model_lines(node))
            yield f"       {_place(number, steps, *stays[node._name])}"
    known = {part for node in steps for part in _parts(node)}
    for each in written.walk():
        for part in _parts(each):
            if part not in known:
                known.add(part)
                yield f"  not run: {_unused(part)}, no result column is used"


def _place(number: int, steps: list[Expr], stop: Expr | None, why: str) -> str:
    """Say behind how many of the steps an operator runs, and why behind no more."""
    before, others = number - 1, len(steps) - 1
    if before == others:
        return "behind all other steps"
    place = f"behind {before} of {others} other steps"
    if stop is None:
        return f"{place}: {why}"
    numbers = {node._name: each for each, node in enumerate(steps, 1)}
    known = stop._name in numbers
    named = f"step {numbers[stop._name]}" if known else described(stop)
    return f"{place}: {named} {why}"


def _parts(node: Any) -> list[FrameOperator]:
    """Return the operators that a node runs, those that cut texts as if these were not kept."""
    if not isinstance(node, OperatorRows):
        return []
    if isinstance(node, ChunkRows):
        return [dataclasses.replace(node.operator, keep_text=False)]
    return [plain(part) for part in parts_of(node.operator)]


def _unused(operator: FrameOperator) -> str:
    if isinstance(operator, LateChunkEmbedder):
        return f"the model of LateChunkEmbedder on {operator.column} -> {operator.embedding}"
    return _operator(operator)


def _steps(node: Expr, seen: set[str]) -> Iterator[Expr]:
    """Yield the nodes that make up the plan, inputs first; the inside of conditions left out."""
    if node._name in seen:
        return
    hidden = (ArrowStringConversion, GivenText, InParts, Between)
    filters, below = _filters_on(node)
    if any(_reads_more(each, below) for each in filters):
        # The condition is computed before the selection, whichever Dask writes first.
        yield from _steps(below.frame, seen)
        order = [*reversed(filters), below]
    else:
        for child in [node.frame] if isinstance(node, Filter | GivenText) else node.operands:
            if isinstance(child, Expr):
                yield from _steps(child, seen)
        order = [node]
    for each in order:
        # How strings are stored is no step, nor what they were before, nor what keeps partitions.
        if each._name not in seen and not isinstance(each, hidden):
            yield each
        seen.add(each._name)


def _filters_on(node: Expr) -> tuple[list[Filter], Expr]:
    """Return the filters that a node ends with, the last first, and what they filter."""
    filters = []
    while isinstance(node, Filter):
        filters.append(node)
        node = node.frame
    return filters, node


def _reads_more(node: Filter, selection: Expr) -> bool:
    """Return whether a filter reads columns that the selection below it drops."""
    return isinstance(selection, Projection) and any(
        isinstance(each, Projection)
        and each.frame._name == selection.frame._name
        and not set(each.columns) <= set(selection.columns)
        for each in node.predicate.walk()
    )


def described(node: Expr) -> str:
    """Return what a node of a plan does, in a line."""
    if isinstance(node, OperatorRows):
        rows = ", a row for each chunk" if isinstance(node, ChunkRows) else ""
        return f"run {_operators(node.operator)}{rows}"
    if isinstance(node, Filter):
        return f"keep rows where {_words(node.predicate)}"
    if isinstance(node, Projection):
        return f"keep columns {', '.join(map(str, node.columns))}"
    if isinstance(node, Index):
        return "keep the index"
    if isinstance(node, End):
        return f"keep the {'last' if node.last else 'first'} {node.n} rows of each partition"
    if (told := getattr(node, "told", None)) is not None:  # of a step that reads the whole corpus
        return told
    if isinstance(node, IO):
        return f"read {_source(node)}: columns {', '.join(map(str, node.columns))}"
    return node.labels[0] if isinstance(node, ComputedRows) else in_words(node)


def _operators(operator: Any) -> str:
    """Say what runs, and what several operators share."""
    inner, names = unwrapped(operator)
    if not isinstance(inner, Together):
        return _operator(operator)
    text = (
        f"{' and '.join(map(_operator, parts_of(operator)))} in one pass: texts are tokenized once"
    )
    shared = [parts for parts in inner.passes() if len(parts) > 1]
    for parts in shared:
        written = [names.get(name, name) for part in parts for name in part.result_columns]
        text += f", {' and '.join(written)} come from one forward pass"
    return text


def _operator(operator: FrameOperator) -> str:
    read, written = ", ".join(map(str, operator.input_columns)), ", ".join(operator.output_columns)
    return f"{type(plain(operator)).__name__} on {read} -> {written}"


def _model_lines(node: OperatorRows) -> Iterator[str]:
    yield from dict.fromkeys(node.operator.plan())  # a model that several run is named once
    yield f"over columns {', '.join(map(str, node.frame.columns))}"
    found = (_words(n.predicate) for n in node.frame.walk() if isinstance(n, Filter))
    filters = list(dict.fromkeys(found))  # of frames behind each other each has them
    yield f"over rows where {' and '.join(filters)}" if filters else "over all rows that reach it"


def _source(node: IO) -> str:
    names = type(node)._parameters
    if "path" in names:
        path = node.operand("path")
        return f"Parquet {os.fspath(path) if not isinstance(path, list) else path[0]}"
    if "func" in names:
        return f"the results of {funcname(node.operand('func'))}"
    return {"FromPandas": "a pandas frame in memory"}.get(type(node).__name__, type(node).__name__)


def _words(node: Any) -> str:
    """Write a condition as a person would: column names, operators, values."""
    if not isinstance(node, Expr):
        return repr(node)
    if isinstance(node, Projection):
        return ", ".join(map(str, node.columns))
    if isinstance(node, Index):
        return "index"
    if isinstance(node, Binop):
        return f"({_words(node.left)} {node._operator_repr} {_words(node.right)})"
    if isinstance(node, Unaryop):
        return f"{node._operator_repr} {_words(node.frame)}"
    if isinstance(node, Eval):
        return f"({node.operand('_expr')})"
    if isinstance(node, Isin):
        # Dask holds them in an array behind a Delayed
        values = np.asarray(getattr(node.operand("values").operands[0], "_obj", ["..."]))
        return f"({_words(node.frame)} in {shown(values.tolist())})"
    if node.ndim == 1 and not node.dependencies():
        return str(node.columns[0])
    arguments = ", ".join(_words(operand) for operand in node.operands)
    return f"{type(node).__name__.lower()}({arguments})"
