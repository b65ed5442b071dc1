"""cuDF partitions and Dask-CUDA, against sentence-transformers on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import dask_embed as de
from dask_embed.columns import to_host

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


def _vectors() -> Any:
    """Return a frame with vectors, the middle row without one."""
    import cudf

    return cudf.DataFrame({"id": [1, 2, 3], "vector": [[1.0, -2], None, [-5.0, 6]]}).astype(
        {"vector": cudf.ListDtype("float32")}
    )


def test_ranges_of_a_frame_in_memory() -> None:
    """The dimension is told by the values: the type of lists has none."""
    ranges = de.calibration_ranges(_vectors()["vector"])
    np.testing.assert_array_equal(ranges, [[-5, -2], [1, 6]])


def test_integers_have_no_value_for_a_missing_vector() -> None:
    small = de.quantize(_vectors(), "vector", "int8", ranges=[[-5, -2], [1, 6]])
    with pytest.raises(ValueError, match="1 rows without a vector, and int8 has no value"):
        de.to_array(small["vector"])


@pytest.mark.parametrize("together", ["concat", "merge"])
def test_lists_keep_their_type_where_frames_are_put_together(together: str) -> None:
    """dask-cudf's own made-up rows would make lists of lists of them."""
    import cudf
    import dask.dataframe as dd

    frame = dd.from_pandas(_vectors(), npartitions=1)
    other = dd.from_pandas(cudf.DataFrame({"id": [1, 2, 3]}), npartitions=1)
    made = dd.concat([frame, frame]) if together == "concat" else frame.merge(other, on="id")
    assert made._meta["vector"].dtype == cudf.ListDtype("float32")
    assert made.compute()["vector"].dtype == cudf.ListDtype("float32")


def test_duplicates_by_numbers() -> None:
    import cudf
    import dask.dataframe as dd

    frame = cudf.DataFrame({"text": ["a", "a", "a"], "number": [1, 2, 1]})
    lazy = dd.from_pandas(frame, npartitions=2)
    marked = lazy.ml.mark_exact_duplicates(["text", "number"]).compute()
    assert marked["exact_kept"].to_pandas().tolist() == [True, True, False]


def test_the_host_has_nested_values_and_whole_numbers() -> None:
    """pandas would have objects, which Dask takes for texts, and floats of integers."""
    import cudf

    number = 2**60 + 1
    frame = cudf.DataFrame({"number": [number, None], "scores": [{"a": 0.5}, None]})
    host = to_host(frame)
    assert host["number"].tolist()[0] == number
    assert host["scores"].dtype.pyarrow_dtype == pa.struct([("a", pa.float64())])


def test_declared_columns_may_return_lists_unchanged() -> None:
    same = de.declare_columns(
        lambda part: part.assign(more=part["id"] + 1), reads=["id", "vector"], writes=["more"]
    )
    assert same(_vectors())["more"].to_pandas().tolist() == [2, 3, 4]


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
