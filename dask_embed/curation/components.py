"""Connected components of pairs: the kernels, free of Dask."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MOST = 2**28
"""Rows that forests in one place may have: 4 GiB, and as much again while they are merged."""
Forest = tuple[np.ndarray, np.ndarray]
"""Rows in ascending order, and for each the least row of its tree; int64 both."""


def forest(left: np.ndarray, right: np.ndarray) -> Forest:
    """Return the trees that pairs of rows connect.

    Parameters
    ----------
    left, right : numpy.ndarray
        Rows of each pair, int64.

    Returns
    -------
    rows, roots : numpy.ndarray
        See `Forest`; 16 bytes for each row that is in a pair, however many pairs there are.

    Notes
    -----
    Each root that has a lesser one beside it hangs itself below it, then all rows go up to their
    roots (Shiloach and Vishkin, 1982): whole arrays at a time, in about log(rows) rounds.
    """
    rows, places = np.unique(np.concatenate([left, right]), return_inverse=True)
    parent = np.arange(len(rows))
    ends = places[: len(left)], places[len(left) :]
    while len(ends[0]):
        tops = [parent[end] for end in ends]
        apart = tops[0] != tops[1]
        ends = tops[0][apart], tops[1][apart]
        np.minimum.at(parent, np.maximum(*ends), np.minimum(*ends))
        while not np.array_equal(parent, above := parent[parent]):
            parent = above
    return rows, rows[parent]


def merged(forests: Sequence[Forest]) -> Forest:
    """Return the trees that several forests make together.

    Raises
    ------
    ValueError
        If that is more than one place is to hold.
    """
    rows = sum(len(each[0]) for each in forests)
    if rows > MOST:
        raise ValueError(
            f"{rows:,} rows are in pairs, more than the {MOST:,} that are grouped in one place; "
            "components='stars' groups them without one"
        )
    return forest(*(np.concatenate([each[end] for each in forests]) for end in (0, 1)))


def roots_of(trees: Forest, rows: np.ndarray) -> np.ndarray:
    """Return the roots of rows, all of which are in the forest."""
    return trees[1][np.searchsorted(trees[0], rows)]
