"""The nearest rows of each row of a frame: what tasks do."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from dask_embed.columns import append_columns, empty_columns, to_host
from dask_embed.columns.frames import encoding_told
from dask_embed.curation import pairwise
from dask_embed.curation.indexes import Index, IndexSettings
from dask_embed.curation.vectors import token_vectors_of, vectors_of

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
    parts : numpy.ndarray or None
        Of several partitions: which of them each row is of.
    """

    vectors: Any
    places: np.ndarray
    labels: pd.Series
    total: int
    parts: Any = None


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
    with encoding_told("ids cannot be compared", partition):
        return _by_label(Rows(vectors, places, labels, len(valid)))


def block_of(parts: list[Rows]) -> Rows:
    """Return the rows of several partitions as one, in the order of what knows them."""
    places = np.concatenate([part.places for part in parts])
    labels = pd.concat([part.labels for part in parts], ignore_index=True)
    of = np.repeat(np.arange(len(parts)), [len(part.places) for part in parts])
    if isinstance(parts[0].vectors, list):
        vectors: Any = [each for part in parts for each in part.vectors]
    else:
        vectors = np.concatenate([part.vectors for part in parts])
    return _by_label(Rows(vectors, places, labels, sum(part.total for part in parts), of))


def _by_label(rows: Rows) -> Rows:
    """Return rows in the order of what knows them."""
    if rows.labels.is_monotonic_increasing:
        return rows
    order = rows.labels.sort_values(kind="stable").index.to_numpy()
    vectors, of = rows.vectors, rows.parts
    return Rows(
        [vectors[o] for o in order] if isinstance(vectors, list) else vectors[order],
        rows.places[order],
        rows.labels.iloc[order].reset_index(drop=True),
        rows.total,
        None if of is None else of[order],
    )


def of_partition(found: pd.DataFrame, block: Rows, part: int) -> pd.DataFrame:
    """Return what was found for the queries of one partition of a block."""
    mine = block.parts == part
    query = found["query"].to_numpy()
    there = mine[query]
    return found[there].assign(query=(np.cumsum(mine) - 1)[query[there]]).reset_index(drop=True)


def near(
    queries: Rows,
    rows: Rows,
    search: Search,
    own: bool,
    index: Index | None,
    before: pd.DataFrame | None,
) -> pd.DataFrame:
    """Return the nearest rows of a partition: number of the query, neighbour, similarity.

    Of those that are further away than the `k` nearest that were found `before` some are left out.
    """
    leave_out = np.arange(len(queries.places)) if own else None
    if index is not None:
        found = index.search(queries.vectors, rows.vectors, search.k, leave_out)
    elif search.metric == "maxsim":
        found = pairwise.nearest_by_tokens(
            queries.vectors, rows.vectors, search.k, leave_out=leave_out
        )
    else:
        found = pairwise.nearest_rows(
            queries.vectors,
            rows.vectors,
            search.k,
            search.metric,
            leave_out=leave_out,
            floor=_floor(before, len(queries.places), search.k),
        )
    there = found.rows >= 0
    number = np.nonzero(there)[0]
    labels = rows.labels.iloc[found.rows[there]].reset_index(drop=True)
    similarity = found.similarities[there]
    return pd.DataFrame({"query": number, "neighbour": labels, "similarity": similarity})


def _floor(found: pd.DataFrame | None, queries: int, k: int) -> np.ndarray:
    """Return the similarity of the `k`-th row of each query, -inf if there are fewer."""
    floor = np.full(queries, -np.inf, np.float32)
    if found is not None:
        last = found.groupby("query").cumcount().to_numpy() == k - 1
        floor[found["query"].to_numpy()[last]] = found["similarity"].to_numpy()[last]
    return floor


def nearest_of(parts: list[pd.DataFrame], k: int) -> pd.DataFrame:
    """Return the nearest of what several partitions found; of equal ones the lowest id."""
    every = pd.concat(parts, ignore_index=True)
    every = every.sort_values(
        ["query", "similarity", "neighbour"], ascending=[True, False, True], ignore_index=True
    )
    return every[every.groupby("query").cumcount() < k].reset_index(drop=True)


def total_of(rows: Rows) -> int:
    """Return how many rows a partition has, with and without a vector."""
    return rows.total


def offsets_of(totals: list[int]) -> np.ndarray:
    """Return the position of the first row of each partition."""
    return np.concatenate([[0], np.cumsum(totals)]).astype(np.int64)


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
