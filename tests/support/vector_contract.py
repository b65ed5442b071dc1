"""The dataframe contract of operators on vector columns, as tests that each inherits.

A test class overrides the fixtures `operator`, and `expected` with the rows of its results as
another library has them, for the vectors of `VECTORS`.
"""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import cloudpickle
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from dask.base import tokenize

from support.contract import (
    INDEXES,
    ROWS,
    assert_matches_meta,
    backend_named,
    cut,
    float32_on_gpus,
    lazy,
    values_of,
)

DIMENSION = 6
TOLERANCE = 1e-5
NULLS = (2, 7)


def _vectors() -> np.ndarray:
    """Rows of unlike lengths, a repeat (0 and 5), a zero vector (4)."""
    vectors = np.random.default_rng(11).normal(size=(ROWS, DIMENSION)).astype("float32")
    vectors *= np.array([1, 3, 1, 0.2, 0, 1, 5, 1, 2], "float32")[:, None]
    vectors[5] = vectors[0]
    return vectors


VECTORS = _vectors()
VALID = np.array([row not in NULLS for row in range(ROWS)])


def column(values: np.ndarray, valid: np.ndarray | None = None, *, fixed: bool = True) -> pd.Series:
    """Return a vector column of fixed-size or of plain Arrow lists."""
    mask = None if valid is None else pa.array(~valid)
    size = values.shape[1]
    array = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), size, mask=mask)
    if not fixed:
        array = array.cast(pa.list_(array.type.value_type))
    return pd.Series(pd.arrays.ArrowExtensionArray(array))


def vector_frame(values: Any = VECTORS, valid: Any = VALID, index: Any = None) -> pd.DataFrame:
    """Return a frame with the vector column between others."""
    count = len(values)
    frame = pd.DataFrame({"id": np.arange(count) * 3, "embedding": column(values, valid)})
    frame["weight"] = np.linspace(0, 1, count, dtype="float32")
    return frame if index is None else frame.set_axis(index)


def rows_of(operator: Any, frame: Any) -> list[list[Any]]:
    columns = [values_of(frame[name]) for name in operator.output_columns]
    return [list(row) for row in zip(*columns, strict=True)]


def assert_rows(given: list[list[Any]], expected: list[list[Any]]) -> None:
    """Compare names exactly, numbers within tolerance."""
    assert len(given) == len(expected)
    for left, right in zip(given, expected, strict=True):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            if isinstance(other, dict):
                assert list(one) == list(other)
                assert list(one.values()) == pytest.approx(list(other.values()), abs=TOLERANCE)
            elif isinstance(other, float):
                assert one == pytest.approx(other, abs=TOLERANCE)
            else:
                assert one == other


def expected_rows(names: list[str], scores: np.ndarray, *, every: bool) -> list[list[Any]]:
    """Return the rows for scores of shape (rows, names) by the reference; null where `NULLS`."""
    rows: list[list[Any]] = []
    for row, values in enumerate(scores):
        best = int(np.argmax(values))
        found: list[Any] = [names[best], float(values[best])]
        if every:
            found.append(dict(zip(names, map(float, values), strict=True)))
        rows.append([None] * len(found) if row in NULLS else found)
    return rows


class VectorContract:
    """What holds for every operator on a vector column."""

    @pytest.fixture(scope="class", params=["pandas", pytest.param("cudf", marks=pytest.mark.cudf)])
    @classmethod
    def backend(cls, request):
        with float32_on_gpus():
            yield backend_named(request.param)

    def test_several_answers(self, expected):
        """The vectors do not all have one answer, or the other tests would show little."""
        assert len({row[0] for row in expected if row[0] is not None}) > 2

    @pytest.mark.parametrize("kind", INDEXES)
    def test_index_and_row_order(self, operator, backend, expected, kind):
        """Any index comes back as it was and every row keeps its own result."""
        if backend.name == "cudf" and kind == "with null":
            pytest.skip("cuDF tells nulls from NaN in an index")
        frame = vector_frame(index=INDEXES[kind])
        out = backend.to_pandas(operator(backend.from_pandas(frame)))
        pd.testing.assert_index_equal(out.index, INDEXES[kind], exact=True)
        assert_rows(rows_of(operator, out), expected)

    def test_other_columns_stay(self, operator, expected):
        """Result columns come last; the others keep values, dtypes and order."""
        frame = vector_frame()
        before = frame.copy(deep=True)
        out = operator(frame)
        assert list(out.columns) == [*frame.columns, *operator.output_columns]
        pd.testing.assert_frame_equal(out[list(frame.columns)], before)
        pd.testing.assert_frame_equal(frame, before)

    @pytest.mark.parametrize("npartitions", [1, 2, 4, ROWS])
    def test_partitioning(self, operator, backend, expected, npartitions):
        """A Dask DataFrame gives the same, however it is cut, with the dtypes that it announced."""
        frame = backend.from_pandas(vector_frame())
        out = operator(dd.from_pandas(frame, npartitions=npartitions, sort=False))
        assert out.npartitions == npartitions
        computed = out.compute()
        assert_matches_meta(computed, out._meta)
        assert_rows(rows_of(operator, backend.to_pandas(computed)), expected)

    def test_empty_among_others(self, operator, expected):
        parts = cut(vector_frame(), [0, 2, 3, 3, 7, 8, ROWS])
        out = operator(lazy(parts))
        for part in out.partitions:
            assert_matches_meta(part.compute(), out._meta)
        assert_rows(rows_of(operator, out.compute()), expected)

    def test_all_null(self, operator):
        frame = vector_frame(valid=np.zeros(ROWS, bool))
        out = operator(frame)
        assert all(value is None for row in rows_of(operator, out) for value in row)
        assert_matches_meta(out, operator.meta(frame.iloc[:0]))

    def test_order_and_repeats(self, operator, expected):
        order = [8, 0, 0, 3, 8, 2, 6, 1]
        assert_rows(
            rows_of(operator, operator(vector_frame().iloc[order])), [expected[i] for i in order]
        )

    def test_lists_without_a_size(self, operator, expected):
        """Plain lists, as other writers of Parquet have them; with nulls and without."""
        frame = vector_frame().assign(embedding=column(VECTORS, VALID, fixed=False))
        assert_rows(rows_of(operator, operator(frame)), expected)
        whole = frame[VALID]
        kept = [row for row in expected if row[0] is not None]
        assert_rows(rows_of(operator, operator(whole)), kept)
        assert_rows(rows_of(operator, operator(whole.iloc[2:])), kept[2:])

    @pytest.mark.parametrize("dtype", ["float16", "float64"])
    def test_other_floats(self, operator, expected, dtype):
        """They are computed in float32; float16 costs its rounding."""
        out = operator(vector_frame(VECTORS.astype(dtype)))
        scores = [row[1] for row in rows_of(operator, out)]
        wanted = [row[1] for row in expected]
        assert [s is None for s in scores] == [w is None for w in wanted]
        pairs = [(s, w) for s, w in zip(scores, wanted, strict=True) if w is not None]
        rounding = 0.02 if dtype == "float16" else TOLERANCE
        assert np.allclose(*zip(*pairs, strict=True), atol=rounding, rtol=rounding)

    @pytest.mark.parametrize("dtype", ["int8", "uint8"])
    def test_integers_are_numbers(self, operator, dtype):
        """Integers give what the same numbers in float32 give."""
        numbers = np.random.default_rng(3).integers(0, 100, VECTORS.shape).astype(dtype)
        given = rows_of(operator, operator(vector_frame(numbers)))
        assert_rows(given, rows_of(operator, operator(vector_frame(numbers.astype("float32")))))
        assert len({str(row) for row in given}) > 2

    def test_bad_vectors(self, operator, expected):
        """A NaN, or a list of another length, is an error that names the row, or null."""
        broken = VECTORS.copy()
        broken[3, 1] = np.nan
        short = [list(map(float, v)) if ok else None for v, ok in zip(VECTORS, VALID, strict=True)]
        short[3] = [1.0, 2.0]
        dtype = pd.ArrowDtype(pa.list_(pa.float32()))
        frames = {
            "not finite": vector_frame(broken),
            "2 dimensions": vector_frame().assign(embedding=pd.Series(short, dtype=dtype)),
        }
        quiet = replace(operator, on_error="null")
        for message, frame in frames.items():
            with pytest.raises(ValueError, match=rf"row 3 of the partition.*{message}"):
                operator(frame)
            out = quiet(frame)
            errors = values_of(out[f"{operator.output}_error"])
            assert [row for row, text in enumerate(errors) if text is not None] == [3]
            assert message in errors[3]
            kept = [row for row in range(ROWS) if row != 3]
            given = rows_of(operator, out)
            assert given[3] == [None] * len(operator.output_columns)
            assert_rows([given[row] for row in kept], [expected[row] for row in kept])
            assert_matches_meta(quiet(lazy(cut(frame, [4]))).compute(), quiet.meta(frame.iloc[:0]))

    def test_partition_of_another_type(self, operator, expected):
        """Another dimension, or no vectors at all, in one partition: its rows are refused."""
        frame, quiet = vector_frame(), replace(operator, on_error="null")
        kinds = {
            "4 dimensions": column(VECTORS[:, :4], VALID),
            "float64 in this partition": pd.Series(np.where(VALID, 1.5, np.nan)),
            "str in this partition": pd.Series(np.where(VALID, "x", None), dtype="str"),
        }
        for message, series in kinds.items():
            parts = lazy([frame, frame.assign(embedding=series)], frame.iloc[:0])
            with pytest.raises(ValueError, match=rf"row 0 of the.*'embedding': .*{message}"):
                operator(parts).compute()
            out = quiet(parts).compute()
            errors = values_of(out[f"{operator.output}_error"])
            assert [text is not None and message in text for text in errors[ROWS:]] == [*VALID]
            none = [None] * len(operator.output_columns)
            assert_rows(rows_of(operator, out), [*expected, *[none] * ROWS])

    @pytest.mark.parametrize("make", [lambda f: f, lambda f: dd.from_pandas(f, npartitions=2)])
    def test_wrong_columns(self, operator, make):
        """Another dimension, packed signs, text or no such column: an error before any work."""
        narrow = vector_frame(VECTORS[:, :4])
        message = rf"'embedding' holds vectors of dimension 4; .* {DIMENSION}"
        with pytest.raises(ValueError, match=message):
            operator(make(narrow))
        with pytest.raises(TypeError, match=r"'embedding' has dtype .* vectors are needed"):
            operator(make(narrow.assign(embedding="text")))
        with pytest.raises(ValueError, match="'embedding' is not in the dataframe"):
            operator(make(narrow.drop(columns="embedding")))
        clash = vector_frame().assign(**{operator.output_columns[-1]: 1})
        with pytest.raises(ValueError, match="already exists"):
            operator(make(clash))

    @pytest.mark.parametrize("library", [pickle, cloudpickle], ids=lambda module: module.__name__)
    def test_plain_values(self, operator, expected, library):
        """Copies are equal, hash alike, have one Dask token and give the same."""
        copy = library.loads(library.dumps(operator))
        assert copy == operator
        assert hash(copy) == hash(operator)
        assert tokenize(copy) == tokenize(operator)
        assert tokenize(replace(operator, output="other")) != tokenize(operator)
        assert_rows(rows_of(operator, copy(vector_frame())), expected)

    def test_unused_results_run_nothing(self, operator):
        """Not wanted, it is taken out of the plan; five rows of head are five rows here."""
        from dask_embed.runtime.stats import records

        out = operator(dd.from_pandas(vector_frame(), npartitions=3, sort=False))
        before = len(records())
        assert out[["id"]].compute().shape == (ROWS, 1)
        assert len(records()) == before
        assert len(out.head(2)) == 2
        (record,) = records()[before:]
        assert (record.operator, record.rows) == (type(operator).__name__, 2)
