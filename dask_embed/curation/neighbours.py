"""The nearest rows of each row of a frame: what tasks do, and the lazy node."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from dask_embed.columns import append_columns, empty_columns, to_host
from dask_embed.curation import pairwise
from dask_embed.curation.graph import StepGraph, partitions_of
from dask_embed.curation.indexes import Index, IndexSettings, build_index
from dask_embed.curation.vectors import token_vectors_of, vectors_of
from dask_embed.lazy._dask import Expr, List

LONG = ("query", "rank", "neighbour", "similarity")
_PLACES = 32  # bits of a row's number that tell its place in the partition


class Rows(NamedTuple):
    """The rows of a partition that have a vector, in the order of what knows them.

    Attributes
    ----------
    vectors : numpy.ndarray or list of numpy.ndarray
    places : numpy.ndarray
        int64, place of each in the partition.
    labels : pandas.Series
        What knows each: its id, or its number, `_PLACES` bits of place below its partition's.
    total : int
        Rows of the partition.
    """

    vectors: Any
    places: np.ndarray
    labels: pd.Series
    total: int


@dataclasses.dataclass(frozen=True)
class Side:
    """Which columns of a frame are read.

    Attributes
    ----------
    column : str
        The vectors.
    dimension : int
    label : str or None
        What knows a row; without it the position does.
    signs : bool
        Pack the signs of its numbers.
    """

    column: Any
    dimension: int
    label: Any = None
    signs: bool = False

    @property
    def reads(self) -> list[Any]:
        return [self.column, *([] if self.label is None else [self.label])]


@dataclasses.dataclass(frozen=True)
class Search:
    """What is looked for.

    Attributes
    ----------
    k : int
    metric : str
    queries, rows : Side
    same : bool
        The queries are the rows, and none is its own neighbour.
    lists : bool
        Append lists to the queries' frame.
    index : IndexSettings or None
        Of an engine that is not exact.
    """

    k: int
    metric: str
    queries: Side
    rows: Side
    same: bool = False
    lists: bool = False
    index: IndexSettings | None = None


def rows_of(partition: Any, side: Side, number: int, metric: str) -> Rows:
    """Return the rows of a partition that have a vector, those of the lowest id first."""
    read = token_vectors_of if metric == "maxsim" else vectors_of
    vectors, valid = read(partition, side.column, side.dimension)
    if side.signs:
        vectors = np.packbits(np.asarray(vectors) > 0, axis=1)
    places = np.flatnonzero(valid)
    if side.label is None:
        labels = pd.Series((np.int64(number) << _PLACES) + places)
        return Rows(vectors, places, labels, len(valid))
    labels = to_host(partition[[side.label]])[side.label].iloc[places].reset_index(drop=True)
    if labels.isna().any():
        raise ValueError(f"id column {side.label!r} has rows without a value: nothing knows them")
    if not labels.is_monotonic_increasing:
        order = labels.sort_values(kind="stable").index.to_numpy()
        vectors = [vectors[o] for o in order] if isinstance(vectors, list) else vectors[order]
        places, labels = places[order], labels.iloc[order].reset_index(drop=True)
    return Rows(vectors, places, labels, len(valid))


def near(queries: Rows, rows: Rows, search: Search, own: bool, index: Index | None) -> pd.DataFrame:
    """Return the nearest rows of a partition: number of the query, neighbour, similarity."""
    leave_out = np.arange(len(queries.places)) if own else None
    if index is not None:
        found = index.search(queries.vectors, rows.vectors, search.k, leave_out)
    elif search.metric == "maxsim":
        found = pairwise.nearest_by_tokens(
            queries.vectors, rows.vectors, search.k, leave_out=leave_out
        )
    else:
        found = pairwise.nearest_rows(
            queries.vectors, rows.vectors, search.k, search.metric, leave_out=leave_out
        )
    there = found.rows >= 0
    number = np.nonzero(there)[0]
    labels = rows.labels.iloc[found.rows[there]].reset_index(drop=True)
    similarity = found.similarities[there]
    return pd.DataFrame({"query": number, "neighbour": labels, "similarity": similarity})


def nearest_of(parts: list[pd.DataFrame], k: int) -> pd.DataFrame:
    """Return the nearest of what several partitions found; of equal ones the lowest id."""
    every = pd.concat(parts, ignore_index=True)
    every = every.sort_values(
        ["query", "similarity", "neighbour"], ascending=[True, False, True], ignore_index=True
    )
    return every[every.groupby("query").cumcount() < k].reset_index(drop=True)


def offsets_of(parts: list[Rows]) -> np.ndarray:
    """Return the position of the first row of each partition."""
    return np.concatenate([[0], np.cumsum([part.total for part in parts])]).astype(np.int64)


def _positions(labels: pd.Series, side: Side, offsets: np.ndarray) -> pd.Series:
    """Return ids as they are, and numbers of rows as positions in the whole frame."""
    if side.label is not None:
        return labels
    numbers = labels.to_numpy(np.int64)
    return pd.Series(offsets[numbers >> _PLACES] + (numbers & ((1 << _PLACES) - 1)))


def long_frame(
    found: pd.DataFrame,
    queries: Rows,
    offsets: tuple[np.ndarray, np.ndarray],
    search: Search,
    meta: pd.DataFrame,
) -> pd.DataFrame:
    """Return a row for each neighbour of the queries of a partition, in the order of these."""
    order = np.argsort(queries.places)  # by id, in which they were searched, to their own order
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    number = found["query"].to_numpy(np.int64)
    sorted_ = np.argsort(rank[number], kind="stable")
    found, number = found.iloc[sorted_].reset_index(drop=True), number[sorted_]
    labels = _positions(queries.labels, search.queries, offsets[0])
    frame = pd.DataFrame(
        {
            "query": labels.iloc[number].reset_index(drop=True),
            "rank": found.groupby("query").cumcount() + 1,
            "neighbour": _positions(found["neighbour"], search.rows, offsets[1]),
            "similarity": found["similarity"],
        }
    )
    return frame.astype(meta.dtypes.to_dict())


def with_lists(
    found: pd.DataFrame,
    queries: Rows,
    offsets: tuple[np.ndarray, np.ndarray],
    search: Search,
    meta: pd.DataFrame,
    partition: Any,
) -> Any:
    """Return the queries' partition with lists of neighbours and of similarities."""
    types = list_types(meta)
    if not len(partition):
        return empty_columns(partition, types)
    counts = np.bincount(found["query"], minlength=len(queries.places))
    starts = np.cumsum(counts) - counts
    order = np.full(queries.total, -1)
    order[queries.places] = np.arange(len(queries.places))
    present = order[order >= 0]
    lengths = np.zeros(len(order), np.int64)
    lengths[order >= 0] = counts[present]
    spans = [np.arange(starts[row], starts[row] + counts[row]) for row in present]
    taken = np.concatenate([np.empty(0, np.int64), *spans])
    ends = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    neighbours = _positions(found["neighbour"], search.rows, offsets[1])
    values = [neighbours.iloc[taken], found["similarity"].iloc[taken]]
    lists = {
        name: pa.ListArray.from_arrays(
            ends, pa.array(value, kind.value_type, from_pandas=True), mask=pa.array(order < 0)
        )
        for (name, kind), value in zip(types.items(), values, strict=True)
    }
    return append_columns(partition, lists)


def list_types(meta: pd.DataFrame) -> dict[str, pa.DataType]:
    """Return the types of the lists of what a long frame has as columns."""
    ids = pa.Schema.from_pandas(meta[["neighbour"]], preserve_index=False).field(0).type
    return {"neighbours": pa.list_(ids), "similarities": pa.list_(pa.float32())}


def long_meta(queries: Any, rows: Any, search: Search) -> pd.DataFrame:
    """Return the long frame of no rows; `queries` and `rows` are frames of none."""
    sides = ((queries, search.queries), (rows, search.rows))
    query, neighbour = (
        pd.Series([], dtype="int64")
        if side.label is None
        else to_host(frame[[side.label]])[side.label].iloc[:0].reset_index(drop=True)
        for frame, side in sides
    )
    return pd.DataFrame(
        {
            "query": query,
            "rank": pd.Series([], dtype="int64"),
            "neighbour": neighbour,
            "similarity": pd.Series([], dtype="float32"),
        }
    )


class Nearest(Expr):
    """The nearest rows of `rows` for each row of `queries`."""

    _parameters = ["queries", "rows", "search"]  # noqa: RUF012 - the form of every expression

    @functools.cached_property
    def _name(self) -> str:
        return f"nearest-{self.deterministic_token}"

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
        indexes: list[Any] = [None] * len(rows)
        if search.index is not None:
            indexes = [
                graph.add("index", place, build_index, part, search.index, place, len(rows))
                for place, part in enumerate(rows)
            ]
        total = graph.add("total", 0, offsets_of, List(*rows))
        asked = total if search.same else graph.add("asked", 0, offsets_of, List(*queries))
        join = functools.partial(nearest_of, k=search.k)
        for number, query in enumerate(queries):
            found = [
                graph.add(f"near-{number}", place, near, query, part, search, own, index)
                for place, (part, index) in enumerate(zip(rows, indexes, strict=True))
                for own in [search.same and place == number]
            ]
            best = graph.tree("best", join, found, number)
            more = (parts[number],) if search.lists else ()
            finish = with_lists if search.lists else long_frame
            offsets = List(asked, total)
            done = graph.add("end", number, finish, best, query, offsets, search, self.long, *more)
            graph.result((self._name, number), done)
        return graph.tasks

    def _rows(self, graph: StepGraph, step: str, frame: Expr, side: Side) -> list[Any]:
        metric = self.operand("search").metric
        return [
            graph.add(step, number, rows_of, part, side, number, metric)
            for number, part in enumerate(partitions_of(frame))
        ]
