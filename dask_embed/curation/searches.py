"""The nearest rows of each row of a frame: the lazy node."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import pandas as pd

from dask_embed.columns import empty_columns
from dask_embed.curation.graph import StepGraph, partitions_of
from dask_embed.curation.indexes import build_index
from dask_embed.curation.moving import shares
from dask_embed.curation.neighbours import (
    Search,
    Side,
    block_of,
    list_types,
    long_frame,
    long_meta,
    near,
    nearest_of,
    of_partition,
    offsets_of,
    rows_of,
    total_of,
    with_lists,
)
from dask_embed.lazy._dask import Expr, List

_FEW = 4  # blocks of queries that meet all partitions as they are
_FIRST = 4


def _turns(blocks: int) -> list[range]:
    """Return the blocks that are searched at a time: those later on know what was found before.

    Twice as many as all before, so that a turn finds about `k` rows more of each query, where each
    block for itself would.
    """
    bounds = [0, min(_FIRST, blocks)]
    while bounds[-1] < blocks:
        bounds.append(min(2 * bounds[-1], blocks))
    return [range(*each) for each in itertools.pairwise(bounds)]


class Nearest(Expr):
    """The nearest rows of `rows` for each row of `queries`."""

    _parameters = ["queries", "rows", "search"]  # noqa: RUF012 - the form of every expression

    def __str__(self) -> str:
        search: Search = self.operand("search")
        return f"nearest({search.k}, {search.metric}, {search.rows.column})"

    @property
    def told(self) -> str:
        """What the step does, for `dask_embed.explain`."""
        search: Search = self.operand("search")
        of = "every row, itself left out" if search.same else "each query"
        how = "" if search.index is None else f", of {search.index.probes} lists of an index"
        pairs = f"{self.queries.npartitions} x {self.rows.npartitions} partitions"
        return (
            f"find the {search.k} nearest by {search.metric} in {search.rows.column} for {of}"
            f"{how}: {pairs}"
        )

    @functools.cached_property
    def long(self) -> pd.DataFrame:
        return long_meta(self.queries._meta, self.rows._meta, self.operand("search"))

    @functools.cached_property
    def _meta(self) -> Any:
        if not self.operand("search").lists:
            return self.long
        return empty_columns(self.queries._meta, list_types(self.long))

    def _divisions(self) -> Any:
        if self.operand("search").lists:
            return self.queries.divisions
        return (None,) * (self.queries.npartitions + 1)

    def _layer(self) -> dict[Any, Any]:
        search: Search = self.operand("search")
        graph = StepGraph("nearest", self.deterministic_token)
        parts = partitions_of(self.queries)
        rows = self._rows(graph, "rows", self.rows, search.rows)
        queries = (
            rows if search.same else self._rows(graph, "queries", self.queries, search.queries)
        )
        total = self._offsets(graph, "total", rows)
        asked = total if search.same else self._offsets(graph, "asked", queries)
        finish, offsets = with_lists if search.lists else long_frame, List(asked, total)
        for number, best in enumerate(self._best(graph, queries, rows)):
            more = (parts[number],) if search.lists else ()
            given = (best, queries[number], offsets, search, self.long, *more)
            graph.task((self._name, number), finish, *given)
        return graph.tasks

    def _best(self, graph: StepGraph, queries: list[Any], rows: list[Any]) -> Iterator[Any]:
        """Yield what was found for each partition of queries; blocks of both meet each other."""
        search: Search = self.operand("search")
        asking = self._blocks(graph, "asking", queries)
        if search.same:
            blocks = asking
        elif len(asking) <= _FEW:
            blocks = [(part, 1) for part in rows]
        else:
            blocks = self._blocks(graph, "block", rows)
        indexes = [
            search.index and graph.add("index", p, build_index, b, search.index, p, len(blocks))
            for p, (b, _) in enumerate(blocks)
        ]
        join = functools.partial(nearest_of, k=search.k)
        for number, (query, count) in enumerate(asking):
            best = None
            for turn, places in enumerate(_turns(len(blocks))):
                found = [] if best is None else [best]
                for p in places:
                    given = (query, blocks[p][0], search, search.same and p == number, indexes[p])
                    found.append(graph.add(f"near-{number}", p, near, *given, best))
                best = graph.tree(f"best-{turn}", join, found, number)
            if count == 1:
                yield best
                continue
            step = f"of-{number}"
            yield from (graph.add(step, p, of_partition, best, query, p) for p in range(count))

    def _blocks(self, graph: StepGraph, step: str, parts: list[Any]) -> list[tuple[Any, int]]:
        """Return partitions in no more blocks than are shuffled, and how many each has."""
        found = []
        for place, (start, stop) in enumerate(shares(len(parts))):
            group = parts[start:stop]
            block = graph.add(step, place, block_of, List(*group)) if len(group) > 1 else group[0]
            found.append((block, len(group)))
        return found

    def _offsets(self, graph: StepGraph, step: str, rows: list[Any]) -> Any:
        """Add where partitions begin, for which none is held until the last has been read."""
        counts = graph.each(f"{step}-rows", total_of, rows)
        return graph.add(step, 0, offsets_of, List(*counts))

    def _rows(self, graph: StepGraph, step: str, frame: Expr, side: Side) -> list[Any]:
        metric = self.operand("search").metric
        return [
            graph.add(step, number, rows_of, part, side, number, metric)
            for number, part in enumerate(partitions_of(frame))
        ]
