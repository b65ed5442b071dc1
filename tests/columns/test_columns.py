"""Text in, vectors out: what is read from a column, and what a vector column is worth."""

from __future__ import annotations

import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from support.contract import assert_same_frame, lazy, shared_tiny_bert, values_of

import dask_embed as de
from dask_embed.columns import Vectors, append_columns, check_text, empty_columns, read_text
from dask_embed.columns.digests import value_bytes

TEXTS = ["one", None, "", "ünï 漢字 😀", "one"]
VECTOR = pd.ArrowDtype(pa.list_(pa.float32(), 3))


def vector_series(rows: list[list[float] | None], index=None) -> pd.Series:
    array = pa.array(rows, VECTOR.pyarrow_dtype)
    return pd.Series(pd.arrays.ArrowExtensionArray(array), index=index, name="vector")


# Reading text


@pytest.mark.parametrize(
    "dtype",
    [
        object,
        "str",
        "string[python]",
        "string[pyarrow]",
        pd.StringDtype("python", na_value=np.nan),
        pd.ArrowDtype(pa.string()),
        pd.ArrowDtype(pa.large_string()),
        pd.ArrowDtype(pa.string_view()),
        pd.ArrowDtype(pa.dictionary(pa.int8(), pa.large_string())),
        "category",
    ],
    ids=str,
)
def test_text_of_any_dtype(dtype):
    """Strings come out as they were put in, nulls as None, nothing as an error."""
    series = pd.Series(TEXTS, dtype=dtype)
    check_text(series)
    column = read_text(series)
    assert column.values == TEXTS
    assert column.errors == {}


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())], ids=str
)
def test_sliced_and_chunked_text(kind):
    """Offsets and chunks, an empty one too, are followed."""
    whole = pa.array(["before", *TEXTS, "after"]).cast(kind)
    pieces = [whole.slice(1, 2), whole.slice(3, 0), whole.slice(3, 3)]
    for array in (whole.slice(1, 5), pa.chunked_array(pieces)):
        assert read_text(pd.Series(pd.arrays.ArrowExtensionArray(array))).values == TEXTS


def test_null_column():
    """A column of Arrow's null type holds no text and is all null."""
    series = pd.Series([None, None], dtype=pd.ArrowDtype(pa.null()))
    check_text(series)
    assert read_text(series).values == [None, None]


@pytest.mark.parametrize("null", [None, np.nan, pd.NA, pd.NaT, float("nan")], ids=repr)
def test_nulls_of_an_object_column(null):
    series = pd.Series(["a", null, "b"], dtype=object)
    assert read_text(series).values == ["a", None, "b"]
    assert read_text(series).errors == {}


@pytest.mark.parametrize("value", [1, 1.5, b"raw", ["a"], ("a",), {"a": 1}, True, "\ud800"])
def test_unusable_values_of_an_object_column(value):
    """What is not text is told apart by its row, with a message that can be written anywhere."""
    series = pd.Series(["a", value, None, "b"], dtype=object, index=[7, 7, 8, 9])
    column = read_text(series)
    assert column.values == ["a", None, None, "b"]
    assert list(column.errors) == [1]
    column.errors[1].encode("utf-8")


def test_subclasses_of_str_are_text():
    """numpy's strings are strings."""
    assert read_text(pd.Series([np.str_("a")], dtype=object)).values == ["a"]


@pytest.mark.parametrize(
    "series",
    [
        pd.Series([1, 2]),
        pd.Series([1.5]),
        pd.Series([True]),
        pd.to_datetime(pd.Series(["2024-01-01"])),
        pd.Series([1, 2], dtype="category"),
        pd.Series([b"a"], dtype=pd.ArrowDtype(pa.binary())),
        pd.Series([["a"]], dtype=pd.ArrowDtype(pa.list_(pa.string()))),
        pd.Series([1], dtype=pd.ArrowDtype(pa.dictionary(pa.int8(), pa.int64()))),
        vector_series([[1, 2, 3]]),
    ],
    ids=lambda series: str(series.dtype),
)
def test_other_dtypes_are_no_text(series):
    with pytest.raises(TypeError, match="text is needed"):
        check_text(series.rename("given"))


# Writing vectors


def test_append_vectors():
    """Vectors go to the rows that have one, in order, and the frame keeps its index."""
    import torch

    frame = pd.DataFrame({"id": [1, 2, 3]}, index=["b", "a", "b"])
    values = torch.tensor([[1.0, 2, 3], [7, 7, 7], [4, 5, 6]])
    out = append_columns(frame, {"vector": Vectors(values, np.array([True, False, True]))})
    assert list(out.columns) == ["id", "vector"]
    assert out["vector"].dtype == VECTOR
    assert values_of(out["vector"]) == [[1, 2, 3], None, [4, 5, 6]]
    assert out.index.equals(frame.index)
    assert list(frame.columns) == ["id"]


@pytest.mark.parametrize("valid", [[True, True], [True, False]])
def test_append_vectors_shares_memory(valid):
    """The column is the model's output, not a copy of it; with nulls too."""
    import torch

    values = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    frame = pd.DataFrame({"id": [1, 2]})
    out = append_columns(frame, {"vector": Vectors(values, np.array(valid))})
    stored = out["vector"].array._pa_array.chunk(0).values.to_numpy()
    assert np.shares_memory(stored, values.numpy())
    assert np.shares_memory(de.to_array(out["vector"]), values.numpy()) == all(valid)


@pytest.mark.parametrize("index", [pd.RangeIndex(0), pd.Index([], dtype="str", name="key")])
def test_empty_columns(index):
    frame = pd.DataFrame({"id": pd.Series([], dtype="int8", index=index)})
    out = empty_columns(frame, {"vector": VECTOR.pyarrow_dtype, "why": pa.string()})
    assert list(out.dtypes) == [np.dtype("int8"), VECTOR, pd.StringDtype(na_value=np.nan)]
    pd.testing.assert_index_equal(out.index, index)


# Vector columns as arrays

ROWS = [[1.0, 2, 3], [4, 5, 6], [7, 8, 9], [10, 11, 12]]
HOLES = [[1.0, 2, 3], None, [7, 8, 9], None]
NAN = [np.nan] * 3


def test_to_array_shares_memory():
    """Without nulls the array is a view of the Arrow buffer."""
    series = vector_series(ROWS)
    array = de.to_array(series)
    buffer = pa.array(series.array).values.buffers()[1]
    assert np.shares_memory(array, np.frombuffer(buffer, np.float32))
    assert array.tolist() == ROWS
    assert array.dtype == np.float32


def test_to_array_of_a_slice_shares_memory():
    """A slice of a column is a slice of its memory, from the right row on."""
    series = vector_series(ROWS)
    array = de.to_array(series.iloc[1:3])
    assert array.tolist() == ROWS[1:3]
    assert np.shares_memory(array, de.to_array(series))


def test_to_array_of_nulls():
    """Rows without a vector are NaN; the column itself is not written to."""
    series = vector_series(HOLES)
    array = de.to_array(series)
    np.testing.assert_array_equal(array, [[1, 2, 3], NAN, [7, 8, 9], NAN])
    assert values_of(series) == HOLES


@pytest.mark.parametrize(("start", "stop"), [(0, 4), (1, 4), (1, 3), (2, 3), (1, 2), (2, 2)])
@pytest.mark.parametrize("rows", [ROWS, HOLES], ids=["full", "holes"])
def test_to_array_of_slices(rows, start, stop):
    array = de.to_array(vector_series(rows).iloc[start:stop])
    expected = [NAN if row is None else row for row in rows[start:stop]]
    np.testing.assert_array_equal(array, np.array(expected, np.float32).reshape(-1, 3))


@pytest.mark.parametrize("rows", [ROWS, HOLES], ids=["full", "holes"])
def test_to_array_of_chunks(rows):
    """Chunks with offsets, as concat and Parquet give them, come in order."""
    array = pa.array([[0.0, 0, 0], *rows], VECTOR.pyarrow_dtype)
    chunks = pa.chunked_array([array.slice(1, 1), array.slice(2, 0), array.slice(2, 3)])
    series = pd.Series(pd.arrays.ArrowExtensionArray(chunks))
    expected = [NAN if row is None else row for row in rows]
    np.testing.assert_array_equal(de.to_array(series), expected)


def test_to_array_of_all_null_and_of_none():
    assert np.isnan(de.to_array(vector_series([None, None]))).all()
    assert de.to_array(vector_series([None, None])).shape == (2, 3)
    assert de.to_array(vector_series([])).shape == (0, 3)


@pytest.mark.parametrize(
    "thing",
    [
        pd.Series([1.5, 2.5], name="plain"),
        pd.Series([[1.0], [2.0]], dtype=object),
        pd.Series([[1.0], [2.0, 3.0]], dtype=pd.ArrowDtype(pa.list_(pa.float32()))),
        pd.DataFrame({"vector": vector_series(ROWS)}),
        [[1.0]],
        None,
    ],
    ids=["floats", "objects", "lists of any length", "frame", "list", "None"],
)
def test_to_array_of_something_else(thing):
    with pytest.raises(TypeError, match=r"to_array takes (one|a) column of .*, got"):
        de.to_array(thing)


# Vector columns in Dask


@pytest.fixture(scope="module")
def frame(tmp_path_factory) -> pd.DataFrame:
    """Twelve rows with embeddings, two of them null."""
    texts = [None if i in (3, 8) else f"text {i % 5}" for i in range(12)]
    columns = {"key": [5, 3, 3, 0, 1, 4, 2, 2, 5, 0, 1, 4], "row": range(12)}
    frame = pd.DataFrame({**columns, "text": pd.Series(texts, dtype="string[pyarrow]")})
    return frame.ml.embed(model=shared_tiny_bert(tmp_path_factory))


@pytest.fixture(scope="module")
def ddf(frame, tmp_path_factory):
    """The same, lazily embedded in three partitions."""
    plain = dd.from_pandas(frame.drop(columns="embedding"), npartitions=3)
    return plain.ml.embed(model=shared_tiny_bert(tmp_path_factory))


def test_to_array_of_a_dask_series(ddf, frame):
    """A lazy array, one chunk per partition, float32, null rows NaN."""
    array = de.to_array(ddf["embedding"])
    assert isinstance(array, da.Array)
    assert array.dtype == np.float32
    assert array.ndim == 2
    assert array.numblocks == (3, 1)
    expected = np.array([row or [np.nan] * 32 for row in values_of(frame["embedding"])])
    np.testing.assert_allclose(array.compute(), expected, rtol=0, atol=1e-6)
    assert array.compute_chunk_sizes().shape == (12, 32)


def test_dask_array_arithmetic(ddf, frame):
    """The lazy array is an ordinary one: its column means are numpy's."""
    means = da.nanmean(de.to_array(ddf["embedding"]).compute_chunk_sizes(), axis=0).compute()
    expected = np.array([row for row in values_of(frame["embedding"]) if row]).mean(axis=0)
    np.testing.assert_allclose(means, expected, atol=1e-6)


def same_rows(lazy, expected: pd.DataFrame, by: list[str], *, keeps_index: bool = True) -> None:
    """Compare in the order of `by`; the vectors of every partition have the announced dtype."""
    for partition in dask.compute(*lazy.to_delayed()):
        assert partition["embedding"].dtype == expected["embedding"].dtype
    assert lazy["embedding"].dtype == expected["embedding"].dtype
    pair = [each.sort_values(by) for each in (lazy.compute(), expected)]
    assert_same_frame(*(pair if keeps_index else [each.reset_index(drop=True) for each in pair]))


@pytest.fixture(params=["tasks", "disk"])
def _shuffle_method(request):
    with dask.config.set({"dataframe.shuffle.method": request.param}):
        yield


@pytest.mark.usefixtures("_shuffle_method")
class TestVectorsMoved:
    """Operations that move rows between partitions keep vectors, nulls and dtype."""

    def test_shuffle(self, ddf, frame):
        same_rows(ddf.shuffle("key"), frame, ["row"])

    def test_set_index(self, ddf, frame):
        same_rows(ddf.set_index("key"), frame.set_index("key"), ["row"])

    def test_sort_values(self, ddf, frame):
        lazy = ddf.sort_values("key", ascending=False)
        assert lazy["key"].compute().is_monotonic_decreasing
        same_rows(lazy, frame, ["row"])

    @pytest.mark.parametrize("how", ["inner", "left", "outer"])
    def test_merge(self, ddf, frame, how):
        """Rows of the other frame without a partner get a null vector."""
        other = pd.DataFrame(
            {"key": [0, 1, 1, 9], "name": pd.array(list("abcd"), "string[pyarrow]")}
        )
        lazy = ddf.merge(dd.from_pandas(other, npartitions=2), on="key", how=how)
        expected = frame.merge(other, on="key", how=how)
        assert expected["embedding"].isna().sum() == {"inner": 1, "left": 2, "outer": 3}[how]
        same_rows(lazy, expected, ["row", "name"], keeps_index=False)

    def test_drop_duplicates_of_another_column(self, ddf, frame):
        lazy = ddf.drop_duplicates(subset=["key"])
        assert len(lazy.compute()) == 6
        assert lazy.compute()["embedding"].dtype == frame["embedding"].dtype


def test_concat(ddf, frame):
    same_rows(dd.concat([ddf, ddf]), pd.concat([frame, frame]), ["row"])


def test_concat_in_pandas(frame):
    """Two columns of vectors, one after the other, are one array."""
    both = pd.concat([frame, frame.iloc[:2]])
    assert both["embedding"].dtype == frame["embedding"].dtype
    expected = np.concatenate(
        [de.to_array(frame["embedding"]), de.to_array(frame["embedding"])[:2]]
    )
    np.testing.assert_array_equal(de.to_array(both["embedding"]), expected)


def test_repartition(ddf, frame):
    same_rows(ddf.repartition(npartitions=2), frame, ["row"])
    same_rows(ddf.repartition(npartitions=5), frame, ["row"])


def test_persist(ddf, frame):
    same_rows(ddf.persist(), frame, ["row"])


def test_isna_and_dropna(ddf, frame):
    assert ddf["embedding"].isna().sum().compute() == 2
    same_rows(ddf.dropna(subset=["embedding"]), frame[frame["text"].notna()], ["row"])


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_operators_read_vectors_without_a_copy(dtype: str) -> None:
    """Fixed-size lists, also a slice of them and with nulls, are read where they lie."""
    from dask_embed.columns import read_vectors

    values = np.arange(40).astype(dtype)
    mask = pa.array(np.arange(10) == 4)
    array = pa.FixedSizeListArray.from_arrays(pa.array(values), 4, mask=mask)
    series = pd.Series(pd.arrays.ArrowExtensionArray(array)).iloc[2:9]
    column = read_vectors(series, 4)
    assert np.shares_memory(column.values, values)
    np.testing.assert_array_equal(column.values, values.reshape(10, 4)[2:9])
    assert column.valid.tolist() == [True, True, False, True, True, True, True]
    assert column.errors == {}
    wrong = read_vectors(series, 3)
    assert sorted(wrong.errors) == [0, 1, 3, 4, 5, 6]
    assert not wrong.valid.any()


PARTITIONS = {
    "another dimension": ([[1.0, 2.0]] * 3, pa.list_(pa.float32(), 2), ValueError, "2 dimensions"),
    # as many values as three vectors of three, which must not become those
    "six rows of half": ([[1.0]] * 9, pa.list_(pa.float32(), 1), ValueError, "9 such rows"),
    "another type": (ROWS, pa.list_(pa.float64(), 3), TypeError, "float64 .* float32 was promised"),
    "no vectors": ([1.5, None], pa.float64(), ValueError, "1.5 is not a vector.*double"),
}


@pytest.mark.parametrize("kind", PARTITIONS)
@pytest.mark.parametrize("use", ["to_array", "float16", "int8", "binary"])
def test_partition_of_other_vectors(kind, use):
    """What one partition holds differs from the type of the whole: an error that says so."""
    rows, dtype, error, message = PARTITIONS[kind]
    good = pd.DataFrame({"vector": vector_series([[*row] for row in np.eye(3)])})
    other = pd.DataFrame({"vector": pd.Series(rows, dtype=pd.ArrowDtype(dtype))})
    if use == "binary":
        good, other = (part.assign(vector=_eightfold(part["vector"])) for part in (good, other))
    frame = lazy([good, other], good.iloc[:0])
    plain = use == "to_array"
    lazily = de.to_array(frame["vector"]) if plain else de.quantize(frame, "vector", use)
    with pytest.raises(error, match=message if plain else "vector"):
        lazily.compute()


def _eightfold(series: pd.Series) -> pd.Series:
    """Vectors of eight times as many values, which can be packed."""
    if not hasattr(series.dtype.pyarrow_dtype, "list_size"):
        return series
    kind = series.dtype.pyarrow_dtype
    rows = [row * 8 for row in values_of(series)]
    return pd.Series(rows, dtype=pd.ArrowDtype(pa.list_(kind.value_type, 8 * kind.list_size)))


# What tells values


def test_arrays_are_told_by_all_of_their_values():
    long = np.arange(2000.0)
    other, near = long.copy(), long.copy()
    other[1000], near[1] = -1, 1 + 1e-12
    arrays = [long, other, near, long.astype("float32"), long.reshape(2, 1000), long[:2], long[:1]]
    nested = np.empty(2, object)
    nested[:] = [long, other]
    swapped = nested[::-1].copy()
    values = [*arrays, nested, swapped, {"a": long}, {"a": other}, [long], [other], (long, 1)]
    series = pd.Series([*values, None], dtype=object)
    told = value_bytes(series)
    assert len(set(told)) == len(series)
    with np.printoptions(precision=1, threshold=3):
        assert value_bytes(series) == told
