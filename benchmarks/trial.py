"""Start one run of one contender, watch its memory, read its vectors."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pyarrow.dataset
from contenders import CONTENDERS
from corpora import Corpus
from peers import PEERS, PROJECT, Environment
from report import Run
from setting import RESULT, VECTORS

_WORKER = str(Path(__file__).resolve().parent / "worker.py")
_SAMPLE_SECONDS = 0.5  # looking at all processes takes milliseconds of a core
_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "DO_NOT_TRACK": "1",  # Daft's
    "SCARF_NO_ANALYTICS": "true",
}


class ContenderFailedError(Exception):
    """A contender's process ended with an error; the message is its last line."""


@dataclass(frozen=True)
class Models:
    """Folders of the checkpoint: the model itself, and what backends made of it.

    `against` is the other checkout of the project that the contender of that name imports.
    """

    original: str
    exported: dict[str, str]
    against: str | None = None

    def of(self, name: str) -> str:
        return self.exported.get(name, self.original)


def environment_of(name: str) -> Environment:
    """Return where the contender `name` runs."""
    return PEERS.get(CONTENDERS[name].environment, PROJECT)


def export(name: str, model: str, folder: Path) -> str:
    """Let the contender `name` make its own format of the model; return the new folder.

    Raises
    ------
    ContenderFailedError
        With the last line that it printed.
    """
    folder.mkdir(parents=True)
    _run([environment_of(name).python, _WORKER, "export", name], model, folder)
    return str(folder)


def run_once(
    name: str, models: Models, corpus: Corpus, device: str, dtype: str
) -> tuple[Run, np.ndarray]:
    """Run a contender in a fresh process.

    Returns
    -------
    run : dict
        Seconds, seconds of starting up, and peak memory: the largest resident set of the
        process, or of it and its children together (sampled) if that is more.
    vectors : numpy.ndarray
        float32, shape (texts, values), in the order of the corpus.

    Raises
    ------
    ContenderFailedError
        With the last line that it printed.
    """
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=corpus.source.parent))
    command = [environment_of(name).python, _WORKER, "run", name]
    command += ["--source", str(corpus.source), "--warm-up", str(corpus.warm_up)]
    command += ["--device", device, "--dtype", dtype]
    checkout = {"PYTHONPATH": models.against} if name == "against" and models.against else {}
    together = _run(command, models.of(name), folder, checkout)
    run: Run = json.loads((folder / RESULT).read_text("utf8"))
    run["peak_mib"] = max(run["peak_mib"], together)
    vectors = _read_vectors(folder / VECTORS)
    shutil.rmtree(folder)
    return run, vectors


def _run(
    command: list[str], model: str, target: Path, variables: Mapping[str, str] | None = None
) -> float:
    """Run to the end; return the most memory seen of the process and its children, in MiB."""
    command = [*command, "--model", model, "--target", str(target)]
    log = target / "log.txt"
    with open(log, "w") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **_OFFLINE, **(variables or {})},
        )
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, _resident_mib(process.pid))
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_SAMPLE_SECONDS)
    if process.returncode:
        lines = log.read_text("utf8", errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "no output")
        raise ContenderFailedError(f"exit status {process.returncode}: {last.strip()[:300]}")
    return peak


def _resident_mib(pid: int) -> float:
    """Add up the memory of a process and its children, what they share counted about once."""
    private, shared = 0, 0
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for member in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                memory = member.memory_info()
                private += memory.rss - memory.shared
                shared = max(shared, memory.shared)
    return (private + shared) / 2**20


def _read_vectors(folder: Path) -> np.ndarray:
    files = sorted(str(file) for file in folder.rglob("*.parquet"))
    table = pyarrow.dataset.dataset(files).to_table(columns=["id", "embedding"])
    ids = table["id"].to_numpy()
    assert (np.sort(ids) == np.arange(len(ids))).all(), "ids are lost or repeated"
    column = table["embedding"].combine_chunks()
    column = getattr(column, "storage", column)  # Daft's own type
    return column.flatten().to_numpy().reshape(len(ids), -1)[np.argsort(ids)]
