"""What made the columns of a lazy frame, followed through its expression and the files it reads.

A column is followed through selections, filters, new names and rows that are put together, and
taken to be the same behind a function of the user's that keeps its name. Rows that are in memory,
of pandas or of ``persist``, do not tell what made them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from fsspec.implementations.arrow import ArrowFSWrapper

from dask_embed.columns.declared import DeclaredColumns
from dask_embed.jobs.folder import READERS, read_origin, run_of
from dask_embed.jobs.origin import UNKNOWN, Origin, origins_in_file, several
from dask_embed.lazy._dask import (
    IO,
    AddPrefix,
    Assign,
    Binop,
    Expr,
    Fused,
    FusedIO,
    GroupByBase,
    MapPartitions,
    Merge,
    Projection,
    ReadParquet,
    ReadParquetPyarrowFS,
    RenameFrame,
    RenameSeries,
    ToFrame,
    Unaryop,
)
from dask_embed.lazy.append import OperatorRows
from dask_embed.lazy.computed import ComputedRows
from dask_embed.lazy.quantize import Quantize
from dask_embed.operators.frame import FrameOperator
from dask_embed.operators.fused import parts_of
from dask_embed.operators.identity import defaults
from dask_embed.operators.renamed import unwrapped

# What they make of a column is another.
_COMPUTING = (Binop, Unaryop, GroupByBase)
# Columns stay in their order under other names.
_NAMING = (RenameFrame, RenameSeries, AddPrefix, ToFrame)


def origins(frame: Any) -> dict[Any, Origin]:
    """Return what made each column of a Dask DataFrame, of those where it is known."""
    lineage = _Lineage()
    found = {name: lineage.origin(frame.expr, name) for name in frame.columns}
    return {name: origin for name, origin in found.items() if origin.told}


class _Lineage:
    """Origins of columns; of one that many read it is looked up once."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, Any], Origin] = {}
        self._in_files: dict[str, list[dict[str, Origin]]] = {}

    def origin(self, node: Expr, column: Any) -> Origin:
        """Return what made a column of an expression."""
        key = (node._name, column)
        if key not in self._found:
            self._found[key] = several(self._sources(node, column))
        return self._found[key]

    def _sources(self, node: Expr, column: Any) -> Iterator[Origin]:
        pending, seen = [(node, column)], set()
        while pending:
            node, column = pending.pop()
            if (node._name, column) in seen:
                continue
            seen.add((node._name, column))
            if made := self._made_by(node, column):
                yield from made
            elif further := below(node, column):
                pending += further
            else:
                yield UNKNOWN

    def _made_by(self, node: Expr, column: Any) -> list[Origin]:
        """Return what made the rows of a column if this node did, [] if not."""
        for operator in operators_of(node):
            if column in operator.result_columns:
                return [self._result(operator, node.frame)]
        if isinstance(node, Quantize) and column == node.column:
            return [self._quantized(node)]
        if isinstance(node, ComputedRows) and column in node.made and hasattr(node, "provenance"):
            read = {name: self.origin(node.frame, name) for name in node.reads}
            known = {name: origin for name, origin in read.items() if origin.told}
            return [Origin(node.provenance(), known)]
        if isinstance(node, ReadParquet):
            if node._name not in self._in_files:
                self._in_files[node._name] = list(_in_files(node))
            return [told.get(column, UNKNOWN) for told in self._in_files[node._name]]
        return []

    def _result(self, operator: Any, frame: Expr) -> Origin:
        operator, names = unwrapped(operator)
        read = {name: self.origin(frame, names.get(name, name)) for name in operator.input_columns}
        known = {name: origin for name, origin in read.items() if origin.told}
        return Origin(operator.provenance(), known, defaults(type(operator)))

    def _quantized(self, node: Quantize) -> Origin:
        origin = self.origin(node.frame, node.column)
        told = origin.told or {"operator": "quantize"}
        told = {**told, "precision": node.precision, "ranges": _ranges(node)}
        return dataclasses.replace(origin, told=told)


def operators_of(node: Expr) -> tuple[Any, ...]:
    """Return the operators that a node runs on the partitions of its frame, as they run there."""
    if isinstance(node, OperatorRows):
        return parts_of(node.operator)
    try:
        operator: Any = mapped_operator(node)
        return () if operator is None else parts_of(operator.pinned())
    except (OSError, ValueError):  # only the workers have its files
        return ()


def mapped_operator(node: Expr) -> FrameOperator | None:
    """Return the operator that a node runs as a function of `map_partitions`, None if none."""
    if not isinstance(node, MapPartitions):
        return None
    function = node.func
    while isinstance(function, functools.partial):
        function = function.func
    function = getattr(function, "__self__", function)  # of `operator.apply`
    return function if isinstance(function, FrameOperator) else None


def below(node: Expr, column: Any) -> list[tuple[Expr, Any]]:
    """Return the expressions that a column comes from, and its name in each."""
    if isinstance(node, Fused):
        return [(node.exprs[0], column)]
    if isinstance(node, FusedIO):
        return [(node.operand("_expr"), column)]
    if isinstance(node, (IO, *_COMPUTING)):  # that of delayed values has these below, no frames
        return []
    if isinstance(node, MapPartitions) and isinstance(node.func, DeclaredColumns):
        return [] if column in node.func.writes else [(node.frame, column)]
    if isinstance(node, _NAMING):
        return [(node.frame, node.frame.columns[list(node.columns).index(column)])]
    if isinstance(node, Assign) and column in node.keys:
        value = dict(zip(node.keys, node.vals, strict=True))[column]
        # What was computed from a column is another.
        plain = isinstance(value, Projection | RenameSeries)
        return [(value, value.columns[0])] if plain else []
    if isinstance(node, Merge):
        return _merged(node, column)
    frames = node.dependencies()
    if "frame" in node._parameters:  # what else it reads, such as conditions, gives no values
        frames = frames[:1]
    return [(frame, column) for frame in frames if column in frame.columns]


def _merged(node: Merge, column: Any) -> list[tuple[Expr, Any]]:
    """Return where a column of a merge comes from; those of both sides have a suffix."""
    sides = [(node.left, node.right), (node.right, node.left)]
    found = []
    for (frame, other), suffix in zip(sides, node.suffixes, strict=True):
        plain = str(column).removesuffix(suffix or "")
        if column in frame.columns:
            found.append((frame, column))
        elif plain in frame.columns and plain in other.columns:
            found.append((frame, plain))
    return found


def _in_files(node: ReadParquet) -> Iterator[dict[str, Origin]]:
    """Yield what made the columns of files, of one for each run that wrote some of them."""
    if isinstance(node, ReadParquetPyarrowFS):
        fs = ArrowFSWrapper(node.fs)
        files = [each.fragment.path for each in node._dataset_info["fragments"]]
    else:
        fs, files = node._dataset_info["fs"], node._dataset_info["ds"].files
    one_of_each = {run_of(file): file for file in files}.values()
    with ThreadPoolExecutor(READERS) as readers:
        yield from map(
            origins_in_file, readers.map(lambda file: read_origin(fs, file), one_of_each)
        )


def _ranges(node: Quantize) -> Any:
    """Return the ranges of integers, or what says over which rows they are calibrated."""
    ranges = node.operand("ranges")
    if isinstance(ranges, Expr):
        return f"calibrated-{ranges._name.rpartition('-')[2]}"
    return None if ranges is None else np.asarray(ranges, float).tolist()
