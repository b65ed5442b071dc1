"""Rows with nearly the same meaning: pairs of near vectors within clusters, and over borders."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa

from dask_embed._options import named_options
from dask_embed._validation import column_name, integer_from_zero, one_of, shown
from dask_embed.columns import stored_vectors
from dask_embed.columns.frames import require_frame
from dask_embed.curation import bordering
from dask_embed.curation.clustering import FittedKMeans, KMeans, numbers_of_one_space
from dask_embed.curation.clusters import Fit, Settings
from dask_embed.curation.decisions import PAIRS, decisions_of_pairs
from dask_embed.curation.greedy import RULES
from dask_embed.curation.kmeans import Centres
from dask_embed.curation.marks import Finding, dropping, marked, older_frame
from dask_embed.curation.moving import together
from dask_embed.curation.pairwise import Pairs
from dask_embed.curation.ranking import ranking_of
from dask_embed.curation.source import Source
from dask_embed.curation.spaces import require_same_space, require_vector_column
from dask_embed.curation.vectors import vector_series, vectors_of
from dask_embed.jobs.origin import FORMAT, Origin
from dask_embed.lazy._dask import Blockwise, new_collection
from dask_embed.lazy.arrays import lazy_dimension
from dask_embed.runtime.stats import metered

_PROBE = 2
_ORDERS = ("hard", "easy")


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


class NearPairs(Blockwise):
    """The pairs of near vectors; each partition holds whole clusters."""

    _parameters = ["frame", "threshold", "dimension"]  # noqa: RUF012 - as all expressions

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

    @functools.cached_property
    def _meta(self) -> pd.DataFrame:
        return PAIRS

    def _divisions(self) -> tuple[None, ...]:
        return (None,) * (self.frame.npartitions + 1)


def _counted(vectors: np.ndarray, home: np.ndarray, threshold: float) -> Iterator[Pairs]:
    """Yield the near pairs of a cluster, and count them and those that were compared."""
    own, guests = int(home.sum()), int((~home).sum())
    with metered("Semantic", "", 0) as meter:
        meter.count(pairs=own * (own - 1) // 2 + own * guests)
        for part in bordering.pairs_of_cluster(vectors, home, threshold):
            meter.count(alike=len(part.left))
            yield part


class Distances(Blockwise):
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

    def _divisions(self) -> tuple[None, ...]:
        return (None,) * (self.frame.npartitions + 1)


@named_options
def mark_semantic_duplicates(
    frame: Any,
    column: Any = "embedding",
    *,
    threshold: float = 0.95,
    n_clusters: int | str = "auto",
    probe: int | None = None,
    kmeans: Any = None,
    method: str = "greedy",
    id: Any = None,
    keep: Any = "lowest id",
    seed: int | None = None,
    against: Any = None,
    prefix: str = "semantic_",
    check: bool = True,
) -> Any:
    """Append which rows have nearly the same vector as another one; lazy.

    Vectors are clustered, and compared with those of their own cluster and, near a border, with
    those on its other side.

    Parameters
    ----------
    frame : dask.dataframe.DataFrame
        pandas or cuDF backed.
    column : str
        The vector column: float32, float16, int8 or uint8.
    threshold : float
        Least cosine similarity of two duplicates, above 0, at most 1.
    n_clusters : int or "auto"
        Clusters to find by spherical k-means. ``"auto"`` has one for up to 10,000 rows, then the
        square root of their number. With 1 all pairs are compared.
    probe : int, optional
        How many other clusters a row is compared with at most: those nearest to it of which a row
        on the other side of the border may be within the threshold. By default 2, and none where
        `method` is ``"semdedup"``. With as many as there are clusters no pair is missed.
    kmeans : KMeans, FittedKMeans, str or Path, optional
        How to cluster, in place of `n_clusters`: other options of k-means, or centres that are
        known and the file that they were saved to.
    method : {"greedy", "semdedup"}
        ``"greedy"``: a row is dropped if a row like it that comes before it is kept.
        ``"semdedup"``: if any row like it comes before it in its cluster, kept or not, as SemDeDup
        (Abbas et al. 2023) and NeMo Curator do, of which chains leave little.
    id, seed, against
        As in `mark_exact_duplicates`.
    keep : str, (str, str) or list of (str, str)
        As in `mark_exact_duplicates`, and ``"hard"`` or ``"easy"``: of rows that are alike the one
        furthest from the centre of its cluster, or nearest to it.
    prefix : str
        What the names of the new columns begin with.
    check : bool
        Refuse vectors that different models made, in the column and in `against` and the centres.

    Returns
    -------
    dask.dataframe.DataFrame
        `frame` with the columns that `mark_exact_duplicates` describes, ``similarity`` being the
        cosine to the row that it is a duplicate of. Rows without a vector are like none.

    Raises
    ------
    TypeError, ValueError
        If the arguments do not fit each other or the frame.

    Notes
    -----
    A higher threshold is a filter on ``similarity``. Vectors and numbers of rows are shuffled, a
    vector once and once more for each cluster that it probes; texts never. Memory: the vectors of a
    cluster, a block of products of 16 MiB, and 20 bytes for each pair that is near: a thousand rows
    that are all alike are half a million pairs, so drop exact duplicates before.

    Examples
    --------
    >>> import dask.dataframe as dd
    >>> import pandas as pd
    >>> import dask_embed as de
    >>> texts = ["It rained all day.", "It was raining all day.", "A table of numbers."]
    >>> ddf = dd.from_pandas(pd.DataFrame({"text": texts}), npartitions=2)
    >>> embedded = ddf.ml.embed("text", model=de.datasets.minilm())
    >>> embedded.ml.mark_semantic_duplicates(threshold=0.9).semantic_kept.compute().tolist()
    [True, False, True]
    """
    require_frame("mark_semantic_duplicates", frame, lazy=True)
    column_name("column", column)
    require_vector_column(frame, column)
    _require_threshold(threshold)
    one_of("method", method, RULES)
    integer_from_zero("probe", probe, allow_none=True)
    origin = numbers_of_one_space(frame, column, check)
    dimension = lazy_dimension(frame[column])
    ranking = ranking_of(frame, keep, id=id, seed=seed, named=_ORDERS)
    older = older_frame(frame, against, [column], ranking)
    if older is not None:
        by = numbers_of_one_space(older, column, check)
        require_same_space(column, origin, "those of against are", by, check)
    centres = _centres(kmeans, n_clusters, column, dimension, origin, check)
    probe = (0 if method == "semdedup" else _PROBE) if probe is None else probe
    stored = stored_vectors(frame._meta[column])[0]
    finding = Semantic(
        ranking, prefix, older, column, dimension, stored, threshold, centres, probe, method
    )
    return marked(frame, finding)


drop_semantic_duplicates = dropping(
    mark_semantic_duplicates,
    """Leave out rows that have nearly the same vector as another one; lazy.

    The rows that `mark_semantic_duplicates` says are kept, whose parameters these are; asking for
    both runs it once.

    Returns
    -------
    dask.dataframe.DataFrame
        Some rows of `frame`, in their partitions.
    """,
)


def _require_threshold(threshold: Any) -> None:
    if isinstance(threshold, bool) or not isinstance(threshold, int | float):
        raise TypeError(f"threshold must be a number above 0, at most 1; got {shown(threshold)}")
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be above 0, at most 1; got {shown(threshold)}")


def _centres(
    kmeans: Any, n_clusters: Any, column: Any, dimension: int, origin: Origin, check: bool
) -> Settings | Centres:
    """Return how centres are found, or those that are known."""
    if kmeans is None:
        return Settings(n_clusters)
    if not isinstance(n_clusters, str) or n_clusters != "auto":
        raise ValueError(f"n_clusters={shown(n_clusters)} has no effect with kmeans")
    if isinstance(kmeans, str | Path):
        kmeans = FittedKMeans.load(kmeans)
    if not isinstance(kmeans, KMeans | FittedKMeans):
        raise TypeError(
            "kmeans must be a dask_embed.KMeans, what it fitted or a file that this was saved to; "
            f"got {shown(kmeans)}"
        )
    if kmeans.metric != "cosine":
        raise ValueError(f"kmeans must have metric='cosine', got {shown(kmeans.metric)}")
    if isinstance(kmeans, KMeans):
        return kmeans.settings()
    by = Origin.from_json(kmeans.origin, FORMAT)
    require_same_space(column, origin, "the centres are", by, check)
    if kmeans.centres.shape[1] != dimension:
        raise ValueError(
            f"kmeans is of dimension {kmeans.centres.shape[1]}, the vectors of column {column!r} "
            f"of {dimension}"
        )
    return kmeans.plain()
