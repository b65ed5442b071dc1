"""The nearest vectors of each, and all pairs that are near enough, a block at a time.

What is held is a block of products and what was found, never a value for each pair.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from dask_embed.columns.arrays import blocks
from dask_embed.curation.measures import Measure
from dask_embed.curation.products import Products
from dask_embed.tokens.slices import fitting

_QUERIES, _ROWS = 1024, 4096  # of a block of products: 16 MiB of float32


class Neighbours(NamedTuple):
    """The nearest rows of each query, the nearest first, of equally near ones the first row.

    Attributes
    ----------
    rows : numpy.ndarray
        int64, shape (queries, k); -1 where there are fewer rows.
    similarities : numpy.ndarray
        float32, shape (queries, k); -inf there.
    """

    rows: np.ndarray
    similarities: np.ndarray


class Pairs(NamedTuple):
    """Rows that are near each other.

    Attributes
    ----------
    left, right : numpy.ndarray
        int64, shape (pairs,).
    similarities : numpy.ndarray
        float32, shape (pairs,).
    """

    left: np.ndarray
    right: np.ndarray
    similarities: np.ndarray


class Best:
    """The best rows of each query so far."""

    def __init__(self, queries: int, k: int) -> None:
        self.rows = np.full((queries, k), -1, np.int64)
        self.similarities = np.full((queries, k), -np.inf, np.float32)

    @property
    def lowest(self) -> np.ndarray:
        """The similarity that is to be passed, for each query; -inf while there are fewer."""
        return self.similarities[:, -1]

    def add(self, queries: np.ndarray, rows: np.ndarray, similarities: np.ndarray) -> None:
        """Take what is better than what is there; no two entries may be the same pair."""
        if not len(queries):
            return
        touched, k = np.unique(queries), self.rows.shape[1]
        every = np.concatenate([np.repeat(touched, k), queries])
        found = np.concatenate([self.rows[touched].ravel(), rows])
        values = np.concatenate([self.similarities[touched].ravel(), similarities])
        there = found >= 0
        every, found, values = every[there], found[there], values[there]
        order = np.lexsort((found, -values, every))
        every = every[order]
        place = np.arange(len(every)) - np.searchsorted(every, every)
        kept = place < k
        self.rows[every[kept], place[kept]] = found[order][kept]
        self.similarities[every[kept], place[kept]] = values[order][kept]


def nearest_rows(
    queries: np.ndarray,
    vectors: np.ndarray,
    k: int,
    measure: str,
    *,
    leave_out: np.ndarray | None = None,
    floor: np.ndarray | None = None,
) -> Neighbours:
    """Return the nearest rows of `vectors` for each query.

    Parameters
    ----------
    queries, vectors : numpy.ndarray
        Shape (queries, dimension) and (rows, dimension), as they are stored.
    k : int
    measure : str
        See `Measure`.
    leave_out : numpy.ndarray, optional
        int64, shape (queries,): a row of `vectors` that is none of a query's, -1 for none.
    floor : numpy.ndarray, optional
        float32, shape (queries,): similarities below which no row is wanted.
    """
    best = Best(len(queries), k)
    least = np.float32(-np.inf) if floor is None else floor
    if not len(queries):
        return Neighbours(best.rows, best.similarities)
    centre = queries.mean(axis=0, dtype=np.float64) if measure == "euclidean" else None
    by = Measure(measure, centre)
    buffer = np.empty(_QUERIES * _ROWS, np.float32)
    for asked in blocks(len(queries), _QUERIES):
        left = by.comparable(queries[asked])
        out = None if leave_out is None else leave_out[asked]
        for rows in blocks(len(vectors), _ROWS):
            right = by.comparable(vectors[rows])
            space = buffer[: len(left) * len(right)].reshape(len(left), len(right))
            products = by.products(left, right, space)
            if out is not None:
                here = np.flatnonzero((out >= rows.start) & (out < rows.stop))
                products.leave_out(here, out[here] - rows.start)
            passed = by.as_products(np.maximum(best.lowest, least)[asked], left)
            query, row = _candidates(products, passed, by.error(left, right), k)
            query, row = query + asked.start, row + rows.start
            best.add(query, row, by.between(queries, query, vectors, row))
    return Neighbours(best.rows, best.similarities)


def _candidates(
    products: Products, passed: np.ndarray, error: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return query and row of the products that may be among the best `k` of a query.

    At first, and where each block is better than those before it, the best of the block itself
    tell more than `passed`, the products of what was found until then.
    """
    count, columns = products.shape
    told = bool(np.isfinite(passed).all())
    found = products.at_least(passed - error) if told or columns <= k else None
    if found is None or (len(found) > 2 * k * count and columns > k):
        found = products.at_least(np.maximum(passed, products.exceeded(k)) - error)
    return found // columns, found % columns


def near_pairs(vectors: np.ndarray, threshold: float, measure: str) -> Iterator[Pairs]:
    """Yield the pairs of rows, the earlier row on the left, that are at least so near."""
    yield from _pairs(vectors, None, threshold, measure)


def near_pairs_between(
    left: np.ndarray, right: np.ndarray, threshold: float, measure: str
) -> Iterator[Pairs]:
    """Yield the pairs of a row of `left` and one of `right` that are at least so near."""
    yield from _pairs(left, right, threshold, measure)


def _pairs(
    left: np.ndarray, right: np.ndarray | None, threshold: float, measure: str
) -> Iterator[Pairs]:
    others = left if right is None else right
    if not len(left) or not len(others):
        return
    centre = left.mean(axis=0, dtype=np.float64) if measure == "euclidean" else None
    by = Measure(measure, centre)
    wanted = np.float32(threshold)
    for first in blocks(len(left), _QUERIES):
        block = by.comparable(left[first])
        floor = by.as_products(np.full(len(block), threshold), block)
        for second in blocks(len(others), _ROWS):
            if right is None and second.stop <= first.start + 1:
                continue  # of pairs the other way round
            compared = by.comparable(others[second])
            least = floor - by.error(block, compared)
            places = by.products(block, compared).at_least(least)
            rows, columns = places // len(compared), places % len(compared)
            rows, columns = rows + first.start, columns + second.start
            if right is None:
                later = columns > rows
                rows, columns = rows[later], columns[later]
            similarities = by.between(left, rows, others, columns)
            near = similarities >= wanted
            if near.any():
                yield Pairs(rows[near], columns[near], similarities[near])


def nearest_by_tokens(
    queries: list[np.ndarray],
    documents: list[np.ndarray],
    k: int,
    *,
    leave_out: np.ndarray | None = None,
) -> Neighbours:
    """Return the documents of the largest sum of each query token's best product.

    Parameters
    ----------
    queries, documents : list of numpy.ndarray
        Token vectors of each, float32, shape (tokens, dimension); none of them empty.
    k : int
    leave_out : numpy.ndarray, optional
        As in `nearest_rows`.

    Notes
    -----
    ColBERT's late interaction (Khattab and Zaharia 2020), by ``sentence_transformers`` called
    MaxSim. What is reported is of one query and one document, so that it depends on nothing else.
    """
    best = Best(len(queries), k)
    sizes = [len(each) for each in documents]
    for asked in fitting([len(each) for each in queries], _QUERIES):
        left, begins = np.concatenate(queries[asked]), _begins(queries[asked])
        lengths = np.add.reduceat(np.sqrt(np.einsum("ij,ij->i", left, left)), begins)
        for rows in fitting(sizes, _ROWS):
            right = np.concatenate(documents[rows])
            highest = np.maximum.reduceat(left @ right.T, _begins(documents[rows]), axis=1)
            sums = np.add.reduceat(highest, begins, axis=0)
            if leave_out is not None:
                out = leave_out[asked]
                here = np.flatnonzero((out >= rows.start) & (out < rows.stop))
                sums[here, out[here] - rows.start] = -np.inf
            longest = np.sqrt(np.einsum("ij,ij->i", right, right).max())
            error = 4 * (len(left) + left.shape[1]) * np.finfo(np.float32).eps * lengths * longest
            passed = best.lowest[asked].astype(np.float64)
            query, row = _candidates(Products(sums), passed, error, k)
            query, row = query + asked.start, row + rows.start
            found = [_max_sim(queries[q], documents[r]) for q, r in zip(query, row, strict=True)]
            best.add(query, row, np.array(found, np.float32))
    return Neighbours(best.rows, best.similarities)


def _max_sim(query: np.ndarray, document: np.ndarray) -> float:
    products = query.astype(np.float64) @ document.astype(np.float64).T
    return float(products.max(axis=1).sum())


def _begins(texts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum([len(text) for text in texts])[:-1]]).astype(np.int64)
