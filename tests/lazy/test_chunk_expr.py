"""Only rows and columns that reach a result are cut, only vectors that do are computed.

Every expression is applied to the lazy chunks and to those of pandas; the results have to be the
same, and the number of texts that were cut and the tokens that the model saw as expected.
"""

from __future__ import annotations

from typing import Any

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from dask.dataframe.dask_expr.io.parquet import ReadParquet
from hypothesis import given, settings
from hypothesis import strategies as st
from support.contract import QUICK, assert_same_frame, shared_tiny_bert

import dask_embed as de
from dask_embed.lazy.chunks import ChunkRows
from dask_embed.runtime.stats import totals

pytestmark = pytest.mark.usefixtures("one_torch_thread")

ROWS = 24
ENGLISH = 8  # rows 0, 3, 6, ...


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return shared_tiny_bert(tmp_path_factory)


@pytest.fixture(scope="module")
def pdf() -> pd.DataFrame:
    """Texts of one to five sentences; the index is neither sorted nor from 0."""
    number = np.arange(ROWS)
    return pd.DataFrame(
        {
            "id": number,
            "lang": np.array(["en", "de", "fr"])[number % 3],
            "text": [f"row {i}. " + "Of many words. " * (i * 7 % 5) for i in number],
            "weight": (number * 5 % 7).astype("float64"),
        },
        index=pd.Index(number * 7 % ROWS, name="key"),
    ).astype({"lang": "string[pyarrow]", "text": "string[pyarrow]"})


@pytest.fixture(scope="module")
def parquet(pdf, tmp_path_factory):
    folder = tmp_path_factory.mktemp("parquet")
    dd.from_pandas(pdf, npartitions=2, sort=False).to_parquet(folder)
    return folder


@pytest.fixture(scope="module")
def late(model) -> de.LateChunkEmbedder:
    return de.LateChunkEmbedder(model, max_tokens=8, keep_text=True)


@pytest.fixture(scope="module")
def eager(pdf, late):
    return late(pdf)


@pytest.fixture(scope="module")
def out(pdf, late):
    return late(dd.from_pandas(pdf, npartitions=4, sort=False))


def counted(work: Any) -> tuple[Any, int, bool]:
    """Return the result, how many texts were cut or embedded, and whether the model ran."""
    before = totals()
    result = work()
    after = totals()
    return result, after["rows"] - before["rows"], after["tokens"] > before["tokens"]


def check(lazy: Any, expected: Any) -> tuple[int, bool]:
    result, rows, ran = counted(lazy.compute)
    assert_same_frame(result, expected)
    return rows, ran


def select_then_filter(frame):
    chosen = frame[["id", "lang", "chunk"]]
    return chosen[chosen.lang == "en"][["chunk"]]


def stacked(frame):
    english = frame[frame.lang == "en"]
    return english[english.id > 10]


def stacked_on_a_result(frame):
    first = frame[frame.chunk_index == 0]
    return first[first.lang == "en"][["id", "chunk"]]


LONG = 14  # texts of more than 30 characters
EXPRESSIONS = {
    "everything": (lambda f: f, ROWS, True),
    "vectors": (lambda f: f.embedding, ROWS, True),
    "chunks": (lambda f: f[["chunk", "id"]], ROWS, False),
    "no chunk column": (lambda f: f[["id"]], ROWS, False),
    "text": (lambda f: f[["text", "chunk"]], ROWS, False),
    "vectors dropped": (lambda f: f.drop(columns=["embedding", "text"]), ROWS, False),
    "filter": (lambda f: f[f.lang == "en"], ENGLISH, True),
    "filter, select": (lambda f: f[f.lang == "en"][["id", "chunk"]], ENGLISH, False),
    "select, filter": (select_then_filter, ENGLISH, False),
    "filter a series": (lambda f: f.chunk[f.lang == "en"], ENGLISH, False),
    "filter by text": (lambda f: f[f.text.str.len() > 30][["chunk"]], LONG, False),
    "filter by index": (lambda f: f[f.index.to_series() < 6], 6, True),
    "two filters": (stacked, 4, True),
    "one of several": (lambda f: f[f.lang.isin(["en"])], ENGLISH, True),
    "filter by result": (lambda f: f[f.chunk_index > 0][["id"]], ROWS, False),
    "filter by vector": (lambda f: f[f.embedding.notnull()][["id"]], ROWS, True),
    "result, then input": (stacked_on_a_result, ENGLISH, False),
    "mixed": (lambda f: f[(f.lang == "en") & (f.chunk_index > 0)], ENGLISH, True),
    "either": (lambda f: f[(f.lang == "en") | (f.chunk_index > 0)][["id"]], ROWS, False),
    "mean of chunks": (lambda f: f[f.id > f.id.mean()][["id"]], ROWS, False),
    "mixed mean": (lambda f: f[(f.lang == "en") & (f.id > f.id.mean())][["id"]], ROWS, False),
    "index": (lambda f: f.index, ROWS, False),
    "index of a filter": (lambda f: f[f.lang == "en"].index, ENGLISH, False),
    "index of a mixed filter": (
        lambda f: f[(f.lang == "en") & (f.chunk_index > 0)].index,
        ENGLISH,
        False,
    ),
}


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_rows_vectors_and_result(out, eager, name):
    """Equal to pandas; as many texts were cut, and the model ran where a vector is read."""
    expression, rows, runs = EXPRESSIONS[name]
    lazy, expected = expression(out), expression(eager)
    if isinstance(expected, pd.Index):
        result, *found = counted(lazy.compute)
        pd.testing.assert_index_equal(result, expected)
    else:
        found = check(lazy, expected)
    assert tuple(found) == (rows, runs)


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_optimizing_twice(out, name):
    """Optimizing is finished after once."""
    once = EXPRESSIONS[name][0](out).simplify()
    assert once.simplify()._name == once._name


def test_a_condition_with_other_labels(pdf, late):
    """It is of other rows than those it was computed from, so it stays above."""

    def expression(frame):
        return frame[frame.lang.reset_index(drop=True) == "en"][["id", "chunk"]]

    frame = pdf.reset_index(drop=True)
    lazy = dd.from_pandas(frame, npartitions=1).clear_divisions()
    with pytest.warns(UserWarning, match="will be reindexed"):
        expected = expression(late(frame))
    assert set(expected.id) != set(frame.id[frame.lang == "en"])
    with pytest.warns(UserWarning, match="will be reindexed"):
        assert check(expression(late(lazy)), expected)[0] == ROWS


def test_mean_weighs_chunks(out, eager, pdf):
    """What is not a condition on one row sees chunks, whatever filters are below."""
    result, rows, ran = counted(lambda: out[out.lang == "en"].id.mean().compute())
    assert result == eager[eager.lang == "en"].id.mean() != pdf[pdf.lang == "en"].id.mean()
    assert (rows, ran) == (ENGLISH, False)


@pytest.mark.parametrize(
    ("expression", "rows"),
    [
        (lambda f: f, ROWS),
        (lambda f: f.id, ROWS),
        (lambda f: f[f.lang == "en"], ENGLISH),
        (lambda f: f[(f.lang == "en") & (f.chunk_index > 0)], ENGLISH),
        (lambda f: f[f.chunk_index > 0], ROWS),
    ],
    ids=range(5),
)
def test_len(out, eager, expression, rows):
    """`len` counts chunks: texts have to be cut, but no vector is computed."""
    result, *found = counted(lambda: len(expression(out)))
    assert result == len(expression(eager)) != rows
    assert found == [rows, False]


@pytest.mark.parametrize(
    ("expression", "rows", "runs"),
    [
        (lambda f: f.head(3), 3, True),
        (lambda f: f[["id", "chunk"]].head(3), 3, False),
        (lambda f: f[f.lang == "en"][["id", "chunk"]].head(3), 2, False),  # of its six rows two
        (lambda f: f.tail(2), 2, True),
        (lambda f: f[["embedding"]].tail(2), 2, True),
        (lambda f: f.id.tail(2), 2, False),
        (lambda f: f[f.chunk_index == 0].head(3), 6, True),
    ],
    ids=range(7),
)
def test_head_and_tail(out, eager, expression, rows, runs):
    """So many texts as chunks are asked for are enough, of one partition."""
    result, *found = counted(lambda: expression(out))
    assert_same_frame(result, expression(eager))
    assert found == [rows, runs]


def test_head_of_several_partitions(out, eager):
    lazy = out[["id", "chunk"]].head(30, npartitions=2, compute=False)
    assert check(lazy, eager[["id", "chunk"]].head(30)) == (12, False)


def test_head_is_short_where_a_partition_is(out, eager):
    """Dask says so where there are fewer chunks, not where there are fewer rows."""
    first = eager[eager.id < 6]
    assert len(first) > 6
    assert_same_frame(out.head(len(first)), first)
    with pytest.warns(UserWarning, match="Insufficient elements"):
        assert len(out.head(len(first) + 1)) == len(first)


def test_heads_of_several_selections(out, eager):
    """Each has its columns, also where they are of the same chunks."""
    lazy = dd.concat([out[[name]].head(3, compute=False) for name in ("id", "weight")], axis=0)
    expected = pd.concat([eager[[name]].head(3) for name in ("id", "weight")], axis=0)
    assert check(lazy, expected) == (3, False)


def test_head_of_what_others_read(out, eager):
    """It costs no more than its own two texts beside those that are all cut."""
    lazy = dd.concat([out[["id"]].head(2, compute=False), out[["id"]]])
    expected = pd.concat([eager[["id"]].head(2), eager[["id"]]])
    assert check(lazy, expected) == (ROWS + 2, False)


def test_partitions(out, eager):
    """One partition cuts its own texts, and divisions stay known."""
    part = eager[eager.id.between(6, 11)]
    assert check(out.partitions[1], part) == (6, True)
    english = out[out.lang == "en"][["id", "chunk"]].partitions[1]
    assert check(english, part[part.lang == "en"][["id", "chunk"]]) == (2, False)
    sorted_index = de.Chunker(out.expr.operator.spec, max_tokens=8)(
        dd.from_pandas(pd.DataFrame({"text": ["a. B. c", "d"]}), npartitions=2)
    )
    assert sorted_index.known_divisions


def test_chunks_of_chunks(pdf, model):
    """Conditions on the input go below both, those on the first chunks below the second."""

    def twice(frame):
        first = frame.ml.chunk("text", model=model, max_tokens=12, output="part")
        second = first.ml.chunk("part", model=model, max_tokens=8, keep_text=True)
        kept = (second.lang == "en") & (second.part_index == 0) & (second.chunk_tokens > 3)
        return second[kept][["id", "part", "chunk"]]

    expected = twice(pdf)
    assert len(expected) > 0
    lazy = twice(dd.from_pandas(pdf, npartitions=4, sort=False))
    assert check(lazy, expected) == (2 * ENGLISH, False)


def test_chunks_then_vectors(pdf, model):
    """A condition on the input filters texts, one on chunks filters what is embedded."""

    def embedded(frame):
        chunks = frame.ml.chunk("text", model=model, max_tokens=8)
        vectors = chunks.ml.embed("chunk", model=model)
        kept = (vectors.lang == "en") & (vectors.chunk_index == 0) & vectors.embedding.notnull()
        return vectors[kept][["id", "embedding"]]

    lazy = embedded(dd.from_pandas(pdf, npartitions=4, sort=False))
    assert check(lazy, embedded(pdf)) == (ENGLISH + ENGLISH, True)


def test_vectors_then_chunks_of_the_first_rows(pdf, model):
    """`head` of chunks goes below the operators under it, too."""

    def chunked(frame):
        return frame.ml.embed("text", model=model).ml.chunk("text", model=model, max_tokens=8)

    lazy = chunked(dd.from_pandas(pdf, npartitions=4, sort=False))
    result, rows, _ = counted(lambda: lazy.head(3))
    assert_same_frame(result, chunked(pdf).head(3))
    assert rows == 3 + 3


def test_a_result_named_like_the_text(pdf, model):
    """A condition on the column `text` of the result reads the chunk, and stays above."""

    def short(frame):
        chunks = frame.ml.chunk("text", model=model, max_tokens=8, output="text")
        return chunks[(chunks.text.str.len() < 12) & (chunks.lang == "en")][["id", "text"]]

    expected = short(pdf)
    by_text = pdf[(pdf.text.str.len() < 12) & (pdf.lang == "en")]
    assert set(expected.id) > set(by_text.id)
    assert check(short(dd.from_pandas(pdf, npartitions=4, sort=False)), expected)[0] == ENGLISH


@pytest.mark.parametrize(
    ("wanted", "runs"), [("chunk_error", True), ("chunk", False), ("embedding", True)]
)
def test_messages_are_those_of_the_model_too(pdf, model, wanted, runs):
    """Whoever wants to know which texts failed has them run."""
    late = de.LateChunkEmbedder(model, max_tokens=8, on_error="null")
    lazy = late(dd.from_pandas(pdf, npartitions=4, sort=False))
    assert check(lazy[["id", wanted]], late(pdf)[["id", wanted]]) == (ROWS, runs)


@pytest.mark.parametrize(
    ("expression", "columns"),
    [
        (lambda f: f, {"id", "lang", "text", "weight"}),
        (lambda f: f[["chunk"]], {"text"}),
        (lambda f: f[["id"]], {"id", "text"}),
        (lambda f: f.index, {"text"}),
        (lambda f: f[f.chunk_index > 0][["id"]], {"id", "text"}),
        (lambda f: f[["id", "chunk"]].head(2, compute=False), {"id", "text"}),
    ],
    ids=range(6),
)
def test_columns_read_from_parquet(parquet, model, expression, columns):
    """The text, and what reaches the result or a condition."""
    lazy = expression(dd.read_parquet(parquet).ml.chunk(model=model, max_tokens=8))
    reads = list(lazy.simplify().expr.find_operations(ReadParquet))
    assert [set(read.columns) for read in reads] == [columns]


def test_a_filter_reaches_the_read(parquet, eager, model):
    out = dd.read_parquet(parquet, filesystem="arrow").ml.chunk(model=model, max_tokens=8)
    lazy = out[(out.lang == "en") & (out.chunk_index > 0)][["id", "chunk"]]
    (read,) = lazy.simplify().expr.find_operations(ReadParquet)
    assert read.filters == [[("lang", "==", "en")]]
    result, *found = counted(lazy.compute)
    kept = (eager.lang == "en") & (eager.chunk_index > 0)
    expected = eager[kept][["id", "chunk"]]  # Arrow reads files in an order of its own
    assert_same_frame(result.sort_index(kind="stable"), expected.sort_index(kind="stable"))
    assert found == [ENGLISH, False]


def test_a_task_is_named_after_its_operator(out, pdf, model):
    assert isinstance(out.expr, ChunkRows)
    assert out._name.startswith("latechunkembedder-")
    plain = dd.from_pandas(pdf, npartitions=2, sort=False).ml.chunk(model=model)
    assert plain._name.startswith("chunker-")


def test_two_results_and_a_merge(out, eager):
    """The plan of chunks and a part of them comes to an end."""

    def both(frame):
        return frame[["id", "chunk"]], frame[frame.weight > 3][["id", "lang"]]

    for result, expected in zip(dask.compute(*both(out)), both(eager), strict=True):
        assert_same_frame(result, expected)
    (left, right), (expected_left, expected_right) = both(out), both(eager)
    order = ["id", "chunk"]
    merged = left.merge(right, on="id").compute().sort_values(order, ignore_index=True)
    expected = expected_left.merge(expected_right, on="id")
    assert_same_frame(merged, expected.sort_values(order, ignore_index=True))


def test_filters_by_the_index_and_another(pdf, model):
    """Before and after; labels repeat, as every chunk has that of its text."""
    chunker = de.Chunker(model, max_tokens=8)
    embedder = de.Embedder(model, column="chunk")

    def by_index_last(frame):
        known = frame[frame.lang.isin(["en", "de"])]
        return known[known.index.to_series() > 5]

    def by_index_first(frame):
        later = frame[frame.index.to_series() > 5]
        return later[later.chunk_tokens > 6]

    lazy = chunker(dd.from_pandas(pdf, npartitions=2, sort=False))
    eager = chunker(pdf)
    assert_same_frame(by_index_last(embedder(lazy)).compute(), by_index_last(embedder(eager)))
    expected = by_index_first(eager)
    assert_same_frame(by_index_first(lazy).compute(), expected)
    assert len(by_index_first(lazy)) == len(expected) > 0


FILTERS = {
    "result": lambda f: f[f.chunk_tokens > 6],
    "other result": lambda f: f[f.chunk_index > 0],
    "input": lambda f: f[f.weight > 2],
    "index": lambda f: f[f.index.to_series() > 5],
    "mean": lambda f: f[f.weight > f.weight.mean()],
}


@pytest.mark.parametrize("second", FILTERS)
@pytest.mark.parametrize("first", FILTERS)
def test_number_of_chunks_behind_two_filters(out, eager, first, second):
    expected = FILTERS[second](FILTERS[first](eager))
    lazy = FILTERS[second](FILTERS[first](out))
    assert len(lazy) == len(expected) > 0
    assert_same_frame(lazy.compute(), expected)


STEPS = {
    "lang": lambda f, _: f[f.lang == "en"],
    "id": lambda f, n: f[f.id > n],
    "mean": lambda f, _: f[f.weight >= f.weight.mean()],
    "result": lambda f, _: f[f.chunk_index > 0],
    "both": lambda f, n: f[(f.id > n) & (f.chunk_tokens > 4)],
    "either": lambda f, n: f[(f.id > n) | (f.chunk_index == 0)],
    "head": lambda f, n: (
        f.head(n) if isinstance(f, pd.DataFrame) else f.head(n, npartitions=-1, compute=False)
    ),
}
COLUMNS = ["id", "lang", "weight", "chunk_index", "chunk_tokens", "text"]


@settings(QUICK, max_examples=15)
@given(
    steps=st.lists(st.tuples(st.sampled_from(list(STEPS)), st.integers(0, 20)), max_size=4),
    kept=st.lists(st.sampled_from(["chunk", "embedding", *COLUMNS]), unique=True, min_size=1),
    place=st.integers(0, 4),
)
def test_any_sequence(out, eager, steps, kept, place):
    """Any filters, heads and a selection, in any order, give what pandas gives."""
    lazy, expected = out, eager
    for number, (name, value) in enumerate(steps):
        if number == place:
            columns = [*kept, *(column for column in COLUMNS if column not in kept)]
            lazy, expected = lazy[columns], expected[columns]
        lazy, expected = STEPS[name](lazy, value), STEPS[name](expected, value)
    assert_same_frame(lazy[kept].compute(), expected[kept])
    whole, part = dask.compute(lazy, lazy[lazy.id > place * 4][kept])
    assert_same_frame(whole, expected)
    assert_same_frame(part, expected[expected.id > place * 4][kept])
