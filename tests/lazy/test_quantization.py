"""Vectors in small types: mistakes are errors before any work, files open everywhere."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask.dataframe as dd
import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dask.base import tokenize
from support.contract import assert_matches_meta, cut, lazy, shared_tiny_bert, values_of

import dask_embed as de
from dask_embed.lazy.arrays import lazy_dimension

pytestmark = pytest.mark.usefixtures("one_torch_thread")

DIMENSION = 32
LOW, HIGH = [-1.0] * DIMENSION, [1.0] * DIMENSION
PRECISIONS = ("float16", "int8", "uint8", "binary", "ubinary")
CALIBRATED = ("int8", "uint8")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return shared_tiny_bert(tmp_path_factory)


@pytest.fixture(scope="module")
def pdf() -> pd.DataFrame:
    texts = [None if i % 5 == 2 else f"row {i} " + "word " * (i * 7 % 6) for i in range(24)]
    return pd.DataFrame({"id": range(24), "text": pd.Series(texts, dtype="str")})


@pytest.fixture(scope="module")
def exact(model: str, pdf: pd.DataFrame) -> pd.DataFrame:
    return pdf.ml.embed(model=model)


def vector_column(array: Any, dtype: str = "float32") -> pd.DataFrame:
    """A frame of an id and vectors, null where the row is None."""
    size = next(len(row) for row in array if row is not None)
    vectors = pd.Series(array, dtype=pd.ArrowDtype(pa.list_(pa.type_for_alias(dtype), size)))
    return pd.DataFrame({"id": range(len(array)), "v": vectors})


# --------------------------------------------------------------------------------------- ranges
def test_calibration_ranges(exact: pd.DataFrame) -> None:
    """Lowest and highest value of each dimension, on pandas and over all partitions."""
    rows = [row for row in values_of(exact["embedding"]) if row is not None]
    wanted = np.array([np.min(rows, axis=0), np.max(rows, axis=0)], "float32")
    nulls = exact[exact["text"].isna()]
    for series in (exact["embedding"], lazy([*cut(exact, [3, 3, 17]), nulls])["embedding"]):
        given = de.calibration_ranges(series)
        assert given.dtype == np.float32
        np.testing.assert_array_equal(given, wanted)


def test_calibration_ranges_of_many_partitions(exact: pd.DataFrame) -> None:
    """More than Dask joins at once."""
    frame = lazy(cut(exact, range(1, 24)))
    assert frame.npartitions == 24
    np.testing.assert_array_equal(
        de.calibration_ranges(frame["embedding"]), de.calibration_ranges(exact["embedding"])
    )


def test_ranges_of_no_vector(exact: pd.DataFrame) -> None:
    """Zeros, so that what is calibrated by nothing stores nothing but nulls."""
    nulls = exact[exact["text"].isna()]
    for frame in (nulls, exact.iloc[:0]):
        given = de.calibration_ranges(frame["embedding"])
        np.testing.assert_array_equal(given, np.zeros((2, DIMENSION), "float32"))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_nothing_but_nulls_or_no_rows(exact: pd.DataFrame, precision: str) -> None:
    nulls = exact[exact["text"].isna()]
    for frame in (nulls, exact.iloc[:0], lazy([nulls, nulls]), lazy([exact.iloc[:0]])):
        out = de.quantize(frame, "embedding", precision)
        whole = out.compute() if hasattr(out, "compute") else out
        assert whole["embedding"].isna().all()
        assert len(whole) == len(frame)
        assert_matches_meta(whole, de.quantize(exact.iloc[:0], "embedding", precision))


@pytest.mark.parametrize("precision", CALIBRATED)
@pytest.mark.parametrize("rows", [[0], [0, 0, 2, 0]], ids=["one", "equal"])
def test_vectors_that_tell_no_range(exact: pd.DataFrame, precision: str, rows: list[int]) -> None:
    """Every value would be the lowest: an error, also where partitions have one row each."""
    frame = exact.iloc[rows].reset_index(drop=True)
    parts = lazy([*cut(frame, range(1, len(frame))), frame.iloc[:0]])
    lazily = de.quantize(parts, "embedding", precision)
    for run in (lambda: de.quantize(frame, "embedding", precision), lazily.compute):
        with pytest.raises(ValueError, match="only one, or all are equal; give ranges="):
            run()
    low = np.zeros((2, DIMENSION), "float32")
    with pytest.raises(ValueError, match="ranges end where they begin"):
        de.quantize(frame, "embedding", precision, ranges=low)


@pytest.mark.parametrize("precision", CALIBRATED)
def test_a_dimension_that_is_always_equal(exact: pd.DataFrame, precision: str) -> None:
    """Beside others it takes steps of 1, as in sentence-transformers."""
    from sentence_transformers.util import quantize_embeddings

    rows = [[1.5, -0.25, float(number)] for number in (3, 1, 2)]
    wanted = quantize_embeddings(np.array(rows, "float32"), precision)
    frame = vector_column(rows)
    for given in (frame, lazy(cut(frame, [1]))):
        out = de.quantize(given, "v", precision)
        whole = out.compute() if hasattr(out, "compute") else out
        assert values_of(whole["v"]) == wanted.tolist()


# --------------------------------------------------------------------------------------- errors
BAD_RANGES = {
    "one row": ([LOW], r"shape \(2, dimension\)"),
    "three rows": ([LOW, HIGH, HIGH], r"shape \(2, dimension\)"),
    "flat": (LOW, r"shape \(2, dimension\)"),
    "ragged": ([LOW, HIGH[:-1]], r"shape \(2, dimension\)"),
    "text": ("int8", r"shape \(2, dimension\)"),
    "a number": (1.0, r"shape \(2, dimension\)"),
    "NaN": ([[float("nan")] * DIMENSION, HIGH], "finite"),
    "infinite": ([LOW, [float("inf")] * DIMENSION], "finite"),
    "upside down": ([[*LOW[:5], 2.0, *LOW[6:]], HIGH], "dimension 5 begin at 2.0"),
    "another dimension": ([LOW[:8], HIGH[:8]], "8 dimensions but the vectors have 32"),
}
OPERATOR_ERRORS = {
    "unknown precision": ({"precision": "int7"}, "int8", "'int7'"),
    "no precision": ({"precision": None}, "precision", "None"),
    "ranges with float32": ({"ranges": [LOW, HIGH]}, "'int8'", "'float32'"),
    "ranges with binary": ({"ranges": [LOW, HIGH], "precision": "binary"}, "'int8'", "'binary'"),
    "tokens": ({"pooling": "none", "precision": "float16"}, "pooling='none'", "'float16'"),
    "twelve signs": ({"precision": "binary", "truncate_dim": 12}, "12", "truncate_dim"),
    "twenty signs": ({"precision": "ubinary", "truncate_dim": 20}, "20", "'ubinary'"),
}


@pytest.mark.parametrize("on_dask", [False, True], ids=["pandas", "Dask"])
@pytest.mark.parametrize("name", BAD_RANGES)
def test_bad_ranges(
    model: str, pdf: pd.DataFrame, rows_through_model: Callable, name: str, on_dask: bool
) -> None:
    ranges, message = BAD_RANGES[name]
    frame = dd.from_pandas(pdf, npartitions=2) if on_dask else pdf

    def apply() -> None:
        with pytest.raises(ValueError, match=message) as caught:
            frame.ml.embed(model=model, precision="int8", ranges=ranges)
        assert "\n" not in str(caught.value)

    assert rows_through_model(apply) == 0


@pytest.mark.parametrize("on_dask", [False, True], ids=["pandas", "Dask"])
@pytest.mark.parametrize("name", OPERATOR_ERRORS)
def test_operator_errors(
    model: str, pdf: pd.DataFrame, rows_through_model: Callable, name: str, on_dask: bool
) -> None:
    options, *says = OPERATOR_ERRORS[name]
    frame = dd.from_pandas(pdf, npartitions=2) if on_dask else pdf

    def apply() -> None:
        with pytest.raises(ValueError, match=r".") as caught:
            frame.ml.embed(model=model, **options)
        assert all(part in str(caught.value) for part in says)
        assert "\n" not in str(caught.value)

    assert rows_through_model(apply) == 0


@pytest.mark.parametrize("precision", CALIBRATED)
def test_a_frame_in_memory_is_not_calibrated_by_itself(
    model: str, pdf: pd.DataFrame, rows_through_model: Callable, precision: str
) -> None:
    """A part of a dataset would get ranges of its own; the error says what to do instead."""

    def apply() -> None:
        with pytest.raises(ValueError, match=r"quantize\(frame.*or give ranges="):
            pdf.ml.embed(model=model, precision=precision)

    assert rows_through_model(apply) == 0


@pytest.mark.parametrize("precision", CALIBRATED)
def test_map_partitions_is_not_calibrated(
    model: str, pdf: pd.DataFrame, rows_through_model: Callable, precision: str
) -> None:
    """Each partition would be calibrated by itself."""
    operator = de.Embedder(model, precision=precision)
    ddf = dd.from_pandas(pdf, npartitions=2)
    out = ddf.map_partitions(operator, meta=operator.meta(ddf._meta))

    def compute() -> None:
        with pytest.raises(ValueError, match="calibrated over a whole Dask DataFrame"):
            out.compute()

    assert rows_through_model(compute) == 0


@pytest.mark.parametrize("on_dask", [False, True], ids=["pandas", "Dask"])
@pytest.mark.parametrize(
    ("column", "precision", "ranges", "error", "message"),
    [
        ("w", "int8", None, ValueError, "'w' is not in the dataframe"),
        ("id", "int8", None, TypeError, "vectors|id"),
        ("v", "float32", None, ValueError, "precision"),
        ("v", "binry", None, ValueError, "did you mean 'binary'"),
        ("v", "binary", [[0.0] * 8, [1.0] * 8], ValueError, "'int8' and 'uint8'"),
        ("v", "int8", [[0.0] * 4, [1.0] * 4], ValueError, "4 dimensions"),
        ("v", "int8", [[2.0] * 8, [1.0] * 8], ValueError, "dimension 0"),
        ("small", "uint8", None, TypeError, "float32 is needed"),
        ("odd", "binary", None, ValueError, "3"),
    ],
)
def test_quantize_errors(
    column: str, precision: str, ranges: Any, error: Any, message: str, on_dask: bool
) -> None:
    """At once, also on Dask."""
    pdf = vector_column([[0.5] * 8, None, [1.0] * 8])
    pdf["small"] = vector_column([[1] * 8] * 3, "int8")["v"]
    pdf["odd"] = vector_column([[1.0] * 3] * 3)["v"]
    frame = lazy([pdf, pdf]) if on_dask else pdf
    with pytest.raises(error, match=message):
        de.quantize(frame, column, precision, ranges=ranges)


def test_null_rows_have_no_small_number(exact: pd.DataFrame) -> None:
    """Integers have no NaN: `to_array` says so; without the nulls it works."""
    for precision in ("int8", "uint8", "binary", "ubinary"):
        column = de.quantize(exact, "embedding", precision)["embedding"]
        with pytest.raises(ValueError, match=r"5 rows without a vector.*dropna"):
            de.to_array(column)
        assert de.to_array(column.dropna()).shape[0] == 19
    half = de.to_array(de.quantize(exact, "embedding", "float16")["embedding"])
    assert np.isnan(half).all(axis=1).tolist() == exact["text"].isna().tolist()
    assert half.dtype == np.float16


# ---------------------------------------------------------------------------------------- files
@pytest.mark.parametrize("precision", PRECISIONS)
def test_parquet_opens_everywhere(
    model: str, pdf: pd.DataFrame, tmp_path: Path, precision: str
) -> None:
    out = dd.from_pandas(pdf, npartitions=3).ml.embed(model=model, precision=precision)
    whole = out.compute()
    wanted = values_of(whole["embedding"])
    out.ml.to_parquet(tmp_path / "v")
    read = de.read_parquet(tmp_path / "v")
    assert read["embedding"].dtype == whole["embedding"].dtype
    assert values_of(read.compute()["embedding"]) == wanted
    files = sorted((tmp_path / "v").glob("*.parquet"))
    plain = pd.concat(pd.read_parquet(file) for file in files)["embedding"]
    assert [None if row is None else row.tolist() for row in plain] == wanted
    assert pl.read_parquet(tmp_path / "v" / "*.parquet")["embedding"].to_list() == wanted
    query = f"select embedding from read_parquet('{tmp_path}/v/*.parquet') order by id"
    rows = duckdb.sql(query).fetchall()
    assert [None if row is None else list(row) for (row,) in rows] == wanted


@pytest.mark.parametrize("precision", ["binary", "int8"])
def test_files_say_what_they_hold(
    model: str, pdf: pd.DataFrame, tmp_path: Path, precision: str
) -> None:
    """A reader needs the precision and the ranges to make queries that fit."""
    ranges = [LOW, HIGH] if precision == "int8" else None
    out = dd.from_pandas(pdf, npartitions=2)
    out = out.ml.embed(model=model, precision=precision, ranges=ranges)
    out.ml.to_parquet(tmp_path / "v")
    metadata = pq.read_schema(next((tmp_path / "v").glob("*.parquet"))).metadata
    about = json.loads(metadata[b"dask_embed"])["columns"]["embedding"]
    assert about["precision"] == precision
    assert about["ranges"] == ranges
    assert about["dimension"] == DIMENSION


@pytest.mark.parametrize("precision", PRECISIONS)
def test_files_of_quantized_vectors_say_so(
    model: str, pdf: pd.DataFrame, tmp_path: Path, precision: str
) -> None:
    """The precision that is in the file, not the float32 that it was made from."""
    out = dd.from_pandas(pdf, npartitions=2).ml.embed(model=model)
    de.quantize(out, "embedding", precision).ml.to_parquet(tmp_path / "v")
    metadata = pq.read_schema(next((tmp_path / "v").glob("*.parquet"))).metadata
    about = json.loads(metadata[b"dask_embed"])["columns"]["embedding"]
    assert about["precision"] == precision


# --------------------------------------------------------------------------------------- tokens
def test_tokens_are_equal_in_every_process(model: str, pdf: pd.DataFrame) -> None:
    """Whatever the ranges were given as; other ranges are another operator."""
    ranges = np.linspace(-1, 1, 2 * DIMENSION, dtype="float32").reshape(2, DIMENSION)
    here = {
        tokenize(de.Embedder(model, precision="int8", ranges=given))
        for given in (ranges, ranges.tolist(), ranges.astype("float64"))
    }
    code = (
        "import sys, numpy as np, dask_embed as de; from dask.base import tokenize;"
        "ranges = np.linspace(-1, 1, 64, dtype='float32').reshape(2, 32);"
        "print(tokenize(de.Embedder(sys.argv[1], precision='int8', ranges=ranges)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, model], capture_output=True, text=True, check=True
    )
    assert here == {run.stdout.strip()}
    assert tokenize(de.Embedder(model, precision="int8", ranges=ranges * 2)) not in here
    assert tokenize(de.Embedder(model, precision="uint8", ranges=ranges)) not in here
    hash(de.Embedder(model, precision="int8", ranges=ranges))


@pytest.mark.parametrize(("precision", "size"), [("int8", DIMENSION), ("ubinary", DIMENSION // 8)])
def test_a_plan_tells_the_dimension_of_what_is_stored(
    model: str, pdf: pd.DataFrame, precision: str, size: int
) -> None:
    """The lists of cuDF have no size, so the plan is asked: the last node that made the column."""
    lazy_frame = de.quantize(dd.from_pandas(pdf).ml.embed(model=model), "embedding", precision)
    column = lazy_frame["embedding"]
    no_size = SimpleNamespace(expr=column.expr, name="embedding", _meta=None)
    assert lazy_dimension(no_size) == size
