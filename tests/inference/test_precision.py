"""Stored precisions are those of sentence-transformers, calibrated over the whole dataset."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.util.quantization import quantize_embeddings
from support.contract import TEXTS, assert_matches_meta, cut, lazy, shared_tiny_bert, values_of

import dask_embed as de

pytestmark = pytest.mark.usefixtures("one_torch_thread")

DIMENSION = 32
ARROW = {
    "float16": pa.list_(pa.float16(), DIMENSION),
    "int8": pa.list_(pa.int8(), DIMENSION),
    "uint8": pa.list_(pa.uint8(), DIMENSION),
    "binary": pa.list_(pa.int8(), DIMENSION // 8),
    "ubinary": pa.list_(pa.uint8(), DIMENSION // 8),
}
CALIBRATED = ("int8", "uint8")
# Several unsorted lengths, repeats, nulls and an empty string; more rows than the contract's.
ALL_TEXTS = [*TEXTS, *(f"row {i} of {'many ' * (i * 7 % 11)}words" for i in range(50)), None]
VALID = [text is not None for text in ALL_TEXTS]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return shared_tiny_bert(tmp_path_factory)


@pytest.fixture(scope="module")
def pdf() -> pd.DataFrame:
    index = pd.Index(np.arange(len(ALL_TEXTS)) * 7 % 13, name="key")  # with repeats
    text = pd.Series(ALL_TEXTS, dtype="str", index=index)
    return pd.DataFrame({"id": np.arange(len(ALL_TEXTS)), "text": text}, index=index)


@pytest.fixture(scope="module")
def exact(model: str, pdf: pd.DataFrame) -> pd.DataFrame:
    """The float32 vectors, which other tests hold to sentence-transformers'."""
    return pdf.ml.embed(model=model)


@pytest.fixture(scope="module")
def vectors(exact: pd.DataFrame) -> np.ndarray:
    """Those of the rows that have one."""
    return de.to_array(exact["embedding"].dropna())


@pytest.fixture(scope="module")
def ranges(vectors: np.ndarray) -> np.ndarray:
    """Narrower than the data: some values lie outside."""
    return np.quantile(vectors, [0.05, 0.95], axis=0).astype("float32")


def uneven(frame: pd.DataFrame) -> Any:
    """Partitions of other sizes, one without rows and one of nulls alone."""
    nulls = frame[frame["text"].isna()]
    return lazy([*cut(frame, [4, 4, 9, 41]), nulls, frame.iloc[:0]])


def expected(vectors: np.ndarray, precision: str, **calibration: Any) -> np.ndarray:
    if precision == "float16":
        return vectors.astype("float16")
    return quantize_embeddings(vectors, precision, **calibration)


def assert_same_steps(given: Any, wanted: np.ndarray) -> None:
    """Equal, but for float32 rounding: one step in at most a thousandth of the values."""
    given = np.asarray(given)
    assert given.dtype == wanted.dtype
    assert given.shape == wanted.shape
    difference = np.abs(given.astype("float64") - wanted.astype("float64"))
    if wanted.dtype == np.float16:
        np.testing.assert_array_equal(given, wanted)
        return
    assert difference.max(initial=0) <= 1
    assert (difference > 0).mean() <= 1e-3


def assert_stored(frame: pd.DataFrame, precision: str, wanted: np.ndarray) -> None:
    """The column has its type, nulls where there is no text, and the wanted vectors."""
    column = frame["embedding"]
    assert column.dtype == pd.ArrowDtype(ARROW[precision])
    assert column.isna().tolist() == frame["text"].isna().tolist()
    assert_same_steps(de.to_array(column.dropna()), wanted)


# -------------------------------------------------------------------------------- the same values
@pytest.mark.parametrize("precision", ["float16", "binary", "ubinary"])
def test_operator_on_pandas(
    model: str, pdf: pd.DataFrame, vectors: np.ndarray, precision: str
) -> None:
    operator = de.Embedder(model, precision=precision)
    out = operator(pdf)
    assert_stored(out, precision, expected(vectors, precision))
    assert_matches_meta(out, operator.meta(pdf.iloc[:0]))
    pd.testing.assert_frame_equal(out[["id", "text"]], pdf)


@pytest.mark.parametrize("precision", CALIBRATED)
def test_operator_with_ranges(
    model: str, pdf: pd.DataFrame, vectors: np.ndarray, ranges: np.ndarray, precision: str
) -> None:
    """The same on pandas and Dask; values outside the ranges are clipped, as there."""
    operator = de.Embedder(model, precision=precision, ranges=ranges)
    wanted = expected(vectors, precision, ranges=ranges)
    assert {np.iinfo(wanted.dtype).min, np.iinfo(wanted.dtype).max} <= set(wanted.ravel())
    assert_stored(operator(pdf), precision, wanted)
    assert_matches_meta(operator(pdf), operator.meta(pdf.iloc[:0]))
    assert_stored(operator(uneven(pdf).partitions[:5]).compute(), precision, wanted)


@pytest.mark.parametrize("precision", ARROW)
def test_operator_on_dask(
    model: str, pdf: pd.DataFrame, vectors: np.ndarray, precision: str
) -> None:
    """Without ranges they are those of the whole dataset, not of each partition."""
    out = uneven(pdf).ml.embed(model=model, precision=precision)
    kept = out.partitions[:5] if precision not in CALIBRATED else out
    whole = kept.compute().iloc[: len(pdf)]
    assert_stored(whole, precision, expected(vectors, precision))
    for partition in out.to_delayed():
        assert_matches_meta(partition.compute(), out._meta)


@pytest.mark.parametrize("precision", ARROW)
def test_quantize(exact: pd.DataFrame, vectors: np.ndarray, precision: str) -> None:
    """On pandas, and on a Dask DataFrame of uneven partitions."""
    wanted = expected(vectors, precision)
    assert_stored(de.quantize(exact, "embedding", precision), precision, wanted)
    out = de.quantize(uneven(exact), "embedding", precision)
    whole = out.compute()
    assert list(whole.columns) == list(exact.columns)
    assert_stored(whole.iloc[: len(exact)], precision, wanted)
    for partition in out.to_delayed():
        assert_matches_meta(partition.compute(), out._meta)


@pytest.mark.parametrize("precision", CALIBRATED)
def test_quantize_with_ranges(
    exact: pd.DataFrame, vectors: np.ndarray, ranges: np.ndarray, precision: str
) -> None:
    wanted = expected(vectors, precision, ranges=ranges)
    for given in (ranges, ranges.tolist(), ranges.astype("float64")):
        out = de.quantize(exact, "embedding", precision, ranges=given)
        assert_stored(out, precision, wanted)
    out = de.quantize(uneven(exact), "embedding", precision, ranges=ranges).compute()
    assert_stored(out.iloc[: len(exact)], precision, wanted)


def test_steps_by_hand() -> None:
    """Ranges of 0 to 255 make the steps whole numbers, so the results can be read off."""
    column = [[0.0, 0.5], [0.99, 1.0], [127.5, 128.0], [254.999, 255.0], [-3.0, 300.0]]
    series = pd.Series(column, dtype=pd.ArrowDtype(pa.list_(pa.float32(), 2)))
    frame = pd.DataFrame({"v": series})
    ranges = [[0, 0], [255, 255]]
    places = [[0, 0], [0, 1], [127, 128], [254, 255], [0, 255]]
    given = values_of(de.quantize(frame, "v", "uint8", ranges=ranges)["v"])
    assert given == places
    signed = [[value - 128 for value in row] for row in places]
    assert values_of(de.quantize(frame, "v", "int8", ranges=ranges)["v"]) == signed


def test_signs_by_hand() -> None:
    """The first dimension is the highest bit; zero and below are 0; signed means minus 128."""
    row = [1.0, -1.0, 0.0, 2.0, -0.0, 1e-30, -5.0, 3.0]  # 1 0 0 1 0 1 0 1 = 149
    frame = pd.DataFrame({"v": pd.Series([row], dtype=pd.ArrowDtype(pa.list_(pa.float32(), 8)))})
    assert values_of(de.quantize(frame, "v", "ubinary")["v"]) == [[149]]
    assert values_of(de.quantize(frame, "v", "binary")["v"]) == [[21]]


@pytest.mark.parametrize("precision", CALIBRATED)
def test_a_dimension_that_never_changes(precision: str) -> None:
    """Its range is empty: no division by zero, the lowest step, as in the reference."""
    array = np.array([[1.0, 3.0], [1.0, 4.0], [1.0, 3.3]], "float32")
    dtype = pd.ArrowDtype(pa.list_(pa.float32(), 2))
    frame = pd.DataFrame({"v": pd.Series(array.tolist(), dtype=dtype)})
    given = de.to_array(de.quantize(frame, "v", precision)["v"])
    assert_same_steps(given, quantize_embeddings(array, precision))


@pytest.mark.parametrize("precision", ["int8", "ubinary", "float16"])
def test_vectors_are_cut_and_normalized_first(
    model: str, pdf: pd.DataFrame, precision: str, tmp_path: Path
) -> None:
    """Matryoshka: quantized is what sentence-transformers gives with `truncate_dim`."""
    reference = SentenceTransformer(model, device="cpu", truncate_dim=16)
    texts = [text for text in ALL_TEXTS if text is not None]
    short = reference.encode(texts, show_progress_bar=False, normalize_embeddings=True)
    options = {"truncate_dim": 16, "normalize": True, "precision": precision}
    out = dd.from_pandas(pdf, npartitions=3, sort=False).ml.embed(model=model, **options)
    given = de.to_array(out.compute()["embedding"].dropna())
    wanted = expected(short, precision)
    assert given.shape == wanted.shape
    difference = np.abs(given.astype("float64") - wanted.astype("float64"))
    if precision == "ubinary":  # values near zero may change sign by rounding
        assert (difference > 0).mean() <= 0.02
    else:
        assert difference.max() <= (1 if precision == "int8" else 1e-3)
        assert (difference > 1e-6).mean() <= (0.02 if precision == "int8" else 0.1)


# --------------------------------------------------------------------------------------- lazily
@pytest.fixture
def ddf(pdf: pd.DataFrame) -> Any:
    return dd.from_pandas(pdf, npartitions=4, sort=False)


def test_nothing_runs_before_compute(
    model: str, ddf: Any, rows_through_model: Callable[..., int]
) -> None:
    def build() -> None:
        out = ddf.ml.embed(model=model, precision="int8")
        out = de.quantize(ddf.ml.embed(model=model), "embedding", "uint8")[["embedding"]]
        out.optimize()
        de.to_array(out["embedding"])

    assert rows_through_model(build) == 0


@pytest.mark.parametrize("precision", CALIBRATED)
def test_each_row_runs_once(
    model: str, ddf: Any, rows_through_model: Callable[..., int], precision: str
) -> None:
    """Calibration and result share the vectors."""
    out = ddf.ml.embed(model=model, precision=precision)
    assert rows_through_model(out.compute) == sum(VALID)
    assert rows_through_model(out[["embedding"]].compute) == sum(VALID)
    assert rows_through_model(out.embedding.compute) == sum(VALID)


@pytest.mark.parametrize("precision", ARROW)
def test_without_the_column_no_model_runs(
    model: str, ddf: Any, pdf: pd.DataFrame, rows_through_model: Callable[..., int], precision: str
) -> None:
    out = ddf.ml.embed(model=model, precision=precision)
    results = []
    assert rows_through_model(lambda: results.append(out[["id"]].compute())) == 0
    assert rows_through_model(lambda: results.append(out.id.compute().to_frame())) == 0
    assert rows_through_model(lambda: results.append(out[out.id > 9][["id"]].compute())) == 0
    pd.testing.assert_frame_equal(results[0], pdf[["id"]])
    pd.testing.assert_frame_equal(results[1], pdf[["id"]])
    pd.testing.assert_frame_equal(results[2], pdf[["id"]][pdf.id > 9])


@pytest.mark.parametrize("precision", CALIBRATED)
def test_head_and_filters_do_not_change_the_calibration(
    model: str, ddf: Any, vectors: np.ndarray, precision: str
) -> None:
    """A row is stored the same however many others are asked for."""
    out = ddf.ml.embed(model=model, precision=precision)
    wanted = pd.Series(list(quantize_embeddings(vectors, precision)), np.flatnonzero(VALID))
    kept = out[out.id > 20]
    for frame in (out.head(5), kept.compute(), out.partitions[1].compute(), out.tail(3)):
        present = frame.dropna(subset=["embedding"])
        assert len(present)
        assert_same_steps(de.to_array(present["embedding"]), np.stack(wanted[present["id"]]))
