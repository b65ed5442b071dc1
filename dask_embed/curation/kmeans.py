"""k-means of vectors that come in parts: a sample to begin with, then sums over all parts.

The sample is of the rows whose hash is lowest, and sums are taken in float64: both are the same
however rows are cut into parts, but for the last digits of sums.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from dask_embed.columns.arrays import blocks
from dask_embed.curation.measures import Measure, unit

METRICS = ("cosine", "euclidean")
# Rows of float32 copies and of their distances that are held at a time.
_ROWS = 8192
# Rows of the sample, in random order, that k-means++ chooses from: each choice reads them all.
_CHOICE = 10_000
# Lloyd steps on the sample, which is in memory.
_STEPS = 50


@dataclasses.dataclass(frozen=True)
class Centres:
    """Centres of clusters, and how they were come by.

    Attributes
    ----------
    values : numpy.ndarray
        float32, shape (clusters, dimension); of length one where `metric` is ``"cosine"``.
    metric : {"cosine", "euclidean"}
    tolerance : float
        Squared movement of all centres together at which they have converged.
    inertia : float
        Squared distances of rows to their centres before the last step, summed; for ``"cosine"``
        of vectors of length one. NaN before the first step over all rows.
    steps : int
        Lloyd steps over all rows.
    converged : bool
    """

    values: np.ndarray
    metric: str
    tolerance: float = 0.0
    inertia: float = math.nan
    steps: int = 0
    converged: bool = False


class Assigned(NamedTuple):
    """The cluster of each row, int32, and its distance to the centre, float32.

    The distance is one minus the cosine, or Euclidean.
    """

    clusters: np.ndarray
    distances: np.ndarray


class Sums(NamedTuple):
    """What a Lloyd step adds up: float64 sums and int64 counts of clusters, squared distances."""

    sums: np.ndarray
    counts: np.ndarray
    inertia: float


# ------------------------------------------------------------------------------------ the sample
class Hashes(NamedTuple):
    """How many rows there are, and the lowest of their hashes, uint64, in order."""

    rows: int
    lowest: np.ndarray


def row_hashes(vectors: np.ndarray, seed: int) -> np.ndarray:
    """Return a hash of each row, uint64: of its values, not of its place."""
    words = np.random.default_rng(seed).integers(0, 2**64, vectors.shape[1] + 1, np.uint64)
    hashes = np.full(len(vectors), words[-1])
    for rows in blocks(len(vectors), _ROWS):
        bits = np.ascontiguousarray(vectors[rows], np.float32).view(np.uint32)
        hashes[rows] += bits.astype(np.uint64) @ (words[:-1] | np.uint64(1))
    # MurmurHash3's finalizer: sums of products leave their pattern in the lower bits
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        hashes = (hashes ^ (hashes >> np.uint64(33))) * np.uint64(factor)
    return hashes ^ (hashes >> np.uint64(33))


def lowest_hashes(vectors: np.ndarray, seed: int, most: int) -> Hashes:
    """Return the lowest hashes of a part, those of rows without a finite vector left out."""
    return joined_hashes([Hashes(len(vectors), row_hashes(vectors, seed))], most)


def joined_hashes(parts: Iterable[Hashes], most: int) -> Hashes:
    parts = list(parts)
    every = np.sort(np.concatenate([part.lowest for part in parts]))
    return Hashes(sum(part.rows for part in parts), every[:most])


def sampled(vectors: np.ndarray, seed: int, highest: int) -> tuple[np.ndarray, np.ndarray]:
    """Return hashes and vectors of the rows of a part whose hash is no more than `highest`."""
    hashes = row_hashes(vectors, seed)
    rows = np.flatnonzero(hashes <= np.uint64(highest))
    return hashes[rows], vectors[rows].astype(np.float32)


# -------------------------------------------------------------------------------- the first centres
def first_centres(
    sample: np.ndarray, n_clusters: int, *, metric: str, init: str, seed: int, tol: float
) -> Centres:
    """Return centres that fit a sample: chosen by k-means++ or at random, then Lloyd's steps.

    Parameters
    ----------
    sample : numpy.ndarray
        float32, shape (rows, dimension), in an order that does not depend on parts.
    n_clusters : int
        Fewer come of fewer different rows.
    metric, init : str
    seed : int
    tol : float
        As scikit-learn's: times the mean variance of a dimension.
    """
    rows = Measure(metric).comparable(sample)
    random = np.random.default_rng(seed)
    if init == "random":
        chosen = random.permutation(len(rows))[:n_clusters]
    else:
        chosen = _plus_plus(rows[: max(_CHOICE, 20 * n_clusters)], n_clusters, random)
    tolerance = tol * float(rows.var(axis=0).mean()) if len(rows) else 0.0
    centres = Centres(rows[chosen], metric, tolerance)
    for _ in range(_STEPS):
        if centres.converged or not len(centres.values):
            break
        centres = moved(centres, [partial_sums(rows, centres)])
    return dataclasses.replace(centres, inertia=math.nan, steps=0, converged=False)


def _plus_plus(rows: np.ndarray, n_clusters: int, random: np.random.Generator) -> np.ndarray:
    """Return rows to begin with, each the best of a few that lie far from those before it.

    Greedy k-means++ (Arthur and Vassilvitskii 2007), with as many candidates as scikit-learn has.
    """
    if not len(rows):
        return np.empty(0, np.int64)
    candidates = 2 + int(math.log(n_clusters))
    squares = np.einsum("ij,ij->i", rows, rows).astype(np.float64)
    chosen = [int(random.integers(len(rows)))]
    closest = _squared(rows, squares, chosen)[0]
    while len(chosen) < min(n_clusters, len(rows)):
        total = np.cumsum(closest)
        if total[-1] <= 0:  # all other rows equal one that was chosen
            break
        drawn = np.searchsorted(total, random.random(candidates) * total[-1], side="right")
        drawn = np.minimum(drawn, len(rows) - 1)
        nearer = np.minimum(_squared(rows, squares, drawn), closest)
        best = int(np.argmin(nearer.sum(axis=1)))
        chosen.append(int(drawn[best]))
        closest = nearer[best]
    return np.array(chosen)


def _squared(rows: np.ndarray, squares: np.ndarray, chosen: np.ndarray | list[int]) -> np.ndarray:
    """Return squared distances of all rows to some of them, shape (chosen, rows)."""
    found = squares + squares[chosen][:, None] - 2.0 * (rows[chosen] @ rows.T)
    # what rounding leaves of nothing would let k-means++ choose the same row again
    found[found <= 1e-6 * (squares + squares[chosen][:, None])] = 0
    return found


# ---------------------------------------------------------------------------------- Lloyd's steps
def assign(vectors: np.ndarray, centres: Centres) -> Assigned:
    """Return the nearest centre of each row, of equally near ones the first."""
    clusters = np.zeros(len(vectors), np.int32)
    distances = np.zeros(len(vectors), np.float32)
    for rows in blocks(len(vectors), _ROWS):
        block = Measure(centres.metric).comparable(vectors[rows])
        products = Measure(centres.metric).products(block, centres.values)
        clusters[rows], _ = products.highest()
        similarities = Measure(centres.metric).of_pairs(block, centres.values[clusters[rows]])
        distances[rows] = 1 - similarities if centres.metric == "cosine" else -similarities
    return Assigned(clusters, distances)


def partial_sums(vectors: np.ndarray, centres: Centres) -> Sums:
    """Return what a part of the rows adds to a Lloyd step; nothing where all is done."""
    sums = np.zeros(centres.values.shape)
    counts = np.zeros(len(sums), np.int64)
    inertia = 0.0
    for rows in () if centres.converged else blocks(len(vectors), _ROWS):
        block = Measure(centres.metric).comparable(vectors[rows])
        products = Measure(centres.metric).products(block, centres.values)
        clusters, highest = products.highest()
        inertia += _squared_distances(block, highest, centres)
        order = np.argsort(clusters, kind="stable")
        found = np.bincount(clusters, minlength=len(sums))
        ends, ordered = np.cumsum(found), block[order].astype(np.float64)
        for cluster in np.flatnonzero(found):  # in half the time of np.add.reduceat
            stop = ends[cluster]
            sums[cluster] += ordered[stop - found[cluster] : stop].sum(axis=0)
        counts += found
    return Sums(sums, counts, inertia)


def joined_sums(parts: Iterable[Sums]) -> Sums:
    sums, counts, inertia = zip(*parts, strict=True)
    return Sums(sum(sums[1:], sums[0]), sum(counts[1:], counts[0]), sum(inertia))


def moved(centres: Centres, parts: Iterable[Sums]) -> Centres:
    """Return the centres one step further; a cluster without rows keeps its centre."""
    if centres.converged or not len(centres.values):
        return centres
    sums, counts, inertia = joined_sums(parts)
    means = sums / np.maximum(counts, 1)[:, None]
    values = np.where(counts[:, None] > 0, means, centres.values).astype(np.float32)
    if centres.metric == "cosine":
        values = unit(values)
    shift = float(np.square(values - centres.values, dtype=np.float64).sum())
    return dataclasses.replace(
        centres,
        values=values,
        inertia=inertia,
        steps=centres.steps + 1,
        converged=shift <= centres.tolerance,
    )


def _squared_distances(block: np.ndarray, best: np.ndarray, centres: Centres) -> float:
    """Return the squared distances to the nearest centres, summed, by their products."""
    squares = np.einsum("ij,ij->i", block, block)
    if centres.metric == "cosine":  # the squared length of centres is one
        squares = squares + np.float32(1)
    return float(np.maximum(squares - 2 * best, 0).sum(dtype=np.float64))


def clusters_for(rows: int) -> int:
    """Return the number of clusters for so many rows where it is not given.

    Pairs within clusters and distances to centres then cost about the same: rows**2 / clusters
    against rows * clusters. Few enough rows are compared all with all.
    """
    return 1 if rows <= 10_000 else math.isqrt(rows)
