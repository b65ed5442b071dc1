"""Frames behind each other: operators of each rise above them, if fewer rows are wanted of all.

Expected values are those of the steps as they are written, nothing optimized; expected numbers of
rows are counted by hand: 40 rows in each of two frames, 10 of them English.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import dask
import dask.dataframe as dd
import pandas as pd
import pytest
from support.contract import assert_same_frame
from support.counting import ROWS, Length, Unsaid, rows_of, table
from support.row_chains import as_written

pytestmark = pytest.mark.filterwarnings("ignore:Insufficient elements for `head`")


@pytest.fixture(autouse=True)
def _in_order() -> Any:
    with dask.config.set({"scheduler": "sync", "dataframe.shuffle.method": "tasks"}):
        yield


@dataclasses.dataclass(frozen=True, kw_only=True)
class Given(Length):
    """It counts the rows that have a text, as a model does."""

    nulls_follow_inputs: ClassVar[bool] = True  # its `run` is another one

    def run(self, columns: list[Any], *, on_device: bool, meter: Any) -> Any:
        before = ROWS[self.output]
        made = super().run(columns, on_device=on_device, meter=meter)
        ROWS[self.output] = before + sum(text is not None for text in columns[0].values)
        return made


def low() -> pd.DataFrame:
    return table().assign(id=lambda frame: frame.index // 10)


def high() -> pd.DataFrame:
    """The same texts with higher numbers and labels."""
    frame = low().assign(id=lambda frame: frame.id + 100)
    return frame.set_index(frame.index + 1000)


def lazily(frame: pd.DataFrame) -> Any:
    return dd.from_pandas(frame, npartitions=2)


def narrow(frame: Any) -> Any:
    """Without the text that the result was made of."""
    return frame[["id", "lang", "num", "length"]]


Make = Callable[[Callable[[Any], Any]], Any]
BOTH: dict[str, Make] = {
    "both": lambda op: dd.concat([op(lazily(low())), op(lazily(high()))]),
    "unknown divisions": lambda op: dd.concat(
        [op(lazily(low())).clear_divisions(), op(lazily(high()))]
    ),
    "a step between": lambda op: dd.concat(
        [op(lazily(low())), op(lazily(high())).assign(extra=1).rename(columns=str)]
    ),
    "text left out": lambda op: dd.concat([narrow(op(lazily(low()))), narrow(op(lazily(high())))]),
    "common columns": lambda op: dd.concat(
        [op(lazily(low())).assign(extra=1), op(lazily(high()))], join="inner"
    ),
}
FIRST: dict[str, Make] = {
    "the first": lambda op: dd.concat([op(lazily(low())), lazily(high())]),
    "the first, text left out": lambda op: dd.concat([narrow(op(lazily(low()))), lazily(high())]),
}
LAST: dict[str, Make] = {"the last": lambda op: dd.concat([lazily(high()), op(lazily(low()))])}

# Rows where both frames have the operator, where the first has it, where the last has it: of the
# frame with low numbers.
STEPS: dict[str, tuple[Callable[[Any], Any], tuple[int, int, int]]] = {
    "filter": (lambda f: f[f.lang == "en"], (20, 10, 10)),
    "query": (lambda f: f.query("lang == 'en'"), (20, 10, 10)),
    "filter behind assign": (
        lambda f: f.assign(twice=f.num * 2).query("lang == 'en'"),
        (20, 10, 10),
    ),
    "filter behind rename": (
        lambda f: f.rename(columns={"length": "size", "lang": "tongue"}).query("tongue == 'en'"),
        (20, 10, 10),
    ),
    "loc": (lambda f: f.loc[f.lang == "en", ["id", "length"]], (20, 10, 10)),
    "largest": (lambda f: f.nlargest(3, "id"), (3, 0, 0)),
    "sorted": (lambda f: f.sort_values("id").head(3, compute=False), (3, 3, 3)),
    "indexed": (
        lambda f: f.set_index("id", drop=False).loc[35:104].rename_axis("label"),
        (10, 5, 5),
    ),
    "unique": (lambda f: f.drop_duplicates(subset=["lang"]), (4, 4, 0)),
    "head": (lambda f: f.head(50, npartitions=-1, compute=False), (50, 40, 10)),
    "partition": (lambda f: f.partitions[-1], (20, 0, 20)),
    "merged": (lambda f: f.merge(few(), on="lang"), (20, 10, 10)),
    "unused": (lambda f: f[["id", "num"]], (0, 0, 0)),
}


def few() -> Any:
    """One of four languages, under a name that it got since."""
    names = pd.DataFrame({"code": ["en"], "name": ["English"]})
    return dd.from_pandas(names, npartitions=1).rename(columns={"code": "lang"})


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("frames", [*BOTH, *FIRST, *LAST])
def test_rows_of_frames_behind_each_other(frames: str, step: str) -> None:
    make = {**BOTH, **FIRST, **LAST}[frames]
    taken, rows = STEPS[step]
    lazy = taken(make(Given()))
    least = rows[0 if frames in BOTH else 1 if frames in FIRST else 2]
    given: list[Any] = []
    assert rows_of(lambda: given.append(lazy.compute())) == least
    assert_same(given[0], as_written(lazy), step)
    plan = lazy.optimize(fuse=False)
    assert list(plan._meta.dtypes) == list(lazy._meta.dtypes)
    if step != "sorted":  # bounds of the rows before, for Dask
        assert plan.divisions == lazy.divisions or not lazy.known_divisions


def assert_same(given: Any, expected: Any, step: str) -> None:
    """A merge keeps no labels, and neither it nor a shuffle keeps the order."""
    if step == "merged":
        given, expected = given.reset_index(drop=True), expected.reset_index(drop=True)
    given, expected = (each.sort_values("id") for each in (given, expected))
    if step == "merged":
        given, expected = given.reset_index(drop=True), expected.reset_index(drop=True)
    assert len(expected)
    assert_same_frame(given, expected)


# Where it stays on its side: rows if a filter passes to both, and if rows are chosen of both
STAYS: dict[str, tuple[Callable[[], Any], int, int]] = {
    "another operator": (
        lambda: dd.concat([Length()(lazily(low())), Length(column="lang")(lazily(high()))]),
        20,
        80,
    ),
    "the same rows": (lambda: (lambda f: dd.concat([f, f]))(Length()(lazily(low()))), 10, 40),
    "nulls may have results": (
        lambda: dd.concat([Unsaid()(lazily(low())), lazily(high())]),
        10,
        40,
    ),
    "results in a file": (
        lambda: dd.concat([Length()(lazily(low())), lazily(high().assign(length=1))]),
        10,
        40,
    ),
}


@pytest.mark.parametrize("name", STAYS)
def test_where_it_stays_on_its_side(name: str) -> None:
    make, filtered, chosen = STAYS[name]
    for step, least in (
        (lambda f: f[f.lang == "en"], filtered),
        (lambda f: f.nlargest(3, ["id", "num"]), chosen),
    ):
        lazy = step(make())
        given: list[Any] = []
        assert rows_of(lambda: given.append(lazy.compute())) == least  # noqa: B023
        assert_same_frame(given[0], as_written(lazy))


def test_texts_of_two_types_stay_texts() -> None:
    """Which type both have together is not asked: each operator stays on its side."""
    with dask.config.set({"dataframe.convert-string": False}):
        other = lazily(high().astype({"text": object}))
        lazy = dd.concat([Length()(lazily(low())), Length()(other)]).nlargest(3, "id")
        given: list[Any] = []
        assert rows_of(lambda: given.append(lazy.compute())) == 80
        assert_same_frame(given[0], as_written(lazy))


def test_nulls_of_texts_and_rows_without_results() -> None:
    """Both are null in the result, and neither is run."""
    few_texts = low().assign(text=lambda f: f.text.where(f.id % 3 > 0))
    lazy = dd.concat([Given()(lazily(few_texts)), lazily(high())]).query("lang == 'en'")
    given: list[Any] = []
    assert rows_of(lambda: given.append(lazy.compute())) == 6  # of 0, 4, ... 36 without 0, 12, ...
    assert given[0].length.isna().sum() == 14
    assert_same_frame(given[0], as_written(lazy))


@pytest.mark.parametrize(("rise", "rows"), [("all", 20), ("blockwise", 20), ("none", 80)])
def test_how_far_is_a_setting(rise: str, rows: int) -> None:
    lazy = BOTH["both"](Length()).query("lang == 'en'")
    with dask.config.set({"embed.operators-rise": rise}):
        assert rows_of(lazy.compute) == rows


def test_two_operators_on_each_frame() -> None:
    """The second reads the first: both rise."""

    def both(frame: Any) -> Any:
        made = Given()(frame.assign(body=frame.text + "!"))
        return Given(column="body", output="other")(made)

    lazy = BOTH["both"](both).nlargest(3, "id")
    given: list[Any] = []
    assert rows_of(lambda: given.append(lazy.compute())) == 6
    assert_same_frame(given[0], as_written(lazy))


def test_a_hidden_input_has_no_name_of_the_users() -> None:
    other = high().assign(**{"text of some frames": 1})
    lazy = dd.concat([Given()(lazily(low())), lazily(other)]).query("lang == 'en'")
    given: list[Any] = []
    assert rows_of(lambda: given.append(lazy.compute())) == 10
    assert_same_frame(given[0], as_written(lazy))


def test_files_keep_their_partitions_where_these_are_counted(tmp_path: Any) -> None:
    """Of files that few columns are read of Dask makes fewer: an array would have fewer chunks."""
    lazily(low()).to_parquet(tmp_path / "low")
    lazily(high()).to_parquet(tmp_path / "high")
    low_files, high_files = (dd.read_parquet(tmp_path / name) for name in ("low", "high"))
    for frames in ([Given()(low_files), Given()(high_files)], [Given()(low_files), high_files]):
        lazy = dd.concat(frames).query("lang == 'en'")[["id", "length"]]
        kept = lazy.persist()
        assert kept.npartitions == lazy.npartitions == 4
        assert_same_frame(kept.compute(), as_written(lazy))
