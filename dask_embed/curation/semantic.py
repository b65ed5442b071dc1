"""Rows with nearly the same meaning: pairs of near vectors within clusters, and over borders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dask_embed._docstrings import with_parameters_of
from dask_embed._options import named_options
from dask_embed._validation import column_name, integer_from_zero, one_of, shown
from dask_embed.columns import stored_vectors
from dask_embed.columns.frames import require_frame
from dask_embed.curation.clustering import KMeans, numbers_of_one_space
from dask_embed.curation.clusters import Settings
from dask_embed.curation.exact import mark_exact_duplicates
from dask_embed.curation.fitted_kmeans import FittedKMeans
from dask_embed.curation.greedy import RULES
from dask_embed.curation.kmeans import Centres
from dask_embed.curation.marks import dropping, marked, older_frame
from dask_embed.curation.near import Semantic
from dask_embed.curation.ranking import ranking_of
from dask_embed.curation.spaces import require_same_space, require_vector_column
from dask_embed.curation.thresholds import require_threshold
from dask_embed.jobs.origin import FORMAT, Origin
from dask_embed.lazy.arrays import lazy_dimension

_PROBE = 2
_ORDERS = ("hard", "easy")


@with_parameters_of(mark_exact_duplicates)
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
    id
        See `mark_exact_duplicates`.
    keep : str, (str, str) or list of (str, str)
        As in `mark_exact_duplicates`, and ``"hard"`` or ``"easy"``: of rows that are alike the one
        furthest from the centre of its cluster, or nearest to it.
    seed, against, prefix
        See `mark_exact_duplicates`.
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
    require_threshold(threshold)
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
    "Leave out rows that have nearly the same vector as another one",
)


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
