"""Which rows are kept: decided where all rows of a group are, told where each row lies."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd

from dask_embed.curation.components import Forest
from dask_embed.curation.greedy import decide
from dask_embed.curation.groups import members_here, trees_of, with_groups
from dask_embed.curation.moving import together
from dask_embed.curation.ranking import Ranking
from dask_embed.curation.source import Source
from dask_embed.curation.stars import labels_of, with_labels
from dask_embed.lazy._dask import new_collection
from dask_embed.lazy.nodes import PartByPart

PAIRS = pd.DataFrame(
    {
        "row": pd.Series([], dtype="int64"),
        "other": pd.Series([], dtype="int64"),
        "similarity": pd.Series([], dtype="float64"),
    }
)
"""The form of pairs that are alike: numbers of two rows, any way round, and how alike."""


def decisions_of_pairs(
    source: Source,
    pairs: Any,
    ranking: Ranking,
    *,
    rule: str = "greedy",
    older: Source | None = None,
    ranks: Any = None,
    components: str = "forest",
) -> Any:
    """Return the decisions about all rows that are in a pair, in the partitions of the source.

    Parameters
    ----------
    source : Source
    pairs : dask.dataframe.DataFrame
        Like `PAIRS`, in any partitions; each pair any number of times. Rows of an older corpus
        have the number ``-1 - number``.
    ranking : Ranking
    rule : {"greedy", "semdedup"}
        See `dask_embed.curation.greedy.kept_rows`.
    older : Source, optional
        The older corpus, with its ids.
    ranks : dask.dataframe.DataFrame, optional
        Columns of numbers by which rows are ordered before all else, the least first, and ``row``;
        rows in any partitions, those in no pair may be missing.
    components : {"forest", "stars"}
        How groups are found: with all rows that are in a pair in one place, or in none.

    Returns
    -------
    dask.dataframe.DataFrame
        As `dask_embed.curation.greedy.decide` makes them.
    """
    grouped, tell = _in_groups(pairs, components)
    keys = ranking.keys
    members = _members(source, ranking, tell(source, False))
    if ranks is not None:
        extra = [name for name in ranks.columns if name != "row"]
        members = members.merge(ranks, on="row", how="left")
        keys = [*extra, *keys]
    if older is not None:
        members = dd.concat([members, _members(older, ranking, tell(older, True), older=True)])
    members, grouped = (together(each, "group", pairs.npartitions) for each in (members, grouped))
    return source.back(decided(members, grouped, keys, rule))


def _in_groups(pairs: Any, components: str) -> tuple[Any, Callable[[Source, bool], Any]]:
    """Return pairs with their group, and what gives the groups of rows to a corpus."""
    if components == "forest":
        trees = trees_of(pairs)
        return with_groups(pairs, trees), lambda corpus, older: trees
    labels = labels_of(pairs)

    def tell(corpus: Source, older: bool) -> Any:
        mine = labels.map_partitions(of_corpus, older, meta=labels._meta)
        return corpus.back(mine)

    return with_labels(pairs, labels), tell


def of_corpus(rows: pd.DataFrame, older: bool) -> pd.DataFrame:
    """Return what is of the older corpus, or of the one that is judged, by ``row``."""
    return rows[(rows["row"] < 0) == older]


def decided(members: Any, pairs: Any, keys: list[str], rule: str = "greedy") -> Any:
    """Return the decisions of partitions that hold whole groups, as a Dask DataFrame."""
    return new_collection(Decide(members.expr, pairs.expr, tuple(keys), rule))


def _members(source: Source, ranking: Ranking, trees: Any, older: bool = False) -> Any:
    names = (ranking.of_ids() if older else ranking).reads
    none = np.zeros(0, np.int64)
    meta = ranking.ranked(source.meta(names), none, older).assign(group=none)
    given = (ranking, older, trees)
    return source.each(_members_of_partition, names, meta, *given, use="rank")


def _members_of_partition(
    partition: pd.DataFrame,
    numbers: np.ndarray,
    ranking: Ranking,
    older: bool,
    trees: Forest | pd.DataFrame,
) -> pd.DataFrame:
    if isinstance(trees, pd.DataFrame):  # of this partition alone
        ordered = trees.sort_values("row")
        trees = ordered["row"].to_numpy(), ordered["group"].to_numpy()
    here, roots = members_here(-1 - numbers if older else numbers, trees)
    return ranking.ranked(partition.iloc[here], numbers[here], older).assign(group=roots)


class Decide(PartByPart):
    """The decisions about the rows of whole groups."""

    _parameters = ["members", "pairs", "keys", "rule"]  # noqa: RUF012 - the form of expressions

    @staticmethod
    def operation(members: Any, pairs: Any, keys: tuple[str, ...], rule: str) -> pd.DataFrame:
        return decide(members, pairs, list(keys), rule)

    @functools.cached_property
    def _meta(self) -> pd.DataFrame:
        return self.operation(*(getattr(each, "_meta", each) for each in self.operands))
