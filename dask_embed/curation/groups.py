"""Which rows of a corpus pairs connect: a forest for each partition, merged in a tree."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pandas as pd

from dask_embed.curation.components import Forest, forest, merged, roots_of
from dask_embed.curation.source import EachPartition, PartitionNumbers
from dask_embed.lazy._dask import new_collection
from dask_embed.lazy.nodes import PartByPart, Tree


def trees_of(pairs: Any) -> Any:
    """Return the trees that pairs of rows make, as a lazy value of one partition.

    Parameters
    ----------
    pairs : dask.dataframe.DataFrame
        ``row`` and ``other``.

    Notes
    -----
    No machine sees all pairs. It does see all rows that are in one: 16 bytes for each.
    """
    return Forests(PartitionForest(pairs[["row", "other"]].expr))


def with_groups(pairs: Any, trees: Any) -> Any:
    """Return pairs with ``group``, the root of their tree."""
    meta = pairs._meta.assign(group=np.zeros(0, np.int64))
    numbers = PartitionNumbers(pairs.npartitions)
    return new_collection(EachPartition(pairs.expr, numbers, _with_groups, meta, (), trees))


def _with_groups(pairs: pd.DataFrame, _: np.ndarray, trees: Forest) -> pd.DataFrame:
    return pairs.assign(group=roots_of(trees, pairs["row"].to_numpy()))


def members_here(numbers: np.ndarray, trees: Forest) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of a partition that are in a forest: their places in it, their roots.

    Parameters
    ----------
    numbers : numpy.ndarray
        Numbers of the rows of the partition, without a gap.
    trees : Forest
    """
    if not len(numbers):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    start, stop = np.searchsorted(trees[0], [numbers.min(), numbers.max() + 1])
    rows, roots = trees[0][start:stop], trees[1][start:stop]
    return np.abs(rows - numbers[0]), roots


class PartitionForest(PartByPart):
    """The trees that the pairs of each partition make."""

    _parameters = ["frame"]  # noqa: RUF012 - the form of every Dask expression

    @staticmethod
    def operation(pairs: pd.DataFrame) -> Forest:
        return forest(pairs["row"].to_numpy(), pairs["other"].to_numpy())

    @functools.cached_property
    def _meta(self) -> Any:
        return self.frame._meta


class Forests(Tree):
    """The trees that the pairs of all partitions make."""

    combine = staticmethod(merged)
    aggregate = staticmethod(merged)
