"""Clusters of a vector column: what users call."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import dask.dataframe as dd

from dask_embed._docstrings import with_parameters_of
from dask_embed._options import NamedOptions, named_options
from dask_embed._reprs import ShortRepr
from dask_embed._validation import column_name
from dask_embed.columns.frames import require_frame, require_series
from dask_embed.curation.clusters import Settings, fitted, with_clusters
from dask_embed.curation.fitted_kmeans import FittedKMeans
from dask_embed.curation.spaces import (
    PACKED,
    require_one_space,
    require_same_space,
    require_vector_column,
)
from dask_embed.jobs.origin import FORMAT, Origin
from dask_embed.lazy._dask import new_collection
from dask_embed.lazy.arrays import lazy_dimension


@dataclasses.dataclass(frozen=True, kw_only=True)
class KMeans(ShortRepr, NamedOptions, Settings):
    """k-means of vectors that need not fit into memory.

    k-means++ and Lloyd's steps on a sample give the first centres; a few steps over all rows
    follow, each a reduction over partitions.

    Parameters
    ----------
    n_clusters : int
        Fewer clusters come of fewer different rows.
    metric : {"cosine", "euclidean"}
        ``"cosine"`` is spherical k-means: vectors and centres are scaled to length one.
    init : {"k-means++", "random"}
        Rows of the sample to begin with.
    max_iter : int
        Lloyd steps over all rows, at most; 0 keeps the centres of the sample.
    tol : float
        Squared movement of the centres, in mean variances of a dimension, at which they have
        converged, as in scikit-learn.
    seed : int
        The same seed gives the same sample and the same first centres, however rows are ordered
        and cut into partitions.
    sample : int, optional
        Rows of the sample, by default 50,000, or 20 for each cluster where that is more.
    fit_data_fraction : float
        Share of the rows that count at all, chosen by a hash of their vectors.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> import dask_embed as de
    >>> frame = de.Embedder(de.datasets.minilm())(pd.DataFrame({"text": ["rain", "snow", "rows"]}))
    >>> de.KMeans(2).fit(frame["embedding"])
    FittedKMeans(2 clusters x 384, metric='cosine')

    Notes
    -----
    Memory: the sample on one worker, and on each the vectors of its partitions while steps run
    over them. Clusters without rows keep their centre. Vectors stored as float16, int8 or uint8
    are taken as the numbers that they are stored as.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_clusters == "auto":
            raise TypeError("n_clusters must be a positive integer, got 'auto'")

    def settings(self) -> Settings:
        """Return the same as the lazy nodes take it."""
        return Settings(**{f.name: getattr(self, f.name) for f in dataclasses.fields(self)})

    def fit(self, series: Any, *, check: bool = True) -> FittedKMeans:
        """Return the centres of a vector column; computes.

        Parameters
        ----------
        series : dask.dataframe.Series, pandas.Series or cudf.Series
        check : bool
            Refuse a column of vectors that different models made.

        Raises
        ------
        TypeError, ValueError
            If the column does not hold vectors, or none.
        """
        require_series("KMeans.fit", series)
        frame = _lazy(series).to_frame()
        require_vector_column(frame, series.name)
        origin = numbers_of_one_space(frame, series.name, check)
        centres = new_collection(fitted(frame, series.name, self.settings())).compute()
        if not len(centres.values):
            raise ValueError(f"column {series.name!r} has no vectors to fit centres to")
        told = origin.to_json() if origin.told else {}
        return FittedKMeans(
            centres.values,
            self.metric,
            float(centres.inertia),
            centres.steps,
            bool(centres.converged),
            told,
        )


@with_parameters_of(KMeans)
@named_options
def cluster(
    frame: Any,
    column: str = "embedding",
    *,
    n_clusters: int | None = None,
    centres: Any = None,
    metric: str = "cosine",
    init: str = "k-means++",
    max_iter: int = 5,
    tol: float = 1e-4,
    seed: int = 0,
    sample: int | None = None,
    fit_data_fraction: float = 1.0,
    output: str = "cluster",
    distance: str | None = None,
    check: bool = True,
) -> Any:
    """Append the k-means cluster of each vector, and its distance to the centre; lazy.

    Parameters
    ----------
    frame : dask.dataframe.DataFrame
    column : str
        The vector column: float32, float16, int8 or uint8.
    n_clusters : int
        Number of clusters to find.
    centres : FittedKMeans, str, Path or array, optional
        Centres that are known, in place of `n_clusters`: what `dask_embed.KMeans` fitted, a file
        that it was saved to, or an array of shape (clusters, dimension). Each row is then
        clustered for itself, partitions stream, and filters pass below. Of the settings that follow
        only `metric` counts then, and only for an array.
    metric, init, max_iter, tol, seed, sample, fit_data_fraction
        See `KMeans`.
    output : str
        The column with the number of the cluster, int32.
    distance : str, optional
        The column with the distance, float32: one minus the cosine, or Euclidean. By default
        ``<output>_distance``.
    check : bool
        Refuse a column of vectors that different models made, and centres of another model.

    Returns
    -------
    dask.dataframe.DataFrame
        Rows without a vector have null in both columns.

    Raises
    ------
    TypeError, ValueError
        Before any work, if the arguments do not fit each other or the frame.

    Notes
    -----
    Centres are found anew each time that the result is computed; what reads them together in one
    computation shares them. To keep them, fit with `dask_embed.KMeans` and give `centres`.
    """
    require_frame("cluster", frame, lazy=True)
    column_name("column", column)
    require_vector_column(frame, column)
    origin = numbers_of_one_space(frame, column, check)
    column_name("output", output)
    names = (output, f"{output}_distance" if distance is None else distance)
    if centres is not None and n_clusters is None:
        known = _known(centres, metric, frame, column, origin, check)
        return with_clusters(frame, known.plain(), column, names)
    if n_clusters is None or centres is not None:
        given = "neither" if centres is None else "both"
        raise TypeError(f"cluster takes n_clusters, or centres that are known; got {given}")
    settings = KMeans(
        n_clusters,
        metric=metric,
        init=init,
        max_iter=max_iter,
        tol=tol,
        seed=seed,
        sample=sample,
        fit_data_fraction=fit_data_fraction,
    ).settings()
    return with_clusters(frame, fitted(frame, column, settings), column, names)


def numbers_of_one_space(frame: Any, column: Any, check: bool) -> Origin:
    """Return what made a column of vectors that are numbers."""
    origin = require_one_space(frame, column, check)
    precision = origin.told.get("precision")
    if precision in PACKED:
        raise ValueError(
            f"column {column!r} holds packed signs (precision {precision!r}), which have no "
            "centre; cluster vectors of numbers"
        )
    return origin


def _known(
    centres: Any, metric: str, frame: Any, column: Any, origin: Origin, check: bool
) -> FittedKMeans:
    """Return centres that were given, which have to fit a vector column and what made it."""
    if isinstance(centres, str | Path):
        centres = FittedKMeans.load(centres)
    if not isinstance(centres, FittedKMeans):
        centres = FittedKMeans(centres, metric)
    dimension = lazy_dimension(frame[column])
    if centres.centres.shape[1] != dimension:
        raise ValueError(
            f"centres are of dimension {centres.centres.shape[1]}, the vectors of column "
            f"{column!r} of {dimension}"
        )
    of_centres = Origin.from_json(centres.origin, FORMAT)
    require_same_space(column, origin, "the centres are", of_centres, check)
    return centres


def _lazy(series: Any) -> Any:
    return series if hasattr(series, "expr") else dd.from_pandas(series, npartitions=1, sort=False)
