"""How many rows operators will run on, where it is known before they run."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from dask_embed.jobs.lineage import operators_of
from dask_embed.lazy._dask import (
    Concat,
    Elemwise,
    Expr,
    FromPandas,
    MapPartitions,
    ReadParquetFSSpec,
)
from dask_embed.lazy.append import settled
from dask_embed.lazy.chunks import ChunkRows
from dask_embed.lazy.computed import ComputedRows
from dask_embed.operators.fused import Together
from dask_embed.operators.renamed import unwrapped


def expected_rows(frame: Any) -> int | None:
    """Return the rows of all operators of a Dask DataFrame, as `stats` counts passes over them.

    None where that is not certain: behind filters, joins and functions of the user's, whose rows,
    and what they run themselves, nobody knows.
    """
    total = 0
    plan = settled(frame.simplify().expr)
    for node in {node._name: node for node in plan.walk()}.values():
        operators = operators_of(node)
        if isinstance(node, MapPartitions) and not operators:
            return None
        if operators:
            rows = _rows(node.frame)
            if rows is None:
                return None
            given = node.operand("operator") if isinstance(node, ComputedRows) else None
            operator = unwrapped(given)[0]
            total += rows * (len(operator.passes()) if isinstance(operator, Together) else 1)
    return total or None


def _rows(node: Expr) -> int | None:
    """Return the number of rows of an expression, None where it is not certain."""
    if isinstance(node, FromPandas):
        lengths = [end - start for start, end in pairwise(node._locations())]
        return _sum(_of_partitions(node, lengths))
    if isinstance(node, ReadParquetFSSpec):
        return _rows_in_files(node)
    if isinstance(node, Concat) and node.operand("axis") == 0:
        return _sum(map(_rows, node.dependencies()))
    if isinstance(node, Elemwise | ComputedRows) and not isinstance(node, ChunkRows):
        return _rows(max(node.dependencies(), key=lambda each: each.npartitions))
    return None


def _rows_in_files(node: ReadParquetFSSpec) -> int | None:
    if node.filters:
        return None
    # Dask looks up lengths by the number of a partition among those that are read.
    whole = node.substitute_parameters({"_partitions": None, "_pq_length_stats": None})
    return _sum(_of_partitions(node, whole._get_lengths() or ()))


def _of_partitions(node: Any, lengths: Iterable[int]) -> list[int]:
    """Return the lengths of the partitions that are read."""
    chosen = set(node._partitions) if node._filtered else None
    return [rows for n, rows in enumerate(lengths) if chosen is None or n in chosen]


def _sum(numbers: Iterable[int | None]) -> int | None:
    found = list(numbers)
    return None if None in found else sum(each for each in found if each is not None)
