"""Only the rows and columns that reach a result go through the model, and nothing else changes.

Every expression is a function that is applied to the lazy frame and to the eager one, whose
embeddings were computed without Dask; the results have to be the same.
"""

from __future__ import annotations

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
from dask_embed.lazy.append import AppendColumns

pytestmark = pytest.mark.usefixtures("one_torch_thread")

ROWS = 24
ENGLISH = 8  # rows 0, 3, 6, ...: one in three
HALF = 12  # rows above the mean of id


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return shared_tiny_bert(tmp_path_factory)


@pytest.fixture(scope="module")
def pdf() -> pd.DataFrame:
    """Distinct texts without nulls, so that every row that is not dropped is counted."""
    number = np.arange(ROWS)
    return pd.DataFrame(
        {
            "id": number,
            "lang": np.array(["en", "de", "fr"])[number % 3],
            "text": [f"row {i} " + "of many words " * (i * 7 % 5) for i in number],
            "weight": (number * 5 % 7).astype("float32"),
        },
        index=pd.Index(number * 7 % ROWS, name="key"),
    ).astype({"lang": "string[pyarrow]", "text": "string[pyarrow]"})


@pytest.fixture(scope="module")
def eager(pdf, model):
    return pdf.ml.embed(model=model)


@pytest.fixture(scope="module")
def out(pdf, model):
    return dd.from_pandas(pdf, npartitions=4, sort=False).ml.embed(model=model)


@pytest.fixture(scope="module")
def holes(pdf):
    """The same rows, every fourth text null: rows 0, 4, 8, ..."""
    return pdf.assign(text=pdf.text.where(pdf.id % 4 > 0))


def check(count, lazy, expected) -> int:
    """Compare a lazy result with the eager one; return how many rows the model saw."""
    given = []
    rows = count(lambda: given.append(lazy.compute()))
    assert_same_frame(given[0], expected)
    return rows


def select_then_filter(frame):
    chosen = frame[["id", "lang", "embedding"]]
    return chosen[chosen.lang == "en"]


def select_then_filter_by_reading(frame):
    chosen = frame[["id", "text", "embedding"]]
    return chosen[chosen.text.str.len() > 30][["embedding"]]


def stacked(frame):
    english = frame[frame.lang == "en"]
    return english[english.id > 10]


def stacked_by_mean(frame):
    english = frame[frame.lang == "en"]
    return english[english.weight > english.weight.mean()]


def stacked_select(frame):
    english = frame[frame.lang == "en"][["id", "embedding"]]
    return english[english.id > 10][["embedding"]]


def result_then_filter(frame):
    known = frame[frame.embedding.notnull()]
    return known[known.lang == "en"]


def filter_then_result(frame):
    english = frame[frame.lang == "en"]
    return english[english.embedding.notnull()]


def assigned(frame):
    more = frame.assign(double=frame.id * 2)
    return more[more.lang == "en"][["double", "embedding"]]


def series(frame):
    return frame[frame.lang == "en"].embedding


def series_then_filter(frame):
    return frame.embedding[frame.lang == "en"]


LONG_TEXTS = 14  # texts of more than 30 characters: those with 2, 3 or 4 repeats

EXPRESSIONS = {
    "everything": (lambda f: f, ROWS),
    "embedding alone": (lambda f: f[["embedding"]], ROWS),
    "embedding as series": (lambda f: f.embedding, ROWS),
    "columns in another order": (lambda f: f[["embedding", "id"]], ROWS),
    "no result column": (lambda f: f[["id"]], 0),
    "no result series": (lambda f: f.id, 0),
    "the text itself": (lambda f: f[["text", "lang"]], 0),
    "result dropped": (lambda f: f.drop(columns="embedding"), 0),
    "text dropped": (lambda f: f.drop(columns=["text"]), ROWS),
    "filter": (lambda f: f[f.lang == "en"], ENGLISH),
    "filter, then select": (lambda f: f[f.lang == "en"][["id", "embedding"]], ENGLISH),
    "select, then filter": (select_then_filter, ENGLISH),
    "select, then filter by text": (select_then_filter_by_reading, LONG_TEXTS),
    "filter a series": (series, ENGLISH),
    "series, then filter": (series_then_filter, ENGLISH),
    "filter, result dropped": (lambda f: f[f.lang == "en"].drop(columns="embedding"), 0),
    "filter by own input": (lambda f: f[f.text.str.len() > 30], LONG_TEXTS),
    "filter by index": (lambda f: f[f.index.to_series() < 6], 6),
    "filter by isin": (lambda f: f[f.lang.isin(["en", "fr"])], 2 * ENGLISH),
    "filter by negation": (lambda f: f[~(f.lang == "en")], ROWS - ENGLISH),
    "two filters": (stacked, 4),
    "two filters and selections": (stacked_select, 4),
    "conjunction": (lambda f: f[(f.lang == "en") & (f.id > 10)], 4),
    "disjunction": (lambda f: f[(f.lang == "en") | (f.id == 1)], ENGLISH + 1),
    "mixed conjunction": (lambda f: f[(f.lang == "en") & f.embedding.notnull()], ENGLISH),
    "mixed conjunction, turned": (lambda f: f[f.embedding.notnull() & (f.lang == "en")], ENGLISH),
    "mixed conjunction, selected": (
        lambda f: f[(f.lang == "en") & f.embedding.notnull()][["id"]],
        0,  # no text is null
    ),
    "mixed disjunction": (lambda f: f[(f.lang == "en") | f.embedding.isnull()], ENGLISH),
    "nothing left of the result": (lambda f: f[f.embedding.isnull()], 0),
    "result, then filter": (result_then_filter, ENGLISH),
    "filter, then result": (filter_then_result, ENGLISH),
    "above the mean": (lambda f: f[f.id > f.id.mean()], HALF),
    "above the mean, selected": (lambda f: f[f.id > f.id.mean()][["embedding"]], HALF),
    "above the mean and mixed": (
        lambda f: f[(f.id > f.id.mean()) & f.embedding.notnull()],
        HALF,
    ),
    "above the mean of those left": (stacked_by_mean, None),
    "none left": (lambda f: f[f.id > 1000], 0),
    "assigned column": (assigned, None),  # Dask's own assign lets no filter through
    "query": (lambda f: f.query("lang == 'en'"), None),
    "dropna": (lambda f: f.dropna(subset=["weight"]), None),
    "renamed": (lambda f: f.rename(columns={"embedding": "vector"})[["vector"]], ROWS),
    "length of the filtered": (lambda f: f[f.lang == "en"].id.count(), 0),
}
SCALARS = {"length of the filtered"}


@pytest.mark.parametrize("name", [name for name in EXPRESSIONS if name not in SCALARS])
def test_rows_and_result(rows_through_model, out, eager, name):
    """The optimized result equals the eager one; the model saw the expected rows."""
    expression, expected_rows = EXPRESSIONS[name]
    rows = check(rows_through_model, expression(out), expression(eager))
    assert expected_rows is None or rows == expected_rows


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_optimizing_twice(out, name):
    """Optimizing is finished after once: doing it again changes nothing."""
    lazy = EXPRESSIONS[name][0](out)
    simplified = lazy.simplify()
    assert simplified.simplify()._name == simplified._name
    once = lazy.optimize(fuse=False)
    assert once.optimize(fuse=False)._name == once._name


def test_optimized_twice_computes_the_same(out, eager):
    """A frame that was optimized with fusion can be optimized and computed again."""
    once = select_then_filter(out).optimize()
    assert_same_frame(once.optimize().compute(), select_then_filter(eager))


# Rows


def test_head(rows_through_model, out, eager):
    """head(5) sends five rows through the model."""
    given = []
    assert rows_through_model(lambda: given.append(out.head(5))) == 5
    assert_same_frame(given[0], eager.head(5))


def test_head_of_all_partitions(rows_through_model, out, eager):
    """A lazy head over all partitions, too."""
    rows = check(rows_through_model, out.head(8, npartitions=2, compute=False), eager.head(8))
    assert rows <= 12  # the two partitions, six rows each


def test_head_of_a_selection(rows_through_model, out, eager):
    given = []
    work = lambda: given.append(out[["id", "embedding"]].head(3))  # noqa: E731
    assert rows_through_model(work) == 3
    assert_same_frame(given[0], eager[["id", "embedding"]].head(3))


def test_head_of_a_filter(rows_through_model, out, eager):
    """The first two English rows of the first partition, which has two of them."""
    given = []
    work = lambda: given.append(out[out.lang == "en"].head(2))  # noqa: E731
    assert rows_through_model(work) <= 2
    assert_same_frame(given[0], eager[eager.lang == "en"].head(2))


def test_tail(rows_through_model, out, eager):
    given = []
    assert rows_through_model(lambda: given.append(out.tail(4))) == 4
    assert_same_frame(given[0], eager.tail(4))


def test_len(rows_through_model, out):
    """Counting rows needs no model."""
    counts = []
    assert rows_through_model(lambda: counts.append(len(out))) == 0
    assert counts == [ROWS]


def test_len_of_a_filter(rows_through_model, out):
    counts = []
    assert rows_through_model(lambda: counts.append(len(out[out.lang == "en"]))) == 0
    assert counts == [ENGLISH]


def test_index(rows_through_model, out, eager):
    """The index needs no model either."""
    given = []
    assert rows_through_model(lambda: given.append(out.index.compute())) == 0
    pd.testing.assert_index_equal(given[0], eager.index)


def test_reduction_of_another_column(rows_through_model, out, eager):
    given = []
    assert rows_through_model(lambda: given.append(out.weight.sum().compute())) == 0
    assert given == [eager.weight.sum()]


def test_partitions(rows_through_model, out, eager):
    """One partition sends its own rows: six of twenty-four."""
    assert check(rows_through_model, out.partitions[1], eager.iloc[6:12]) == 6


def test_filter_of_a_partition(rows_through_model, out, eager):
    part = eager.iloc[6:12]
    lazy = out[out.lang == "en"].partitions[1]
    assert check(rows_through_model, lazy, part[part.lang == "en"]) == 2


def test_same_frame_used_twice(rows_through_model, out, eager):
    """Two results of one frame, computed together, share its rows."""
    given = []

    def both():
        given.extend(dask.compute(out[["id", "embedding"]], out[["embedding"]]))

    assert rows_through_model(both) <= 2 * ROWS
    assert_same_frame(given[0], eager[["id", "embedding"]])
    assert_same_frame(given[1], eager[["embedding"]])


# Null texts, and conditions that read a result


def test_condition_on_a_result(rows_through_model, holes, model):
    """Of the English rows, those that have an embedding: the model runs only these."""
    out = dd.from_pandas(holes, npartitions=4, sort=False).ml.embed(model=model)
    eager = holes.ml.embed(model=model)
    for turned in (False, True):

        def keep(frame, turned=turned):
            pair = [frame.lang == "en", frame.embedding.notnull()]
            return pair[turned] & pair[not turned]

        # English are 0, 3, ..., 21; of these 0 and 12 have no text
        assert check(rows_through_model, out[keep(out)], eager[keep(eager)]) == ENGLISH - 2
    assert len(eager[keep(eager)]) == ENGLISH - 2


@pytest.mark.parametrize(
    "condition",
    [
        lambda f: (f.lang == "en") | f.embedding.isnull(),
        lambda f: (f.lang == "en") & (f.embedding.isnull() | (f.id > 10)),
        lambda f: ~(f.embedding.isnull() & (f.lang == "en")),
        lambda f: (f.id > 3) & (f.lang == "en") & f.embedding.isnull() & (f.weight < 6),
        lambda f: f.embedding.isnull() == (f.lang == "en"),
        lambda f: (f.lang == "en") & (f.embedding.isnull().sum() > 2),
        lambda f: (f.lang == "en") & (f.embedding.isnull().astype(int) < f.weight.mean()),
        lambda f: (f.id < 20) & (f.id > f[f.embedding.isnull()].id.mean()),
    ],
    ids=range(8),
)
@pytest.mark.parametrize("columns", [None, ["id", "embedding"], ["weight"]], ids=str)
def test_conditions_of_both_kinds(holes, model, condition, columns):
    """However conditions on results and on other columns mix, the rows are the eager ones."""
    out = dd.from_pandas(holes, npartitions=4, sort=False).ml.embed(model=model)
    eager = holes.ml.embed(model=model)
    lazy, expected = out[condition(out)], eager[condition(eager)]
    if columns:
        lazy, expected = lazy[columns], expected[columns]
    assert 0 < len(expected) < ROWS
    assert_same_frame(lazy.compute(), expected)


def test_condition_that_sees_its_whole_partition(out, eager):
    """A function of a partition gets all its rows, even beside a condition that may go first."""

    def after_three(series):
        return pd.Series(np.arange(len(series)) >= 3, index=series.index)

    later = out.embedding.map_partitions(after_three, meta=("embedding", bool))
    place = np.arange(ROWS) % 6  # partitions are of six rows
    expected = eager[(eager.lang == "en") & (place >= 3)]
    assert len(expected) == 4
    assert_same_frame(out[(out.lang == "en") & later].compute(), expected)


def test_condition_that_sees_a_whole_filtered_partition(out, eager):
    """A function of a partition of filtered rows gets these rows and no others."""

    def after_one(series):
        return pd.Series(np.arange(len(series)) >= 1, index=series.index)

    english = out[out.lang == "en"]  # places 0 and 3 of each partition
    later = english.id.map_partitions(after_one, meta=("id", bool))
    place = np.arange(ROWS) % 6
    assert_same_frame(english[later].compute(), eager[place == 3])


def test_condition_on_a_result_with_other_labels(pdf, model):
    """Its labels are numbers of rows, which a filter below it would change."""
    frame = pdf.reset_index(drop=True)
    frame["text"] = frame.text.where(frame.id % 4 > 0)

    def expression(embedded):
        known = embedded.embedding.notnull().reset_index(drop=True)
        return embedded[(embedded.lang == "en") & known][["id"]]

    lazy = dd.from_pandas(frame, npartitions=1).clear_divisions().ml.embed(model=model)
    assert_same_frame(expression(lazy).compute(), expression(frame.ml.embed(model=model)))


@pytest.mark.parametrize("columns", [None, ["id"], ["embedding"]], ids=str)
def test_filter_by_the_index_of_a_filter(out, eager, columns):
    """A condition made from filtered rows is not joined to one of all rows."""

    def expression(frame):
        english = frame[frame.lang == "en"]
        later = english[english.index.to_series() > 5]
        return later[columns] if columns else later

    assert_same_frame(expression(out).compute(), expression(eager))


def test_filters_that_cumulate(pdf, model):
    """The second one counts the rows that the first has left."""

    def expression(frame):
        first = frame[frame.weight.cumsum() > 20].ml.embed(model=model)
        second = first[first.weight.cumsum() > 10]
        return second[second.lang.isin(["en", "fr"])]

    lazy = expression(dd.from_pandas(pdf, npartitions=1, sort=False))
    expected = expression(pdf)
    assert 0 < len(expected) < 10
    assert_same_frame(lazy.compute(), expected)
    counted, both = dask.compute(lazy.id.count(), lazy)
    assert counted == len(expected)
    assert_same_frame(both, expected)


# Several results of one frame


def replaced(frame):
    frame = frame.assign(weight=frame.weight * 2)
    return frame[frame.lang == "en"]


PAIRS = {
    "and columns of a part": lambda f: (f, f[f.weight > 3][["id", "text"]]),
    "and vectors of a part": lambda f: (f, f[f.weight > 3][["id", "embedding"]]),
    "and a series of a part": lambda f: (f, f[f.weight > 3].lang),
    "two parts": lambda f: (f[f.lang == "en"], f[f.weight > 3][["embedding"]]),
    "one part twice": lambda f: (f[f.lang == "en"].embedding, f[f.lang == "en"][["id"]]),
    "narrow, and a part": lambda f: (f[["id", "embedding"]], f[f.weight > 3][["id", "lang"]]),
    "replaced and a series": lambda f: (replaced(f), replaced(f).embedding),
}


@pytest.mark.parametrize("name", PAIRS)
def test_two_results(out, eager, name):
    """The plan of both together comes to an end, and gives what each gives alone."""
    for result, expected in zip(dask.compute(*PAIRS[name](out)), PAIRS[name](eager), strict=True):
        assert_same_frame(result, expected)


def test_with_a_part_of_itself(out, eager):
    """Merged and concatenated."""

    def part(frame):
        return frame[frame.weight > 3][["id", "lang"]]

    merged = out.merge(part(out), on="id").compute().sort_values("id", ignore_index=True)
    expected = eager.merge(part(eager), on="id").sort_values("id", ignore_index=True)
    assert_same_frame(merged, expected)
    together = dd.concat([out, part(out)]).compute()
    assert_same_frame(together, pd.concat([eager, part(eager)]))


# Two operators


def test_two_operators(rows_through_model, out, eager, model):
    """Both see the filtered rows in one pass; one whose result is not wanted sees none."""

    def twice(frame):
        return frame.ml.embed(model=model, output="second", pooling="cls")

    lazy, expected = twice(out), twice(eager)
    assert check(rows_through_model, lazy, expected) == ROWS
    assert check(rows_through_model, lazy[["id", "second"]], expected[["id", "second"]]) == ROWS
    assert check(rows_through_model, lazy[["embedding"]], expected[["embedding"]]) == ROWS
    assert check(rows_through_model, lazy[["lang"]], expected[["lang"]]) == 0
    english = lazy[lazy.lang == "en"], expected[expected.lang == "en"]
    assert check(rows_through_model, *english) == ENGLISH
    selected = (frame[["id", "second"]] for frame in english)
    assert check(rows_through_model, *selected) == ENGLISH
    mixed = (f[(f.lang == "en") & f.embedding.notnull()][["second"]] for f in (lazy, expected))
    assert check(rows_through_model, *mixed) == ENGLISH  # the nulls of the other are the text's


def test_two_operators_on_a_filter_between(rows_through_model, out, eager, model):
    def twice(frame):
        english = frame[frame.lang == "en"]
        more = english.ml.embed(model=model, output="second", pooling="max")
        return more[more.id > 10]

    assert check(rows_through_model, twice(out), twice(eager)) == 4


def test_operator_with_an_error_column(rows_through_model, pdf, model):
    """The error column is a result: to want it, or to filter by it, runs the model."""

    def apply(frame):
        return frame.ml.embed(model=model, on_error="null")

    lazy, expected = apply(dd.from_pandas(pdf, npartitions=4, sort=False)), apply(pdf)
    wanted = ["id", "embedding_error"]
    assert check(rows_through_model, lazy[wanted], expected[wanted]) == ROWS
    assert check(rows_through_model, lazy[["id"]], expected[["id"]]) == 0
    kept = (f[f.embedding_error.isnull() & (f.lang == "en")] for f in (lazy, expected))
    assert check(rows_through_model, *kept) == ENGLISH


# Reading


@pytest.fixture(scope="module")
def parquet(pdf, tmp_path_factory):
    folder = tmp_path_factory.mktemp("parquet")
    dd.from_pandas(pdf, npartitions=4, sort=False).to_parquet(folder)
    return folder


def reads(lazy) -> list[ReadParquet]:
    return list(lazy.simplify().expr.find_operations(ReadParquet))


@pytest.mark.parametrize(
    ("expression", "columns"),
    [
        (lambda f: f, {"id", "lang", "text", "weight"}),
        (lambda f: f[["embedding"]], {"text"}),
        (lambda f: f[["id", "embedding"]], {"id", "text"}),
        (lambda f: f[["id"]], {"id"}),
        (lambda f: f[f.lang == "en"][["id", "embedding"]], {"id", "lang", "text"}),
        (lambda f: f[f.lang == "en"][["weight"]], {"lang", "weight"}),
    ],
    ids=range(6),
)
def test_columns_read_from_parquet(parquet, eager, model, expression, columns):
    """Only the columns that reach the result, or that the operator reads, are read."""
    lazy = expression(dd.read_parquet(parquet).ml.embed(model=model))
    assert {frozenset(read.columns) for read in reads(lazy)} == {frozenset(columns)}
    assert_same_frame(lazy.compute().sort_index(), expression(eager).sort_index())


def test_filter_reaches_the_read(parquet, eager, model, rows_through_model):
    """A filter goes through the operator down to the Parquet reader."""
    out = dd.read_parquet(parquet, filesystem="arrow").ml.embed(model=model)
    lazy = out[out.lang == "en"][["id", "embedding"]]
    assert [read.filters for read in reads(lazy)] == [[[("lang", "==", "en")]]]
    given = []
    assert rows_through_model(lambda: given.append(lazy.compute())) == ENGLISH
    expected = eager[eager.lang == "en"][["id", "embedding"]]
    assert_same_frame(given[0].sort_index(), expected.sort_index())


# The client


def test_no_weights_on_the_client(monkeypatch, pdf, model):
    """Building, describing and optimizing a graph loads no model, not even for its dtypes."""
    from dask_embed.inference import runner
    from dask_embed.loading import load as loading

    def fail(*args):
        raise AssertionError("weights were loaded while a graph was built")

    de.unload()
    monkeypatch.setattr(loading, "load", fail)
    monkeypatch.setattr(runner, "load", fail)
    out = dd.from_pandas(pdf, npartitions=4, sort=False).ml.embed(model=model)
    for expression, _ in EXPRESSIONS.values():
        lazy = expression(out)
        repr(lazy)
        lazy.optimize().__dask_graph__()
    assert list(out.dtypes.index) == [*pdf.columns, "embedding"]
    with pytest.raises(AssertionError, match="weights were loaded"):
        out.compute()


def test_the_name_tells_the_operator(out):
    """Tasks are named after the operator, which is what a dashboard shows."""
    assert isinstance(out.expr, AppendColumns)
    assert out._name.startswith("embedder-")


# Any sequence of steps

STEPS = {
    "lang": lambda f, _: f[f.lang == "en"],
    "id": lambda f, n: f[f.id > n],
    "own text": lambda f, n: f[f.text.str.len() > n],
    "mean": lambda f, _: f[f.weight >= f.weight.mean()],
    "result": lambda f, _: f[f.embedding.notnull()],
    "no result": lambda f, _: f[f.embedding.isnull()],
    "both": lambda f, n: f[(f.id > n) & f.embedding.notnull()],
    "either": lambda f, n: f[(f.id > n) | f.embedding.isnull()],
    "assign": lambda f, n: f.assign(**{new_name(f): f.id + n}),
    "assign from the result": lambda f, _: f.assign(**{new_name(f): f.embedding.notnull()}),
    "replace": lambda f, n: f.assign(weight=f.weight - n),
    "head": lambda f, n: head(f, n),
}
COLUMNS = ["id", "lang", "text", "weight", "embedding"]


def new_name(frame) -> str:
    return f"new{len(frame.columns)}"


def head(frame, n):
    if isinstance(frame, pd.DataFrame):
        return frame.head(n)
    return frame.head(n, npartitions=-1, compute=False)


@settings(QUICK, max_examples=40)
@given(
    steps=st.lists(st.tuples(st.sampled_from(list(STEPS)), st.integers(0, 20)), max_size=5),
    kept=st.lists(st.sampled_from(COLUMNS), unique=True, min_size=1),
    place=st.integers(0, 5),
)
def test_any_sequence(holes, model, steps, kept, place):
    """Any filters, assignments, heads and a selection, in any order, give what pandas gives."""
    eager = holes.ml.embed(model=model)
    lazy = dd.from_pandas(holes, npartitions=3, sort=False).ml.embed(model=model)
    for number, (name, value) in enumerate(steps):
        if number == place:
            keeps = [*kept, *(column for column in COLUMNS[:4] if column not in kept)]
            eager, lazy = eager[keeps], lazy[keeps]
            if "embedding" not in eager:
                break
        eager, lazy = STEPS[name](eager, value), STEPS[name](lazy, value)
    kept = [column for column in kept if column in eager]
    assert_same_frame(lazy.compute(), eager)
    if kept:
        assert_same_frame(lazy[kept].compute(), eager[kept])
        part = lazy[lazy.id > place * 4][kept]
        whole, part = dask.compute(lazy, part)
        assert_same_frame(whole, eager)
        assert_same_frame(part, eager[eager.id > place * 4][kept])
