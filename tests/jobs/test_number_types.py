"""Numbers of pandas types that have nulls, beside files of numbers of those that have none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask.dataframe as dd
import pandas as pd
import pyarrow.parquet as pq
import pytest
from support.counting import Length

import dask_embed as de
from dask_embed.jobs.cli import main
from dask_embed.jobs.rows import RowChanges

TYPES = {
    "int64": ("Int64", "int64[pyarrow]"),
    "uint8": ("UInt8",),
    "bool": ("boolean", "bool[pyarrow]"),
    "float32": ("Float32",),
}
PAIRS = [
    pair
    for plain, others in TYPES.items()
    for each in others
    for pair in ((plain, each), (each, plain))
]


def _frame(start: int, stop: int, dtype: str, name: str = "number") -> Any:
    rows = pd.DataFrame({"id": range(start, stop), "text": "a text"})
    rows[name] = (rows["id"] % 2 if "bool" in dtype else rows["id"]).astype(dtype)
    return Length()(dd.from_pandas(rows, npartitions=2))


@pytest.mark.parametrize(("before", "after"), PAIRS)
def test_numbers_are_added_to_files_of_the_same_ones(
    tmp_path: Path, before: str, after: str
) -> None:
    for options in ({"append": True}, {"resume": "rows", "id": "id"}):
        folder = tmp_path / str(options.get("resume"))
        _frame(0, 4, before).ml.to_parquet(folder, **options)
        _frame(4, 8, after).ml.to_parquet(folder, **options)
        found = de.read_parquet(folder).compute().sort_values("id")["number"]
        expected = [n % 2 if "bool" in before else n for n in range(8)]
        assert found.astype(float).tolist() == expected
        assert len({pq.read_schema(file).field("number").type for file in folder.iterdir()}) == 1


def test_ids_may_be_of_a_type_that_has_nulls(tmp_path: Path) -> None:
    changes = []
    for stop, dtype in ((4, "int64"), (8, "Int64"), (9, "int64")):
        frame = _frame(0, stop, dtype, "id")
        changes.append(frame.ml.to_parquet(tmp_path / "out", resume="rows", id="id"))
    assert changes == [RowChanges(new=4), RowChanges(new=4, same=4), RowChanges(new=1, same=8)]
    assert sorted(de.read_parquet(tmp_path / "out").compute()["id"]) == [*range(9)]


@pytest.mark.parametrize("other", ["int32", "Int32", "float64", "bool"])
def test_other_numbers_are_refused_in_words_of_what_asks(tmp_path: Path, other: str) -> None:
    for asks, options in (
        ("append=True", {"append": True}),
        ("resume='rows'", {"resume": "rows", "id": "id"}),
    ):
        folder = tmp_path / str(options.get("resume"))
        _frame(0, 4, "int64").ml.to_parquet(folder, **options)
        with pytest.raises(ValueError, match=f"^{asks} needs the columns and types of the files"):
            _frame(4, 8, other).ml.to_parquet(folder, **options)
        assert len(de.read_parquet(folder)) == 4


@pytest.mark.parametrize("options", [["--append"], ["--resume", "rows", "--id", "id"]], ids=str)
def test_the_command_ends_with_that_of_usage_where_ids_are_of_another_type(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    file, out = tmp_path / "in.parquet", str(tmp_path / "out")
    for start, dtype, code in ((0, "int64", 0), (4, "int32", 2)):
        rows = pd.DataFrame({"id": range(start, start + 4), "text": "a text"})
        rows.astype({"id": dtype}).to_parquet(file)
        assert main(["text-statistics", str(file), "--to", out, "--quiet", *options]) == code
    asks = "append=True" if "--append" in options else "resume='rows'"
    assert f"{asks} needs the columns and types" in capsys.readouterr().err
