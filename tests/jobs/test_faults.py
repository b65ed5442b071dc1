"""Stores and disks that fail: nothing is lost, nothing is there twice, and it is told."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask
import dask.dataframe as dd
import pandas as pd
import pytest
from support.counting import Length
from support.faulty import FaultyFileSystem, s3

import dask_embed as de


def _frame(start: int, stop: int, parts: int) -> dd.DataFrame:
    rows = pd.DataFrame({"id": range(start, stop)})
    rows = rows.assign(text=[f"text {n}" for n in rows.id], odd=rows.id % 2)
    return Length()(dd.from_pandas(rows, npartitions=parts))


@pytest.mark.parametrize("options", [{}, {"partition_on": ["odd"]}], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_a_store_that_fails_in_one_of_five_calls(
    options: dict[str, Any], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fs, told = FaultyFileSystem(), Counter[str]()
    fs.store.clear()
    type(fs).failed = 0
    monkeypatch.setattr("dask_embed.runtime.files._WAITS", (0, 0, 0, 0))
    type(fs).chance = random.Random(seed)
    folder, more = f"/{seed}/out", {"filesystem": fs, "resume": True, **options}
    for start, append in ((0, False), (40, True)):
        for _ in range(100):
            type(fs).every = 5
            try:
                _frame(start, start + 40, 8).ml.to_parquet(folder, append=append, **more)
                break
            except (OSError, ValueError, RuntimeError) as error:
                told[type(error).__name__] += 1
        else:
            raise AssertionError(told)
        type(fs).every = 0
        found = de.read_parquet(folder, filesystem=fs).compute()
        assert sorted(found["id"]) == [*range(start + 40)]
        assert all(name.endswith(".parquet") for name in fs.find(folder))
    assert type(fs).failed > 20
    # the last one is what pyarrow makes of a folder that cannot be looked at
    assert told.keys() <= {"TimeoutError", "ConnectionResetError", "NotADirectoryError"}


def test_a_disk_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, sync, calls = tmp_path / "out", os.fsync, Counter[str]()

    def full(number: int) -> None:
        calls["sync"] += 1
        if calls["sync"] > 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(number)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left on device"):
            _frame(0, 40, 8).ml.to_parquet(out, resume=True)
    assert not [name for name in os.listdir(out) if name.startswith(".")]
    assert 0 < len(list(out.glob("*.parquet"))) < 8
    with pytest.raises(OSError, match="is not whole"):
        de.read_parquet(out)
    _frame(0, 40, 8).ml.to_parquet(out, resume=True)
    assert sorted(de.read_parquet(out)["id"].compute()) == [*range(40)]


def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    """The kernel refuses what is over a limit, in the middle of a file."""
    code = (
        "import resource, signal, sys; sys.path[:0] = ['tests', 'tests/jobs']\n"
        "import dask, test_faults\n"
        "dask.config.set(scheduler='synchronous')\n"
        "frame = test_faults._frame(0, 40, 2)\n"
        "job = frame.ml.to_parquet(sys.argv[1], resume=True, compute=False)\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))\n"
        "try: job.compute()\n"
        "except OSError as error: print(error)\n"
    )
    out = tmp_path / "out"
    told = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(out)],
        capture_output=True, text=True, timeout=200, cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": "."},
    )  # fmt: skip
    assert "File too large" in told.stdout, told.stderr
    assert not list(out.glob("*.parquet"))
    _frame(0, 40, 2).ml.to_parquet(out, resume=True)
    assert sorted(de.read_parquet(out)["id"].compute()) == [*range(40)]


def test_a_clock_that_jumps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Days forth and back while a job dies and is gone on with."""
    import datetime as clock

    class Jumping(clock.datetime):
        days = iter([0, 9, -9, 40] * 9)

        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return clock.datetime.now(tz) + clock.timedelta(days=next(cls.days))

    jumping = SimpleNamespace(datetime=Jumping, UTC=clock.UTC)
    monkeypatch.setattr("dask_embed.jobs.job.datetime", jumping)
    out, sync, calls = tmp_path / "out", os.fsync, Counter[str]()

    def fails(number: int) -> None:
        calls["sync"] += 1
        if calls["sync"] > 20:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        sync(number)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fails)
        with pytest.raises(OSError, match="Input/output error"):
            _frame(0, 40, 8).ml.to_parquet(out, resume=True)
    before = {file: file.read_bytes() for file in out.glob("*.parquet")}
    assert before
    _frame(0, 40, 8).ml.to_parquet(out, resume=True)
    assert all(file.read_bytes() == content for file, content in before.items())
    assert sorted(de.read_parquet(out)["id"].compute()) == [*range(40)]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(PermissionError, match="closed"):
        _frame(0, 4, 1).ml.to_parquet(tmp_path / "closed" / "out", resume=True)


def test_a_path_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in ("file", "file/out"):
        with pytest.raises(NotADirectoryError, match="path must be a folder, new or not"):
            _frame(0, 4, 1).ml.to_parquet(tmp_path / path, resume=True)


def test_a_truncated_input_is_named_and_what_is_done_stays(tmp_path: Path) -> None:
    _frame(0, 40, 8).ml.to_parquet(tmp_path / "in")
    frame = de.read_parquet(tmp_path / "in")[["id", "text"]]
    file = next((tmp_path / "in").glob("part.7-*"))
    content, told = file.read_bytes(), file.stat()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(OSError, match=r"part\.7-.*cannot be read"):
        frame.ml.to_parquet(tmp_path / "out", resume=True)
    file.write_bytes(content)
    os.utime(file, ns=(told.st_atime_ns, told.st_mtime_ns))
    frame.ml.to_parquet(tmp_path / "out", resume=True)
    assert sorted(de.read_parquet(tmp_path / "out")["id"].compute()) == [*range(40)]


# ------------------------------------------------------------------------------------- two jobs
def _race(folder: str, writers: int, **options: Any) -> list[BaseException | None]:
    outcomes: list[BaseException | None] = []
    together = threading.Barrier(writers)

    def write() -> None:
        frame = _frame(0, 40, 8)
        together.wait(60)
        try:
            with dask.config.set(scheduler="synchronous"):
                frame.ml.to_parquet(folder, resume=True, **options)
            outcomes.append(None)
        except BaseException as error:
            outcomes.append(error)

    threads = [threading.Thread(target=write) for _ in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def _whole_after(folder: str, outcomes: list[BaseException | None], **options: Any) -> None:
    """Assert that each row is there once, by one of the jobs or by the next."""
    assert all(error is None or isinstance(error, OSError | RuntimeError) for error in outcomes)
    if None not in outcomes:
        _frame(0, 40, 8).ml.to_parquet(folder, resume=True, **options)
    reading = {"storage_options": options["storage_options"]} if options else {}
    found = de.read_parquet(folder, **reading).compute()
    assert sorted(found["id"]) == [*range(40)]


def test_the_same_job_twice_at_a_time(tmp_path: Path) -> None:
    outcomes = _race(str(tmp_path / "out"), 4)
    _whole_after(str(tmp_path / "out"), outcomes)
    assert all(name.endswith(".parquet") for name in os.listdir(tmp_path / "out"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_eight_writers_of_one_folder_in_a_store() -> None:
    with s3() as (folder, opens):
        outcomes = _race(folder, 8, storage_options=opens)
        _whole_after(folder, outcomes, storage_options=opens)
        _frame(0, 40, 8).ml.to_parquet(folder, resume=True, storage_options=opens)
        _frame(40, 60, 2).ml.to_parquet(
            folder, resume=True, append=True, partition_on=None, storage_options=opens
        )
        found = de.read_parquet(folder, storage_options=opens).compute()
        assert sorted(found["id"]) == [*range(60)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_store_puts_a_file_only_where_there_is_none() -> None:
    import fsspec

    from dask_embed.runtime.files import create_file, put_file

    with s3() as (folder, opens):
        fs, path = fsspec.core.url_to_fs(folder, **opens)
        made = [create_file(fs, f"{path}/one", content) for content in (b"first", b"other")]
        assert made == [True, False]
        assert fs.cat_file(f"{path}/one") == b"first"
        put_file(fs, f"{path}/one", b"whole!")  # of another size: that was cut short
        fs.invalidate_cache()
        assert fs.cat_file(f"{path}/one") == b"whole!"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_cache_in_a_store(monkeypatch: pytest.MonkeyPatch) -> None:
    with s3() as (folder, opens):
        url = opens["client_kwargs"]["endpoint_url"]
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        operator = Length(cache=f"{folder}/cache")
        frame = pd.DataFrame({"text": [f"text {n}" for n in range(10)]})
        from support.counting import rows_of

        assert rows_of(lambda: operator(frame)) == 10
        assert rows_of(lambda: operator(frame)) == 0
