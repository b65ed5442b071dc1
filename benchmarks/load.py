"""Time of loading all-MiniLM-L6-v2, until its first batch may run.

With `--against FOLDER`, another checkout of the project, the two take turns. Each load is a fresh
process that has imported the libraries; it loads the model, gives it back, and loads it again.
Processor time is what counts where other processes share the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from machine import describe

_PROJECT = Path(__file__).resolve().parent.parent
_AGAIN = 2


def load() -> dict[str, list[float]]:
    """Load the model in this process, `_AGAIN` times more after the first."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    import dask_embed as de
    from dask_embed.inference.runner import runner_for

    assert AutoModel, AutoTokenizer  # their modules are imported when they are first named
    torch.set_num_threads(1)
    model = de.Model(de.datasets.minilm(), device="cpu")
    seconds: dict[str, list[float]] = {"wall": [], "processor": []}
    for _ in range(1 + _AGAIN):
        start, used = time.perf_counter(), time.process_time()
        runner_for(model)
        seconds["wall"].append(time.perf_counter() - start)
        seconds["processor"].append(time.process_time() - used)
        de.unload()
    return seconds


def load_in(checkout: Path) -> dict[str, list[float]]:
    """Load the model with the code of a checkout, in a fresh process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(checkout)}
    command = [sys.executable, __file__, "--once"]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
    seconds: dict[str, list[float]] = json.loads(done.stdout.splitlines()[-1])
    return seconds


def medians(runs: list[dict[str, list[float]]]) -> dict[str, float]:
    """Return seconds of the first load in a process and of later ones."""
    found = {}
    for which, part in (("first", slice(1)), ("later", slice(1, None))):
        for clock in ("processor", "wall"):
            seconds = [each for run in runs for each in run[clock][part]]
            found[f"{which}, {clock}"] = round(statistics.median(seconds), 3)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", type=Path, help="another checkout of the project")
    parser.add_argument("--loads", type=int, default=9, help="processes of each checkout")
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.once:
        print(json.dumps(load()))
        return
    checkouts = {"this": _PROJECT}
    if arguments.against is not None:
        checkouts = {"other": arguments.against.resolve(), **checkouts}
    runs: dict[str, list[dict[str, list[float]]]] = {name: [] for name in checkouts}
    for _ in range(arguments.loads):
        for name, checkout in checkouts.items():
            runs[name].append(load_in(checkout))
    report: dict[str, Any] = {"machine": describe("cpu"), "loads": arguments.loads}
    report["seconds"] = {name: medians(done) for name, done in runs.items()}
    if "other" in runs:
        ours, other = report["seconds"]["this"], report["seconds"]["other"]
        report["times"] = {clock: round(ours[clock] / other[clock], 2) for clock in ours}
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
