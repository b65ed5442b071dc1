"""A job says how many rows failed: each once, whatever was selected, filtered or run again."""

from __future__ import annotations

import dataclasses
import functools
import os
import warnings
from pathlib import Path
from typing import Any

import dask
import dask.dataframe as dd
import pandas as pd
import pyarrow as pa
import pytest
from support import clusters, tiny
from support.counting import Length

from dask_embed.columns import Result, TextColumn

ROWS = 20
BAD = (3, 4, 11)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lengths(Length):
    """Append the number of characters; texts that begin with "bad" fail."""

    runs: str | None = None

    def run(
        self, columns: list[TextColumn], *, on_device: bool, meter: Any
    ) -> tuple[dict[str, Result], dict[int, str]]:
        if self.runs is not None:
            with open(self.runs, "a") as file:
                file.write("x" * len(columns[0].values))
        texts = columns[0].values
        failures = {
            row: f"{text} is\nbad" for row, text in enumerate(texts) if str(text).startswith("bad")
        }
        lengths = [
            None if text is None or row in failures else len(text) for row, text in enumerate(texts)
        ]
        return {self.output: pa.array(lengths, pa.int64())}, failures


def _frame(parts: int = 4) -> dd.DataFrame:
    texts: list[str | None] = [f"text {row}" for row in range(ROWS)]
    for row in BAD:
        texts[row] = f"bad {row}"
    texts[7] = None
    return dd.from_pandas(pd.DataFrame({"id": range(ROWS), "text": texts}), npartitions=parts)


def _told(frame: dd.DataFrame, folder: Path, **options: Any) -> list[str]:
    """Write `frame` and return the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert frame.ml.to_parquet(folder, **options) is None
    assert all(each.filename == __file__ for each in caught)
    return [str(each.message) for each in caught]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save("bert", tmp_path_factory.mktemp("failures") / "bert")


MADE = {
    "all": lambda out: out,
    "without-errors": lambda out: out[["id", "length"]],
    "renamed": lambda out: out.rename(columns={"length": "n", "length_error": "why"}),
    "without-failed": lambda out: out[out.length > 0][["id"]],
    "other-partitions": lambda out: out.repartition(npartitions=2)[["length"]],
    "shuffled": lambda out: out.shuffle("id", npartitions=3)[["id", "length"]],
    "mapped": lambda out: out.map_partitions(lambda rows: rows[["length"]]),
    "merged": lambda out: out.merge(_more(3), on="id", how="left"),
    "merged-on-the-right": lambda out: _more(4).merge(out, on="id"),
    "merged-with-pandas": lambda out: out.merge(_more(1).compute(), on="id", how="left"),
    "merged-on-the-index": lambda out: out.join(_more(2).set_index("id"), how="inner"),
    "concatenated": lambda out: dd.concat([out[["length"]], _more(2)[["n"]]]),
    "side-by-side": lambda out: dd.concat([out, _frame()[["id"]].add_suffix("_b")], axis=1),
}


def _more(parts: int) -> dd.DataFrame:
    return dd.from_pandas(pd.DataFrame({"id": range(ROWS), "n": 1.0}), npartitions=parts)


def _as_function(operator: Lengths) -> dd.DataFrame:
    frame = _frame()
    return frame.map_partitions(operator, meta=operator.meta(frame._meta))


def _as_partial_method(operator: Lengths) -> dd.DataFrame:
    frame = _frame()
    function = functools.partial(operator.apply)
    return frame.map_partitions(function, meta=operator.meta(frame._meta))


APPLIED = {
    "called": lambda operator: operator(_frame()),
    "map-partitions": _as_function,
    "partial-map-partitions": _as_partial_method,
}


def _all_told(folder: Path) -> list[str]:
    return [
        f"3 of 20 rows that were written to {str(folder)!r} failed and have no 'length' "
        "(on_error='null'); the first: bad 3 is bad"
    ]


@pytest.mark.parametrize("applied", APPLIED)
@pytest.mark.parametrize("made", MADE)
def test_every_failed_row_is_told_once(tmp_path: Path, made: str, applied: str) -> None:
    runs = str(tmp_path / "runs")
    out = APPLIED[applied](Lengths(on_error="null", runs=runs))
    assert _told(MADE[made](out), tmp_path / "out") == _all_told(tmp_path / "out")
    assert os.path.getsize(runs) == ROWS


def test_every_failed_row_is_told_once_by_workers(tmp_path: Path) -> None:
    with clusters.cluster(2, 1, processes=False), dask.config.set(scheduler=None):
        for applied, make in APPLIED.items():
            for made, of in MADE.items():
                folder = tmp_path / f"{applied}-{made}"
                assert _told(of(make(Lengths(on_error="null"))), folder) == _all_told(folder)


def test_both_sides_of_a_merge_are_added(tmp_path: Path) -> None:
    frame = _frame()
    left, right = Lengths(on_error="null")(frame), Lengths(on_error="null")(frame.assign(more=1))
    (told,) = _told(left.merge(right, on="id"), tmp_path / "out")
    assert told.startswith("6 of 40 rows")


def test_conditions_still_go_before_the_operator(tmp_path: Path) -> None:
    runs = str(tmp_path / "runs")
    out = Lengths(on_error="null", runs=runs)(_frame())
    (told,) = _told(out[out.id > 9], tmp_path / "out")
    assert told.startswith("1 of 10 rows")
    assert os.path.getsize(runs) == 10


def test_nothing_is_told_where_nothing_failed_or_is_not_wanted(tmp_path: Path) -> None:
    frame = _frame()
    assert _told(frame, tmp_path / "plain") == []
    good = frame[~frame.id.isin(list(BAD))]
    assert _told(Lengths(on_error="null")(good), tmp_path / "good") == []
    assert _told(Lengths(on_error="null")(frame)[["id"]], tmp_path / "ids") == []


def test_each_column_is_told(tmp_path: Path) -> None:
    frame = Lengths(on_error="null")(_frame()).assign(more="bad")
    frame = Lengths(column="more", output="other", on_error="null")(frame)
    first, second = _told(frame, tmp_path / "out")
    assert first.startswith("3 of 20 rows")
    assert "no 'length'" in first
    assert second.startswith("20 of 20 rows")
    assert "no 'other'" in second


def test_rows_that_are_put_together_are_added(tmp_path: Path) -> None:
    operator = Lengths(on_error="null")
    frame = _frame()
    parts = [operator(frame), operator(frame.assign(id=frame.id + ROWS))]
    (told,) = _told(dd.concat(parts, interleave_partitions=True), tmp_path / "out")
    assert told.startswith("6 of 40 rows")


def test_operators_that_run_as_one(bert: Path, tmp_path: Path) -> None:
    """By hand: a text of three words has 5 tokens at least, [CLS] and [SEP] included."""
    long = pd.DataFrame({"text": ["a", "a long text", "of", None, "two long texts"]})
    frame = dd.from_pandas(long, npartitions=2)
    options: dict[str, Any] = {"max_length": 4, "on_long": "error", "on_error": "null"}
    for pooling in ("cls", "mean"):
        frame = frame.ml.embed("text", model=bert, output=pooling, pooling=pooling, **options)
    told = _told(frame, tmp_path / "out")
    assert [message.split(" that ")[0] for message in told] == ["2 of 5 rows"] * 2
    assert ["'cls'" in told[0], "'mean'" in told[1]] == [True, True]


def test_a_delayed_write_gives_the_counts(tmp_path: Path) -> None:
    out = Lengths(on_error="null")(_frame())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        job = out.ml.to_parquet(tmp_path / "out", compute=False)
        (value,) = dask.compute(job)
        assert job.compute() == value
    assert {name: dataclasses.asdict(counts) for name, counts in value.items()} == {
        "length": {"rows": ROWS, "failed": 3, "first": "bad 3 is\nbad"}
    }


def _dies_once(rows: pd.DataFrame, flag: str) -> pd.DataFrame:
    """End the worker with row 11, the first time, after the operator ran."""
    if 11 in rows["id"].tolist() and not os.path.exists(flag):
        with open(flag, "w"):
            os._exit(1)
    return rows


@pytest.mark.slow
def test_a_worker_that_dies_counts_no_row_twice(tmp_path: Path) -> None:
    runs = str(tmp_path / "runs")
    out = Lengths(on_error="null", runs=runs)(_frame(10))
    dying = out.map_partitions(_dies_once, str(tmp_path / "flag"), meta=out._meta)
    with clusters.cluster(2, 1, processes=True), dask.config.set(scheduler=None):
        (told,) = _told(dying.repartition(npartitions=3), tmp_path / "out")
    assert (tmp_path / "flag").exists()
    assert os.path.getsize(runs) > ROWS
    assert told.startswith(f"3 of {ROWS} rows")
