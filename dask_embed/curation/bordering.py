"""Near vectors by clusters, and over the borders between them: the kernels, free of Dask."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from dask_embed.curation.kmeans import Centres, assign
from dask_embed.curation.measures import Measure
from dask_embed.curation.pairwise import Pairs, near_pairs, near_pairs_between

_ROWS = 8192
_ROUNDING = 1e-4  # of products in float32


class Places(NamedTuple):
    """Clusters that rows are compared in: each row in its own, some in others too.

    Attributes
    ----------
    rows, clusters : numpy.ndarray
        int64, shape (places,).
    home : numpy.ndarray
        bool, shape (places,): whether it is the row's own cluster.
    distances : numpy.ndarray
        float32, shape (places,): of the row to the centre of its own cluster.
    """

    rows: np.ndarray
    clusters: np.ndarray
    home: np.ndarray
    distances: np.ndarray


def clusters_of(vectors: np.ndarray, centres: Centres, threshold: float, probe: int) -> Places:
    """Return the clusters in which a row may have neighbours with a cosine of `threshold`.

    Parameters
    ----------
    vectors : numpy.ndarray
        Shape (rows, dimension).
    centres : Centres
        Of metric ``"cosine"``.
    threshold : float
    probe : int
        Other clusters of a row, at most.

    Notes
    -----
    Two unit vectors of different clusters lie on different sides of the plane between the two
    centres, so that the distances of both to it add up to no more than theirs from each other: one
    of them is as near to it as half of that. Rows which are that near are compared over the border.
    """
    own = assign(vectors, centres)
    rows, others = [np.arange(len(vectors))], [own.clusters.astype(np.int64)]
    if probe and len(centres.values) > 1:
        half = math.sqrt(max(0.0, 2 - 2 * threshold)) / 2 + _ROUNDING
        for start in range(0, len(vectors), _ROWS):
            part = slice(start, start + _ROWS)
            near, probed = _probed(vectors[part], own.clusters[part], centres, half, probe)
            rows.append(near + start)
            others.append(probed)
    row, clusters = np.concatenate(rows), np.concatenate(others)
    home = np.arange(len(row)) < len(vectors)
    return Places(row, clusters, home, own.distances[row])


def _probed(
    vectors: np.ndarray, clusters: np.ndarray, centres: Centres, half: float, probe: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and the other clusters of which the border is no further than `half`."""
    values = centres.values
    measure = Measure("cosine")
    products = measure.products(measure.comparable(vectors), values).on_host()
    own = products[np.arange(len(vectors)), clusters]
    apart = np.sqrt(np.maximum(2 - 2 * (values @ values.T), 1e-12))
    to_border = (own[:, None] - products) / apart[clusters]
    to_border[np.arange(len(vectors)), clusters] = np.inf
    count = min(probe, to_border.shape[1])
    nearest = np.argsort(to_border, axis=1, kind="stable")[:, :count]
    near = np.take_along_axis(to_border, nearest, axis=1) <= half
    rows, places = np.nonzero(near)
    return rows, nearest[rows, places].astype(np.int64)


def pairs_of_cluster(vectors: np.ndarray, home: np.ndarray, threshold: float) -> Iterator[Pairs]:
    """Yield the pairs of near rows of a cluster, and of these and the rows that came from others.

    Parameters
    ----------
    vectors : numpy.ndarray
        Shape (rows, dimension).
    home : numpy.ndarray
        bool, shape (rows,): which rows are of the cluster.
    threshold : float
        Least cosine.
    """
    own, guests = np.flatnonzero(home), np.flatnonzero(~home)
    for part in near_pairs(vectors[own], threshold, "cosine"):
        yield Pairs(own[part.left], own[part.right], part.similarities)
    if len(guests):
        for part in near_pairs_between(vectors[guests], vectors[own], threshold, "cosine"):
            yield Pairs(guests[part.left], own[part.right], part.similarities)
