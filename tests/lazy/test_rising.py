"""An operator runs above every step that does not need it, and nothing else changes.

Expected values are those of the same steps in the order in which they are written, nothing
optimized; expected numbers of rows are counted by hand.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import dask
import dask.dataframe as dd
import pandas as pd
import pytest
from dask.dataframe.dask_expr.io.parquet import ReadParquet
from support.contract import assert_same_frame
from support.counting import Length, LengthVector, Unsaid, rows_of
from support.row_chains import (
    BY_PARTITION,
    BY_PLACE,
    Chain,
    _concat,
    _filter_number,
    _length,
    _split,
    _without_result,
    as_written,
    chain,
    mapping,
    sources,
    table,
)

import dask_embed as de
from dask_embed.lazy.append import AppendColumns
from dask_embed.lazy.chunks import ChunkRows
from dask_embed.lazy.formulas import assigned_name, conditions_in, is_condition, names_in
from dask_embed.lazy.quantize import QuantizeCalibrated
from dask_embed.operators.fused import Together

pytestmark = pytest.mark.filterwarnings(
    "ignore:Insufficient elements for `head`",
    "ignore:Merging dataframes with merge column data type mismatches",
    "ignore:invalid value encountered in reduce",  # Dask, of divisions of empty partitions
)


@pytest.fixture(autouse=True)
def _in_order() -> Any:
    with dask.config.set({"scheduler": "sync", "dataframe.shuffle.method": "tasks"}):
        yield


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return sources(tmp_path_factory.mktemp("table"))


# Any chain of steps


REFUSALS = (KeyError, NotImplementedError, TypeError, ValueError)
# Of vectors that are all equal, or none; and Dask's own, where it reads few columns of files.
TOLD = ("ranges=", "without known divisions")


def check_chain(frames: dict[str, Any], seed: int) -> None:
    name = list(frames)[seed % len(frames)]
    steps = chain(seed, BY_PLACE if name == "parquet" else BY_PARTITION)
    check(frames[name], steps, f"seed {seed} on {name}: {steps}", fused=seed // len(frames) % 2 > 0)


def check(frame: Any, steps: Chain, told: str, *, fused: bool) -> None:
    """Compare what a chain gives with what it gives where nothing is optimized."""
    given: list[Any] = []
    try:
        lazy = steps(frame)
        most = rows_of(lambda: given.append(as_written(lazy)))
    except REFUSALS as error:
        if any(words in str(error) for words in TOLD):
            return
        with mapping(), pytest.raises(REFUSALS):  # Dask's own
            as_written(steps(frame))
        return
    try:
        plan = lazy if fused else lazy.optimize(fuse=False)
        rows = rows_of(lambda: given.append(plan.compute() if fused else as_written(plan)))
        expected, result = given
        assert_same_rows(result, expected, steps)
        # Dask may compute divisions anew, and what chunks or calibration need may run beside it
        beside = list(lazy.expr.find_operations((ChunkRows, QuantizeCalibrated)))
        assert rows <= most or not steps.in_order or beside or rows <= rows_mapped(steps, frame)
        if not fused:
            assert_same_plan(lazy, plan, steps)
    except Exception as error:
        if any(words in str(error) for words in TOLD) or not dask_is_right(steps, frame):
            return
        raise AssertionError(told) from error


def rows_mapped(steps: Chain, frame: Any) -> int:
    """Return how many rows Dask runs with `map_partitions`.

    It runs them for themselves where partitions are chosen behind a filter that cumulates, also if
    all are: `head` behind such a filter runs each row twice.
    """
    with mapping():
        lazy = steps(frame)
        return rows_of(lambda: lazy.compute())


def assert_same_plan(lazy: Any, once: Any, steps: Chain) -> None:
    assert list(once._meta.dtypes) == list(lazy._meta.dtypes)
    if list(lazy.expr.find_operations(ReadParquet)):  # Dask joins small files, each time
        return
    assert once.optimize(fuse=False)._name == once._name
    if steps.in_order:  # bounds that are known stay known; nearer to the rows they may be
        assert once.npartitions == lazy.npartitions
        assert once.known_divisions == lazy.known_divisions


def assert_same_rows(given: pd.DataFrame, expected: pd.DataFrame, steps: Chain) -> None:
    if not steps.labelled:
        given, expected = (each.reset_index(drop=True) for each in (given, expected))
    if not steps.in_order:
        given, expected = (in_one_order(each, steps.labelled) for each in (given, expected))
    if not steps.labelled:
        given, expected = (each.reset_index(drop=True) for each in (given, expected))
    assert_same_frame(given, expected)


def in_one_order(frame: pd.DataFrame, labelled: bool) -> pd.DataFrame:
    """Sort rows by all that they hold, labels if they keep them: several may have one id."""
    if frame["id"].is_unique:
        return frame.sort_values("id", kind="stable")
    columns = [frame.iloc[:, place].astype(str) for place in range(len(frame.columns))]
    labels = [frame.index.astype(str)] if labelled else []
    rows = list(zip(*labels, *columns, strict=True))
    return frame.iloc[sorted(range(len(frame)), key=rows.__getitem__)]


def dask_is_right(steps: Chain, frame: Any) -> bool:
    """Return whether Dask gives with `map_partitions` what was written: it joins some filters."""
    with mapping():
        lazy = steps(frame)
        try:
            assert_same_rows(lazy.compute(), as_written(lazy), steps)
        except Exception:
            return False
    return True


@pytest.mark.parametrize("first", [0, 50])
def test_any_chain(frames: dict[str, Any], first: int) -> None:
    for seed in range(first, first + 50):
        check_chain(frames, seed)


def test_chains_that_found_a_fault(frames: dict[str, Any]) -> None:
    """A condition on values took the nulls that one beside it had asked for."""
    steps = (_length, 0), (_without_result, 532108), (_filter_number, 408182), (_concat, 671975)
    check(frames["pandas"], Chain((*steps, (_split, 714481))), "nulls", fused=True)


def test_a_selection_and_a_filter_that_cumulates_end(frames: dict[str, Any]) -> None:
    """Where two read it, each would take the other below itself for ever."""
    lazy = Length()(dropped(LengthVector()(frames["pandas"])))
    lazy = lazy[lazy.num.shift() > 5]
    lazy = dd.concat([lazy, lazy[lazy.id > 24]])["id"]
    assert_same_frame(lazy.compute(), as_written(lazy))


def dropped(frame: Any) -> Any:
    return frame[~frame.vector.isna()]


class TestManyChains:
    """Half of 5,100 chains, which take nine minutes of a core; a process gets whole classes."""

    @pytest.mark.slow
    @pytest.mark.parametrize("first", [100, 150, *range(8000, 10500, 50)])
    def test_any(self, frames: dict[str, Any], first: int) -> None:
        for seed in range(first, first + 50):
            check_chain(frames, seed)


class TestManyMoreChains:
    """The other half."""

    @pytest.mark.slow
    @pytest.mark.parametrize("first", range(10500, 13000, 50))
    def test_any(self, frames: dict[str, Any], first: int) -> None:
        for seed in range(first, first + 50):
            check_chain(frames, seed)


def test_chains_have_rows_and_leave_some_out(frames: dict[str, Any]) -> None:
    """The chains are no empty test: most give rows, and the model saw fewer than were there."""
    some = [seed for seed in range(20) if len(chain(seed, [])(frames["pandas"]).compute())]
    assert len(some) > 8


# Where it has to stay


STAYS: dict[str, Callable[[Any], Any]] = {
    "input replaced": lambda f: f.assign(text=f.text + "!").query("num > 3"),
    "input cast": lambda f: f.astype({"text": object}).query("num > 3"),
    "result filled": lambda f: f.fillna({"length": 0}).query("num > 3"),
    "all filled": lambda f: f[["num", "length"]].fillna(0).query("num > 3"),
    "duplicates of the result": lambda f: f.drop_duplicates(subset=["length"]),
    "sorted by the result": lambda f: f.sort_values(["length", "id"]).head(3, compute=False),
    "largest results": lambda f: f.nlargest(3, "length"),
    "text as index": lambda f: f.dropna(subset=["text"]).set_index("text").query("num > 3"),
    "a column of a hidden name": lambda f: hidden(f).query("num > 3"),
    "a column is named as a hidden one": lambda f: hidden_by_name(f).query("num > 3"),
    "whole rows drawn again": lambda f: f.sample(frac=0.5, replace=True, random_state=1),
    "everything is read": lambda f: f[f.map_partitions(lambda d: d.num > 3, meta=("n", bool))],
}


def hidden(frame: Any) -> Any:
    """Another column `text` than the one that the operator read."""
    return frame[["id", "num", "length"]].assign(text="another")


def hidden_by_name(frame: Any) -> Any:
    return frame[["id", "num", "length"]].rename(columns={"id": "text"})


@pytest.mark.parametrize("name", STAYS)
def test_what_needs_the_result_or_changes_its_input(frames: dict[str, Any], name: str) -> None:
    lazy = STAYS[name](Length()(frames["pandas"]))
    result, expected = lazy.compute(), as_written(lazy)
    if not lazy.known_divisions:
        result, expected = result.sort_values("num"), expected.sort_values("num")
    assert len(expected)
    assert_same_frame(result, expected)


def test_two_readers_share_one_run(frames: dict[str, Any]) -> None:
    """What is read whole beside a part of it does not run once more for the part."""
    whole = Length()(frames["pandas"])
    part = whole.assign(twice=whole.num * 2).query("num > 3")
    given: list[Any] = []
    assert rows_of(lambda: given.extend(dask.compute(whole, part))) == 40
    assert_same_frame(given[0], as_written(whole))
    assert_same_frame(given[1], as_written(part))


@pytest.mark.parametrize(("rise", "rows"), [("all", 3), ("blockwise", 20), ("none", 40)])
def test_how_far_is_a_setting(frames: dict[str, Any], rise: str, rows: int) -> None:
    """Above shuffles, above what moves no rows, or above nothing: 20 rows have an even number."""
    kept = Length()(frames["pandas"]).assign(even=lambda f: f.id % 2).query("even == 0")
    lazy = kept.nlargest(3, "id")
    given: list[Any] = []
    with dask.config.set({"embed.operators-rise": rise}):
        assert rows_of(lambda: given.append(lazy.compute())) == rows
    assert_same_frame(given[0], as_written(lazy))


def test_a_setting_that_is_none_of_these(frames: dict[str, Any]) -> None:
    told = r"must be one of 'all', 'blockwise', 'none'; got 'high'"
    with dask.config.set({"embed.operators-rise": "high"}), pytest.raises(ValueError, match=told):
        Length()(frames["pandas"])


# Filters of more than one row


def test_a_filter_of_a_cast_column(frames: dict[str, Any]) -> None:
    """Dask takes a filter below a cast as it is, where the column has other values."""
    lazy = Length()(frames["pandas"].astype({"num": str}))
    lazy = lazy[lazy.num == "5"]
    assert len(as_written(lazy)) == 3
    assert_same_frame(lazy.compute(), as_written(lazy))


def test_sums_of_filtered_rows(frames: dict[str, Any]) -> None:
    """Two that cumulate are not joined: the second is of what the first has left."""

    def twice(frame: Any) -> Any:
        first = frame[frame.num.cumsum() < 200]
        second = first[first.num.cumsum() > 20]
        return second[second.lang == "en"]

    lazy = twice(Length()(frames["pandas"]))
    expected = twice(Length()(table()))
    given: list[Any] = []
    rows = rows_of(lambda: given.append(lazy.compute()))
    assert 0 < len(expected) == rows
    assert_same_frame(given[0], expected)


def test_a_cumulating_filter_of_few_columns_of_files(frames: dict[str, Any]) -> None:
    """Both sides of the filter are read in as many partitions."""
    lazy = Length()(frames["parquet"])
    lazy = lazy[lazy.num.cumsum() < 100][["length"]]
    expected = Length()(table())
    expected = expected[expected.num.cumsum() < 100][["length"]]
    assert_same_frame(lazy.compute(), expected)


# Columns of other names


def test_operators_under_new_names_share_their_tokens(tmp_path_factory: Any) -> None:
    from support.contract import shared_tiny_bert

    model = shared_tiny_bert(tmp_path_factory)
    frame = dd.from_pandas(table().dropna(subset=["text"]), npartitions=2, sort=False)
    both = frame.ml.embed(model=model).ml.embed(model=model, output="second", pooling="cls")
    lazy = both.rename(columns={"text": "body", "second": "other"}).query("num > 3")
    plan = lazy.optimize(fuse=False).expr
    (node,) = {n._name: n for n in plan.find_operations(AppendColumns)}.values()
    assert isinstance(node.operator.operator, Together)
    assert_same_frame(lazy.compute(), as_written(lazy))
    assert_same_frame(lazy[["id", "other"]].compute(), as_written(lazy)[["id", "other"]])


def test_a_name_that_is_no_text_stays_above(frames: dict[str, Any]) -> None:
    lazy = Length()(frames["pandas"]).rename(columns={"length": 7})
    lazy = lazy[lazy.num > 3]
    assert_same_frame(lazy.compute(), as_written(lazy))


# Rows that fail


def test_rows_that_a_later_filter_drops_do_not_fail() -> None:
    """They are not run; what was written as a failure of all is none."""
    pdf = pd.DataFrame({"id": [1, 2, 3], "text": ["a", b"\xff\xfe", "c"]})
    with dask.config.set({"dataframe.convert-string": False}):
        frame = dd.from_pandas(pdf, npartitions=1)
        lazy = Length()(frame.assign(twice=frame.id * 2)).query("id != 2")
        assert lazy.length.compute().tolist() == [1, 1]
        with pytest.raises(ValueError, match="row 1 of the partition"):
            as_written(lazy)


# The index of rows that a step leaves, and a filter behind it

LEFT: dict[str, Callable[[Any], Any]] = {
    "dropna": lambda f: f.dropna(subset=["num"]),
    "dropna, cumulated": lambda f: f[f.id.cumsum() < 60].dropna(subset=["num"]),
    "loc": lambda f: f.loc[f.num > 0],
    "query": lambda f: f.query("num > 0"),
}


@pytest.mark.parametrize("again", [lambda f: f[f.length > 2], lambda f: f.dropna(subset="length")])
@pytest.mark.parametrize("step", LEFT.values(), ids=LEFT)
@pytest.mark.parametrize("index", [[5, 3, 0, 4, 1, 2], [0, 0, 1, 1, 2, 2]], ids=["mixed", "twice"])
def test_labels_of_what_is_left(
    index: list[int], step: Callable[[Any], Any], again: Callable[[Any], Any]
) -> None:
    """By a mask of the rows that the first step leaves, Dask would take other labels."""
    rows = {"id": [*range(6)], "num": [0.0, 1.0, None, 3.0, 4.0, 5.0]}
    texts = ["a", "bbbb", "cc", None, "dddd", "eeeee"]
    pdf = pd.DataFrame({**rows, "text": texts}, index=index)
    frame = dd.from_pandas(pdf, npartitions=1, sort=False)
    expected = again(step(Length()(pdf)))
    lazy = again(step(Length()(frame)))
    assert lazy.index.compute().tolist() == expected.index.tolist()
    assert lazy.num.size.compute() == len(expected)


# Steps that need results of the same row, and frames behind each other

RISE: dict[str, tuple[Callable[[Any], Any], int]] = {
    "assigned": (lambda f: english(f.assign(twice=f.length * 2)), 10),
    "assigned over": (lambda f: english(f.assign(length=f.length + f.num, half=f.num / 2)), 10),
    "assigned, unused": (lambda f: english(f.assign(twice=f.length * 2))[["id"]], 0),
    "assigned twice": (
        lambda f: english(f.assign(a=f.length * 2).assign(b=lambda g: g.a + g.num)),
        10,
    ),
    "renamed behind": (
        lambda f: english(f.assign(a=f.length * 2).rename(columns={"length": "size"})),
        10,
    ),
    "names exchanged behind": (
        lambda f: english(f.assign(a=f.length + f.num).rename(columns={"num": "id", "id": "num"})),
        10,
    ),
    "filled": (lambda f: english(f.fillna({"length": 0})), 10),
    "replaced": (lambda f: english(f.replace({"num": {3: 0}, "lang": {"de": "en"}})), 20),
    "rounded": (lambda f: english(f.round({"part": 1})), 10),
    "rounded result": (lambda f: english(f.round({"length": -1})), 10),
    "not used, divisions forgotten": (lambda f: f.clear_divisions()[["id"]], 0),
    "not used, all renamed": (lambda f: f.rename(columns=str.upper)[["ID"]], 0),
    "sorted": (lambda f: f.assign(a=f.length * 2).nlargest(3, "id"), 3),
    "cumulated, of two": (lambda f: cumulated(LengthVector()(f)), 32),
    "cumulated behind assign": (lambda f: cumulated(LengthVector()(f.assign(a=f.num * 2))), 32),
    "cumulated, named": (lambda f: cumulated(named(LengthVector()(named(f)))), 32),
    "exploded": (lambda f: english(exploded(f)), 10),
    "exploded, head": (lambda f: exploded(f).head(3, compute=False), 3),
    "exploded, of the words": (lambda f: (lambda g: g[g.words == "row"])(exploded(f)), 40),
    "exploded, of a mean": (lambda f: (lambda g: g[g.num > g.num.mean()])(exploded(f)), 40),
    "melted": (lambda f: f.melt(id_vars=["id"], value_vars=["num", "part"]), 0),
    "melted result": (lambda f: f.melt(id_vars=["id"], value_vars=["length"]), 40),
    "concat": (lambda f: english(dd.concat([f, f])), 10),
    "concat of two": (lambda f: english(dd.concat([f, Length()(more())])), 20),
    "concat, selected": (lambda f: english(dd.concat([f, f]))[["id", "length"]], 10),
    "concat, head": (lambda f: dd.concat([f, f]).head(3, compute=False), 3),
    "concat, mean": (lambda f: (lambda g: g[g.num > g.num.mean()])(dd.concat([f, f])), 40),
}


def cumulated(frame: Any) -> Any:
    """Rows 0 to 15: 78 of the first 13, then 0, 4 and 8."""
    return frame[frame.num.cumsum() < 100]


def named(frame: Any) -> Any:
    frame = frame.copy()
    frame.columns = list(frame.columns)
    return frame


def exploded(frame: Any) -> Any:
    return frame.assign(words=frame.text.str.split(" ")).explode("words")


def english(frame: Any) -> Any:
    return frame[frame.lang == "en"]


def more() -> Any:
    return dd.from_pandas(table().assign(id=lambda f: f.id + 100), npartitions=2)


@pytest.mark.parametrize("name", RISE)
def test_rows_of_the_same_row_and_of_several_frames(frames: dict[str, Any], name: str) -> None:
    step, least = RISE[name]
    lazy = step(Length()(frames["pandas"]))
    given: list[Any] = []
    assert rows_of(lambda: given.append(lazy.compute())) == least
    expected = as_written(lazy)
    assert len(expected)
    assert_same_frame(given[0], expected)


# Merges that add rows of the other frame, without results: `it` is no language of the table

ADDING: dict[str, tuple[Callable[[Any], Any], int]] = {
    "left": (lambda f: languages().merge(f, on="lang", how="left"), 21),
    "right": (lambda f: f.merge(languages(), on="lang", how="right"), 21),
    "outer, filtered": (lambda f: english(f.merge(languages(), on="lang", how="outer")), 10),
    "left, by another name": (
        lambda f: (
            languages()
            .rename(columns={"lang": "code"})
            .merge(f, left_on="code", right_on="lang", how="left")
        ),
        21,
    ),
}


def languages() -> Any:
    names = pd.DataFrame({"lang": ["en", "de", "it"], "name": ["English", "German", "Italian"]})
    return dd.from_pandas(names.astype({"lang": "string[pyarrow]"}), npartitions=1)


@pytest.mark.parametrize("name", ADDING)
def test_merges_that_add_rows_without_results(frames: dict[str, Any], name: str) -> None:
    step, least = ADDING[name]
    # integers stay such beside nulls: what Dask makes of others depends on partitions
    lazy = step(Length()(frames["pandas"].astype({"id": "Int64", "num": "Int64"})))
    given: list[Any] = []
    assert rows_of(lambda: given.append(lazy.compute())) == least
    result, expected = (
        each.sort_values(["id", "name"]).reset_index(drop=True)
        for each in (given[0], as_written(lazy))
    )
    assert_same_frame(result, expected)


def test_merges_that_add_rows_where_nulls_may_have_results(frames: dict[str, Any]) -> None:
    """A result of a null would stand in rows that had none."""
    lazy = ADDING["left"][0](Unsaid()(frames["pandas"]))
    given: list[Any] = []
    assert rows_of(lambda: given.append(lazy.compute())) == 40
    expected = as_written(lazy)
    assert list(given[0].dtypes) == list(expected.dtypes)
    assert sorted(given[0].length.dropna()) == sorted(expected.length.dropna())


# Files of which Dask joins those of one column: it would look for divisions in one partition

LABELLED: dict[str, Callable[[Any], Any]] = {
    "loc": lambda f: f.loc[22:28],
    "loc, unused": lambda f: f.loc[22:28][["id", "num"]],
    **{
        f"{how} join": lambda f, how=how: f.loc[5:35].join(scores(f), how=how)
        for how in ("left", "right", "inner", "outer")
    },
    "merge": lambda f: f.loc[5:35].merge(
        scores(f), left_index=True, right_index=True, how="outer", indicator=True
    ),
    "joined to": lambda f: scores(f).join(f[["num", "length"]].loc[5:35], how="outer"),
}


def scores(like: Any) -> Any:
    pdf = pd.DataFrame({"score": [1, 2, 3]}, index=pd.Index([9, 24, 50], name="number"))
    return pdf if isinstance(like, pd.DataFrame) else dd.from_pandas(pdf, npartitions=1)


@pytest.mark.parametrize("operators", [1, 2])
@pytest.mark.parametrize("name", LABELLED)
def test_sorted_files_keep_their_rows(tmp_path: Any, name: str, operators: int) -> None:
    """The ids are sorted in the files, of 30 and 10 rows: half of them would begin at 20."""
    pdf = table()
    for number, part in enumerate((pdf[:30], pdf[30:])):
        part.to_parquet(tmp_path / f"part.{number}.parquet")

    def steps(frame: Any) -> Any:
        frame = LengthVector()(Length()(frame)) if operators > 1 else Length()(frame)
        frame = frame.set_index("id", drop=False)
        return LABELLED[name](frame.rename_axis(index="number"))

    result, expected = steps(dd.read_parquet(tmp_path)).compute(), steps(pdf)
    assert len(expected)
    labels = [each.index.astype(int).tolist() for each in (result.sort_index(), expected)]
    assert labels[0] == sorted(labels[1])
    columns = ["num"] if "unused" in name else ["num", "length"]
    for column in columns:
        given, wanted = (each.sort_index()[column] for each in (result, expected))
        assert given.astype("Float64").tolist() == wanted.astype("Float64").tolist()


# Formulas of `query` and `eval`

COLUMNS = ["a", "b", "c"]


@pytest.mark.parametrize(
    ("formula", "names"),
    [
        ("a > 1", {"a"}),
        ("a > 1 and b == 'x'", {"a", "b"}),
        ("(a > 1) & ~(b in ['x', 'y'])", {"a", "b"}),
        ("a + b * 2 < c", {"a", "b", "c"}),
        ("a > a.mean()", None),
        ("abs(a) > 1", None),
        ("a > @limit", None),
        ("index > 3", None),
        ("`a b` > 3", None),
        ("a.cumsum() < 3", None),
        ("a[0] > 1", None),
        ("1 > 2", None),
        ("a >", None),
    ],
)
def test_names_in_a_formula(formula: str, names: set[str] | None) -> None:
    assert names_in(formula, COLUMNS) == names


def test_conditions_bind_as_pandas_binds_them() -> None:
    """`|` and `&` bind as `or` and `and` do, other than in Python."""
    assert conditions_in("a > 1 and b > 2 and c > 3") == ["a > 1", "b > 2", "c > 3"]
    assert conditions_in("a > 1 & b > 2") == ["a > 1", "b > 2"]
    assert len(conditions_in("a > 1 | b > 2 and c > 3")) == 1
    assert is_condition("not a > 1")
    assert not is_condition("a + b")
    assert assigned_name("d = a + b") == ("d", "a + b")
    assert assigned_name("a + b") == (None, "")


@pytest.mark.parametrize(
    "formula",
    [
        "num > 3 | part > 2 and id > 30",
        "num > 3 & part > 2 or id > 30",
        "not num > 3 and lang == 'en'",
        "lang != 'en' and part > 2",
        "lang in ['en', 'de'] and 3 < num < 9",
        "num == [1, 2, 3] and length > 10",
        "num > 3 or length > 20",
    ],
)
def test_queries(frames: dict[str, Any], formula: str) -> None:
    """Expected of pandas itself."""
    lazy = Length()(frames["pandas"]).query(formula)
    expected = Length()(table()).query(formula)
    assert 0 < len(expected) < 40
    assert_same_frame(lazy.compute(), expected)


def test_chunks_and_steps(tmp_path_factory: Any) -> None:
    """A row for each chunk: what counts rows stays above, what looks at one goes below."""
    from support.contract import shared_tiny_bert

    model = shared_tiny_bert(tmp_path_factory)
    pdf = table().assign(text=lambda f: f.text + " and more of it, to be cut.")
    frame = dd.from_pandas(pdf, npartitions=3, sort=False)
    steps: dict[str, Callable[[Any], Any]] = {
        "query": lambda f: f.assign(twice=f.num * 2).query("twice > 8"),
        "renamed": lambda f: f.rename(columns={"num": "number"}).dropna(subset=["part"]),
        "sampled": lambda f: f.sample(frac=0.5, random_state=1),
        "cumulated": lambda f: f[f.num.cumsum() < 60],
        "sorted": lambda f: f.sort_values(["id", "chunk_index"]).head(5, compute=False),
        "of chunks": lambda f: f.assign(late=f.chunk_index > 0).query("late and num > 3"),
    }
    cut = frame.ml.chunk("text", model=model, max_tokens=9)
    for name, step in steps.items():
        lazy = step(cut)
        expected = as_written(lazy)
        assert len(expected), name
        assert_same_frame(lazy.compute(), expected)


def test_quantized_vectors(frames: dict[str, Any]) -> None:
    """With ranges of their own each row is stored for itself, so the steps pass."""
    for precision, rows in (("float16", 5), ("int8", 40)):
        small = de.quantize(LengthVector()(frames["pandas"]), "vector", precision)
        lazy = small.assign(twice=small.num * 2).nlargest(5, "id")
        given: list[Any] = []
        assert rows_of(lambda: given.append(lazy.compute())) == rows  # noqa: B023
        assert_same_frame(given[0], as_written(lazy))


def test_every_step_is_in_some_chain() -> None:
    """So that a step which is written wrong, and leaves every frame as it is, is seen."""
    from support import row_chains

    rng = random.Random(1)
    frame = dd.from_pandas(table(), npartitions=4)
    copies = (row_chains._back, row_chains._copy)
    every = [*row_chains.BLOCKWISE, *row_chains.BY_PARTITION, *row_chains.MOVING]
    made = LengthVector()(Length()(frame))
    for step in every:
        if step not in copies:
            assert step(made, rng)._name != made._name, step.__name__
