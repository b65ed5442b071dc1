"""How semantic duplicates are found: rows to clusters, clusters to near pairs."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa

from dask_embed.curation import bordering
from dask_embed.curation.clusters import Fit, Settings
from dask_embed.curation.decisions import PAIRS, decisions_of_pairs
from dask_embed.curation.kmeans import Centres
from dask_embed.curation.marks import Finding
from dask_embed.curation.moving import together
from dask_embed.curation.pairwise import Pairs
from dask_embed.curation.source import Source
from dask_embed.curation.vectors import vector_series, vectors_of
from dask_embed.lazy._dask import new_collection
from dask_embed.lazy.nodes import PartByPart
from dask_embed.runtime.stats import metered


@dataclasses.dataclass(frozen=True)
class Semantic(Finding):
    """Finds rows whose vectors are near each other."""

    column: Any
    dimension: int
    stored: pa.DataType
    threshold: float
    centres: Settings | Centres
    probe: int
    rule: str

    @property
    def reads(self) -> list[Any]:
        return [self.column]

    def decisions(self, source: Source) -> Any:
        older = None if self.older is None else Source(self.older.simplify().expr)
        centres: Any = self.centres
        if isinstance(centres, Settings):
            vectors = source.columns(self.reads, use="fit")
            centres = Fit(vectors.expr, self.column, self.dimension, centres)
        placed = self._placed(source, centres)
        every = placed
        if older is not None:
            every = dd.concat([placed, self._placed(older, centres, older=True)])
        grouped = together(every, "cluster")
        pairs = new_collection(NearPairs(grouped.expr, self.threshold, self.dimension))
        order = self.ranking.named
        ranks = new_collection(Distances(placed.expr, order)) if order else None
        return decisions_of_pairs(
            source, pairs, self.ranking, rule=self.rule, older=older, ranks=ranks
        )

    def _placed(self, source: Source, centres: Any, older: bool = False) -> Any:
        given = (self.column, self.dimension, centres, self.threshold, self.probe, older)
        return source.each(_placed, self.reads, self._meta, *given, use="place")

    @property
    def _meta(self) -> pd.DataFrame:
        vector = pd.ArrowDtype(pa.list_(self.stored, self.dimension))
        return pd.DataFrame(
            {
                "row": pd.Series([], dtype="int64"),
                "cluster": pd.Series([], dtype="int64"),
                "home": pd.Series([], dtype="bool"),
                "distance": pd.Series([], dtype="float32"),
                "vector": pd.Series([], dtype=vector),
            }
        )

    def told(self) -> str:
        how = self.centres
        clusters = how.n_clusters if isinstance(how, Settings) else len(how.values)
        over = f", over borders to {self.probe} others" if self.probe else ""
        return (
            f"semantic duplicates of {self.column}: cosine at least {self.threshold}, within "
            f"{clusters} clusters{over}, {self.rule}"
        )


def _placed(
    partition: pd.DataFrame,
    numbers: np.ndarray,
    column: Any,
    dimension: int,
    centres: Centres,
    threshold: float,
    probe: int,
    older: bool,
) -> pd.DataFrame:
    """Return the rows that have a vector in their clusters, and in those that they are near to."""
    vectors, valid = vectors_of(partition, column, dimension)
    found = bordering.clusters_of(vectors, centres, threshold, probe)
    rows = (-1 - numbers if older else numbers)[valid][found.rows]
    return pd.DataFrame(
        {
            "row": rows,
            "cluster": found.clusters,
            "home": found.home,
            "distance": found.distances,
            "vector": vector_series(vectors[found.rows]),
        }
    )


class NearPairs(PartByPart):
    """The pairs of near vectors; each partition holds whole clusters."""

    _parameters = ["frame", "threshold", "dimension"]  # noqa: RUF012 - as all expressions
    _meta = PAIRS

    @staticmethod
    def operation(placed: pd.DataFrame, threshold: float, dimension: int) -> pd.DataFrame:
        found = [PAIRS]
        for _, members in placed.groupby("cluster"):
            vectors, _ = vectors_of(members, "vector", dimension)
            rows, home = members["row"].to_numpy(), members["home"].to_numpy()
            for part in _counted(vectors, home, threshold):
                pairs = pd.DataFrame(
                    {
                        "row": rows[part.left],
                        "other": rows[part.right],
                        "similarity": part.similarities,
                    }
                )
                found.append(pairs[(pairs["row"] >= 0) | (pairs["other"] >= 0)])
        return pd.concat(found, ignore_index=True)


def _counted(vectors: np.ndarray, home: np.ndarray, threshold: float) -> Iterator[Pairs]:
    """Yield the near pairs of a cluster, and count them and those that were compared."""
    own, guests = int(home.sum()), int((~home).sum())
    with metered("Semantic", "", 0) as meter:
        meter.count(pairs=own * (own - 1) // 2 + own * guests)
        for part in bordering.pairs_of_cluster(vectors, home, threshold):
            meter.count(alike=len(part.left))
            yield part


class Distances(PartByPart):
    """Rows by the distance to their centre: the furthest first if they are to be hard.

    Not by Dask's filter, which takes rows with partitions of their own for rows of others.
    """

    _parameters = ["frame", "order"]  # noqa: RUF012 - the form of every Dask expression

    @staticmethod
    def operation(placed: pd.DataFrame, order: str) -> pd.DataFrame:
        home = placed.loc[placed["home"].to_numpy(), ["row", "distance"]]
        return home.assign(distance=-home["distance"] if order == "hard" else home["distance"])

    @functools.cached_property
    def _meta(self) -> pd.DataFrame:
        return self.frame._meta[["row", "distance"]]
