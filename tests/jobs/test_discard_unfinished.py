"""What a dead job wrote is taken back: exactly that, and not while the job lives."""

from __future__ import annotations

import datetime
import itertools
import json
import os
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import dask.dataframe as dd
import fsspec
import pandas as pd
import pytest

import dask_embed as de
from dask_embed.jobs.unfinished import process_start

MARK = "_dask_embed_unfinished"


def _frame(start: int, stop: int, parts: int = 2) -> dd.DataFrame:
    rows = pd.DataFrame({"id": range(start, stop)})
    return dd.from_pandas(rows.assign(odd=rows["id"] % 2), npartitions=parts)


class _Calling:
    def __init__(self, function: Callable[[pd.DataFrame], None]) -> None:
        self._function, self._token = function, uuid.uuid4().hex

    def __call__(self, rows: pd.DataFrame) -> pd.DataFrame:
        self._function(rows)
        return rows

    def __dask_tokenize__(self) -> str:
        return self._token


def _failing(frame: dd.DataFrame) -> dd.DataFrame:
    """Return the frame, of which the partition fails that is computed last."""
    calls = itertools.count(1)

    def fail(rows: pd.DataFrame) -> None:
        if next(calls) == frame.npartitions:
            raise ArithmeticError("broken")

    return frame.map_partitions(_Calling(fail), meta=frame._meta)


def _dies(frame: dd.DataFrame, folder: str, **options: Any) -> None:
    with pytest.raises(ArithmeticError):
        _failing(frame).ml.to_parquet(folder, **options)


def _content(folder: str) -> dict[str, bytes]:
    fs, path = fsspec.url_to_fs(folder)
    fs.invalidate_cache()
    return {name[len(path) + 1 :]: fs.cat_file(name) for name in fs.find(path)}


def _ids(folder: str) -> list[int]:
    return sorted(de.read_parquet(folder).compute()["id"].tolist())


OPTIONS = {
    "plain": {},
    "folders": {"partition_on": ["odd"]},
    "summary": {"write_metadata_file": True},
    "names": {"name_function": lambda place: f"mine-{place}.parquet"},
    "names-in-folders": {
        "name_function": lambda place: f"mine-{place}.parquet",
        "partition_on": ["odd"],
    },
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_dead_append_is_taken_back(folder: str, options: dict[str, Any]) -> None:
    _frame(0, 6).ml.to_parquet(folder, **options)
    fs, path = fsspec.url_to_fs(folder)
    for name in ("_notes.txt", "_part.9-mine.txt"):
        fs.pipe_file(f"{path}/{name}", b"mine")
    before = _content(folder)
    _dies(_frame(6, 12, 3), folder, append=True, **options)
    wrote = {name for name in _content(folder) if name not in before} - {MARK}
    assert wrote
    with pytest.raises(OSError, match=r"take back what it wrote with dask_embed\.discard_unfin"):
        de.read_parquet(folder)
    assert set(de.discard_unfinished(folder)) == wrote
    assert _content(folder) == before
    assert _ids(folder) == [*range(6)]
    assert de.discard_unfinished(folder) == []
    _frame(6, 12).ml.to_parquet(folder, append=True, **options)
    assert _ids(folder) == [*range(12)]


def test_what_a_killed_job_left_is_taken_back(tmp_path: Path) -> None:
    """Killed while it wrote its second file."""
    out = str(tmp_path / "out")
    _frame(0, 6).ml.to_parquet(out)
    before = _content(out)
    code = (
        "import os, dask, pandas as pd, dask.dataframe as dd, dask_embed, pyarrow.parquet as pq\n"
        "write, calls = pq.write_table, []\n"
        "def dies(table, file, **options):\n"
        "    calls.append(1)\n"
        "    if len(calls) == 3: file.write(b'PAR1'); file.flush(); os._exit(3)\n"
        "    write(table, file, **options)\n"
        "rows = pd.DataFrame({'id': range(6, 12)})\n"
        "frame = dd.from_pandas(rows.assign(odd=rows['id'] % 2), npartitions=3)\n"
        "frame = frame.map_partitions(lambda rows: rows, meta=frame._meta)\n"
        "dask.config.set(scheduler='synchronous')\n"
        f"job = frame.ml.to_parquet({out!r}, append=True, compute=False)\n"
        "pq.write_table = dies\n"
        "job.compute()\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 3
    left = set(_content(out)) - set(before)
    assert len(left) == 4  # two files, one that is not whole, and the mark
    assert len(de.discard_unfinished(out)) == 2
    assert _content(out) == before


def test_a_summary_of_files_that_go_goes_too(tmp_path: Path) -> None:
    """A job can die between its summary and its end; readers look for themselves without one."""
    out = str(tmp_path / "out")
    _frame(0, 6).ml.to_parquet(out, write_metadata_file=True)
    mark = json.dumps(_mark(failed=True))
    job = _frame(6, 12).ml.to_parquet(out, append=True, compute=False)
    run = job.expr.job.run
    job.compute()
    Path(out, MARK).write_text(
        json.dumps({**json.loads(mark), "run": run.name, "frame": run.frame})
    )
    assert len(de.discard_unfinished(out)) == 2
    assert _ids(out) == [*range(6)]


def test_a_dead_overwrite_is_taken_back(folder: str) -> None:
    _frame(0, 6).ml.to_parquet(folder)
    before = _content(folder)
    _dies(_frame(10, 16, 3), folder, overwrite=True)
    de.discard_unfinished(folder)
    assert _content(folder) == before


def test_all_jobs_are_taken_back_that_did_not_finish(folder: str) -> None:
    """What took over a dead job and died as well does not make that one whole."""
    _frame(0, 6).ml.to_parquet(folder)
    before = _content(folder)
    _dies(_frame(6, 12, 3), folder, append=True)
    unfinished = _content(folder)
    _dies(_frame(20, 26, 1), folder, overwrite=True)  # it writes nothing
    assert _content(folder) == unfinished
    _dies(_frame(20, 26, 3), folder, overwrite=True)
    with pytest.raises(OSError, match="is not whole"):
        de.read_parquet(folder)
    de.discard_unfinished(folder)
    assert _content(folder) == before


def test_a_job_that_was_removing_old_files_is_not_taken_back(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _frame(0, 6).ml.to_parquet(folder)
    job = _frame(10, 16).ml.to_parquet(folder, overwrite=True, compute=False)
    monkeypatch.setattr(type(job.expr.job), "_remove", _stop)
    with pytest.raises(ArithmeticError):
        job.compute()
    before = _content(folder)
    with pytest.raises(OSError, match=r"had written all its rows .* write with overwrite=True"):
        de.discard_unfinished(folder)
    assert _content(folder) == before
    monkeypatch.undo()
    job.compute()
    assert _ids(folder) == [*range(10, 16)]


def _stop(*_: Any) -> None:
    raise ArithmeticError("broken")


def test_a_job_of_this_process_that_runs_is_left_alone(folder: str) -> None:
    inside, leave = threading.Event(), threading.Event()

    def stand(rows: pd.DataFrame) -> None:
        if 0 not in rows["id"].tolist():
            inside.set()
            assert leave.wait(60)

    frame = _frame(0, 6, 3)
    standing = frame.map_partitions(_Calling(stand), meta=frame._meta)

    def write() -> None:
        with dask.config.set(scheduler="synchronous"):
            standing.ml.to_parquet(folder)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        assert inside.wait(60)
        before = _content(folder)
        with pytest.raises(RuntimeError, match=rf"process {os.getpid()} still runs and may be"):
            de.discard_unfinished(folder)
        assert _content(folder) == before
    finally:
        leave.set()
        thread.join()
    assert _ids(folder) == [*range(6)]


def _mark(**told: Any) -> dict[str, Any]:
    now = datetime.datetime.now(datetime.UTC)
    return {
        "run": "9b1d5e77",
        "frame": "2f6d1c0a",
        "host": socket.gethostname(),
        "process": os.getppid(),
        "began": now.isoformat(timespec="seconds"),
        "names": None,
        **told,
    }


def _with_mark(folder: Path, mark: Any) -> None:
    _frame(0, 6).ml.to_parquet(folder)
    _frame(6, 12, 1).ml.to_parquet(folder / "new")
    (new,) = (folder / "new").iterdir()
    new.rename(folder / "part.2-2f6d1c0a-9b1d5e77.parquet")
    (folder / "new").rmdir()
    (folder / MARK).write_text(json.dumps(mark))


def test_a_job_of_a_living_process_is_left_alone(tmp_path: Path) -> None:
    _with_mark(tmp_path, _mark())
    before = _content(str(tmp_path))
    with pytest.raises(RuntimeError, match=rf"process {os.getppid()} still runs"):
        de.discard_unfinished(tmp_path)
    assert _content(str(tmp_path)) == before


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the system tells no start")
@pytest.mark.parametrize("began", ["2001-01-01T00:00:00+00:00", "2101-01-01T00:00:00+00:00"])
def test_a_clock_that_jumps_makes_no_job_dead_and_none_alive(tmp_path: Path, began: str) -> None:
    """By when it began the process would be another one, or could be any."""
    _with_mark(tmp_path, _mark(began=began, started=process_start(os.getppid())))
    with pytest.raises(RuntimeError, match=rf"process {os.getppid()} still runs"):
        de.discard_unfinished(tmp_path)
    other = _mark(began=began, started=f"{process_start(os.getppid())}0")
    (tmp_path / MARK).write_text(json.dumps(other))
    assert de.discard_unfinished(tmp_path) == ["part.2-2f6d1c0a-9b1d5e77.parquet"]


DEAD = {
    "failed": {"failed": True},
    "another machine": {"host": "elsewhere"},
    "number of a younger process": {"began": "2001-01-01T00:00:00+00:00"},
    "no such process": {"process": 2**22 + 1},
    "told by an earlier version": {"host": None, "process": None, "began": None},
}


@pytest.mark.parametrize("told", DEAD.values(), ids=DEAD)
def test_a_job_that_may_be_dead_is_taken_back(tmp_path: Path, told: dict[str, Any]) -> None:
    _with_mark(tmp_path, _mark(**told))
    assert de.discard_unfinished(tmp_path) == ["part.2-2f6d1c0a-9b1d5e77.parquet"]
    assert _ids(str(tmp_path)) == [*range(6)]


def test_files_of_others_with_a_name_of_the_job_stay(tmp_path: Path) -> None:
    _with_mark(tmp_path, _mark(failed=True, names=["mine.parquet"]))
    _frame(20, 26, 1).ml.to_parquet(tmp_path / "b", name_function=lambda place: "mine.parquet")
    (tmp_path / "b" / "mine.parquet").rename(tmp_path / "mine.parquet")
    (tmp_path / "b").rmdir()
    assert de.discard_unfinished(tmp_path) == []
    assert _ids(str(tmp_path)) == [*range(12), *range(20, 26)]


@pytest.mark.parametrize("mark", [{}, [], {"run": 5}, "x"], ids=str)
def test_a_mark_that_names_no_job_takes_nothing_back(tmp_path: Path, mark: Any) -> None:
    _with_mark(tmp_path, mark)
    before = _content(str(tmp_path))
    with pytest.raises(OSError, match="does not tell which job it is of"):
        de.discard_unfinished(tmp_path)
    assert _content(str(tmp_path)) == before


def test_bad_arguments() -> None:
    for path in (None, "", 5):
        with pytest.raises((TypeError, ValueError), match=r"^path must"):
            de.discard_unfinished(path)
    assert de.discard_unfinished("/no/such/folder") == []
