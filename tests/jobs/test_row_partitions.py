"""Rows that are known by an id, of small files, whose partitions Dask joins if it reads little."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import dask.dataframe as dd
import pandas as pd
import pytest
from support.counting import ROWS, Length

import dask_embed as de
from dask_embed.jobs.cli import main
from dask_embed.jobs.rows import RowChanges

FEW, MANY = ["id", "length"], ["id", "text", "likes", "length"]


def _rows(start: int, stop: int) -> pd.DataFrame:
    rows = pd.DataFrame({"id": range(start, stop)})
    texts = ["" if n % 5 == 0 else "text " * (1 + n % 7) for n in rows.id]
    wide = {f"wide{n}": f"a long text that nothing reads {n}" for n in range(4)}
    return rows.assign(text=pd.Series(texts, dtype="str"), likes=0.5, **wide)


def _file(rows: pd.DataFrame, path: Path) -> None:
    if path.suffix == ".parquet":
        rows.to_parquet(path, index=False)
    elif path.suffix == ".csv":
        rows.to_csv(path, index=False)
    else:
        rows.to_json(path, orient="records", lines=True)


def _read(folder: Path, reader: str) -> Any:
    files = sorted(map(str, folder.iterdir()))
    if reader == "json":
        return dd.read_json(files, orient="records", lines=True)
    if reader == "csv":
        return dd.read_csv(files, keep_default_na=False)
    if reader == "from_map":
        return dd.from_map(pd.read_parquet, files)
    return dd.read_parquet(folder, filesystem="arrow" if reader == "arrow" else "fsspec")


def _require(folder: Path, rows: pd.DataFrame, columns: list[str]) -> None:
    found = de.read_parquet(folder).compute().sort_values("id").reset_index(drop=True)
    kept = rows[rows["text"].str.len() > 0]
    expected = kept.assign(length=kept["text"].str.len())[columns].reset_index(drop=True)
    pd.testing.assert_frame_equal(found, expected, check_dtype=False)


def _in_turn() -> Iterator[Any]:
    """Each reader at both places, with few columns or with many; the others if slow."""
    readers, places = ("parquet", "arrow", "json", "csv", "from_map"), ("before", "after")
    for turn, reader in enumerate(readers):
        for more, where in enumerate(places):
            for last, (name, columns) in enumerate((("few", FEW), ("many", MANY))):
                marks = [pytest.mark.slow] if (turn + more + last) % 2 else []
                yield pytest.param(
                    reader, where, columns, id=f"{reader}-{where}-{name}", marks=marks
                )


@pytest.mark.parametrize(("reader", "where", "columns"), [*_in_turn()])
def test_rows_of_small_files_run_once(
    tmp_path: Path, reader: str, where: str, columns: list[str]
) -> None:
    suffix = reader if reader in ("json", "csv") else "parquet"
    files, folder = tmp_path / "in", tmp_path / "out"
    files.mkdir()
    for count, new in ((2, 16), (5, 24), (5, 0)):
        for n in range(count):
            _file(_rows(10 * n, 10 * n + 10), files / f"{n}.{suffix}")
        frame = _read(files, reader)
        frame = Length()(frame[frame["text"].str.len() > 0] if where == "before" else frame)
        out = frame[frame["text"].str.len() > 0][columns]
        ROWS.clear()
        told = out.ml.to_parquet(folder, resume="rows", id="id")
        assert told.same == 8 * count - new
        assert ROWS["length"] == new
        _require(folder, _rows(0, 10 * count), columns)


@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "csv"])
def test_the_command_takes_rows_of_small_files(tmp_path: Path, suffix: str) -> None:
    files, folder = tmp_path / "in", tmp_path / "out"
    files.mkdir()
    for count in (2, 5):
        for n in range(count):
            _file(_rows(10 * n, 10 * n + 10), files / f"{n}.{suffix}")
        options = ["--columns", "id,text_words", "--where", "text is not None and len(text) > 0"]
        options += ["--resume", "rows", "--id", "id", "--quiet"]
        assert main(["text-statistics", str(files), "--to", str(folder), *options]) == 0
        found = de.read_parquet(folder).compute().sort_values("id")
        kept = [n for n in range(10 * count) if n % 5]
        assert found["id"].tolist() == kept
        assert found["text_words"].tolist() == [1 + n % 7 for n in kept]


def test_partitions_are_those_that_are_written_though_few_columns_are_read(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for n in range(5):
        _file(_rows(10 * n, 10 * n + 10), tmp_path / "in" / f"{n}.parquet")
    out = Length()(dd.read_parquet(tmp_path / "in"))[FEW]
    assert out.ml.to_parquet(tmp_path / "out", resume="rows", id="id") == RowChanges(new=50)
    assert len([*(tmp_path / "out").glob("*.parquet")]) == 5


def test_rows_of_delayed_values_are_written(tmp_path: Path) -> None:
    parts = [_rows(0, 10), _rows(10, 20)]
    frame = Length()(dd.from_delayed([dask.delayed(each) for each in parts], meta=parts[0]))
    for options in ({}, {"resume": True}, {"resume": "rows", "id": "id"}):
        folder = tmp_path / str(options.get("resume"))
        frame[frame["text"].str.len() > 0][MANY].ml.to_parquet(folder, **options)
        _require(folder, _rows(0, 20), MANY)
