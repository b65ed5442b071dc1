"""Kill a job again and again at random moments, and look at the folder each time."""

from __future__ import annotations

import contextlib
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import fsspec
import numpy as np
import pyarrow.parquet as pq

import dask_embed as de
from support import killed_job


class Jobs:
    """Starts of the job of `killed_job`, each in a process group of its own."""

    def __init__(self, model: Path) -> None:
        here = Path(__file__).parent
        tests, project = here.parent, here.parents[1]
        paths = os.pathsep.join([str(project), str(tests), os.environ.get("PYTHONPATH", "")])
        self._server = subprocess.Popen(
            [sys.executable, str(here / "killed_job.py"), str(model)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        )

    def start(self, folder: Path, *partitioned: str) -> int:
        print(folder, *partitioned, file=self._in, flush=True)
        return int(self._out.readline())

    def end(self, timeout: float | None = None) -> int | None:
        """Return how the job ended, None if it still runs after so many seconds."""
        ready, _, _ = select.select([self._out], [], [], timeout)
        return int(self._out.readline()) if ready else None

    def close(self) -> None:
        self._in.close()
        self._server.wait(60)
        self._out.close()

    @property
    def _in(self) -> IO[str]:
        assert self._server.stdin is not None
        return self._server.stdin

    @property
    def _out(self) -> IO[str]:
        assert self._server.stdout is not None
        return self._server.stdout


@contextlib.contextmanager
def jobs(model: Path) -> Iterator[Jobs]:
    started = Jobs(model)
    try:
        yield started
    finally:
        started.close()


def kill_often(
    model: Path, root: Path, kills: int, *, seed: int = 0, most_seconds: float = 1e9
) -> Counter[str]:
    """Kill so many starts of the job, and return how often what was seen.

    Every other folder has ``partition_on``. A start that is not killed in time has to have written
    all rows; then another folder begins.
    """
    chance, seen, number = random.Random(seed), Counter[str](), 0
    with jobs(model) as starts:
        whole = root / "unbroken"
        starts.start(whole)  # which waits for imports
        duration = time.monotonic()
        assert starts.end() == 0
        duration = time.monotonic() - duration
        expected = rows_of(whole)
        began = time.monotonic()
        while seen["kills"] < kills and time.monotonic() - began < most_seconds:
            folder, options = root / f"broken-{number}", ("odd",) if number % 2 else ()
            group = starts.start(folder, *options)
            ended = starts.end(chance.uniform(0, duration))
            if ended is None:
                with contextlib.suppress(ProcessLookupError):
                    # the client alone leaves workers that find out a little later
                    kill = os.kill if seen["kills"] % 4 == 3 else os.killpg
                    kill(group, signal.SIGKILL)
                ended = starts.end()
            if ended == -signal.SIGKILL:
                seen["kills"] += 1
                seen["with rows"] += look(folder, expected)
            else:  # by itself, maybe a moment before it was killed
                assert ended == 0, ended
                assert_whole(folder, expected)
                seen["finished"] += 1
                number += 1
        starts.start(folder, *options)
        assert starts.end() == 0
        assert_whole(folder, expected)
    return seen


def look(folder: Path, expected: dict[int, np.ndarray]) -> bool:
    """Assert that what a killed job left is whole files of some rows, none twice."""
    files = [*folder.rglob("part.*.parquet")]
    ids = [n for file in files for n in pq.read_table(file, columns=["id"])["id"].to_pylist()]
    assert len(set(ids)) == len(ids)
    assert set(ids) <= expected.keys()
    marked = (folder / "_dask_embed_unfinished").exists()
    assert marked or len(ids) in (0, len(expected))
    return bool(ids)


def rows_of(folder: Path) -> dict[int, np.ndarray]:
    """Return the vector of each row of a finished folder, by its id."""
    frame = de.read_parquet(folder).compute(scheduler="sync")
    vectors: Any = de.to_array(frame["embedding"])
    assert len(frame) == frame["id"].nunique()
    return dict(zip(frame["id"].tolist(), vectors, strict=True))


def assert_whole(folder: Path, expected: dict[int, np.ndarray]) -> None:
    found = rows_of(folder)
    assert len(expected) == killed_job.ROWS
    assert found.keys() == expected.keys()
    np.testing.assert_allclose(
        np.stack([found[n] for n in sorted(found)]),
        np.stack([expected[n] for n in sorted(expected)]),
        atol=1e-6,
    )
    fs = fsspec.filesystem("file")
    others = [name for name in fs.find(folder) if not name.endswith(".parquet")]
    assert [name for name in others if "/.part" not in name] == []
