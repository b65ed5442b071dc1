"""Connected components of more rows than one place holds: large and small stars by turns.

The method is that of Kiveris et al., Connected Components in MapReduce and Beyond (2014).
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pandas as pd

from dask_embed.curation.components import forest
from dask_embed.curation.moving import together
from dask_embed.lazy._dask import new_collection
from dask_embed.lazy.nodes import PartByPart

ROUNDS = 20
"""Of a large and a small star: a chain of 300,000 rows in order takes 19, of a million rows in
random order 15; groups of duplicates, which are no chains, take a few."""

_EDGES = pd.DataFrame({"row": np.zeros(0, np.int64), "other": np.zeros(0, np.int64)})
_LABELS = pd.DataFrame({"row": np.zeros(0, np.int64), "group": np.zeros(0, np.int64)})


def labels_of(pairs: Any) -> Any:
    """Return ``row`` and ``group`` of all rows in pairs, lazily, in any partitions.

    Parameters
    ----------
    pairs : dask.dataframe.DataFrame
        ``row`` and ``other``.

    Notes
    -----
    No machine sees more than its share of the rows. The number of rounds is fixed, because a lazy
    plan cannot wait and see; that they were enough is checked.
    """
    count = pairs.npartitions
    edges = new_collection(ForestEdges(pairs[["row", "other"]].expr))
    for turn in range(2 * ROUNDS):
        edges = new_collection(Star(together(edges, "row", count).expr, turn % 2 == 0))
    found = together(new_collection(StarLabels(edges.expr)), "row", count)
    return new_collection(OneLabel(found.expr))


def with_labels(pairs: Any, labels: Any) -> Any:
    """Return pairs with ``group``, the label of their first row."""
    count = pairs.npartitions
    sides = [together(each, "row", count).expr for each in (pairs, labels)]
    return new_collection(Labelled(*sides))


def large_star(edges: pd.DataFrame) -> pd.DataFrame:
    """Connect neighbours that are greater than a row with the least of its neighbours and itself.

    Parameters
    ----------
    edges : pandas.DataFrame
        ``row`` and ``other``, each edge both ways round, all those of a row.
    """
    least = _least(edges)
    greater = (edges["other"] > edges["row"]).to_numpy()
    return _edges(edges["other"].to_numpy()[greater], least[greater])


def small_star(edges: pd.DataFrame) -> pd.DataFrame:
    """Connect a row and its neighbours with the least of them.

    Parameters
    ----------
    edges : pandas.DataFrame
        ``row`` and ``other``, which is the lesser, all those of a row.
    """
    least = _least(edges)
    ends = (edges["other"].to_numpy(), edges["row"].to_numpy())
    found = _edges(np.concatenate(ends), np.concatenate([least, least]))
    return found[found["row"] != found["other"]]


def _least(edges: pd.DataFrame) -> np.ndarray:
    others = edges.groupby("row")["other"].transform("min").to_numpy()
    return np.minimum(others, edges["row"].to_numpy())


def _edges(rows: np.ndarray, others: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({"row": rows, "other": others}).drop_duplicates(ignore_index=True)


class _ByPartition(PartByPart):
    """A kernel on each partition, without divisions."""

    _parameters = ["frame"]  # noqa: RUF012 - the form of every Dask expression
    _meta: Any = _EDGES

    def _broadcast_dep(self, dep: Any) -> bool:
        return False


class ForestEdges(_ByPartition):
    """The forest of the pairs of each partition, as edges both ways round."""

    @staticmethod
    def operation(pairs: pd.DataFrame) -> pd.DataFrame:
        rows, roots = forest(pairs["row"].to_numpy(), pairs["other"].to_numpy())
        return _both_ways(pd.DataFrame({"row": rows, "other": roots})[rows != roots])


class Star(_ByPartition):
    """One turn: edges of whole rows to edges for the next."""

    _parameters = ["frame", "large"]  # noqa: RUF012 - the form of every Dask expression

    @staticmethod
    def operation(edges: pd.DataFrame, large: bool) -> pd.DataFrame:
        return large_star(edges) if large else _both_ways(small_star(edges))


class StarLabels(_ByPartition):
    """What edges say about labels: of a row, and of the centre that it has."""

    _meta = _LABELS

    @staticmethod
    def operation(edges: pd.DataFrame) -> pd.DataFrame:
        down = edges[edges["row"] > edges["other"]]
        centres = down["other"].unique()
        rows = np.concatenate([down["row"].to_numpy(), centres])
        groups = np.concatenate([down["other"].to_numpy(), centres])
        return pd.DataFrame({"row": rows, "group": groups}).drop_duplicates(ignore_index=True)


class OneLabel(_ByPartition):
    """The labels, if each row has one."""

    _meta = _LABELS

    @staticmethod
    def operation(labels: pd.DataFrame) -> pd.DataFrame:
        found = labels.drop_duplicates(ignore_index=True)
        if found["row"].duplicated().any():
            raise RuntimeError(
                f"{ROUNDS} rounds of stars did not connect all groups; take components='forest'"
            )
        return found


class Labelled(_ByPartition):
    """Pairs with the label of their first row, which is in the same partition."""

    _parameters = ["frame", "labels"]  # noqa: RUF012 - the form of every Dask expression

    @staticmethod
    def operation(pairs: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
        return pairs.merge(labels, on="row", how="left").astype({"group": "int64"})

    @functools.cached_property
    def _meta(self) -> pd.DataFrame:
        return self.frame._meta.assign(group=np.zeros(0, np.int64))


def _both_ways(edges: pd.DataFrame) -> pd.DataFrame:
    back = edges.rename(columns={"row": "other", "other": "row"})
    return pd.concat([edges, back], ignore_index=True)[["row", "other"]]
