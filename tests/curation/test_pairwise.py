"""Neighbours and near pairs by blocks are those of all products, digit by digit."""

from __future__ import annotations

import tracemalloc
from typing import Any

import dask
import numpy as np
import pytest
import torch

from dask_embed.curation import kmeans, products
from dask_embed.curation.measures import Measure, unit
from dask_embed.curation.pairwise import (
    Best,
    Neighbours,
    near_pairs,
    near_pairs_between,
    nearest_by_tokens,
    nearest_rows,
)

ROWS, DIMENSION = 5000, 24
METRICS = ("cosine", "dot", "euclidean")


def some_vectors(dtype: str, rows: int = ROWS) -> np.ndarray:
    """Vectors with rows of zeros, and some that are equal far from each other."""
    numbers = np.random.default_rng(0).normal(size=(rows, DIMENSION)) * 30
    vectors = numbers.clip(0 if dtype == "uint8" else -120, 120).astype(dtype)
    vectors[100] = 0
    vectors[rows - 40 : rows - 5] = vectors[10]
    vectors[7] = vectors[rows - 1]
    return vectors


def similarities(queries: np.ndarray, vectors: np.ndarray, metric: str) -> np.ndarray:
    """All similarities in float64, by the definitions."""
    left, right = queries.astype(float), vectors.astype(float)
    if metric == "euclidean":
        return -np.sqrt(((left[:, None] - right[None]) ** 2).sum(axis=2))
    if metric == "cosine":
        left, right = (
            each / np.maximum(np.linalg.norm(each, axis=1, keepdims=True), 1e-12)
            for each in (left, right)
        )
    return left @ right.T


def best(found: np.ndarray, k: int) -> np.ndarray:
    """The rows of the highest values, of those that are equal but for rounding the first."""
    places = np.broadcast_to(np.arange(found.shape[1]), found.shape)
    return np.lexsort((places, -found.round(6)), axis=1)[:, :k]


def joined(parts: list[Neighbours], starts: list[int], k: int) -> Best:
    """What the parts of some vectors give together."""
    both = Best(len(parts[0].rows), k)
    queries = np.repeat(np.arange(len(parts[0].rows)), k)
    for part, start in zip(parts, starts, strict=True):
        there = part.rows.ravel() >= 0
        rows, values = part.rows.ravel()[there] + start, part.similarities.ravel()[there]
        both.add(queries[there], rows, values)
    return both


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "uint8"])
def test_neighbours_are_those_of_all_products(dtype: str, metric: str) -> None:
    vectors = some_vectors(dtype)
    queries = vectors[[10, 7, 100, 2500, 4999]]
    expected = similarities(queries, vectors, metric)
    rows = best(expected, 6)
    found = nearest_rows(queries, vectors, 6, metric)
    assert found.rows.tolist() == rows.tolist()
    wanted = np.take_along_axis(expected, rows, axis=1)
    np.testing.assert_allclose(found.similarities, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("metric", METRICS)
def test_parts_give_the_same_as_the_whole(metric: str) -> None:
    """Bit by bit, although products of other blocks have other last digits."""
    vectors = some_vectors("float32")
    queries = vectors[::500]
    whole = nearest_rows(queries, vectors, 6, metric)
    for cuts in ([1], [3, 4, 4300], list(range(97, ROWS, 97))):
        parts = [nearest_rows(queries, part, 6, metric) for part in np.split(vectors, cuts)]
        both = joined(parts, [0, *cuts], 6)
        assert both.rows.tolist() == whole.rows.tolist()
        assert both.similarities.tolist() == whole.similarities.tolist()


def test_neighbours_are_those_of_faiss() -> None:
    faiss = pytest.importorskip("faiss")
    vectors = some_vectors("float32")[:4000]
    for metric, index in (
        ("dot", faiss.IndexFlatIP(DIMENSION)),
        ("euclidean", faiss.IndexFlatL2(DIMENSION)),
    ):
        index.add(vectors)
        values, rows = index.search(vectors[200:240], 5)
        found = nearest_rows(vectors[200:240], vectors, 5, metric)
        assert found.rows.tolist() == rows.tolist()
        wanted = values if metric == "dot" else -np.sqrt(np.maximum(values, 0))
        np.testing.assert_allclose(found.similarities, wanted, rtol=1e-4, atol=0.1)


def test_small_distances_far_from_zero_keep_their_digits() -> None:
    steps = np.random.default_rng(1).permutation(2000).astype("float32")[:, None]
    vectors = np.full((2000, DIMENSION), 1000, "float32") + steps * np.float32(2**-10)
    found = nearest_rows(vectors[:50], vectors, 3, "euclidean")
    expected = similarities(vectors[:50], vectors, "euclidean")
    assert found.rows.tolist() == best(expected, 3).tolist()


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_packed_signs_by_the_bits_that_differ(dtype: str) -> None:
    """One of them stores each byte as a number 128 below it, as sentence-transformers does."""
    signs = np.random.default_rng(3).normal(size=(800, 64)) > 0
    packed = np.packbits(signs, axis=1)
    vectors = (packed.astype(int) - 128).astype("int8") if dtype == "int8" else packed
    differing = (signs[:20, None] != signs[None]).sum(axis=2)
    found = nearest_rows(vectors[:20], vectors, 15, "hamming")
    assert found.rows.tolist() == best(-differing, 15).tolist()
    assert found.similarities.tolist() == (-np.sort(differing, axis=1)[:, :15]).tolist()


def test_left_out_rows_and_too_few_rows() -> None:
    vectors = some_vectors("float32")[:5]
    found = nearest_rows(vectors, vectors, 7, "cosine", leave_out=np.array([0, 1, 2, 3, -1]))
    assert (found.rows >= 0).sum(axis=1).tolist() == [4, 4, 4, 4, 5]
    assert not (found.rows[:4] == np.arange(4)[:, None]).any()
    assert np.isinf(found.similarities[found.rows < 0]).all()
    none = nearest_rows(vectors, vectors[:0], 2, "cosine")
    assert none.rows.tolist() == [[-1, -1]] * 5


def test_all_rows_equal() -> None:
    """The first ones, also where every product is as high as the best."""
    vectors = np.ones((9000, 4), "float32")
    found = nearest_rows(vectors[:3], vectors, 4, "cosine")
    assert found.rows.tolist() == [[0, 1, 2, 3]] * 3


def test_late_interaction_is_the_sum_of_the_best_products() -> None:
    random = np.random.default_rng(0)
    lengths = random.integers(1, 9, 1500)
    documents = [unit(random.normal(size=(n, 8)).astype("float32")) for n in lengths]
    documents[1200] = documents[3]
    queries = [random.normal(size=(n, 8)).astype("float32") for n in (3, 1, 7)]
    queries.append(documents[3])
    expected = np.array(
        [[(q @ d.T.astype(float)).max(axis=1).sum() for d in documents] for q in queries]
    )
    found = nearest_by_tokens(queries, documents, 5)
    assert found.rows.tolist() == best(expected, 5).tolist()
    assert found.rows[3, :2].tolist() == [3, 1200]
    np.testing.assert_allclose(found.similarities[:, 0], expected.max(axis=1), rtol=1e-6)
    others = nearest_by_tokens(documents[:2], documents, 2, leave_out=np.array([0, 1]))
    assert others.rows[0, 0] != 0
    assert others.rows[1, 0] != 1


def pairs_of(found: Any) -> dict[tuple[int, int], float]:
    return {
        (int(left), int(right)): float(value)
        for part in found
        for left, right, value in zip(*part, strict=True)
    }


@pytest.mark.parametrize("metric", METRICS)
def test_near_pairs_are_all_that_are_near(metric: str) -> None:
    vectors = some_vectors("float32", 1200)
    every = similarities(vectors, vectors, metric)
    highest = np.sort(every[np.triu_indices(1200, 1)])[-1000:]
    threshold = float(highest[:2].mean())  # between two of them
    near = np.argwhere(every >= threshold)
    expected = {(int(left), int(right)) for left, right in near if left < right}
    found = pairs_of(near_pairs(vectors, threshold, metric))
    assert found.keys() == expected
    for (left, right), value in found.items():
        assert value == pytest.approx(every[left, right], rel=1e-6, abs=1e-6)


def test_near_pairs_between_two_sets() -> None:
    vectors = some_vectors("float32", 3000)
    left, right = vectors[:1100], vectors[1100:]
    expected = np.argwhere(similarities(left, right, "cosine") >= 0.6)
    assert len(expected) > 50
    assert pairs_of(near_pairs_between(left, right, 0.6, "cosine")).keys() == {
        (int(i), int(j)) for i, j in expected
    }


def test_no_value_for_each_pair_is_held() -> None:
    """8,000 rows have 64 million pairs, 256 MB of float32."""
    vectors = np.random.default_rng(0).normal(size=(8000, 8)).astype("float32")
    tracemalloc.start()
    try:
        nearest_rows(vectors, vectors, 3, "cosine")
        sum(len(part.left) for part in near_pairs(vectors, 0.99, "cosine"))
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()


def test_cosine_of_a_zero_vector_is_zero() -> None:
    zero, one = np.zeros((1, 3), "float32"), np.ones((1, 3), "float32")
    assert Measure("cosine").of_pairs(zero, one).tolist() == [0]


# -------------------------------------------------------------------------------- on another device
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", ["highest", "high"])
def test_products_of_torch_change_no_digit(
    device: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They only say what is worth a look: rows, their order and similarities are the same."""
    before = torch.get_float32_matmul_precision()
    for metric in METRICS:
        vectors = some_vectors("float32")
        queries, out = vectors[::50], np.arange(0, ROWS, 50)
        wanted = nearest_rows(queries, vectors, 6, metric, leave_out=out)
        least = float(np.quantile(wanted.similarities, 0.5))
        pairs = list(near_pairs(vectors[:3000], least, metric))
        with monkeypatch.context() as patch:
            patch.setattr(products, "product_device", lambda: device)
            torch.set_float32_matmul_precision(precision)
            try:
                found = nearest_rows(queries, vectors, 6, metric, leave_out=out)
                also = list(near_pairs(vectors[:3000], least, metric))
            finally:
                torch.set_float32_matmul_precision(before)
        assert found.rows.tolist() == wanted.rows.tolist()
        assert found.similarities.tolist() == wanted.similarities.tolist()
        assert sum(len(part.left) for part in pairs) > 20
        for one, other in zip(pairs, also, strict=True):
            assert [each.tolist() for each in one] == [each.tolist() for each in other]


@pytest.mark.parametrize("device", DEVICES)
def test_clusters_by_products_of_torch(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = some_vectors("float32")
    centres = kmeans.Centres(vectors[[1, 500, 900, 3000]], "euclidean")
    wanted, sums = kmeans.assign(vectors, centres), kmeans.partial_sums(vectors, centres)
    monkeypatch.setattr(products, "product_device", lambda: device)
    found, also = kmeans.assign(vectors, centres), kmeans.partial_sums(vectors, centres)
    assert found.clusters.tolist() == wanted.clusters.tolist()
    assert found.distances.tolist() == wanted.distances.tolist()
    np.testing.assert_array_equal(also.counts, sums.counts)
    np.testing.assert_array_equal(also.sums, sums.sums)
    np.testing.assert_allclose(also.inertia, sums.inertia, rtol=1e-6)


def test_a_gpu_that_is_asked_for_and_not_there() -> None:
    assert products.product_device() is None
    if torch.cuda.is_available():
        pytest.skip("torch has a GPU")
    with (
        dask.config.set({"embed.product-device": "cuda"}),
        pytest.raises(ValueError, match="no GPU"),
    ):
        nearest_rows(np.ones((2, 3), "float32"), np.ones((4, 3), "float32"), 1, "dot")
    with (
        dask.config.set({"embed.product-device": "gpu"}),
        pytest.raises(ValueError, match="'auto'"),
    ):
        products.product_device()
