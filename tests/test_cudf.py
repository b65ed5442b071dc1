"""cuDF partitions and Dask-CUDA, against sentence-transformers on the CPU."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import dask_embed as de

pytestmark = pytest.mark.cudf

TEXTS = ["a lazy table", None, "merge two tables on a key", "", "a lazy table", "é 漢字 🙂"] * 4


@pytest.fixture(scope="module")
def expected(minilm: str) -> np.ndarray:
    from sentence_transformers import SentenceTransformer

    reference = SentenceTransformer(minilm, device="cpu")
    present = [text for text in TEXTS if text is not None]
    vectors = np.full((len(TEXTS), 384), np.nan, np.float32)
    vectors[[text is not None for text in TEXTS]] = reference.encode(present)
    return vectors


def _model(minilm: str) -> de.Model:
    return de.Model(minilm, dtype="float32", device="cuda")


def test_vectors_stay_on_the_device_and_equal_the_reference(
    minilm: str, expected: np.ndarray
) -> None:
    import cudf
    import cupy

    frame = cudf.DataFrame({"text": TEXTS}, index=np.arange(len(TEXTS))[::-1])
    out = de.Embedder(_model(minilm))(frame)
    vectors = de.to_array(out["embedding"])
    assert isinstance(out["embedding"].dtype, cudf.ListDtype)
    assert isinstance(vectors, cupy.ndarray)
    assert out["embedding"].isna().to_pandas().tolist() == [text is None for text in TEXTS]
    np.testing.assert_allclose(cupy.asnumpy(vectors), expected, atol=1e-4)


def test_meta_equals_what_comes(minilm: str) -> None:
    import cudf

    operator = de.Embedder(_model(minilm), on_error="null")
    frame = cudf.DataFrame({"text": TEXTS})
    empty = operator(frame.iloc[:0])
    assert operator(frame).dtypes.to_dict() == operator.meta(frame).dtypes.to_dict()
    assert empty.dtypes.to_dict() == operator.meta(frame).dtypes.to_dict()


def test_pandas_partitions_on_a_gpu(minilm: str, expected: np.ndarray) -> None:
    out = de.Embedder(_model(minilm))(pd.DataFrame({"text": TEXTS}))
    np.testing.assert_allclose(de.to_array(out["embedding"]), expected, atol=1e-4)


def test_half_precision_runs_packed_and_close(minilm: str, expected: np.ndarray) -> None:
    from dask_embed.inference.runner import runner_for

    operator = de.Embedder(de.Model(minilm, dtype="bfloat16", device="cuda"))
    out = operator(pd.DataFrame({"text": TEXTS}))
    vectors = de.to_array(out["embedding"])
    present = ~np.isnan(expected[:, 0])
    cosine = (vectors[present] * expected[present]).sum(axis=1)
    assert runner_for(operator.pinned().spec).verdict.packed
    assert cosine.min() > 0.999


def test_dask_cudf_and_parquet(minilm: str, expected: np.ndarray, tmp_path) -> None:
    import dask.dataframe as dd

    frame = dd.from_pandas(pd.DataFrame({"id": range(len(TEXTS)), "text": TEXTS}), npartitions=3)
    lazy = frame.to_backend("cudf").ml.embed("text", model=_model(minilm))
    lazy.ml.to_parquet(tmp_path / "vectors")
    read = de.read_parquet(tmp_path / "vectors").compute().sort_values("id")
    stored = [np.full(384, np.nan) if v is None else np.asarray(v) for v in read["embedding"]]
    np.testing.assert_allclose(np.stack(stored), expected, atol=1e-4)


def test_local_cuda_cluster_holds_one_model_per_gpu(minilm: str, expected: np.ndarray) -> None:
    import dask.dataframe as dd
    from dask_cuda import LocalCUDACluster
    from distributed import Client

    from dask_embed.runtime import registry

    frame = dd.from_pandas(pd.DataFrame({"text": TEXTS}), npartitions=4).to_backend("cudf")
    with (
        LocalCUDACluster(CUDA_VISIBLE_DEVICES=[0], dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        out = frame.ml.embed("text", model=_model(minilm)).compute(scheduler=client)
        held = client.run(lambda: len(registry.loaded()))
    assert set(held.values()) == {1}
    np.testing.assert_allclose(de.to_array(out["embedding"]).get(), expected, atol=1e-4)
