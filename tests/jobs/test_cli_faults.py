"""The command when something is taken from it: signals, a reader, a scheduler, a link, a model."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support import tiny

import dask_embed as de

ROWS = 4000
COMMAND = [sys.executable, "-m", "dask_embed.jobs.cli"]
DASK = [sys.executable, "-m", "dask"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model and texts in 40 partitions, which take some seconds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(de.__file__).parent.parent))
    tiny.save("bert", tmp_path / "bert")
    texts = [f"text {row} " + "and so on " * 5 for row in range(ROWS)]
    frame = pd.DataFrame({"id": range(ROWS), "text": texts})
    frame.to_json("rows.jsonl", orient="records", lines=True)
    return tmp_path


def _arguments(*more: str) -> list[str]:
    size = str(Path("rows.jsonl").stat().st_size // 40)
    common = [
        "embed",
        "rows.jsonl",
        "--to",
        "out",
        "--model",
        "./bert",
        "--columns",
        "id,embedding",
    ]
    return [*common, "--partition-size", size, "--json", *more]


def _files() -> list[Path]:
    return [*Path("out").glob("*.parquet")]


def _wait(done: Callable[[], Any], seconds: float = 200) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _goes_on() -> None:
    """Start the job again: what was done is not run again, and each row is there once."""
    files = _files()
    assert files
    done = subprocess.run([*COMMAND, *_arguments()], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"] < ROWS
    assert set(files) <= set(_files())
    assert sorted(de.read_parquet("out").compute()["id"]) == list(range(ROWS))


@contextlib.contextmanager
def _started(*arguments: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("number", "cluster"),
    [
        (signal.SIGINT, []),
        (signal.SIGINT, ["--cluster", "local"]),
        (signal.SIGTERM, ["--cluster", "local"]),
    ],
    ids=["ctrl-c", "ctrl-c on a cluster", "sigterm on a cluster"],
)
def test_a_signal_ends_it_soon_and_it_goes_on(
    number: signal.Signals, cluster: list[str], folder: Path
) -> None:
    """Sent to all processes, as by a terminal or Slurm; workers say nothing of Ctrl-C."""
    arguments = _arguments("--log", "log.txt", "--quiet", *cluster)
    with _started(*COMMAND, *arguments, start_new_session=True) as process:
        _wait(_files)
        os.killpg(process.pid, number)
        sent = time.monotonic()
        out, err = process.communicate(timeout=60)
        seconds = time.monotonic() - sent
    assert process.returncode == 5, err
    assert seconds < 10
    if number == signal.SIGINT:
        assert err == "dask-embed: interrupted\n"
    else:  # which ends workers, too, and a nanny may start one anew before it ends itself
        assert err.count("dask-embed: interrupted\n") == 1
    assert json.loads(out)["exit_code"] == 5
    last = json.loads(Path("log.txt").read_text().splitlines()[-1])
    assert (last["event"], last["exit_code"]) == ("end", 5)
    _goes_on()


@pytest.mark.alone
@pytest.mark.parametrize(
    "command", [[*COMMAND, "describe", "./bert"], None], ids=["describe", "job"]
)
def test_a_signal_ends_it_while_it_imports(command: list[str] | None, folder: Path) -> None:
    """Nothing is begun then, and the same command can be started."""
    with _started(*(command or [*COMMAND, *_arguments()])) as process:
        maps = Path(f"/proc/{process.pid}/maps")
        _wait(lambda: "libtorch_cpu" in maps.read_text())
        process.send_signal(signal.SIGTERM)
        sent = time.monotonic()
        out, err = process.communicate(timeout=60)
        seconds = time.monotonic() - sent
    assert process.returncode == 5, err
    assert not out or json.loads(out)["exit_code"] == 5  # where it had read its options
    assert seconds < 10
    assert err.splitlines()[-1] == "dask-embed: interrupted"
    assert not Path("out").exists()


@pytest.mark.slow
def test_a_reader_that_goes_does_not_end_it(folder: Path) -> None:
    """Of the progress and of the line of json, as in ``dask-embed ... 2>&1 | head -n 0``."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [*COMMAND, *_arguments()], stdout=writing, stderr=writing, timeout=280
        )
    finally:
        os.close(writing)
    assert done.returncode == 0
    assert len(de.read_parquet("out")) == ROWS


@contextlib.contextmanager
def _cluster(prefixes: list[list[str]], host: str, names: list[str]) -> Iterator[Any]:
    """Give a scheduler and workers, each behind a prefix of its own, as processes."""
    with contextlib.ExitStack() as stack:
        local = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        scheduler = ["--scheduler-file", "scheduler.json", "--port", "0", "--no-dashboard"]
        first = stack.enter_context(
            _process([*prefixes[0], *DASK, "scheduler", *scheduler, "--host", host], **local)
        )
        _wait(Path("scheduler.json").exists)
        workers = [
            stack.enter_context(
                _process(
                    [
                        *prefix,
                        *DASK,
                        "worker",
                        "--scheduler-file",
                        "scheduler.json",
                        "--host",
                        name,
                        "--no-dashboard",
                        "--nthreads",
                        "1",
                        "--no-nanny",
                        "--death-timeout",
                        "60",
                    ],
                    **local,
                )
            )
            for prefix, name in zip(prefixes[1:], names, strict=True)
        ]
        yield first, workers


@contextlib.contextmanager
def _process(command: list[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, **options)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.alone  # starts five interpreters, one after the other
@pytest.mark.timeout(900)
def test_without_its_scheduler_it_ends_with_5_and_goes_on(folder: Path) -> None:
    with (
        _cluster([[], []], "127.0.0.1", ["127.0.0.1"]) as (scheduler, _),
        _started(*COMMAND, *_arguments("--cluster", "scheduler.json")) as process,
    ):
        _wait(_files)
        scheduler.kill()
        out, err = process.communicate(timeout=120)
    assert process.returncode == 5, err
    assert json.loads(out)["exit_code"] == 5
    _goes_on()


def test_no_scheduler_at_all_is_5(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It may be there later; with a short patience here."""
    import dask

    from dask_embed.jobs.cli import main

    with dask.config.set({"distributed.comm.timeouts.connect": "300ms"}):
        assert main(_arguments("--cluster", "tcp://127.0.0.1:1")) == 5
    assert "no scheduler answers at 'tcp://127.0.0.1:1'" in capsys.readouterr().err


# ------------------------------------------------------------------------ several machines
def _allowed(*command: str) -> bool:
    if shutil.which(command[0]) is None:
        return False
    return subprocess.run(command, capture_output=True).returncode == 0


@pytest.fixture
def machines() -> Iterator[list[str]]:
    """Three network namespaces on one bridge, 10.77.0.1 to .3; skipped where not allowed."""
    names = [f"de-{os.getpid()}-{number}" for number in range(3)]
    bridge = f"debr{os.getpid() % 100000}"
    if not _allowed("ip", "link", "add", bridge, "type", "bridge"):
        pytest.skip("network namespaces are not allowed here")
    try:
        _ip("link", "set", bridge, "up")
        for number, name in enumerate(names):
            _ip("netns", "add", name)
            here = f"dev{os.getpid() % 100000}x{number}"
            _ip("link", "add", here, "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("link", "set", here, "master", bridge, "up")
            _ip("-n", name, "addr", "add", f"10.77.0.{number + 1}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
            _ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
        subprocess.run(["ip", "link", "del", bridge], capture_output=True)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(900)
def test_a_link_that_is_cut_and_restored(
    folder: Path, machines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For longer than the scheduler's patience; each row is there once.

    The worker behind it computes on meanwhile, and its rows are computed by the other one, too.
    """
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL", "15s")
    monkeypatch.setenv("DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP", "12s")
    behind = [["ip", "netns", "exec", name] for name in machines]
    addresses = [f"10.77.0.{number}" for number in (1, 2, 3)]
    with (
        _cluster(behind, addresses[0], addresses[1:]),
        _started(*behind[0], *COMMAND, *_arguments("--cluster", "scheduler.json")) as process,
    ):
        _wait(_files)
        _ip("-n", machines[2], "link", "set", "eth0", "down")
        time.sleep(20)
        _ip("-n", machines[2], "link", "set", "eth0", "up")
        _, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    assert sorted(de.read_parquet("out").compute()["id"]) == list(range(ROWS))


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["lacks", "has another"])
def test_a_model_that_one_worker_has_not_is_told_with_its_name(kind: str, folder: Path) -> None:
    """It is hidden from the second worker by a mount of its own."""
    if not _allowed("unshare", "--mount", "true"):
        pytest.skip("mounts are not allowed here")
    tiny.save("bert", folder / "other", lowercase=False)
    mount = {"lacks": "-t tmpfs none", "has another": f"--bind {folder / 'other'}"}[kind]
    hidden = ["unshare", "--mount", "sh", "-c", f'mount {mount} "$0" && exec "$@"']
    with _cluster([[], [*hidden, str(folder / "bert")]], "127.0.0.1", ["127.0.0.1"]):
        arguments = _arguments("--cluster", "scheduler.json")
        done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=240)
    assert done.returncode == 4, done.stderr
    assert "worker tcp://127.0.0.1" in done.stderr
    assert str(folder / "bert") in done.stderr
    told = {"lacks": "holds no config.json", "has another": "has another model in folder"}[kind]
    assert told in done.stderr
    assert "the job was built with" in done.stderr
    assert not [*Path("out").glob("*.parquet")]
