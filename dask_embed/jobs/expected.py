"""How many rows operators will run on, where it is known before they run."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain, pairwise
from typing import Any

from dask_embed.jobs.lineage import operators_of
from dask_embed.jobs.row_expr import NewRows
from dask_embed.jobs.table_expr import WriteTable
from dask_embed.jobs.write_expr import WriteParquet
from dask_embed.lazy._dask import (
    Concat,
    Elemwise,
    Expr,
    FromPandas,
    FusedIO,
    MapPartitions,
    ReadParquetFSSpec,
    _is_local_fs,
)
from dask_embed.lazy.append import AppendColumns, OperatorRows, as_settled, settled
from dask_embed.lazy.chunks import ChunkRows
from dask_embed.lazy.computed import ComputedRows
from dask_embed.lazy.conditions import rebuilt
from dask_embed.lazy.declared import DeclaredRows
from dask_embed.operators.fused import Together, together
from dask_embed.operators.renamed import unwrapped


def expected_rows(frame: Any) -> int | None:
    """Return the rows of all operators of a Dask DataFrame, as `stats` counts passes over them.

    Of what `to_parquet` gives with ``compute=False``, those of partitions that are missing. None
    where that is not certain: behind filters, joins and functions of the user's, whose rows, and
    what they run themselves, nobody knows.
    """
    plan = settled(frame.expr.simplify())
    missing = _missing(plan)
    total = 0
    for node in _distinct(plan):
        operators = operators_of(node)
        if isinstance(node, MapPartitions | DeclaredRows) and not operators:
            return None
        if operators:
            rows = _of_operator(node, missing)
            if rows is None:
                return None
            total += rows
    return total or None


class Planned:
    """The rows of operators in plans that are made while somebody listens.

    Parameters that `note` is given are nodes as `dask_embed.runtime.planned` tells them. They are
    looked into when the total is asked for, which is beside the computation: footers of files are
    read then, of those on a disk of this machine.
    """

    def __init__(self) -> None:
        self._told: list[Expr] = []
        self._looked_at = 0
        self._rows: dict[str, int | None] = {}

    def note(self, node: Expr) -> None:
        """Keep a node that will be computed."""
        self._told.append(node)

    def total(self) -> int | None:
        """Return the rows of all operators so far, None where that is not certain."""
        while self._looked_at < len(self._told):
            node = self._told[self._looked_at]
            self._looked_at += 1
            missing = _missing(node)
            for each in _distinct(node) if isinstance(node, WriteParquet | WriteTable) else [node]:
                name = rebuilt(each, {}, _as_written)._name
                if name not in self._rows and operators_of(each):
                    self._rows[name] = _of_operator(each, missing, near=True)
        found = list(self._rows.values())
        return None if None in found else sum(each for each in found if each is not None) or None


def _distinct(plan: Any) -> list[Any]:
    return list({node._name: node for node in plan.walk()}.values())


def _as_written(node: Expr) -> Expr:
    """Return a node in the one form that it has before and after Dask tunes what is below."""
    while isinstance(node, FusedIO):
        node = node.operand("_expr")
    return as_settled(node)


def _missing(plan: Expr) -> list[int] | None:
    """Return the partitions that a job which is gone on with has yet to write, None for all."""
    if not isinstance(plan, WriteParquet) or plan.job.there is None:
        return None
    there, number = plan.job.there, plan.frame.npartitions
    if not (there.done or there.finished or there.skipped):
        return None
    return [place for place in there.missing(number + len(plan.job.rewrites)) if place < number]


def _of_operator(node: Any, missing: list[int] | None, *, near: bool = False) -> int | None:
    """Return how many rows an operator will count, None where that is not certain."""
    lengths = _lengths(node.frame, near)
    if lengths is None:
        return None
    if missing is not None:
        if len(lengths) != node.npartitions or max(missing, default=0) >= len(lengths):
            return None
        lengths = [lengths[place] for place in missing]
    return sum(lengths) * _passes(node)


def _passes(node: Any) -> int:
    """Return how often an operator counts a row: not at all in a pass that one below makes."""
    way = node.way_to_partner() if isinstance(node, AppendColumns) else []
    if not way:
        return _passes_of(node.operator) if isinstance(node, OperatorRows) else 1
    below = way[-1].operator
    return _passes_of(together(below, node.operator)) - _passes_of(below)


def _passes_of(operator: Any) -> int:
    operator = unwrapped(operator)[0]
    return len(operator.passes()) if isinstance(operator, Together) else 1


def _lengths(node: Expr, near: bool) -> list[int] | None:
    """Return the number of rows of each partition, None where that is not certain.

    Footers of files are read, if they are to be `near` only those on a disk.
    """
    if isinstance(node, NewRows):
        return [part.wanted for part in node.wanted.parts]
    if isinstance(node, FromPandas):
        return _of_partitions(node, [end - start for start, end in pairwise(node._locations())])
    if isinstance(node, ReadParquetFSSpec):
        return _in_files(node, near)
    if isinstance(node, Concat) and node.operand("axis") == 0:
        parts = [_lengths(each, near) for each in node.dependencies()]
        known = [each for each in parts if each is not None]
        return [*chain.from_iterable(known)] if len(known) == len(parts) else None
    if isinstance(node, Elemwise | ComputedRows) and not isinstance(node, ChunkRows):
        return _lengths(max(node.dependencies(), key=lambda each: each.npartitions), near)
    return None


def _in_files(node: ReadParquetFSSpec, near: bool) -> list[int] | None:
    if node.filters or (near and not _is_local_fs(node._dataset_info["fs"])):
        return None
    # Dask looks up lengths by the number of a partition among those that are read.
    whole = node.substitute_parameters({"_partitions": None, "_pq_length_stats": None})
    try:
        return _of_partitions(node, whole._get_lengths() or ())
    except (OSError, ValueError):  # whoever reads the rows tells of it
        return None


def _of_partitions(node: Any, lengths: Iterable[int]) -> list[int]:
    """Return the lengths of the partitions that are read."""
    chosen = set(node._partitions) if node._filtered else None
    return [rows for n, rows in enumerate(lengths) if chosen is None or n in chosen]
