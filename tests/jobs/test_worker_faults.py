"""Workers that die or are cut short while they load, run or write: no row is lost, none doubled."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from distributed import Client, KilledWorker, WorkerPlugin
from distributed.utils import get_mp_context
from support import tiny
from support.clusters import cluster
from support.counting import Length

import dask_embed as de

# Forked workers have these already, so that one that is started anew costs no ten seconds.
_PRELOADED = [
    *("distributed", "torch", "transformers.modeling_utils", "dask.dataframe", "pyarrow.dataset"),
    *("transformers.models.auto.modeling_auto", "transformers.models.bert.modeling_bert"),
    *("dask_embed.operators", "dask_embed.inference.runner", "dask_embed.jobs.write_expr"),
]
TEXTS = pd.DataFrame({"id": range(36), "text": [f"text {n} " + "and on " * 5 for n in range(36)]})


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.save("bert", tmp_path_factory.mktemp("workers") / "bert"))


@pytest.fixture(scope="module")
def expected(bert: str) -> np.ndarray:
    return de.to_array(TEXTS.ml.embed("text", model=bert)["embedding"])


@contextlib.contextmanager
def _forked(workers: int, **options: Any) -> Iterator[Client]:
    """Give the client of a cluster whose processes start within a second."""
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        get_mp_context()  # which sets a list of its own
        multiprocessing.get_context("forkserver").set_forkserver_preload(_PRELOADED)
        with cluster(workers, 1, processes=True, **options) as client:
            yield client


def _job(bert: str) -> dd.DataFrame:
    return dd.from_pandas(TEXTS, npartitions=12).ml.embed("text", model=bert)


def _assert_whole(folder: Path, expected: np.ndarray) -> None:
    found = de.read_parquet(folder).compute(scheduler="sync").sort_values("id")
    assert found["id"].tolist() == list(range(len(expected)))
    np.testing.assert_allclose(de.to_array(found["embedding"]), expected, atol=1e-5)
    assert all(name.endswith(".parquet") for name in os.listdir(folder))


# ----------------------------------------------------------------------------------- they die
WHERE = {
    "load": "dask_embed.inference.runner.load",
    "forward": "dask_embed.inference.execution.Execution.run",
    "write": "os.replace",  # of the file of a partition, which is not whole before
    "record": "dask_embed.jobs.write_expr.record",  # when it is whole, and nothing tells so
}


class Dying(WorkerPlugin):
    """Kills the first worker that comes to a place in the code for the n-th time."""

    def __init__(self, where: str, flag: Path, after: int) -> None:
        self.where, self.flag, self.left = where, flag, after

    def setup(self, worker: Any) -> None:
        home, _, name = self.where.rpartition(".")
        owner = _named(home)
        original = getattr(owner, name)

        def dies(*arguments: Any, **options: Any) -> Any:
            # of the partitions, not of Dask's own files
            if name != "replace" or str(arguments[1]).endswith(".parquet"):
                self.left -= 1
            if self.left < 0:
                with contextlib.suppress(FileExistsError):
                    self.flag.touch(exist_ok=False)
                    os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **options)

        setattr(owner, name, dies)


def _named(path: str) -> Any:
    """Return a module, or a class of one."""
    import importlib

    try:
        return importlib.import_module(path)
    except ModuleNotFoundError:
        home, _, name = path.rpartition(".")
        return getattr(_named(home), name)


@pytest.mark.slow
@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize("where", WHERE)
def test_a_worker_that_is_killed(
    where: str, resume: bool, bert: str, expected: np.ndarray, tmp_path: Path
) -> None:
    """One of two; or the only one, without which nothing goes on until its nanny starts another."""
    if where == "record" and not resume:
        pytest.skip("only a job that can be gone on with has records")
    after = 0 if where == "load" else 2
    with _forked(2 if resume else 1) as client:
        client.register_plugin(Dying(WHERE[where], tmp_path / "dead", after))
        _job(bert).ml.to_parquet(tmp_path / "out", resume=resume)
        started = client.scheduler_info(n_workers=-1)["workers"]
    assert (tmp_path / "dead").exists()
    assert len(started) >= 1
    _assert_whole(tmp_path / "out", expected)


@pytest.mark.slow
def test_workers_that_are_all_started_anew(bert: str, expected: np.ndarray, tmp_path: Path) -> None:
    """By somebody else, in the middle of a job."""
    with _forked(2) as client:
        restarted = threading.Thread(target=_restart, args=(client, tmp_path / "out"))
        restarted.start()
        slow = _job(bert).map_partitions(_waits, meta=_job(bert)._meta)
        slow.ml.to_parquet(tmp_path / "out", resume=True)
        restarted.join()
    _assert_whole(tmp_path / "out", expected)


def _waits(rows: pd.DataFrame) -> pd.DataFrame:
    time.sleep(0.2)
    return rows


def _restart(client: Client, folder: Path) -> None:
    _wait(lambda: len([*folder.glob("*.parquet")]) >= 2)
    addresses = list(client.scheduler_info(n_workers=-1)["workers"])
    client.restart_workers(addresses, timeout=60)


def _wait(done: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 100
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# ------------------------------------------------------------------------------ a poison row
def _swallows(rows: pd.DataFrame, flag: str, how: str) -> pd.DataFrame:
    """Take all memory for row 17, until a flag says that it does not any more."""
    if 17 in rows["id"].tolist() and not os.path.exists(flag):
        if how == "once":
            Path(flag).touch()
        if how == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        taken = []
        for _ in range(300):  # 3 GiB in 3 seconds, of which the nanny sees a part in time
            taken.append(np.ones(10 * 2**20, np.uint8))
            time.sleep(0.01)
        time.sleep(60)
    return rows


def _swallowing(flag: Path, how: str) -> dd.DataFrame:
    frame = dd.from_pandas(TEXTS, npartitions=12)
    return Length()(frame.map_partitions(_swallows, str(flag), how, meta=frame._meta))


def _assert_lengths(folder: Path) -> None:
    found = de.read_parquet(folder).compute(scheduler="sync").sort_values("id")
    assert found["id"].tolist() == list(range(36))
    assert found["length"].tolist() == TEXTS["text"].str.len().tolist()


@pytest.mark.slow
def test_a_worker_that_passes_its_limit_of_memory(tmp_path: Path) -> None:
    with _forked(1, memory_limit="1800MiB") as client:
        _swallowing(tmp_path / "flag", "once").ml.to_parquet(tmp_path / "out", resume=True)
        assert client.status == "running"
    assert (tmp_path / "flag").exists()
    _assert_lengths(tmp_path / "out")


@pytest.mark.slow
def test_a_row_that_kills_each_worker_ends_the_job_which_goes_on_without_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All other partitions are done then, and are not run again."""
    from dask_embed.jobs.command.ending import INTERRUPTED, ended

    job = _swallowing(tmp_path / "flag", "crash")
    with _forked(2) as client:
        with (
            dask.config.set({"distributed.scheduler.allowed-failures": 1}),
            pytest.raises(KilledWorker) as raised,
        ):
            job.ml.to_parquet(tmp_path / "out", resume=True)
        assert client.status == "running"
    assert ended(raised.value).exit_code == INTERRUPTED
    with pytest.raises(OSError, match="start it again with resume=True"):
        de.read_parquet(tmp_path / "out")
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").glob("*.parquet")}
    assert before
    (tmp_path / "flag").touch()
    job.ml.to_parquet(tmp_path / "out", resume=True)
    assert all(file.stat().st_mtime_ns == written for file, written in before.items())
    _assert_lengths(tmp_path / "out")
