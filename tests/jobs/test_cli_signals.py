"""Ctrl-C and SIGTERM at any moment: the command ends soon with 5, and goes on with each row once.

Moments are functions in which a job waits until the signal comes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lance
import pandas as pd
import pytest
from deltalake import DeltaTable
from support import tiny

import dask_embed as de

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(900)]

ROWS = pd.DataFrame({"id": range(100), "text": [f"text {row} of a few" for row in range(100)]})
EMBED = ["embed", "rows.jsonl", "--model", "./bert", "--columns", "id,embedding"]
BY_ROWS = ["--resume", "rows", "--id", "id", "--changed", "replace", "--gone", "drop"]
AWAY = ["--cluster", "none-yet.json"]
TEXT = ["rows.jsonl", "--column", "text", "--id", "id"]
# Where a job waits, and which: what it writes, and its arguments.
MOMENTS: list[tuple[str, list[str]]] = [
    *(
        (f"dask_embed.{moment}", ["out", *EMBED])
        for moment in (
            "loading.load:load",
            "inference.probe:judge",
            "runtime.lanes:Lanes._run",
            "runtime.lanes:Lanes._run@3",
            "jobs.job:Job._mark",
            "jobs.commit:sync_file@2",
            "jobs.manifest:record@2",
            "runtime.files:_written_aside@4",
            "jobs.run_log:RunLog.counts",
            "jobs.job:remove_folder",
            "jobs.job:remove_file",
        )
    ),
    ("pyarrow.parquet:ParquetWriter.write_table@2", ["out", *EMBED]),
    ("os:replace@3", ["out", *EMBED]),
    ("dask_embed.jobs.command.reading:bad_files", ["out", *EMBED, "--skip-bad-files"]),
    ("dask_embed.runtime.segments:Segments._put@3", ["out", *EMBED, "--cache", "cache"]),
    ("dask_embed.runtime.segments:trim", ["out", *EMBED, "--cache", "cache"]),
    ("dask_embed.jobs.job:Job._mark", ["out", *EMBED, *BY_ROWS]),
    ("dask_embed.runtime.lanes:Lanes._run", ["out", *EMBED, *BY_ROWS]),
    ("dask_embed.jobs.job:remove_file@2", ["out", *EMBED, *BY_ROWS]),
    ("dask_embed.jobs.cluster:_wait_for", ["out", *EMBED, *AWAY]),
    ("dask_embed.jobs.delta:write_file@2", ["out.delta", *EMBED]),
    ("dask_embed.jobs.delta:DeltaTable.add", ["out.delta", *EMBED]),
    ("dask_embed.jobs.lance:LanceTable.add", ["out.lance", *EMBED]),
    ("dask_embed.curation.exact:decide_equal", ["out", "dedup", *TEXT]),
    ("dask_embed.curation.banded:Candidates.operation", ["out", "dedup-fuzzy", *TEXT]),
]
READERS: dict[str, Callable[[], Any]] = {
    "out": lambda: de.read_parquet("out").compute(scheduler="sync")["id"],
    "out.delta": lambda: DeltaTable("out.delta").to_pyarrow_table()["id"].to_pylist(),
    "out.lance": lambda: lance.dataset("out.lance").to_table()["id"].to_pylist(),
}


class Commands:
    """Starts of the command in a folder, of the process of `support.interrupted`."""

    def __init__(self, folder: Path) -> None:
        tests = Path(__file__).parents[1]
        paths = os.pathsep.join([str(tests.parent), str(tests)])
        self._server = subprocess.Popen(
            [sys.executable, "-m", "support.interrupted"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        )

    def run(self, arguments: list[str], moment: str | None, number: int) -> dict[str, Any]:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        given = {"arguments": arguments, "moment": moment, "number": number}
        print(json.dumps(given), file=self._server.stdin, flush=True)
        found: dict[str, Any] = json.loads(self._server.stdout.readline())
        return found

    def close(self) -> None:
        self._server.communicate(timeout=60)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Commands]]:
    folder = tmp_path_factory.mktemp("signals")
    tiny.save("bert", folder / "bert")
    commands = Commands(folder)
    yield folder, commands
    commands.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
@pytest.mark.parametrize(("moment", "job"), MOMENTS, ids=str)
def test_a_signal_at_any_moment(
    moment: str,
    job: list[str],
    number: signal.Signals,
    shared: tuple[Path, Commands],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, commands = shared
    monkeypatch.chdir(folder)
    subprocess.run(["rm", "-rf", *READERS, "cache"], check=True)
    to, *arguments = job
    size = str(len(ROWS.to_json(orient="records", lines=True)) // 4)
    arguments += ["--to", to, "--partition-size", size, "--quiet", "--json"]
    if "rows" in arguments:  # which a night before had other rows of
        before = ROWS.assign(text=ROWS.text.where(ROWS.id != 7, "another")).iloc[:70]
        before = pd.concat([before, before.iloc[:5].assign(id=range(200, 205))])
        before.to_json("rows.jsonl", orient="records", lines=True)
        assert commands.run(arguments, None, number)["code"] == 0
    ROWS.to_json("rows.jsonl", orient="records", lines=True)
    ended = commands.run(arguments, moment, number)
    assert ended["came"], ended
    assert ended["code"] == 5, ended
    assert ended["seconds"] < 10
    assert ended["err"] == "dask-embed: interrupted\n"
    assert json.loads(ended["out"])["exit_code"] == 5
    if AWAY[0] in arguments:
        arguments = [each for each in arguments if each not in AWAY]
    again = commands.run(arguments, None, number)
    assert again["code"] == 0, again
    assert sorted(READERS[to]()) == ROWS.id.tolist()
