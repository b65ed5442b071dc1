"""Reading vectors back: any number of files, as often as wanted, whoever wrote them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.fs as pa_fs
import pyarrow.parquet as pq
import pytest

import dask_embed as de
from dask_embed.jobs import engine

VECTOR = pd.ArrowDtype(pa.list_(pa.float32(), 3))


def _frame(rows: int = 4) -> pd.DataFrame:
    vectors = [np.full(3, row, np.float32) for row in range(rows)]
    return pd.DataFrame({"id": range(rows), "v": pd.array(vectors, VECTOR)})


def _many(folder: Path, count: int) -> Path:
    """Write `count` files of one row, each the same."""
    folder.mkdir()
    table = engine.VectorEngine._pandas_to_arrow_table(_frame(1))
    for number in range(count):
        pq.write_table(table, folder / f"part.{number}.parquet")
    return folder


def test_more_files_than_python_has_frames_of_recursion(tmp_path: Path) -> None:
    path = _many(tmp_path / "out", 1_100)
    with dask.config.set(scheduler="synchronous"):
        first, second = (de.read_parquet(path) for _ in range(2))
        assert de.to_array(first["v"]).compute().shape == (1_100, 3)
        assert first.expr._name == second.expr._name


def test_a_path_is_read_twice(tmp_path: Path) -> None:
    path = _many(tmp_path / "out", 120)
    for _ in range(2):
        assert len(de.read_parquet(path).compute()) == 120


def test_each_file_costs_the_same_however_many_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[pa.DataType] = []
    kind = engine.nested_dtype
    monkeypatch.setattr(engine, "nested_dtype", lambda dtype: (calls.append(dtype), kind(dtype))[1])
    spent = []
    for count in (20, 80):
        lazy = de.read_parquet(_many(tmp_path / str(count), count))
        calls.clear()
        with dask.config.set(scheduler="synchronous"):
            lazy.compute()
        spent.append(len(calls) / count)
    assert spent[0] == spent[1] <= 4


_FILESYSTEMS = {"arrow": "arrow", "pyarrow": "pyarrow", "an object": pa_fs.LocalFileSystem()}


@pytest.mark.parametrize("filesystem", _FILESYSTEMS.values(), ids=_FILESYSTEMS)
def test_the_arrow_filesystem_gives_vectors(tmp_path: Path, filesystem: object) -> None:
    dd.from_pandas(_frame(), npartitions=2).ml.to_parquet(tmp_path / "out")
    lazy = de.read_parquet(tmp_path / "out", filesystem=filesystem)
    again = de.read_parquet(tmp_path / "out", filesystem=filesystem)
    assert lazy["v"].dtype == lazy.compute()["v"].dtype == VECTOR
    assert lazy.expr._name == again.expr._name
    few = de.read_parquet(tmp_path / "out", filesystem=filesystem, filters=[("id", ">", 2)])
    assert de.to_array(few.compute()["v"]).tolist() == [[3, 3, 3]]


@pytest.mark.parametrize("filesystem", ["fsspec", "arrow"])
def test_no_column_at_all_has_its_rows(tmp_path: Path, filesystem: str) -> None:
    """As a step reads that only wants to know how many rows there are, and which."""
    dd.from_pandas(_frame(), npartitions=2).ml.to_parquet(tmp_path / "out")
    bare = de.read_parquet(tmp_path / "out", filesystem=filesystem)[[]]
    assert len(bare.compute()) == sum(bare.map_partitions(len).compute()) == len(_frame())


@pytest.mark.parametrize("writer", ["pandas", "dask"])
def test_what_others_wrote_is_read(tmp_path: Path, writer: str) -> None:
    """Although pandas cannot read back what it wrote itself."""
    if writer == "pandas":
        (tmp_path / "out").mkdir()
        _frame().to_parquet(tmp_path / "out" / "one.parquet")
    else:
        with pytest.warns(UserWarning, match="pandas will not read column 'v'"):
            dd.from_pandas(_frame(), npartitions=2).to_parquet(tmp_path / "out")
    with pytest.raises(NotImplementedError, match="in the string is not supported"):
        pd.read_parquet(tmp_path / "out")
    read = de.read_parquet(tmp_path / "out").compute()
    assert read["v"].dtype == VECTOR
    np.testing.assert_array_equal(de.to_array(read["v"])[:, 0], range(4))


def test_plain_frames_are_written_without_a_warning(tmp_path: Path) -> None:
    """And ours, too: warnings are errors here."""
    dd.from_pandas(_frame(), npartitions=2).drop(columns="v").to_parquet(tmp_path / "plain")
    dd.from_pandas(_frame(), npartitions=2).ml.to_parquet(tmp_path / "ours")


def test_lists_and_patterns_of_files(tmp_path: Path) -> None:
    dd.from_pandas(_frame(), npartitions=2).ml.to_parquet(tmp_path / "out")
    files = sorted((tmp_path / "out").iterdir())
    for given in (files, [str(file) for file in files], tmp_path / "out" / "*.parquet", files[:1]):
        read = de.read_parquet(given).compute()
        assert read["v"].dtype == VECTOR
        assert len(read) == (2 if given == files[:1] else 4)


def test_conversion_options_of_the_user_stay_as_they_are(tmp_path: Path) -> None:
    dd.from_pandas(_frame(), npartitions=2).ml.to_parquet(tmp_path / "out")
    options = {"strings_to_categorical": True}
    de.read_parquet(tmp_path / "out", arrow_to_pandas=options).compute()
    assert options == {"strings_to_categorical": True}


def test_a_folder_that_is_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"^there are no Parquet files at '.*absent'$"):
        de.read_parquet(tmp_path / "absent")


def _damaged(folder: Path, how: str) -> Path:
    """Write two files of which the second is cut short or holds other bytes among its values."""
    folder.mkdir()
    for name in ("a", "b"):
        pq.write_table(pa.Table.from_pandas(_frame()[["id"]]), folder / f"{name}.parquet")
    whole = (folder / "b.parquet").read_bytes()
    cut = {"cut": whole[: len(whole) // 2], "values": whole[:20] + bytes(20) + whole[40:]}
    (folder / "b.parquet").write_bytes(cut[how])
    return folder


@pytest.mark.parametrize("how", ["cut", "values"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, how: str) -> None:
    path = _damaged(tmp_path / "out", how)
    with pytest.raises(OSError, match=r"^the file '.*/out/b\.parquet' cannot be read: [^\n]+$"):
        de.read_parquet(path).compute(scheduler="synchronous")


@pytest.mark.parametrize("content", [b"a,b\n", b""])
def test_no_parquet_file(tmp_path: Path, content: bytes) -> None:
    """In one line, without Dask's sentence about its backends."""
    (tmp_path / "table.parquet").write_bytes(content)
    with pytest.raises(ValueError, match=r"table\.parquet' cannot be read[^\n]*$") as caught:
        de.read_parquet(tmp_path / "table.parquet")
    assert "backend" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        (None, "path must name a folder or files, got None"),
        ([3], "path must name a folder or files, got 3"),
        ([], r"path must name a folder or files, got \[\]"),
        ("", "path must name a folder or files, got ''"),
    ],
)
def test_what_is_no_path_to_read(path: object, says: str) -> None:
    with pytest.raises((TypeError, ValueError), match=says):
        de.read_parquet(path)


def test_a_column_that_no_file_has(tmp_path: Path) -> None:
    path = _many(tmp_path / "out", 1)
    with pytest.raises(ValueError, match=r"out' cannot be read[^\n]*nosuch[^\n]*$"):
        de.read_parquet(path, columns=["nosuch"])


def test_a_file_without_a_column_that_others_have_is_named(tmp_path: Path) -> None:
    pd.DataFrame({"id": [1], "text": ["a"]}).to_parquet(tmp_path / "a.parquet")
    pd.DataFrame({"id": [2]}).to_parquet(tmp_path / "b.parquet")
    says = r"^the file '.*b\.parquet' has no column 'text', which others have; .* \['id'\]"
    for given in (
        de.read_parquet(tmp_path)[["text"]],
        de.read_parquet(tmp_path, columns=["text"]),
        de.read_parquet(tmp_path, filesystem="arrow")[["text"]],
    ):
        with pytest.raises(ValueError, match=says):
            given.compute()
    assert de.read_parquet(tmp_path)[["id"]].compute()["id"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"colums": ["id"]}, r"no option 'colums' \(did you mean 'columns'\?\)"),
        ({"engine": "fastparquet"}, "engine is no option"),
        ({"on_error": "null"}, "its options are columns, "),
    ],
    ids=str,
)
def test_options_that_a_reader_would_leave_out(tmp_path: Path, options: Any, says: str) -> None:
    pd.DataFrame({"id": [1]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(TypeError, match=says):
        de.read_parquet(tmp_path, **options)
    assert len(de.read_parquet(tmp_path, split_row_groups=True, read={})) == 1


def test_a_pattern_that_nothing_fits(tmp_path: Path) -> None:
    pd.DataFrame({"id": [1]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(FileNotFoundError, match=r"no Parquet files at '.*x\*\.parquet'"):
        de.read_parquet(tmp_path / "x*.parquet")
