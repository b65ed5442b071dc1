"""The dataframe contract, as tests that every model operator inherits.

A test module subclasses `DataframeContract` and overrides the class-scoped fixture `operator`
with the operators to hold to it; everything else here is independent of what they compute::

    class TestEmbedder(DataframeContract):
        @pytest.fixture(scope="class", params=[...])
        @classmethod
        def operator(cls, request, tiny_bert):
            return de.Embedder(tiny_bert, **request.param)
"""

from __future__ import annotations

import ast
import contextlib
import functools
import itertools
import pickle
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any

import cloudpickle
import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from dask.base import tokenize
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dask_embed as de
from dask_embed.operators.filters.base import TextFilter
from dask_embed.operators.language.base import LanguageModelOperator
from dask_embed.operators.vectors.base import VectorOperator
from dask_embed.runtime import registry

# What an operator needs to be made, besides its model, where its class does not say what it takes.
NEEDED: dict[str, dict[str, Any]] = {
    "CandidateScorer": {"candidates": ("good", "bad")},
    "QuestionAnswerer": {"question": "what?"},
    "Reranker": {"query": "what?"},
    "ZeroShotClassifier": {"labels": ("good", "bad"), "entailment_id": 1},
}
TOLERANCE = 1e-6
QUICK = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors],
)

LONG = "a long text about lazy tables and eager models " * 40
# Unsorted lengths, a repeat, an empty string, nulls, and characters outside of ASCII.
TEXTS = (
    "Dask reads a table lazily.",
    "x",
    None,
    LONG,
    "",
    "Dask reads a table lazily.",
    "ünïcode 漢字 😀\tand\nspace",
    None,
    "two words",
)
ROWS = len(TEXTS)
NULL = tuple(text is None for text in TEXTS)


def choices(operator: type, name: str) -> tuple[Any, ...]:
    """Return the values of an argument that the docstring of a class names, if it names all."""
    told = re.search(rf"^    (?:\w+, )*{name}(?:, \w+)* : \{{(.+)\}}", operator.__doc__ or "", re.M)
    return ast.literal_eval(f"({told[1]},)") if told else ()


def needed(operator: type) -> dict[str, Any]:
    """Return what an operator has to be given besides what it runs."""
    required = [each.name for each in fields(operator) if each.default is MISSING]
    chosen = {name: choices(operator, name)[0] for name in required if choices(operator, name)}
    return chosen | NEEDED.get(operator.__name__, {})


def checkpoint_of(operator: type) -> str:
    """Return what an operator is tried with: a task of `support.headed`, or another word."""
    if issubclass(operator, TextFilter | VectorOperator):
        return "none"
    if issubclass(operator, de.MultiVectorEmbedder):
        return "multi-vector"  # the task is that of any embedder, the folder is another
    if issubclass(operator, LanguageModelOperator):
        return "causal-lm"  # or another, as the checkpoint says
    return getattr(operator, "task", "embed")


def another(operator: type, name: str) -> Any:
    """Return another value of an argument than its default, by what the class says of it."""
    [field] = (each for each in fields(operator) if each.name == name)
    if named := [value for value in choices(operator, name) if value != field.default]:
        return named[-1]
    kind = str(field.type).partition(" | ")[0]
    guessed = {"bool": not field.default, "float": 0.3, "int": 7, "str": "mine"}
    assert kind in guessed, f"name another value of {operator.__name__}.{name}"
    return guessed[kind]


@functools.cache
def tiny_bert(folder: Path) -> str:
    """Write a seeded BERT of 2 layers and 32 dimensions with a tokenizer of its own."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator([text for text in TEXTS if text], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=64,
        **dict(zip(names, special, strict=True)),
    ).save_pretrained(folder)
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    with torch.random.fork_rng():
        torch.manual_seed(20)
        model = BertModel(config)
        for parameter in model.parameters():  # large, so that texts differ visibly
            parameter.data.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)
    return str(folder)


def shared_tiny_bert(factory: pytest.TempPathFactory) -> str:
    """Return the tiny checkpoint, written once for all test modules of the session."""
    return tiny_bert(factory.getbasetemp() / "tiny-bert")


@dataclass(frozen=True)
class Backend:
    """A dataframe library whose partitions operators take."""

    name: str
    from_pandas: Callable[[pd.DataFrame], Any]
    to_pandas: Callable[[Any], pd.DataFrame]


def backend_named(name: str) -> Backend:
    if name == "pandas":
        return Backend("pandas", lambda frame: frame, lambda frame: frame)
    cudf = pytest.importorskip("cudf")
    from dask_embed.columns import to_host

    return Backend("cudf", lambda frame: cudf.DataFrame(_with_lists(frame)), to_host)


def _with_lists(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame whose vectors are lists of any length: cuDF has no other."""
    lists = {
        name: pd.ArrowDtype(pa.list_(dtype.pyarrow_dtype.value_type))
        for name, dtype in frame.dtypes.items()
        if isinstance(dtype, pd.ArrowDtype) and pa.types.is_fixed_size_list(dtype.pyarrow_dtype)
    }
    return frame.astype(lists)


@contextlib.contextmanager
def float32_on_gpus() -> Iterator[None]:
    """Run models in float32 on a GPU, too, so that no result depends on its batch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
        yield


def input_frame(
    operator: de.ModelOperator, texts: Sequence[Any] = TEXTS, index: Any = None, dtype: Any = "str"
) -> pd.DataFrame:
    """Return a frame with the operator's input columns between others of several dtypes."""
    count = len(texts)
    columns: dict[str, Any] = {"id": np.arange(count) * 3}
    for shift, name in enumerate(operator.input_columns):
        # As a Series, because of an array of objects pandas would infer the dtype.
        columns[name] = pd.Series([*texts[shift:], *texts[:shift]], dtype=dtype)
    columns["weight"] = np.linspace(0, 1, count, dtype="float32")
    columns["day"] = pd.date_range("2024-02-28", periods=count)
    frame = pd.DataFrame(columns)
    return frame if index is None else frame.set_axis(index)


def null_rows(operator: de.ModelOperator, frame: pd.DataFrame) -> list[bool]:
    """Return for each row whether one of its inputs is null."""
    return frame[list(operator.input_columns)].isna().any(axis=1).tolist()


def lazy(parts: Sequence[Any], meta: Any = None) -> Any:
    """Return a Dask DataFrame of exactly these partitions, of any index."""
    meta = parts[0].iloc[:0] if meta is None else meta
    with dask.config.set({"dataframe.convert-string": False}):
        return dd.from_map(lambda part: part, list(parts), meta=meta, enforce_metadata=False)


def cut(frame: Any, places: Sequence[int]) -> list[Any]:
    """Cut a frame at row numbers; equal numbers give partitions without rows."""
    edges = [0, *sorted(places), len(frame)]
    return [frame.iloc[a:b] for a, b in itertools.pairwise(edges)]


def values_of(series: pd.Series) -> list[Any]:
    """Return a column as Python values, nulls as None."""
    return pa.array(series.array, from_pandas=True).to_pylist()


def assert_same_value(given: Any, expected: Any, atol: float = TOLERANCE) -> None:
    """Compare results of any nesting: floats within `atol`, the rest exactly."""
    if isinstance(expected, float):
        assert given == pytest.approx(expected, abs=atol, rel=1e-6)
    elif isinstance(expected, list) and expected and all(type(v) is float for v in expected):
        np.testing.assert_allclose(given, expected, rtol=1e-6, atol=atol)
    elif isinstance(expected, list):
        assert isinstance(given, list)
        assert len(given) == len(expected)
        for left, right in zip(given, expected, strict=True):
            assert_same_value(left, right, atol)
    elif isinstance(expected, dict):
        assert given.keys() == expected.keys()
        for key, right in expected.items():
            assert_same_value(given[key], right, atol)
    else:
        assert given == expected


def assert_same_values(given: list[Any], expected: list[Any]) -> None:
    assert_same_value(list(given), list(expected))


def assert_same_frame(given: Any, expected: Any) -> None:
    """Compare frames or series: index, names and dtypes exactly, floats within tolerance."""
    assert type(given) is type(expected)
    pd.testing.assert_index_equal(given.index, expected.index, exact="equiv")
    if isinstance(given, pd.Series):
        given, expected = given.to_frame(), expected.to_frame()
    assert list(given.columns) == list(expected.columns)
    assert list(given.dtypes) == list(expected.dtypes)
    for place in range(len(expected.columns)):
        assert_same_values(values_of(given.iloc[:, place]), values_of(expected.iloc[:, place]))


def assert_matches_meta(partition: Any, meta: Any) -> None:
    """Compare dtypes directly: dask's own comparison takes float16 for float32."""
    assert list(partition.columns) == list(meta.columns)
    assert list(partition.dtypes) == list(meta.dtypes)
    assert list(partition.index.names) == list(meta.index.names)
    assert partition.index.dtype == meta.index.dtype


def result(operator: de.ModelOperator, frame: Any) -> list[list[Any]]:
    """Return the rows of the operator's result columns."""
    columns = [values_of(frame[name]) for name in operator.output_columns]
    return [list(row) for row in zip(*columns, strict=True)]


INDEXES = {
    "range": pd.RangeIndex(5, 5 + ROWS),
    "duplicate": pd.Index([1, 1, 2, 2, 1, 0, 0, 1, 1], name="key"),
    "descending": pd.Index(range(ROWS, 0, -1)),
    "string": pd.Index(list("qwertyuio"), name="letter"),
    "datetime": pd.DatetimeIndex(pd.date_range("2020-03-01", periods=ROWS, freq="h")[::-1]),
    "multi": pd.MultiIndex.from_arrays(
        [list("bbaabbaab"), [1, 1, 2, 3, 1, 2, 1, 1, 0]], names=["outer", None]
    ),
    "with null": pd.Index([1.5, np.nan, np.nan, 0, -1, 2, 2, 3, 4]),
}
TEXT_DTYPES = {
    "object": object,
    "str": "str",
    "string[python]": "string[python]",
    "string[pyarrow]": "string[pyarrow]",
    "str of python": pd.StringDtype("python", na_value=np.nan),
    "arrow string": pd.ArrowDtype(pa.string()),
    "arrow large_string": pd.ArrowDtype(pa.large_string()),
    "arrow dictionary": pd.ArrowDtype(pa.dictionary(pa.int32(), pa.string())),
    "categorical": "category",
}
UNUSABLE = {
    "int": (7, "int is not text"),
    "bytes": (b"raw", "bytes is not text"),
    "list": (["a"], "list is not text"),
    "lone surrogate": ("bad \ud800 text", "UTF-8"),
}

_NOT_UTF8 = pa.Array.from_buffers(
    pa.string(),
    3,
    [None, pa.array([0, 1, 3, 4], pa.int32()).buffers()[1], pa.py_buffer(b"\xff\xc3(\x80")],
)
OTHER_TYPES = {
    "numbers": (pd.Series([7.5, None, 1]), "float64"),
    "booleans": (pd.Series([True, False, True]), "bool"),
    "dates": (pd.Series(pd.to_datetime(["2024-02-29", None, None])), "datetime64"),
    "bytes": (pd.Series([b"ab", None, b"c"], dtype="binary[pyarrow]"), "binary"),
    "categories of numbers": (pd.Series([3, None, 3], dtype="category"), "category of"),
    "not UTF-8": (pd.Series(pd.arrays.ArrowExtensionArray(_NOT_UTF8)), "are not UTF-8"),
}

texts = st.one_of(
    st.none(),
    st.sampled_from(["", " ", "a lazy table", "A LAZY TABLE", LONG, "\x00", "😀", "e\u0301"]),
    st.text(max_size=30),
)


class DataframeContract:
    """What holds for every operator on every backend; see the design, section 5."""

    @pytest.fixture(scope="class")
    @classmethod
    def operator(cls) -> de.ModelOperator:
        raise NotImplementedError("give the operators that this class tests")

    @pytest.fixture(scope="class", params=["pandas", pytest.param("cudf", marks=pytest.mark.cudf)])
    @classmethod
    def backend(cls, request: pytest.FixtureRequest) -> Iterator[Backend]:
        with float32_on_gpus():
            yield backend_named(request.param)

    @pytest.fixture(scope="class")
    @classmethod
    def expected(cls, operator: de.ModelOperator, backend: Backend) -> list[list[Any]]:
        """Rows of the result, each computed from a frame of that one row."""
        frame = input_frame(operator)
        rows = [backend.from_pandas(frame.iloc[i : i + 1]) for i in range(ROWS)]
        return [result(operator, backend.to_pandas(operator(row)))[0] for row in rows]

    # The frame around the result

    @pytest.mark.parametrize("kind", INDEXES)
    def test_index_and_row_order(self, operator, backend, expected, kind):
        """Any index comes back as it was and every row keeps its own result."""
        if backend.name == "cudf" and kind == "with null":
            pytest.skip("cuDF tells nulls from NaN in an index")
        frame = input_frame(operator, index=INDEXES[kind])
        out = backend.to_pandas(operator(backend.from_pandas(frame)))
        pd.testing.assert_index_equal(out.index, INDEXES[kind], exact=True)
        assert_same_values(result(operator, out), expected)

    @pytest.mark.parametrize("kind", INDEXES)
    def test_index_and_row_order_of_partitions(self, operator, backend, expected, kind):
        """The same on a Dask DataFrame, whose partitions may repeat index values."""
        if backend.name == "cudf" and kind == "with null":
            pytest.skip("cuDF tells nulls from NaN in an index")
        frame = input_frame(operator, index=INDEXES[kind])
        parts = [backend.from_pandas(part) for part in cut(frame, [2, 5])]
        out = backend.to_pandas(operator(lazy(parts)).compute())
        pd.testing.assert_index_equal(out.index, INDEXES[kind], exact="equiv")
        assert_same_values(result(operator, out), expected)

    def test_other_columns_stay(self, operator, backend):
        """Result columns come last; the others keep values, dtypes and order."""
        frame = backend.from_pandas(input_frame(operator))
        out = operator(frame)
        assert list(out.columns) == [*frame.columns, *operator.output_columns]
        kept = backend.to_pandas(out[list(frame.columns)])
        pd.testing.assert_frame_equal(kept, backend.to_pandas(frame))

    def test_input_is_not_modified(self, operator, backend):
        """The frame that is passed in has the same columns, values and dtypes afterwards."""
        frame = backend.from_pandas(input_frame(operator))
        before = backend.to_pandas(frame).copy(deep=True)
        operator(frame)
        pd.testing.assert_frame_equal(backend.to_pandas(frame), before)

    def test_attrs(self, operator):
        """The result has the frame's attrs, and its own copy of them."""
        frame = input_frame(operator)
        frame.attrs["source"] = ["crawl"]
        out = operator(frame)
        out.attrs["source"].append("changed")
        assert frame.attrs == {"source": ["crawl"]}
        assert out.attrs == {"source": ["crawl", "changed"]}

    def test_columns_that_are_not_strings(self, operator, expected):
        """Other columns may have numbers or tuples as names."""
        frame = input_frame(operator).rename(columns={"id": 0, "weight": ("a", 1)})
        out = operator(frame)
        assert list(out.columns) == [*frame.columns, *operator.output_columns]
        assert_same_values(result(operator, out), expected)

    # Nulls and frames without rows

    @pytest.mark.parametrize("null", [None, np.nan, pd.NA, pd.NaT], ids=repr)
    def test_null_gives_null(self, operator, expected, null):
        """Every kind of null in an object column is a null of the result."""
        texts = [null if text is None else text for text in TEXTS]
        out = operator(input_frame(operator, texts, dtype=object))
        assert out[operator.result_columns[0]].isna().tolist() == null_rows(operator, out)
        assert_same_values(result(operator, out), expected)

    @pytest.mark.parametrize("dtype", ["str", object, "category"], ids=str)
    def test_all_null(self, operator, dtype):
        """A partition of nulls gives nulls of the right dtype."""
        if dtype == "category":
            dtype = pd.CategoricalDtype(["a text"])
        frame = input_frame(operator, [None, None, None], dtype=dtype)
        out = operator(frame)
        assert out[operator.result_columns[0]].isna().all()
        assert_matches_meta(out, operator.meta(frame.iloc[:0]))

    def test_empty_partition(self, operator, backend):
        """No rows: the columns and dtypes of any other partition, and no model is loaded."""
        de.unload()
        for index in INDEXES.values():
            frame = backend.from_pandas(input_frame(operator, index=index).iloc[:0])
            out = operator(frame)
            assert len(out) == 0
            assert_matches_meta(out, operator.meta(frame))
            assert registry.loaded() == []

    def test_empty_dask_frame(self, operator, backend):
        """A Dask DataFrame of empty partitions computes to an empty frame, model not loaded."""
        frame = backend.from_pandas(input_frame(operator).iloc[:0])
        de.unload()
        out = operator(lazy([frame, frame]))
        assert_matches_meta(out.compute(), operator.meta(frame))
        assert registry.loaded() == []

    def test_empty_among_others(self, operator, backend, expected):
        """Empty and all-null partitions between others change nothing."""
        parts = cut(input_frame(operator), [0, 2, 3, 3, 7, 8, ROWS])
        out = operator(lazy([backend.from_pandas(part) for part in parts])).compute()
        assert_same_values(result(operator, backend.to_pandas(out)), expected)

    # Dtypes

    @pytest.mark.parametrize("npartitions", [1, ROWS])
    def test_dtypes_equal_meta(self, operator, backend, npartitions):
        """Every computed partition has exactly the dtypes that the lazy frame announced."""
        frame = backend.from_pandas(input_frame(operator))
        ddf = dd.from_pandas(frame, npartitions=npartitions, sort=False)
        out, meta = operator(ddf), operator.meta(ddf._meta)
        assert list(out.dtypes) == list(meta.dtypes)
        partitions = dask.compute(*out.to_delayed())
        assert len(partitions) == npartitions
        for partition in partitions:
            assert_matches_meta(partition, meta)

    @pytest.mark.parametrize("kind", TEXT_DTYPES)
    def test_text_dtypes(self, operator, expected, kind):
        """Text of any dtype gives the same result and comes back in its own dtype."""
        frame = input_frame(operator)
        texts = dict.fromkeys(operator.input_columns, TEXT_DTYPES[kind])
        frame = frame.astype(texts)
        for out in (operator(frame), operator(lazy(cut(frame, [4]))).compute()):
            for name in operator.input_columns:
                assert out[name].dtype == frame[name].dtype
            assert_same_values(result(operator, out), expected)

    def test_categories_unknown_to_dask(self, operator, expected):
        """A categorical whose categories only the partitions know is text too."""
        texts = dict.fromkeys(operator.input_columns, "category")
        parts = [part.astype(texts) for part in cut(input_frame(operator), [4])]
        meta = input_frame(operator).iloc[:0].astype(texts)
        for name in operator.input_columns:
            meta[name] = dd.utils.clear_known_categories(meta[name])
        out = operator(lazy(parts, meta)).compute()
        assert_same_values(result(operator, out), expected)

    def test_sliced_and_chunked_arrow_text(self, operator, expected):
        """Arrow arrays with offsets and in chunks are read at the right places."""
        frame = input_frame(operator)
        for name in operator.input_columns:
            values = frame[name].tolist()
            padded = pa.array(["before", *[None if v is np.nan else v for v in values], "after"])
            chunked = pa.chunked_array([padded.slice(1, 4), padded.slice(5, ROWS - 4)])
            frame[name] = pd.arrays.ArrowExtensionArray(chunked)
        assert_same_values(result(operator, operator(frame)), expected)

    # Names

    def test_output_that_exists(self, operator, backend):
        """A result never replaces a column: the clash is an error before any work."""
        frame = input_frame(operator)
        for name in operator.output_columns:
            clash = backend.from_pandas(frame.assign(**{name: 1}))
            for given_frame in (clash, dd.from_pandas(clash, npartitions=2, sort=False)):
                with pytest.raises(ValueError, match=f"{name!r} already exists"):
                    operator(given_frame)

    def test_output_name(self, operator, expected):
        """The result is the same under another name, which may be that of no other column."""
        renamed = replace(operator, output="another name")
        assert renamed.output_columns[0].startswith("another name")
        out = renamed(input_frame(operator))
        assert_same_values(result(renamed, out), expected)

    # The same result however the rows are brought to the operator

    @pytest.mark.parametrize("npartitions", [1, 2, 4, ROWS])
    def test_partitioning(self, operator, backend, expected, npartitions):
        """A Dask DataFrame gives what the eager frame gives, however it is cut."""
        frame = backend.from_pandas(input_frame(operator))
        out = operator(dd.from_pandas(frame, npartitions=npartitions, sort=False))
        assert out.npartitions == npartitions
        assert_same_values(result(operator, backend.to_pandas(out.compute())), expected)

    def test_eager(self, operator, backend, expected):
        """One call on all rows gives what calls on single rows give."""
        out = operator(backend.from_pandas(input_frame(operator)))
        assert_same_values(result(operator, backend.to_pandas(out)), expected)

    def test_map_partitions(self, operator, backend, expected):
        """Plain `map_partitions` with the operator's meta works too."""
        ddf = dd.from_pandas(backend.from_pandas(input_frame(operator)), npartitions=3, sort=False)
        out = ddf.map_partitions(operator, meta=operator.meta(ddf._meta))
        for partition in dask.compute(*out.to_delayed()):
            assert_matches_meta(partition, out._meta)
        assert_same_values(result(operator, backend.to_pandas(out.compute())), expected)

    def test_reversed_rows(self, operator, backend, expected):
        """Rows in the opposite order give results in the opposite order."""
        frame = input_frame(operator).iloc[::-1]
        out = backend.to_pandas(operator(backend.from_pandas(frame)))
        assert_same_values(result(operator, out), expected[::-1])

    def test_duplicated_rows(self, operator, backend, expected):
        """Each copy of a row gets the row's result."""
        order = [0, 0, 3, 8, 3, 2, 2, 6, 0]
        frame = input_frame(operator).iloc[order]
        out = backend.to_pandas(operator(backend.from_pandas(frame)))
        assert_same_values(result(operator, out), [expected[row] for row in order])

    @settings(QUICK, max_examples=5)
    @given(data=st.data())
    def test_any_frame(self, operator, data):
        """Any texts, any index and any partitioning give the results of single rows."""
        rows = data.draw(st.lists(texts, min_size=1, max_size=8), label="texts")
        keys = st.lists(st.integers(-3, 3), min_size=len(rows), max_size=len(rows))
        places = data.draw(st.lists(st.integers(0, len(rows)), max_size=4), label="cuts")
        frame = input_frame(operator, rows, index=data.draw(keys, label="index"))
        singles = [result(operator, operator(frame.iloc[i : i + 1])) for i in range(len(rows))]
        for out in (operator(frame), operator(lazy(cut(frame, places))).compute()):
            assert out.index.tolist() == frame.index.tolist()
            assert out[operator.result_columns[0]].isna().tolist() == null_rows(operator, frame)
            assert_same_values(result(operator, out), [row for single in singles for row in single])

    # Rows that cannot be used

    @pytest.mark.parametrize("kind", UNUSABLE)
    @pytest.mark.parametrize("npartitions", [0, 2], ids=["eager", "dask"])
    def test_unusable_row_raises(self, operator, kind, npartitions):
        """on_error="raise" names the row, its index label, the column and the reason."""
        value, reason = UNUSABLE[kind]
        index = [f"label{i}" for i in range(ROWS)]
        frame = input_frame(operator, TEXTS, index, object)
        column = operator.input_columns[0]
        bad_texts = [*TEXTS[:5], value, *TEXTS[6:]]
        frame[column] = pd.Series(bad_texts, frame.index, dtype=object)
        raising = replace(operator, on_error="raise")
        run = raising(lazy(cut(frame, [3]))).compute if npartitions else lambda: raising(frame)
        with pytest.raises(ValueError, match="index 'label5'") as caught:
            run()
        message = str(caught.value)
        assert f"row {2 if npartitions else 5} of the partition" in message
        assert reason in message
        assert repr(column) in message
        assert "\n" not in message

    @pytest.mark.parametrize("kind", UNUSABLE)
    @pytest.mark.parametrize("npartitions", [0, 2], ids=["eager", "dask"])
    def test_unusable_row_becomes_null(self, operator, expected, kind, npartitions):
        """on_error="null" gives that row a null and a message, all other rows their result."""
        value, reason = UNUSABLE[kind]
        frame = input_frame(operator, [*TEXTS[:1], value, *TEXTS[2:]], dtype=object)
        bad = [row for row in range(ROWS) if any(frame.iloc[row, 1:2].map(lambda v: v is value))]
        assert bad == [1]
        quiet = replace(operator, on_error="null")
        out = quiet(lazy(cut(frame, [4]))).compute() if npartitions else quiet(frame)
        if len(operator.input_columns) == 1:
            wanted = [None if row in bad else expected[row][0] for row in range(ROWS)]
            assert_same_values(values_of(out[operator.result_columns[0]]), wanted)
        messages = values_of(out[quiet.error_column])
        assert reason in messages[1]
        assert out[operator.result_columns[0]].isna()[1]
        assert out[quiet.error_column].dtype == quiet.meta(frame.iloc[:0]).dtypes.iloc[-1]
        if len(operator.input_columns) == 1:
            assert [row for row in range(ROWS) if messages[row] is not None] == bad

    @pytest.mark.parametrize(
        "dtype",
        ["string[python]", pd.StringDtype("python", na_value=np.nan), "category"],
        ids=["string[python]", "str of python", "category"],
    )
    def test_surrogate_in_text_dtypes(self, operator, expected, dtype):
        """A lone surrogate is told apart in every dtype that can hold one."""
        column = operator.input_columns[0]
        frame = input_frame(operator, dtype=object)
        frame.loc[1, column] = UNUSABLE["lone surrogate"][0]
        if dtype == "category":  # from codes, because pandas would infer a type of the values
            codes, values = pd.factorize(frame[column])
            dtype = pd.CategoricalDtype(pd.Index(values, dtype=object))
            frame[column] = pd.Categorical.from_codes(codes, dtype=dtype)
        frame[column] = frame[column].astype(dtype)
        with pytest.raises(ValueError, match=r"row 1 of the partition \(index 1\)"):
            replace(operator, on_error="raise")(frame)
        out = replace(operator, on_error="null")(frame)
        assert out[operator.result_columns[0]].isna()[1]
        assert_same_value(values_of(out[operator.result_columns[0]])[3], expected[3][0])

    @pytest.mark.parametrize("kind", OTHER_TYPES)
    def test_partition_of_another_type(self, operator, expected, kind):
        """A file whose column reads as another type: each row with a value is refused."""
        values, reason = OTHER_TYPES[kind]
        column = operator.input_columns[0]
        frame = input_frame(operator, dtype=object)
        other = frame.iloc[:3].assign(**{column: values.array})
        parts = lazy([frame, other], frame.iloc[:0])
        with pytest.raises(ValueError, match=r"row 0 of the partition") as caught:
            replace(operator, on_error="raise")(parts).compute()
        assert f"column {column!r}" in str(caught.value)
        assert reason in str(caught.value)
        failing, first = replace(operator, on_error="null"), operator.result_columns[0]
        # the results alone: pandas cannot join strings that are not UTF-8
        out = failing(parts)[[first, failing.error_column]].compute()
        messages = values_of(out[failing.error_column])
        assert_same_values(
            values_of(out[operator.result_columns[0]])[:ROWS], [row[0] for row in expected]
        )
        assert out[operator.result_columns[0]].isna().iloc[ROWS:].all()
        refused = [message is not None and reason in message for message in messages[ROWS:]]
        assert refused == values.notna().tolist()

    # Operators are plain values

    @pytest.mark.parametrize("library", [pickle, cloudpickle], ids=lambda module: module.__name__)
    def test_pickles(self, operator, expected, library):
        """A copy that went through pickle is equal, hashes alike and gives the same."""
        copy = library.loads(library.dumps(operator))
        assert copy == operator
        assert hash(copy) == hash(operator)
        assert tokenize(copy) == tokenize(operator)
        assert_same_values(result(operator, copy(input_frame(operator))), expected)

    def test_different_operators_differ(self, operator):
        """An operator with another value is another one, to Python and to Dask."""
        other = replace(operator, output="another name")
        assert other != operator
        assert tokenize(other) != tokenize(operator)
        assert tokenize(replace(operator)) == tokenize(operator)

    def test_token_in_another_process(self, operator, tokens_elsewhere):
        """The Dask token, and so the names of tasks, are the same in every process."""
        pair = operator, operator.pinned()
        assert tokens_elsewhere(pair) == [tokenize(each) for each in pair]

    def test_lazy_names_are_deterministic(self, operator):
        """The same expression built twice has the same task names."""
        ddf = dd.from_pandas(input_frame(operator), npartitions=2, sort=False)
        assert operator(ddf).expr._name == operator(ddf)._name
        assert operator(ddf)._name == replace(operator)(ddf)._name
