"""One folder, one job at a time: no success for lost rows, and a dead job's folder is not whole."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import dask.dataframe as dd
import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dask._task_spec import convert_legacy_graph
from dask.order import order
from support import clusters

import dask_embed as de
from dask_embed.jobs.folder import data_files

MARK = "_dask_embed_unfinished"
VECTOR = pd.ArrowDtype(pa.list_(pa.float32(), 2))


def _rows(start: int, stop: int, name: str | None = None) -> pd.DataFrame:
    vectors = [np.full(2, row, np.float32) for row in range(start, stop)]
    frame = pd.DataFrame({"id": range(start, stop), "v": pd.array(vectors, VECTOR)})
    frame["odd"] = frame["id"] % 2
    return frame.set_index(pd.RangeIndex(start, stop, name=name))


def _frame(start: int, stop: int, parts: int = 2, name: str | None = None) -> dd.DataFrame:
    return dd.from_pandas(_rows(start, stop, name), npartitions=parts)


def _calling(frame: dd.DataFrame, function: Callable[[pd.DataFrame], None]) -> dd.DataFrame:
    return frame.map_partitions(_Calling(function), meta=frame._meta)


class _Calling:
    def __init__(self, function: Callable[[pd.DataFrame], None]) -> None:
        self._function = function
        self._token = uuid.uuid4().hex

    def __call__(self, rows: pd.DataFrame) -> pd.DataFrame:
        self._function(rows)
        return rows

    def __dask_tokenize__(self) -> str:
        return self._token


def _ids(folder: str, read: Any = de.read_parquet) -> list[int]:
    return sorted(read(folder).compute()["id"].tolist())


def _names(folder: str) -> list[str]:
    fs, path = fsspec.core.url_to_fs(folder)
    return sorted(name[len(path) + 1 :] for name in fs.find(path)) if fs.exists(path) else []


# ------------------------------------------------------------------------------------- two jobs
@contextlib.contextmanager
def _while_writing(frame: dd.DataFrame, folder: str, **options: Any) -> Iterator[list[Any]]:
    """Write in another thread, and stand in its last partition meanwhile."""
    inside, leave = threading.Event(), threading.Event()
    last = frame["id"].max().compute()
    errors: list[BaseException] = []

    def stand(rows: pd.DataFrame) -> None:
        if last in rows["id"].tolist():
            inside.set()
            assert leave.wait(30)

    def write() -> None:
        try:
            with dask.config.set(scheduler="synchronous"):
                _calling(frame, stand).ml.to_parquet(folder, **options)
        except BaseException as error:
            errors.append(error)
            inside.set()

    thread = threading.Thread(target=write)
    thread.start()
    assert inside.wait(30)
    assert errors == []
    try:
        yield errors
    finally:
        leave.set()
        thread.join()


@pytest.mark.parametrize("later", [{}, {"append": True}])
def test_the_second_of_two_jobs_fails(folder: str, later: dict[str, bool]) -> None:
    built = _frame(10, 20).ml.to_parquet(folder, compute=False)
    with _while_writing(_frame(0, 10, 4), folder) as errors:
        with pytest.raises(FileExistsError, match=r"a job that began .*, host .*, process \d+"):
            _frame(10, 20).ml.to_parquet(folder, **later)
        with pytest.raises(FileExistsError, match="two jobs in one folder would lose rows"):
            built.compute()
        with pytest.raises(OSError, match="is not whole"):
            de.read_parquet(folder)
    assert errors == []
    assert _ids(folder) == [*range(10)]
    with pytest.raises(FileExistsError, match="is not what it was when this write was built"):
        built.compute()
    assert _ids(folder) == [*range(10)]


def test_two_appends_at_a_time(folder: str) -> None:
    _frame(0, 10).ml.to_parquet(folder)
    with (
        _while_writing(_frame(10, 20), folder, append=True),
        pytest.raises(FileExistsError, match="is not whole"),
    ):
        _frame(20, 30).ml.to_parquet(folder, append=True)
    assert _ids(folder) == [*range(20)]
    _frame(20, 30).ml.to_parquet(folder, append=True)
    assert _ids(folder) == [*range(30)]


def test_a_job_that_is_taken_over_fails(folder: str) -> None:
    with _while_writing(_frame(0, 10), folder) as errors:
        _frame(10, 20).ml.to_parquet(folder, overwrite=True)
    assert len(errors) == 1
    assert isinstance(errors[0], RuntimeError | FileExistsError)
    assert _ids(folder) == [*range(10, 20)]


def test_two_jobs_of_threads_that_begin_together(folder: str) -> None:
    """Whoever comes first, what succeeds is whole and what fails wrote nothing that is left."""
    together = threading.Barrier(2)
    ended: list[tuple[int, BaseException | None]] = []

    def write(start: int) -> None:
        job = _frame(start, start + 20, 5).ml.to_parquet(folder, compute=False)
        together.wait(30)
        try:
            with dask.config.set(scheduler="synchronous"):
                job.compute()
            ended.append((start, None))
        except FileExistsError as error:
            ended.append((start, error))

    threads = [threading.Thread(target=write, args=(start,)) for start in (0, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [winner] = [start for start, error in ended if error is None]
    assert len(ended) == 2
    assert _ids(folder) == [*range(winner, winner + 20)]


@pytest.mark.slow
def test_jobs_of_two_clients_on_a_cluster(tmp_path: Path) -> None:
    folder = str(tmp_path / "out")
    built = [_frame(start, start + 20, 4).ml.to_parquet(folder, compute=False) for start in (0, 50)]
    with clusters.cluster(2, 1, processes=True) as client:
        first, second = client.compute(built)
        outcomes = [future.exception() for future in (first, second)]
    assert [type(error) for error in outcomes if error is not None] == [FileExistsError]
    start = 0 if outcomes[0] is None else 50
    assert _ids(folder) == [*range(start, start + 20)]


def _dies_once(rows: pd.DataFrame, flag: str) -> pd.DataFrame:
    """End the worker with the row 13, the first time."""
    if 13 in rows["id"].tolist() and not os.path.exists(flag):
        with open(flag, "w"):
            os._exit(1)
    return rows


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"overwrite": True}, {"partition_on": ["odd"]}], ids=str)
def test_a_worker_that_dies_loses_and_doubles_nothing(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    folder = str(tmp_path / "out")
    if "overwrite" in options:
        _frame(50, 60).ml.to_parquet(folder)
    frame = _frame(0, 20, 10)
    frame = frame.map_partitions(_dies_once, str(tmp_path / "flag"), meta=frame._meta)
    with clusters.cluster(2, 1, processes=True) as client:
        job = frame.ml.to_parquet(folder, compute=False, **options)
        client.compute(job).result(timeout=60)
    assert (tmp_path / "flag").exists()
    assert _ids(folder) == [*range(20)]
    assert MARK not in _names(folder)


# ------------------------------------------------------------------------------------ dead jobs
def _fails(after: int = 2) -> Callable[[pd.DataFrame], None]:
    """Return a function that fails for the partition that comes after so many."""
    calls = itertools.count()

    def fails(rows: pd.DataFrame) -> None:
        if next(calls) == after:
            raise ArithmeticError("broken")

    return fails


def test_a_failed_job_leaves_a_folder_that_is_not_whole(folder: str) -> None:
    with pytest.raises(ArithmeticError):
        _calling(_frame(0, 12, 4), _fails()).ml.to_parquet(folder)
    assert MARK in _names(folder)
    for given in (folder, f"{folder}/*.parquet"):
        with pytest.raises(OSError, match="is not whole: a job that began") as caught:
            de.read_parquet(given)
        assert "\n" not in str(caught.value)
    for options in ({}, {"append": True}):
        with pytest.raises(FileExistsError, match=r"is not whole.*overwrite=True"):
            _frame(0, 12).ml.to_parquet(folder, **options)
    assert len(_ids(folder, dd.read_parquet)) > 0
    _frame(0, 12).ml.to_parquet(folder, overwrite=True)
    assert _ids(folder) == [*range(12)]
    assert len(_names(folder)) == 2


def test_a_job_that_wrote_nothing_leaves_nothing(folder: str) -> None:
    with pytest.raises(ArithmeticError):
        _calling(_frame(0, 12, 2), _fails(after=0)).ml.to_parquet(folder)
    assert _names(folder) == []
    _frame(0, 12).ml.to_parquet(folder)
    assert _ids(folder) == [*range(12)]


def test_a_killed_job_leaves_a_folder_that_is_not_whole(tmp_path: Path) -> None:
    code = (
        "import os, dask, pandas as pd, dask.dataframe as dd, dask_embed\n"
        "def dies(rows):\n"
        f"    if os.path.exists({str(tmp_path / 'out')!r}) and "
        f"len(os.listdir({str(tmp_path / 'out')!r})) == 3: os._exit(3)\n"
        "    return rows\n"
        "frame = dd.from_pandas(pd.DataFrame({'id': range(9)}), npartitions=3)\n"
        "dask.config.set(scheduler='synchronous')\n"
        f"frame.map_partitions(dies, meta=frame._meta).ml.to_parquet({str(tmp_path / 'out')!r})\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 3
    assert len(_ids(str(tmp_path / "out"), dd.read_parquet)) == 6
    with pytest.raises(OSError, match="is not whole"):
        de.read_parquet(tmp_path / "out")


@pytest.mark.parametrize("given", ["out", "out/odd=0", "out/odd=0/*.parquet", "out/*/*.parquet"])
def test_parts_of_an_unfinished_folder_are_not_whole(tmp_path: Path, given: str) -> None:
    broken = _calling(_frame(0, 12, 4), _fails())
    with pytest.raises(ArithmeticError):
        broken.ml.to_parquet(tmp_path / "out", partition_on=["odd"])
    with pytest.raises(OSError, match=r"out' is not whole"):
        de.read_parquet(tmp_path / given)


def test_a_folder_of_folders_is_whole_when_each_is(tmp_path: Path) -> None:
    """One for each of several jobs, of which one died: readers open them all at once."""
    for name in ("2024/a", "2024/b"):
        _frame(0, 6).ml.to_parquet(tmp_path / name)
    assert sorted(_ids(str(tmp_path))) == sorted([*range(6)] * 2)
    with pytest.raises(ArithmeticError):
        _calling(_frame(0, 12, 4), _fails()).ml.to_parquet(tmp_path / "2024" / "c")
    for given in (tmp_path, tmp_path / "2024", [str(tmp_path / "2024")]):
        with pytest.raises(OSError, match="2024/c' is not whole"):
            de.read_parquet(given)


UNWRITABLE = {
    "option by another name": ({"overwite": True}, "overwite"),
    "option of pandas": ({"index": False}, "index"),
    "engine": ({"engine": "fastparquet"}, "engine"),
    "compression": ({"compression": "nosuch"}, "nosuch"),
    "level": ({"compression": "snappy", "compression_level": 3}, "compression"),
    "type": ({"row_group_size": "x"}, "row_group_size"),
    "metadata": ({"custom_metadata": {"key": 1}}, "custom_metadata"),
    "our metadata": ({"custom_metadata": {b"dask_embed": b"{}"}}, "dask_embed"),
    "list of metadata": ({"custom_metadata": ["a"]}, "custom_metadata must be a dictionary"),
    "number for a compression": ({"compression": 5}, "compression"),
    "storage": ({"storage_options": "x"}, "storage_options must be a dictionary"),
    "computing": ({"compute_kwargs": 5}, "compute_kwargs must be a dictionary"),
    "filesystem": ({"filesystem": "x"}, "there is no filesystem for"),
    "truthy": ({"write_metadata_file": "no"}, "write_metadata_file must be True or False"),
    "schema": ({"schema": "infr"}, "schema must be 'infer'"),
    "schema of a column": ({"schema": {"id": int}}, "schema must map"),
    "folders by a number": ({"partition_on": 1}, "partition_on must be a column"),
    "folders by nothing there": ({"partition_on": ["Odd"]}, "did you mean 'odd'"),
    "folders twice": ({"partition_on": ["odd", "odd"]}, "each column once"),
    "folders of all": ({"partition_on": ("id", "v", "odd")}, "leave a column"),
    "names by a text": ({"name_function": "x"}, "name_function must be a function"),
    "names that are none": ({"name_function": lambda i: i}, r"got 0 for partition 0"),
    "names of bytes": ({"name_function": lambda i: b"a.parquet"}, r"got b'a.parquet'"),
    "one name": ({"name_function": lambda i: "a.parquet"}, "for the partitions 0 and 1"),
    "names that fail": ({"name_function": lambda i: 1 // i}, "failed for partition 0: ZeroDiv"),
    "names without a number": ({"name_function": lambda: "x"}, "failed for partition 0: TypeErr"),
    "long names": ({"name_function": lambda i: f"{'x' * 300}{i}.parquet"}, "at most 255 bytes"),
    "names with a folder": ({"name_function": lambda i: f"{i}/a.parquet"}, "end in one of"),
}


@pytest.mark.parametrize("case", UNWRITABLE)
def test_what_cannot_be_written_is_told_before_any_row_is_computed(folder: str, case: str) -> None:
    options, named = UNWRITABLE[case]
    with pytest.raises((TypeError, ValueError), match=named) as caught:
        _frame(0, 6).ml.to_parquet(folder, compute=False, **options)
    assert "\n" not in str(caught.value)
    assert not data_files(fsspec.url_to_fs(folder)[0], folder)


def test_options_of_single_columns_are_checked_against_them(folder: str) -> None:
    options = {"sorting_columns": [pq.SortingColumn(1)], "use_dictionary": ["v"]}
    _frame(0, 6).ml.to_parquet(folder, **options)
    assert _ids(folder) == [*range(6)]


@pytest.mark.parametrize("path", ["", "a*b", "a?b", "[ab]"])
def test_a_path_names_one_folder(path: str, monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"^path must name one folder"):
        _frame(0, 6).ml.to_parquet(path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "path", [None, 5, b"out", ["out"], {}, True, " ", "a\0b", "\ud800"], ids=repr
)
def test_a_path_is_a_text(path: Any, monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((TypeError, ValueError), match=r"^path (must|cannot)"):
        _frame(0, 6).ml.to_parquet(path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["file", "file/out"])
def test_a_file_is_no_folder(path: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotADirectoryError, match=r"file' is a file; choose another"):
        _frame(0, 6).ml.to_parquet(tmp_path / path, overwrite=True, compute=False)
    assert (tmp_path / "file").read_text() == "mine"


def test_an_unknown_protocol_names_the_path() -> None:
    with pytest.raises(ValueError, match=r"no filesystem for \{'path': 'nosuch://a/b'\}: .*nosuch"):
        _frame(0, 6).ml.to_parquet("nosuch://a/b")


@pytest.mark.parametrize(
    "values",
    [
        ["a", None, "b"],
        [1.0, None, 2.0],
        pd.Categorical(["a", None, "b"]),
        pd.array([1, None, 2], "Int64"),
        pd.array([True, None, False], "boolean"),
        pd.to_datetime(["2020-01-01", None, "2021-01-01"]),
    ],
    ids=["text", "number", "category", "nullable", "boolean", "date"],
)
def test_rows_without_a_folder_are_named(tmp_path: Path, values: Any) -> None:
    """Readers give no such column back: Dask and Arrow fail on it."""
    frame = pd.DataFrame({"id": range(3), "where": values}, index=["x", "y", "z"])
    lazy = dd.from_pandas(frame, npartitions=1)
    with pytest.raises(ValueError, match=r"1 rows of a partition have none \(index \['y'\]\)"):
        lazy.ml.to_parquet(tmp_path / "out", partition_on="where")
    assert _names(str(tmp_path / "out")) == []
    filled = lazy.dropna(subset=["where"])
    filled.ml.to_parquet(tmp_path / "out", partition_on="where")
    assert _ids(str(tmp_path / "out")) == [0, 2]


def test_a_delayed_write_is_optimized_by_its_own_method(folder: str) -> None:
    job = _frame(0, 6).ml.to_parquet(folder, compute=False)
    with pytest.raises(NotImplementedError, match=r"as it is, or take its own \.optimize\(\)"):
        dask.optimize(job)
    assert MARK not in _names(folder)
    job.optimize().compute()
    assert _ids(folder) == [*range(6)]
    job.persist()
    assert _ids(folder) == [*range(6)]
    assert MARK not in _names(folder)


@pytest.mark.parametrize("value", ["a/b", "../../outside", "50%2F"])
def test_names_of_folders_are_read_back_as_they_were(tmp_path: Path, value: str) -> None:
    """Readers would give "a" for "a/b", and files would lie outside the folder of their value."""
    pdf = pd.DataFrame({"id": range(4), "key": ["plain", value] * 2})
    with pytest.raises(ValueError, match=f"'/' or '%'.*{value}"):
        dd.from_pandas(pdf, npartitions=1).ml.to_parquet(tmp_path / "out", partition_on="key")
    assert list(tmp_path.rglob("*.parquet")) == []


@pytest.mark.parametrize("options", [{}, {"write_metadata_file": True}], ids=str)
@pytest.mark.parametrize(
    "values",
    [
        ["01", "02", "01", "10"],
        ["01", "1", "001", "x"],
        ["True", "", "None", "1.50"],
        [1, 2, -1, 2**40],
        pd.array([1, 2, 2, 1], "uint8"),
        [True, False, True, True],
        [1.0, 2.5, 1e-7, float("inf")],
        pd.Categorical(["01", "1", "01", "x"]),
        pd.Categorical([10, 2, 10, 2]),
        pd.to_datetime(["2020-01-01", "2021-01-01 12:30:00.000001"] * 2, format="ISO8601"),
    ],
    ids=lambda values: f"{list(values)[:2]}",
)
def test_values_of_folders_are_read_as_they_were(
    folder: str, values: Any, options: dict[str, Any]
) -> None:
    """Arrow guesses from names: "01" would be 1, and True a text."""
    pdf = pd.DataFrame({"id": range(4), "key": values})
    dd.from_pandas(pdf, npartitions=2).ml.to_parquet(folder, partition_on="key", **options)
    back = de.read_parquet(folder)
    got = back.compute().sort_values("id")
    assert got["key"].tolist() == list(values)
    assert got["key"].cat.categories.dtype.kind == back._meta["key"].cat.categories.dtype.kind
    one = pdf["key"].iloc[0]
    for found in (
        back[back["key"] == one],
        de.read_parquet(folder, filters=[("key", "==", one)]),
        de.read_parquet(folder, filters=[("key", "==", one), ("id", ">=", 0)]),
    ):
        rows = found.compute().sort_values("id")
        assert rows["id"].tolist() == pdf["id"][pdf["key"] == one].tolist()
        assert set(rows["key"]) == {one}


def test_rows_of_folders_of_another_type_are_not_appended(folder: str) -> None:
    numbers = dd.from_pandas(pd.DataFrame({"id": range(2), "key": [1, 2]}), npartitions=1)
    numbers.ml.to_parquet(folder, partition_on="key")
    texts = dd.from_pandas(pd.DataFrame({"id": range(2), "key": ["01", "2"]}), npartitions=1)
    with pytest.raises(ValueError, match="'key', which names folders, is int64 there, but string"):
        texts.ml.to_parquet(folder, partition_on="key", append=True)
    assert de.read_parquet(folder)["key"].compute().tolist() == [1, 2]


def test_texts_of_unknown_categories_are_no_numbers(folder: str) -> None:
    lazy = dd.from_pandas(pd.DataFrame({"id": range(2), "key": ["01", "x"]}), npartitions=1)
    unknown = lazy.assign(key=lazy["key"].astype("category"))
    with pytest.raises(ValueError, match=r"categories are not known: .* the text '01'"):
        unknown.ml.to_parquet(folder, partition_on="key")
    known = unknown.assign(key=unknown["key"].cat.as_known())
    known.ml.to_parquet(f"{folder}2", partition_on="key")
    assert de.read_parquet(f"{folder}2")["key"].compute().tolist() == ["01", "x"]


def test_the_name_of_folders_without_a_value_is_none(folder: str) -> None:
    pdf = pd.DataFrame({"id": range(2), "key": ["__HIVE_DEFAULT_PARTITION__", "b"]})
    with pytest.raises(ValueError, match="must not be '__HIVE_DEFAULT_PARTITION__'"):
        dd.from_pandas(pdf, npartitions=1).ml.to_parquet(folder, partition_on="key")


def test_a_folder_of_others_is_read(folder: str) -> None:
    """Nothing there says that a job of ours began."""
    plain = _rows(0, 6).drop(columns="v")
    dd.from_pandas(plain, npartitions=2).to_parquet(folder)
    assert _ids(folder) == [*range(6)]
    _frame(6, 9).drop(columns="v").ml.to_parquet(folder, append=True, write_index=True)
    assert _ids(folder) == [*range(9)]


def test_a_mark_that_cannot_be_read_is_someones(folder: str) -> None:
    """It may be that of a job that is just beginning; only overwriting takes its place."""
    built = _frame(0, 6).ml.to_parquet(folder, compute=False)
    fs, path = fsspec.core.url_to_fs(folder)
    fs.mkdirs(path, exist_ok=True)
    fs.pipe_file(f"{path}/{MARK}", b"{")
    with pytest.raises(FileExistsError, match="two jobs in one folder"):
        built.compute()
    _frame(10, 16).ml.to_parquet(folder, overwrite=True)
    assert _ids(folder) == [*range(10, 16)]


def test_a_store_without_exclusive_creation(tmp_path: Path) -> None:
    """What was written last holds the folder."""
    from fsspec.implementations.memory import MemoryFileSystem

    class Old(MemoryFileSystem):
        protocol = "old"

        def pipe_file(self, path: str, value: bytes) -> None:  # type: ignore[override]
            super().pipe_file(path, value)

    old = Old()
    folder = f"/{tmp_path.name}/out"
    with (
        _while_writing(_frame(0, 10), folder, filesystem=old) as errors,
        pytest.raises(FileExistsError, match="is not whole"),
    ):
        _frame(10, 20).ml.to_parquet(folder, filesystem=old)
    assert errors == []
    assert len(de.read_parquet(folder, filesystem=old).compute()) == 10
    old.rm(f"/{tmp_path.name}", recursive=True)


def test_a_filesystem_of_arrow(tmp_path: Path) -> None:
    from pyarrow.fs import LocalFileSystem

    folder = str(tmp_path / "out")
    for start, options in ((0, {}), (6, {"append": True}), (20, {"overwrite": True})):
        frame = _frame(start, start + 6)
        frame.ml.to_parquet(folder, filesystem=LocalFileSystem(), **options)
    assert _ids(folder) == [*range(20, 26)]


def test_text_of_another_string_type_is_appended(folder: str) -> None:
    rows = pd.DataFrame({"id": range(4), "text": list("abcd")})
    for start, dtype in ((0, "str"), (4, "string[pyarrow]"), (8, "str")):
        frame = rows.assign(id=rows["id"] + start).astype({"text": dtype})
        dd.from_pandas(frame, npartitions=2).ml.to_parquet(folder, append=True)
    assert _ids(folder) == [*range(12)]


def test_text_that_was_read_is_appended_beside_text_that_was_computed(folder: str) -> None:
    """Dask reads it as another string type than that of operators."""

    def computed(start: int) -> dd.DataFrame:
        frame = _frame(start, start + 4)
        return frame.map_partitions(lambda rows: rows.assign(label="x").astype({"label": "str"}))

    computed(0).ml.to_parquet(folder)
    read = de.read_parquet(folder)
    assert read.dtypes["label"] != computed(0).dtypes["label"]
    read.ml.to_parquet(f"{folder}-read")
    computed(4).ml.to_parquet(f"{folder}-read", append=True)
    de.read_parquet(f"{folder}-read").ml.to_parquet(folder, append=True)
    assert _ids(f"{folder}-read") == [*range(8)]
    assert de.read_parquet(folder)["label"].compute().tolist() == ["x"] * 12


def test_integers_are_appended_to_a_file_in_which_one_is_null(folder: str) -> None:
    """There pandas had floats, and objects in place of truth values."""
    types = {"number": pa.int64(), "right": pa.bool_()}
    fs, path = fsspec.url_to_fs(folder)
    for number, right in ((None, None), (2, True)):
        rows = pd.DataFrame({"number": [1, number], "right": [False, right]})
        meta = pd.DataFrame({"number": [1], "right": [True]}).iloc[:0]
        frame = dd.from_map(lambda _, rows=rows: rows, [0], meta=meta)
        frame.ml.to_parquet(folder, append=True, schema=types)
    read = pq.read_table(path, filesystem=fs).select(list(types))
    assert read.schema.types == list(types.values())
    assert read.to_pydict() == {"number": [1, None, 1, 2], "right": [False, None, False, True]}


# ---------------------------------------------------------------------------------- overwriting
def test_old_files_stay_until_the_new_are_there(folder: str) -> None:
    _frame(0, 6).ml.to_parquet(folder)
    old = _names(folder)
    seen: list[bool] = []
    frame = _calling(_frame(10, 16, 3), lambda rows: seen.append(set(old) <= {*_names(folder)}))
    lazy = frame.ml.to_parquet(folder, overwrite=True, compute=False)
    assert _names(folder) == old
    lazy.compute()
    assert seen == [True] * 3
    assert _ids(folder) == [*range(10, 16)]
    assert not {*old} & {*_names(folder)}
    lazy.compute()
    assert _ids(folder) == [*range(10, 16)]


def test_a_failed_overwrite_loses_nothing(folder: str) -> None:
    _frame(20, 26).ml.to_parquet(folder)
    old = _names(folder)
    with pytest.raises(ArithmeticError):
        _calling(_frame(0, 12, 4), _fails()).ml.to_parquet(folder, overwrite=True)
    assert {*old} < {*_names(folder)}
    _frame(0, 12).ml.to_parquet(folder, overwrite=True)
    assert _ids(folder) == [*range(12)]


def test_files_that_are_not_ours_stay(folder: str) -> None:
    _frame(0, 6).ml.to_parquet(folder, partition_on=["odd"], write_metadata_file=True)
    fs, path = fsspec.core.url_to_fs(folder)
    for name in ("README.md", "odd=0/notes.txt"):
        fs.pipe_file(f"{path}/{name}", b"mine")
    _frame(10, 16).ml.to_parquet(folder, overwrite=True)
    kept = [name for name in _names(folder) if not name.startswith("part.")]
    assert kept == ["README.md", "odd=0/notes.txt"]
    assert _ids(folder) == [*range(10, 16)]
    assert not fs.exists(f"{path}/odd=1") or fs.protocol == "memory"
    with fs.open(f"{path}/other.parquet", "wb") as file:
        pd.DataFrame({"id": [1]}).to_parquet(file)
    before = _names(folder)
    with pytest.raises(FileExistsError, match=r"holds 1 other Parquet files \('other.parquet'\)"):
        _frame(0, 6).ml.to_parquet(folder, overwrite=True)
    assert _names(folder) == before


def test_files_of_an_earlier_version_are_replaced(tmp_path: Path) -> None:
    _frame(0, 6).ml.to_parquet(tmp_path / "out")
    for number, file in enumerate(sorted((tmp_path / "out").iterdir())):
        file.rename(tmp_path / "out" / f"part.{number}.parquet")
    assert _ids(tmp_path / "out") == [*range(6)]
    _frame(6, 9, 1).ml.to_parquet(tmp_path / "out", append=True)
    assert [name.split("-")[0] for name in _names(str(tmp_path / "out"))] == [
        "part.0.parquet",
        "part.1.parquet",
        "part.2",
    ]
    _frame(10, 16).ml.to_parquet(tmp_path / "out", overwrite=True)
    assert _ids(tmp_path / "out") == [*range(10, 16)]


def test_what_is_read_is_not_overwritten(folder: str) -> None:
    _frame(0, 6).ml.to_parquet(folder)
    with pytest.raises(ValueError, match="which the frame reads"):
        de.read_parquet(folder).ml.to_parquet(folder, overwrite=True)
    assert _ids(folder) == [*range(6)]


def test_a_file_on_a_disk_has_its_name_when_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a task wrote that was cut short is no Parquet file to any reader, and goes."""
    out, write, calls = tmp_path / "out", pa.parquet.write_table, itertools.count()

    def cut_short(table: pa.Table, file: Any, **options: Any) -> None:
        if next(calls) == 1:
            file.write(b"PAR1")
            raise OSError("no space left")
        write(table, file, **options)

    lazy = _frame(0, 6, 3).ml.to_parquet(out, compute=False)
    monkeypatch.setattr(pa.parquet, "write_table", cut_short)
    with pytest.raises(OSError, match="no space left"):
        lazy.compute()
    assert len(os.listdir(out)) == 2
    assert len(pd.read_parquet(out)) == 2
    lazy.compute()
    assert _ids(str(out)) == [*range(6)]
    assert all(name.startswith("part.") for name in os.listdir(out))


# ---------------------------------------------------------------------------- tasks that run twice
def _run_twice(dsk: Any, keys: Any, **options: Any) -> Any:
    """Compute every task two times, as a scheduler does that lost a worker."""
    graph = convert_legacy_graph(dsk.__dask_graph__())
    values: dict[Any, Any] = {}
    for key in sorted(graph, key=order(graph).get):
        for _ in range(2):
            values[key] = graph[key]({name: values[name] for name in graph[key].dependencies})
    return [
        [values[key] for key in each] if isinstance(each, list) else values[each] for each in keys
    ]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"write_index": True},
        {"partition_on": ["odd"]},
        {"write_metadata_file": True},
        {"name_function": lambda place: f"mine-{place}.parquet"},
    ],
    ids=lambda options: ", ".join(options) or "plain",
)
def test_tasks_that_run_twice(folder: str, options: dict[str, Any]) -> None:
    with dask.config.set(scheduler=_run_twice):
        _frame(0, 6, 3, "row").ml.to_parquet(folder, **options)
        _frame(6, 9, 2, "row").ml.to_parquet(folder, append=True, **options)
    assert _ids(folder) == [*range(9)]
    lazy = _frame(9, 12, 2, "row").ml.to_parquet(folder, append=True, compute=False, **options)
    for _ in range(2):
        lazy.compute()
    assert _ids(folder) == _ids(folder, dd.read_parquet) == [*range(12)]
    assert MARK not in _names(folder)


# -------------------------------------------------------------------------------------- appending
def test_the_same_frame_is_appended_only_when_asked(folder: str) -> None:
    _frame(0, 6).ml.to_parquet(folder)
    with pytest.raises(ValueError, match=r"would write rows a second time.*repeat=True"):
        _frame(0, 6).ml.to_parquet(folder, append=True)
    _frame(6, 9).ml.to_parquet(folder, append=True)
    with pytest.raises(ValueError, match="would write rows a second time"):
        _frame(0, 6).ml.to_parquet(folder, append=True)
    assert _ids(folder) == [*range(9)]
    _frame(6, 9).ml.to_parquet(folder, append=True, repeat=True)
    assert _ids(folder) == [*range(6), 6, 6, 7, 7, 8, 8]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"repeat": True}, r"repeat=True .* add append=True"),
        ({"ignore_divisions": True}, r"ignore_divisions=True .* add append=True"),
        ({"overwrite": True, "ignore_divisions": True}, r"ignore_divisions=True .* append=True"),
        (
            {"compute": False, "compute_kwargs": {"scheduler": "sync"}},
            r"compute_kwargs=.* has no effect with compute=False: give it to compute\(\)",
        ),
    ],
    ids=str,
)
def test_an_option_without_effect_says_what_to_add(
    folder: str, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        _frame(0, 6).ml.to_parquet(folder, **options)
    assert not os.path.exists(folder)


def test_an_append_on_names_of_the_user_is_not_repeated(folder: str) -> None:
    def name(place: int) -> str:
        return f"mine-{place}.parquet"

    for start in (0, 6):
        _frame(start, start + 6).ml.to_parquet(folder, append=True, name_function=name)
    with pytest.raises(ValueError, match="would write rows a second time"):
        _frame(6, 12).ml.to_parquet(folder, append=True, name_function=name)
    assert _names(folder) == [f"mine-{place}.parquet" for place in range(4)]


def _above(frame: dd.DataFrame, least: int) -> dd.DataFrame:
    return frame[frame["id"] > least]


def test_rows_without_any_make_no_file(folder: str) -> None:
    empty = _above(_frame(0, 6, 3), 90)
    empty.ml.to_parquet(folder)
    assert len(_names(folder)) == 1
    assert de.read_parquet(folder).compute()["v"].dtype == VECTOR
    _frame(0, 6).ml.to_parquet(folder, append=True)
    before = _names(folder)
    _above(_frame(6, 12, 3), 90).ml.to_parquet(folder, append=True)
    assert _names(folder) == before
    _above(_frame(6, 12, 3), 8).ml.to_parquet(folder, append=True)
    assert _ids(folder) == [*range(6), 9, 10, 11]
    assert de.read_parquet(folder)["id"].compute().tolist() == [*range(6), 9, 10, 11]


def test_sorted_frames_with_overlapping_divisions(folder: str) -> None:
    _frame(0, 6, name="row").ml.to_parquet(folder)
    with pytest.raises(ValueError, match=r"begins at 4, and that of the last file .* ends at 5;"):
        _frame(4, 9, name="row").ml.to_parquet(folder, append=True)
    _frame(4, 9, name="row").ml.to_parquet(folder, append=True, ignore_divisions=True)
    assert _ids(folder) == [0, 1, 2, 3, 4, 4, 5, 5, 6, 7, 8]
    _frame(0, 6).ml.to_parquet(f"{folder}2")
    _frame(4, 9).ml.to_parquet(f"{folder}2", append=True)  # the index has no name: no column


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda rows: rows.drop(columns="odd"), "Previous: ['id', 'v', 'odd'] | New: ['id', 'v']"),
        (lambda rows: rows.assign(odd="x"), "('odd', "),
    ],
    ids=["columns", "types"],
)
def test_other_columns_are_not_appended(folder: str, change: Any, named: str) -> None:
    _frame(0, 6).ml.to_parquet(folder)
    other = dd.from_pandas(change(_rows(6, 9)), npartitions=1)
    with pytest.raises(ValueError, match="needs the columns and types of the files") as caught:
        other.ml.to_parquet(folder, append=True)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
    assert _ids(folder) == [*range(6)]


def test_rows_are_not_hidden_behind_a_file_of_metadata(folder: str) -> None:
    _frame(0, 6).ml.to_parquet(folder, write_metadata_file=True)
    with pytest.raises(ValueError, match="would hide the rows"):
        _frame(6, 9).ml.to_parquet(folder, append=True, write_metadata_file=False)
    _frame(6, 9).ml.to_parquet(folder, append=True)
    assert _ids(folder, dd.read_parquet) == [*range(9)]


# ------------------------------------------------------------------------------------------ names
def test_names_of_the_user_do_not_meet_those_that_are_there(folder: str) -> None:
    def name(place: int) -> str:
        return f"mine-{place}.parquet"

    built = [
        _frame(start, start + 6).ml.to_parquet(folder, name_function=name, compute=False)
        for start in (0, 10)
    ]
    built[0].compute()
    with pytest.raises(FileExistsError, match=r"'mine-0\.parquet' is new"):
        built[1].compute()
    with pytest.raises(ValueError, match=r"'mine-0\.parquet', a file that the folder holds"):
        _frame(0, 6).ml.to_parquet(folder, name_function=name, overwrite=True)
    assert _ids(folder) == [*range(6)]
    for wrong in ("_x.parquet", "x.data"):
        with pytest.raises(ValueError, match="name_function must give names"):
            _frame(0, 6, 1).ml.to_parquet(f"{folder}2", name_function=lambda _, w=wrong: w)


def test_the_index_is_written_where_it_has_a_name(folder: str) -> None:
    _frame(3, 9).ml.to_parquet(folder)
    assert de.read_parquet(folder).compute().columns.tolist() == ["id", "v", "odd"]
    assert "__null_dask_index__" not in _schema_names(folder)
    _frame(3, 9, name="row").ml.to_parquet(f"{folder}2")
    assert de.read_parquet(f"{folder}2").compute().index.tolist() == [*range(3, 9)]
    _frame(3, 9).ml.to_parquet(f"{folder}3", write_index=True)
    _frame(9, 12).ml.to_parquet(f"{folder}3", append=True)  # as the files have it
    assert de.read_parquet(f"{folder}3").compute().index.tolist() == [*range(3, 12)]


def _schema_names(folder: str) -> list[str]:
    fs, path = fsspec.core.url_to_fs(folder)
    with fs.open(f"{path}/{_names(folder)[0]}", "rb") as file:
        return pa.parquet.read_schema(file).names


def test_other_readers_open_a_finished_folder(tmp_path: Path) -> None:
    import duckdb
    import polars

    out = tmp_path / "out"
    _frame(0, 6).ml.to_parquet(out)
    _frame(6, 9).ml.to_parquet(out, append=True)
    assert pd.read_parquet(out)["id"].tolist() == [*range(9)]
    assert dd.read_parquet(out)["id"].compute().tolist() == [*range(9)]
    assert sorted(polars.read_parquet(out)["id"]) == [*range(9)]
    assert duckdb.sql(f"select count(*) from '{out}/*.parquet'").fetchall() == [(9,)]
    assert {os.path.splitext(name)[1] for name in os.listdir(out)} == {".parquet"}


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^path must be a path .* \(File name too long\)"):
        _frame(0, 4).ml.to_parquet(tmp_path / ("a" * 300))
    with pytest.raises(OSError, match=r"^the folder '/proc/out' cannot be made: [^\n]+$"):
        _frame(0, 4).ml.to_parquet("/proc/out")


def test_each_file_with_a_schema_of_its_own(folder: str) -> None:
    _frame(0, 6).ml.to_parquet(folder, schema=None)
    assert _ids(folder) == [*range(6)]


# ------------------------------------------------------------------------------ texts of objects
def _objects(place: int, *, texts: str) -> pd.DataFrame:
    """A partition of two rows, the second of which has a null; the last one ends as `texts` do."""
    values = [texts if place else "a", None]
    return pd.DataFrame({"id": [2 * place, 2 * place + 1], "text": pd.Series(values, dtype=object)})


@pytest.mark.parametrize("how", [{}, {"resume": True}, {"resume": "rows", "id": "id"}], ids=str)
def test_columns_of_objects_are_written_as_texts(how: dict[str, Any], tmp_path: Path) -> None:
    with dask.config.set({"dataframe.convert-string": False}):
        frame = dd.from_map(_objects, [0, 1], texts="b", meta=_objects(0, texts="")[:0])
        frame.ml.to_parquet(tmp_path / "out", **how)
    read = de.read_parquet(tmp_path / "out").compute()
    assert read["text"].dropna().tolist() == ["a", "b"]
    assert pd.api.types.is_string_dtype(read["text"])


@pytest.mark.parametrize("converts", [True, False])
@pytest.mark.parametrize("how", [{}, {"resume": True}, {"resume": "rows", "id": "id"}], ids=str)
def test_a_text_that_no_file_can_hold_is_told(
    how: dict[str, Any], converts: bool, tmp_path: Path
) -> None:
    with dask.config.set({"dataframe.convert-string": converts}):
        frame = dd.from_map(_objects, [0, 1], texts="b \udcff", meta=_objects(0, texts="")[:0])
        out = frame.ml.detect_language("text", on_error="null") if not converts else frame
        with pytest.raises(ValueError, match=r"'b \\udcff' cannot be encoded as UTF-8") as raised:
            out.ml.to_parquet(tmp_path / "out", **how)
    assert not isinstance(raised.value, UnicodeError)
    said = str(raised.value)
    assert "\n" not in said
    assert converts or ("row 0 of the partition, column 'text'" in said and "part.1-" in said)
    if not converts:
        kept = out.drop(columns="text")
        with pytest.warns(UserWarning, match="1 of 4 rows"):
            kept.ml.to_parquet(tmp_path / "kept")
        errors = de.read_parquet(tmp_path / "kept")["language_error"].dropna().compute()
        assert "UTF-8" in errors.item()


def test_objects_that_are_no_texts_are_told(tmp_path: Path) -> None:
    with dask.config.set({"dataframe.convert-string": False}):
        frame = dd.from_map(_objects, [0, 1], texts=3, meta=_objects(0, texts="")[:0])
        with pytest.raises(ValueError, match=r"^'part.1-.*' cannot be written: .*schema={") as told:
            frame.ml.to_parquet(tmp_path / "out")
    assert "\n" not in str(told.value)
