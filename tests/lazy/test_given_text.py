"""What is no text is refused in a Dask frame too, where Dask has made strings of it."""

from __future__ import annotations

import dataclasses
import decimal
from pathlib import Path
from typing import Any

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from support.counting import Length

import dask_embed as de
from dask_embed.columns import TextColumn

VALUES = {
    "bytes": b"a",
    "list": ["a"],
    "integer": 42,
    "number": 1.5,
    "boolean": True,
    "decimal": decimal.Decimal(1),
    "dictionary": {"a": 1},
    "date": pd.Timestamp("2026-01-01"),
    "array": np.zeros(2),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lengths(Length):
    """It notes in a file how many rows it gets."""

    runs: str | None = None

    def run(self, columns: list[TextColumn], *, on_device: bool, meter: Any) -> Any:
        if self.runs is not None:
            with open(self.runs, "a") as file:
                file.write("x" * len(columns[0].values))
        return super().run(columns, on_device=on_device, meter=meter)


def _rows(value: Any = "three") -> pd.DataFrame:
    """Eight rows, of which the sixth, labelled "f", holds `value`; the fourth is null."""
    texts = pd.Series(["one", "two", "2", None, "five", None, "seven", "8"], dtype=object)
    texts[5] = value
    return pd.DataFrame({"text": texts, "id": range(8)}).set_index(pd.Index(list("abcdefgh")))


def _mapped(rows: pd.DataFrame, meta: pd.DataFrame | None = None) -> dd.DataFrame:
    parts = [rows.iloc[:4], rows.iloc[4:]]
    return dd.from_map(lambda part: part, parts, meta=rows.iloc[:0] if meta is None else meta)


def _delayed(rows: pd.DataFrame) -> dd.DataFrame:
    parts = [dask.delayed(rows.iloc[:4]), dask.delayed(rows.iloc[4:])]
    return dd.from_delayed(parts, meta=rows.iloc[:0])


SOURCES = {
    "pandas": lambda rows: dd.from_pandas(rows, npartitions=2),
    "pandas-unsorted": lambda rows: dd.from_pandas(rows, npartitions=2, sort=False),
    "map": _mapped,
    "map-of-strings": lambda rows: _mapped(rows, rows.iloc[:0].astype({"text": "str"})),
    "delayed": _delayed,
}
WAYS = {
    "as-it-is": lambda frame: frame,
    "selected": lambda frame: frame[["id", "text"]],
    "assigned": lambda frame: frame.assign(more=frame.id + 1),
    "copied": lambda frame: frame.assign(body=frame.text).drop(columns="text"),
    "renamed": lambda frame: frame.rename(columns={"text": "body"}),
    "filled": lambda frame: frame.fillna({"text": "none"}).dropna(),
    "filtered": lambda frame: frame[frame.id > 2],
    "after-another": lambda frame: Lengths(column="id")(frame.astype({"id": "str"})),
}


def _column(frame: Any) -> str:
    return "body" if "body" in frame.columns else "text"


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_other_values_are_refused_and_named(source: str, value: Any) -> None:
    rows = _rows(value)
    with pytest.raises(ValueError, match="is not text") as expected:
        Lengths()(rows)
    told = str(expected.value).partition("column 'text': ")[2].partition(" (1 such")[0]
    with pytest.raises(
        ValueError, match=r"1 rows that are not text, the first at index 'f'"
    ) as found:
        Lengths()(SOURCES[source](rows)).compute()
    assert told in str(found.value)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("source", SOURCES)
def test_they_are_refused_on_the_way_to_the_operator(source: str, way: str) -> None:
    frame = WAYS[way](SOURCES[source](_rows(42)))
    with pytest.raises(ValueError, match=r"first at index 'f': int is not text: 42"):
        Lengths(column=_column(frame), output="n")(frame).compute()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("source", SOURCES)
def test_texts_pass(source: str, way: str) -> None:
    rows = _rows()
    frame = WAYS[way](SOURCES[source](rows))
    out = Lengths(column=_column(frame), output="n")(frame)
    expected = (rows["text"].fillna("none") if way == "filled" else rows["text"]).str.len()
    if way == "filtered":
        expected = expected[rows["id"] > 2]
    back = out.compute()
    assert back["n"].astype("float").tolist() == pytest.approx(expected.tolist(), nan_ok=True)
    assert list(back.index) == list(expected.index)
    assert out[["n"]].compute()["n"].equals(back["n"])
    assert len(out) == len(back)
    assert out.head(2, npartitions=-1)["n"].equals(back["n"].head(2))
    again = Lengths(column=_column(frame), output="again")(out).compute()
    assert again["again"].equals(back["n"].rename("again"))


@pytest.mark.parametrize("source", SOURCES)
def test_rows_that_are_filtered_away_do_no_harm(source: str) -> None:
    frame = SOURCES[source](_rows(42))
    before = frame[frame.id != 5]
    assert Lengths()(before)["length"].sum().compute() == 17
    assert len(Lengths()(before).compute()) == 7


@pytest.mark.parametrize("source", ["map", "delayed"])
def test_rows_that_are_filtered_away_later_do_no_harm(source: str) -> None:
    """The filter goes before the operator, as ever, and only what passes is looked at."""
    out = Lengths()(SOURCES[source](_rows(42)))
    assert out[out.id != 5]["length"].sum().compute() == 17


def test_a_pandas_frame_is_looked_at_on_the_client() -> None:
    with pytest.raises(ValueError, match="int is not text: 42"):
        Lengths()(dd.from_pandas(_rows(42), npartitions=2))
    with pytest.raises(ValueError, match="int is not text: 42"):
        Lengths(on_error="null")(dd.from_pandas(_rows(42), npartitions=2))
    with pytest.raises(ValueError, match=r"index 'f': text cannot be encoded as UTF-8"):
        Lengths()(dd.from_pandas(_rows("a\ud800"), npartitions=2))
    with pytest.raises(ValueError, match="int is not text: 42"):
        Lengths()(dd.from_pandas(_rows(42), npartitions=2).repartition(npartitions=3))


def test_objects_stay_where_dask_is_told_to_keep_them() -> None:
    with dask.config.set({"dataframe.convert-string": False}):
        out = Lengths(on_error="null")(dd.from_pandas(_rows(42), npartitions=2)).compute()
    assert out["length_error"].dropna().to_dict() == {"f": "column 'text': int is not text: 42"}


@pytest.mark.parametrize("projectable", [False, True])
def test_a_source_is_read_once(projectable: bool, tmp_path: Path) -> None:
    log = tmp_path / "log"
    rows = _rows()

    def read(part: int) -> pd.DataFrame:
        with log.open("a") as file:
            file.write("x")
        return rows.iloc[4 * part : 4 * part + 4]

    def read_some(part: int, columns: list[str] | None = None) -> pd.DataFrame:
        return read(part) if columns is None else read(part)[columns]

    def count(computed: Any) -> int:
        log.unlink(missing_ok=True)
        dask.compute(computed)
        return len(log.read_text())

    frame = dd.from_map(read_some if projectable else read, [0, 1], meta=rows.iloc[:0])
    out = Lengths()(frame)
    assert count(out) == 2
    assert count(out[["length"]]) == 2
    assert count(out[["id", "length"]]) == 2
    assert count(out[out.id > 1][["length"]]) == 2
    assert count(out[frame.id > 1]) == 2
    assert count([out, frame]) == 2
    assert count([out[["length"]], out]) == 2
    assert count(out[["id"]]) == 2
    assert count(out.head(1, compute=False)) == 1
    assert count(out.partitions[1]) == 1


def test_no_operator_runs_more_often(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    out = Lengths(runs=str(runs))(_mapped(_rows()))
    for frame, expected in [
        (out, 8),
        (out[out.id > 2], 5),
        (out[["id"]], 0),
        (out.index, 0),
        (out.head(2, compute=False), 2),
        (out.partitions[0], 4),
    ]:
        runs.write_text("")
        frame.compute()
        assert len(runs.read_text()) == expected
    again = out.assign(z=out.id)
    again["back"] = out["text"]
    assert len(again.compute()) == 8


def test_explain_tells_no_step_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    de.explain(Lengths()(_mapped(_rows())))
    told = capsys.readouterr().out
    assert "giventext" not in told
    assert "  2. run Lengths on text -> length" in told
