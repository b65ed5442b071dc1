"""k-means of a vector column: the lazy nodes, and what their tasks do."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
import pyarrow as pa
from dask.tokenize import tokenize

from dask_embed._validation import (
    integer_from_zero,
    non_empty_string,
    one_of,
    positive_integer,
    shown,
)
from dask_embed.columns import append_columns, empty_columns
from dask_embed.curation import kmeans
from dask_embed.curation.graph import StepGraph, partitions_of
from dask_embed.curation.kmeans import METRICS, Centres, Hashes
from dask_embed.curation.vectors import scattered, vectors_of
from dask_embed.lazy._dask import Expr, List, new_collection
from dask_embed.lazy.arrays import lazy_dimension
from dask_embed.lazy.computed import ComputedRows
from dask_embed.lazy.nodes import OneTask
from dask_embed.lazy.same_rows import OfAllRows, SameRows

_SAMPLE = 50_000
_ROWS_PER_CLUSTER = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How centres are found; see `dask_embed.KMeans`."""

    n_clusters: int | str = dataclasses.field(kw_only=False)
    metric: str = "cosine"
    init: str = "k-means++"
    max_iter: int = 5
    tol: float = 1e-4
    seed: int = 0
    sample: int | None = None
    fit_data_fraction: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.n_clusters, str):
            positive_integer("n_clusters", self.n_clusters, allow_none=False)
        elif self.n_clusters != "auto":
            raise TypeError(
                f"n_clusters must be a positive integer or 'auto', got {shown(self.n_clusters)}"
            )
        one_of("metric", self.metric, METRICS)
        one_of("init", self.init, ("k-means++", "random"))
        integer_from_zero("max_iter", self.max_iter)
        integer_from_zero("seed", self.seed)
        _between("tol", self.tol, 0, np.inf)
        _between("fit_data_fraction", self.fit_data_fraction, 0, 1)
        if self.fit_data_fraction == 0:
            raise ValueError("fit_data_fraction must be above 0, got 0")
        positive_integer("sample", self.sample)
        if self.sample is not None and self.sample < self._clusters:
            raise ValueError(
                f"sample must have at least a row for each of the {self.n_clusters} clusters, got "
                f"{self.sample}"
            )

    @property
    def most_hashes(self) -> int:
        """Rows of the sample, for any number of clusters that may be chosen."""
        return self.sample or max(_SAMPLE, _ROWS_PER_CLUSTER * self._clusters)

    @property
    def _clusters(self) -> int:
        return 0 if self.n_clusters == "auto" else int(self.n_clusters)

    @property
    def share(self) -> int:
        """The highest hash of a row that counts at all."""
        return min(int(self.fit_data_fraction * 2**64), 2**64 - 1)


def _between(name: str, value: Any, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, got {shown(value)}")
    if not low <= value <= high:
        limits = f"from {low} to {high}" if np.isfinite(high) else f"at least {low}"
        raise ValueError(f"{name} must be {limits}, got {shown(value)}")


# ------------------------------------------------------------------------------ what tasks do
def _counting(partition: Any, column: Any, dimension: int, settings: Settings) -> np.ndarray:
    """Return the vectors of a partition that count."""
    vectors, _ = vectors_of(partition, column, dimension)
    if settings.fit_data_fraction < 1:
        vectors = vectors[kmeans.row_hashes(vectors, settings.seed) <= np.uint64(settings.share)]
    return vectors


def _hashes(partition: Any, column: Any, dimension: int, settings: Settings) -> Hashes:
    vectors = _counting(partition, column, dimension, settings)
    return kmeans.lowest_hashes(vectors, settings.seed, settings.most_hashes)


def _sampled(
    partition: Any, column: Any, dimension: int, settings: Settings, hashes: Hashes
) -> tuple[np.ndarray, np.ndarray]:
    vectors, _ = vectors_of(partition, column, dimension)
    if not len(hashes.lowest):
        return np.empty(0, np.uint64), np.empty((0, dimension), np.float32)
    return kmeans.sampled(vectors, settings.seed, int(hashes.lowest[-1]))


def _first(
    samples: list[tuple[np.ndarray, np.ndarray]], hashes: Hashes, settings: Settings
) -> Centres:
    found, vectors = (np.concatenate(each) for each in zip(*samples, strict=True))
    clusters = settings.n_clusters
    if clusters == "auto":
        clusters = min(kmeans.clusters_for(hashes.rows), max(1, len(found) // _ROWS_PER_CLUSTER))
    return kmeans.first_centres(
        vectors[np.argsort(found, kind="stable")],
        int(clusters),
        metric=settings.metric,
        init=settings.init,
        seed=settings.seed,
        tol=settings.tol,
    )


def _sums(
    partition: Any, column: Any, dimension: int, settings: Settings, centres: Centres
) -> kmeans.Sums:
    if centres.converged:
        return kmeans.partial_sums(np.empty((0, dimension), np.float32), centres)
    return kmeans.partial_sums(_counting(partition, column, dimension, settings), centres)


def append_clusters(
    partition: Any, centres: Centres | None, column: Any, names: tuple[str, str], dimension: int
) -> Any:
    """Return a partition with the cluster of each row, and its distance to the centre."""
    types = dict(zip(names, (pa.int32(), pa.float32()), strict=True))
    if centres is None or not len(partition):
        return empty_columns(partition, types)
    vectors, valid = vectors_of(partition, column, dimension)
    found = kmeans.assign(vectors, centres)
    columns = [scattered(each, valid) for each in found]
    return append_columns(partition, dict(zip(names, columns, strict=True)))


# ------------------------------------------------------------------------------------ lazy nodes
class Fit(OneTask):
    """The `Centres` of a vector column."""

    _parameters = ["frame", "column", "dimension", "settings"]  # noqa: RUF012 - as in Dask
    ndim = 0  # Dask broadcasts what has no dimension: frames that share it stay aligned
    _funcname = "kmeans"

    def __str__(self) -> str:
        return f"kmeans({self.column})"

    @property
    def told(self) -> str:
        """What the step does, for `dask_embed.explain`."""
        how: Settings = self.operand("settings")
        column, sample = self.operand("column"), f"{how.most_hashes:,} rows at most"
        return (
            f"find {how.n_clusters} clusters of {column} by k-means ({how.metric}): {how.init} on "
            f"{sample}, then up to {how.max_iter} steps over all rows"
        )

    def _layer(self) -> dict[Any, Any]:
        graph = StepGraph("kmeans", self.deterministic_token)
        parts = partitions_of(self.frame)
        settings: Settings = self.operand("settings")
        how = (self.operand("column"), self.operand("dimension"), settings)
        hashes = graph.each("hashes", _hashes, parts, *how)
        joined = functools.partial(kmeans.joined_hashes, most=settings.most_hashes)
        lowest = graph.tree("lowest", joined, hashes)
        samples = graph.each("sample", _sampled, parts, *how, lowest)
        centres = graph.add("first", 0, _first, List(*samples), lowest, settings)
        for step in range(settings.max_iter):
            sums = graph.each(f"sums-{step}", _sums, parts, *how, centres)
            total = graph.tree(f"sum-{step}", kmeans.joined_sums, sums)
            centres = graph.add("step", step, kmeans.moved, centres, List(total))
        graph.result((self._name, 0), centres)
        return graph.tasks


class ClusterRows(ComputedRows):
    """`frame` with the nearest centre of each row."""

    _parameters = ["frame", "centres", "column", "names", "dimension"]  # noqa: RUF012
    operation = staticmethod(append_clusters)

    @functools.cached_property
    def _meta(self) -> Any:
        return append_clusters(self.frame._meta, None, *self.operands[2:])

    @property
    def made(self) -> set[str]:
        return set(self.names)

    @property
    def reads(self) -> set[str]:
        return {self.column}

    @property
    def labels(self) -> list[str]:
        return ["cluster"]

    @property
    def told(self) -> str:
        """What the step does, for `dask_embed.explain`."""
        return f"append the nearest centre to {self.column} -> {', '.join(self.names)}"

    def provenance(self) -> dict[str, Any]:
        """Return what made the clusters, for files: settings of k-means, or known centres."""
        centres = self.operand("centres")
        if isinstance(centres, Fit):
            found = dataclasses.asdict(centres.operand("settings"))
        else:
            found = {"metric": centres.metric, "centres": f"token-{tokenize(centres.values)}"}
        return {"operator": "KMeans", "input": [self.column], **found}

    def _depth(self, cache: Any = None) -> int:
        return 1  # after an operator, which takes longer


class ClusterEach(SameRows, ClusterRows):
    """With centres that are known: each row for itself."""


class ClusterAll(OfAllRows, ClusterRows):
    """With centres of all rows."""


def fitted(frame: Any, column: Any, settings: Settings) -> Fit:
    """Return the lazy centres of a vector column."""
    return Fit(frame[[column]].expr, column, lazy_dimension(frame[column]), settings)


def with_clusters(frame: Any, centres: Any, column: Any, names: tuple[str, str]) -> Any:
    """Return the Dask DataFrame with cluster and distance of each row, nothing computed."""
    for name in names:
        non_empty_string("output", name)
        if name in frame.columns:
            raise ValueError(
                f"output column {name!r} already exists; drop it first or choose another name with "
                f"output=; the columns are {shown(list(frame.columns))}"
            )
    dimension = lazy_dimension(frame[column])
    node = ClusterAll if isinstance(centres, Expr) else ClusterEach
    return new_collection(node(frame.expr, centres, column, names, dimension))
