"""k-means of vector columns: what scikit-learn finds, the same in any partitions."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs
from sklearn.metrics import adjusted_rand_score, pairwise_distances_argmin
from support import tiny
from support.clusters import cluster

import dask_embed as de
from dask_embed.curation import kmeans
from dask_embed.curation.kmeans import Centres
from dask_embed.curation.vectors import vector_series
from dask_embed.jobs.lineage import origins

ROWS, DIMENSION, CLUSTERS = 2000, 12, 7


def blobs(spread: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    vectors, labels = make_blobs(
        ROWS, DIMENSION, centers=CLUSTERS, cluster_std=spread, random_state=4
    )
    return vectors.astype("float32"), labels


def frame_of(vectors: np.ndarray) -> pd.DataFrame:
    frame = pd.DataFrame({"id": range(len(vectors))})
    frame["embedding"] = vector_series(vectors)
    return frame


def lazy(frame: pd.DataFrame, npartitions: int = 4) -> Any:
    return dd.from_pandas(frame, npartitions=npartitions, sort=False)


def scaled(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


# ---------------------------------------------------------------------------------------- kernels
def test_one_step_is_that_of_scikit_learn() -> None:
    vectors, _ = blobs(6.0)
    start = vectors[:CLUSTERS]
    reference = KMeans(CLUSTERS, init=start, n_init=1, max_iter=1).fit(vectors)
    parts = np.split(vectors, [5, 900])
    first = Centres(start, "euclidean")
    step = kmeans.moved(first, [kmeans.partial_sums(part, first) for part in parts])
    np.testing.assert_allclose(step.values, reference.cluster_centers_, rtol=1e-4, atol=1e-4)
    found = kmeans.assign(vectors, first)
    assert found.clusters.tolist() == pairwise_distances_argmin(vectors, start).tolist()
    distances = np.linalg.norm(vectors.astype(float) - start[found.clusters], axis=1)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-6)
    assert step.inertia == pytest.approx((distances**2).sum(), rel=1e-5)


def test_a_spherical_step_by_hand() -> None:
    vectors = np.array([[3, 0], [2, 2], [0, 5], [0, 1]], "float32")
    first = Centres(np.array([[1, 0], [0, 1]], "float32"), "cosine")
    step = kmeans.moved(first, [kmeans.partial_sums(vectors, first)])
    # the second row is as near to both: the first one takes it
    angle = np.pi / 8
    np.testing.assert_allclose(step.values, [[np.cos(angle), np.sin(angle)], [0, 1]], atol=1e-6)
    found = kmeans.assign(vectors, step)
    assert found.clusters.tolist() == [0, 0, 1, 1]
    np.testing.assert_allclose(found.distances, [1 - np.cos(angle)] * 2 + [0, 0], atol=1e-6)


def test_the_sample_is_of_rows_not_of_places() -> None:
    vectors, _ = blobs()
    mixed = np.random.default_rng(0).permutation(ROWS)
    whole = kmeans.lowest_hashes(vectors, 3, 100)
    parts = [kmeans.lowest_hashes(part, 3, 100) for part in np.split(vectors[mixed], [10, 1500])]
    assert kmeans.joined_hashes(parts, 100).lowest.tolist() == whole.lowest.tolist()
    _, sample = kmeans.sampled(vectors, 3, int(whole.lowest[-1]))
    assert len(sample) == 100
    assert kmeans.lowest_hashes(vectors, 4, 100).lowest.tolist() != whole.lowest.tolist()


def test_hashes_are_spread_evenly() -> None:
    """Over all values that there are, and over each part of 16 of them."""
    hashes = kmeans.row_hashes(np.random.default_rng(0).normal(size=(20_000, 3)), 0)
    assert len(np.unique(hashes)) == 20_000
    for bits in (0, 30, 60):
        counts = np.bincount((hashes >> np.uint64(bits)).astype(np.int64) & 15, minlength=16)
        assert abs(counts - 1250).max() < 5 * np.sqrt(1250)


def test_clusters_without_rows_keep_their_centre_and_equal_rows_make_one() -> None:
    far = Centres(np.array([[0, 0], [99, 99]], "float32"), "euclidean")
    step = kmeans.moved(far, [kmeans.partial_sums(np.ones((3, 2), "float32"), far)])
    assert step.values.tolist() == [[1, 1], [99, 99]]
    equal = kmeans.first_centres(
        np.ones((9, 2), "float32"), 4, metric="euclidean", init="k-means++", seed=0, tol=1e-4
    )
    assert equal.values.tolist() == [[1, 1]]


# ------------------------------------------------------------------------------------------ lazily
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("init", ["k-means++", "random"])
def test_clusters_that_lie_apart_are_found(metric: str, init: str) -> None:
    vectors, labels = blobs(0.3)
    seed = 0 if init == "k-means++" else 5  # a random start may leave two in one
    options = {"metric": metric, "init": init, "seed": seed, "max_iter": 8}
    out = lazy(frame_of(vectors)).ml.cluster(n_clusters=CLUSTERS, **options).compute()
    if init == "k-means++":
        assert adjusted_rand_score(labels, out.cluster) == 1
    given = scaled(vectors) if metric == "cosine" else vectors
    centres = np.stack([given[out.cluster == each].mean(axis=0) for each in range(CLUSTERS)])
    assert (out.cluster == pairwise_distances_argmin(given, centres)).mean() > 0.99
    assert (out.dtypes.cluster, out.dtypes.cluster_distance) == ("int32[pyarrow]", "float[pyarrow]")


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_inertia_is_about_that_of_scikit_learn(metric: str) -> None:
    """With a sample of a quarter of the rows, and clusters that overlap."""
    vectors, _ = blobs(5.0)
    given = scaled(vectors) if metric == "cosine" else vectors
    fitted = KMeans(20, n_init=3, random_state=0).fit(given)
    reference = fitted.inertia_
    if metric == "cosine":  # of centres of length one, which scikit-learn has not
        reference = (2 - 2 * (given @ scaled(fitted.cluster_centers_).T).max(axis=1)).sum()
    series = lazy(frame_of(vectors)).embedding
    for seed in range(3):
        found = de.KMeans(20, metric=metric, seed=seed, sample=500, max_iter=20).fit(series)
        assert found.inertia < 1.05 * reference
        assert found.steps > 1


def test_the_same_in_any_order_and_partitions() -> None:
    vectors, _ = blobs(4.0)
    vectors[50:60] = vectors[5]
    frame = frame_of(vectors)
    options: dict[str, Any] = {"n_clusters": 9, "sample": 300, "fit_data_fraction": 0.7}
    first = lazy(frame, 1).ml.cluster(**options).compute().set_index("id")
    for npartitions, seed in ((4, 1), (16, 2)):
        mixed = frame.sample(frac=1, random_state=seed)
        out = lazy(mixed, npartitions).ml.cluster(**options).compute().set_index("id").sort_index()
        assert out.cluster.tolist() == first.cluster.tolist()
        np.testing.assert_allclose(out.cluster_distance, first.cluster_distance, atol=1e-6)
    assert (lazy(frame).ml.cluster(**options, seed=1).compute().cluster != first.cluster).any()


def test_steps_end_when_nothing_moves() -> None:
    series = lazy(frame_of(blobs(0.3)[0])).embedding
    found = de.KMeans(CLUSTERS, metric="euclidean", max_iter=30).fit(series)
    assert found.converged
    assert found.steps < 5
    none = de.KMeans(CLUSTERS, max_iter=0).fit(series)
    assert (none.steps, none.converged) == (0, False)


def test_rows_without_a_vector_have_no_cluster() -> None:
    frame = frame_of(blobs()[0])
    frame.loc[[3, 900], "embedding"] = None
    out = lazy(frame).ml.cluster(n_clusters=3).compute()
    assert out.index[out.cluster.isna()].tolist() == [3, 900]
    assert out.index[out.cluster_distance.isna()].tolist() == [3, 900]
    empty = lazy(frame)[lazy(frame).id < 0].ml.cluster(n_clusters=3).compute()
    assert len(empty) == 0
    with pytest.raises(ValueError, match="column 'embedding' has no vectors to fit centres to"):
        de.KMeans(2).fit(lazy(frame[frame.embedding.isna()], 1).embedding)


def test_vectors_that_are_not_finite_are_an_error() -> None:
    vectors, _ = blobs()
    vectors[7, 3] = np.nan
    with pytest.raises(ValueError, match=r"row 7 of the partition: column .*NaN or infinite"):
        lazy(frame_of(vectors)).ml.cluster(n_clusters=3).compute()


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_other_types_are_numbers(precision: str) -> None:
    vectors, labels = blobs(0.3)
    small = de.quantize(lazy(frame_of(vectors)), "embedding", precision)
    out = small.ml.cluster(n_clusters=CLUSTERS, metric="euclidean").compute()
    assert adjusted_rand_score(labels, out.cluster) == 1


def test_known_centres_and_files(tmp_path: Path) -> None:
    vectors, _ = blobs(3.0)
    frame = lazy(frame_of(vectors))
    found = de.KMeans(5, metric="euclidean").fit(frame.embedding)
    found.save(tmp_path / "c.safetensors")
    again = de.FittedKMeans.load(tmp_path / "c.safetensors")
    assert again.centres.tolist() == found.centres.tolist()
    assert (again.metric, again.inertia, again.steps) == ("euclidean", found.inertia, found.steps)
    expected = pairwise_distances_argmin(vectors, found.centres).tolist()
    for known in (found, again, tmp_path / "c.safetensors", str(tmp_path / "c.safetensors")):
        assert frame.ml.cluster(centres=known).compute().cluster.tolist() == expected
    out = frame.ml.cluster(centres=found.centres, metric="euclidean", output="k", distance="d")
    assert out.compute().k.tolist() == expected
    assert list(out.columns) == ["id", "embedding", "k", "d"]
    fitted = frame.ml.cluster(n_clusters=5, metric="euclidean").compute()
    assert fitted.cluster.tolist() == expected


# ---------------------------------------------------------------------------------- what is run
@pytest.fixture(scope="module")
def texts() -> pd.DataFrame:
    corpus = list(tiny.corpus()[:60])
    return pd.DataFrame({"id": range(60), "text": corpus})


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.save("bert", tmp_path_factory.mktemp("clusters") / "bert"))


READERS: dict[str, tuple[int, Callable[[Any], Any]]] = {
    "all": (60, lambda out: out),
    "a selection": (60, lambda out: out[["id", "cluster"]]),
    "a filter on clusters": (60, lambda out: out[out.cluster == 1][["id"]]),
    "a filter on rows, of which all decide": (60, lambda out: out[out.id < 9]),
    "only other columns": (0, lambda out: out[["id"]]),
    "only the number of rows": (0, lambda out: out.index.size),
}


@pytest.mark.parametrize("reader", READERS)
def test_the_model_runs_once(
    texts: pd.DataFrame, bert: str, rows_through_model: Any, reader: str
) -> None:
    rows, read = READERS[reader]
    embedded = lazy(texts, 3).ml.embed("text", model=bert)
    assert rows_through_model(read(embedded.ml.cluster(n_clusters=4)).compute) == rows


def test_filters_pass_known_centres(
    texts: pd.DataFrame, bert: str, rows_through_model: Any
) -> None:
    embedded = lazy(texts, 3).ml.embed("text", model=bert)
    out = embedded.ml.cluster(centres=np.eye(32)[:3])
    assert rows_through_model(out[out.id < 9].compute) == 9


def test_spaces_do_not_mix(texts: pd.DataFrame, bert: str, tmp_path: Path) -> None:
    mean = lazy(texts, 2).ml.embed("text", model=bert)
    cls = lazy(texts, 2).ml.embed("text", model=bert, pooling="cls")
    centres = de.KMeans(2).fit(mean.embedding)
    message = r"pooling=\['cls'\], but the centres are of .*pooling=\['mean'\]: these are differ"
    with pytest.raises(ValueError, match=message):
        cls.ml.cluster(centres=centres)
    cls.ml.to_parquet(tmp_path / "cls")
    with pytest.raises(ValueError, match=message):
        de.read_parquet(tmp_path / "cls").ml.cluster(centres=centres)
    both = dd.concat([mean, cls])
    with pytest.raises(
        ValueError, match=r"column 'embedding' holds vectors .*its other rows are of"
    ):
        both.ml.cluster(n_clusters=2)
    assert len(both.ml.cluster(n_clusters=2, check=False).compute()) == 120
    mean.ml.cluster(centres=centres)  # cut to other lengths, the texts are in one space
    lazy(texts, 2).ml.embed("text", model=bert, max_chars=9).ml.cluster(centres=centres)
    packed = lazy(texts, 2).ml.embed("text", model=bert, precision="ubinary")
    with pytest.raises(ValueError, match=r"packed signs \(precision 'ubinary'\), which have no ce"):
        packed.ml.cluster(n_clusters=2)


def test_clusters_tell_what_made_them(texts: pd.DataFrame, bert: str, tmp_path: Path) -> None:
    """The plan, and files, to which other clusters are not appended."""
    embedded = lazy(texts, 2).ml.embed("text", model=bert)
    out = embedded.ml.cluster(n_clusters=3, seed=1)[["id", "cluster"]]
    plan = io.StringIO()
    de.explain(out, file=plan)
    assert (
        "find 3 clusters of embedding by k-means (cosine): k-means++ on 50,000" in plan.getvalue()
    )
    assert "append the nearest centre to embedding -> cluster, cluster_dist" in plan.getvalue()
    out.ml.to_parquet(tmp_path / "out")
    told = origins(de.read_parquet(tmp_path / "out"))["cluster"]
    assert (told.told["operator"], told.told["n_clusters"], told.told["seed"]) == ("KMeans", 3, 1)
    assert told.inputs["embedding"].told["pooling"] == ["mean"]
    other = embedded.ml.cluster(n_clusters=3, seed=2)[["id", "cluster"]]
    with pytest.raises(ValueError, match=r"seed=1 in the files, but .*seed=2 in the frame"):
        other.ml.to_parquet(tmp_path / "out", append=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "n_clusters, or centres that are known; got neither"),
        ({"n_clusters": 2, "centres": [[1.0] * DIMENSION]}, "centres that are known; got both"),
        ({"n_clusters": 0}, "n_clusters must be a positive integer, got 0"),
        ({"n_clusters": "auto"}, "n_clusters must be a positive integer, got 'auto'"),
        ({"n_clusters": "two"}, "n_clusters must be a positive integer or 'auto', got 'two'"),
        ({"n_clusters": 2, "metric": "dot"}, "metric must be one of 'cosine', 'euclidean'"),
        ({"n_clusters": 2, "init": "kmeans++"}, r"did you mean 'k-means\+\+'"),
        ({"n_clusters": 9, "sample": 3}, "at least a row for each of the 9 clusters, got 3"),
        ({"n_clusters": 2, "fit_data_fraction": 0}, "fit_data_fraction must be above 0"),
        ({"n_clusters": 2, "fit_data_fraction": 1.5}, "fit_data_fraction must be from 0 to 1"),
        ({"n_clusters": 2, "tol": "small"}, "tol must be a number"),
        ({"n_clusters": 2, "column": "id"}, "vectors are needed"),
        ({"n_clusters": 2, "column": "vector"}, "column 'vector' is not in the dataframe"),
        ({"n_clusters": 2, "output": "id"}, "output column 'id' already exists"),
        ({"n_clusters": 2, "output": 3}, "output must be a string"),
        ({"centres": [[1.0, 2.0]]}, "centres are of dimension 2, the vectors .* of 12"),
        ({"centres": "nowhere"}, "no file or folder"),
        ({"centres": [1.0]}, "centres must be a FittedKMeans"),
        ({"n_cluster": 2}, "did you mean 'n_clusters'"),
    ],
)
def test_bad_arguments_are_told_on_the_client(options: dict[str, Any], message: str) -> None:
    frame = lazy(frame_of(blobs()[0][:20]), 2)
    with pytest.raises((TypeError, ValueError), match=message):
        frame.ml.cluster(**options)


def test_repr_and_frames_in_memory() -> None:
    frame = frame_of(blobs()[0])
    found = de.KMeans(3, seed=2).fit(frame.embedding)
    assert repr(found) == "FittedKMeans(3 clusters x 12, metric='cosine')"
    assert repr(de.KMeans(3, seed=2)) == "KMeans(3, seed=2)"
    assert (
        found.centres.tolist() == de.KMeans(3, seed=2).fit(lazy(frame).embedding).centres.tolist()
    )
    with pytest.raises(TypeError, match="takes one column of a dataframe"):
        de.KMeans(3).fit(frame)


@pytest.mark.slow
def test_workers_of_a_cluster_agree() -> None:
    frame = frame_of(blobs(4.0)[0])
    out = lazy(frame, 5).ml.cluster(n_clusters=6)
    with cluster(2, 1, processes=True) as client:
        got = client.compute(out).result()
    pd.testing.assert_frame_equal(got, out.compute())
