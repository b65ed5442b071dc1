"""Two worker processes, a manifest and a cache against the engine in one process, same cores.

    python benchmarks/cluster.py --documents 3000 --rounds 3 --json benchmarks/results/cluster.json

Each round runs every way once, in an order that turns from round to round and in processes of their
own, after a warm-up with other texts that loads the model:

- ``process``: the threaded scheduler, whose partitions share the engine's threads
- ``workers``: a worker process with one thread for each core
- ``resume``: as ``process``, with a record of each partition
- ``cache``: as ``process``, with an empty cache that gets every row

Printed: documents a second of each, and the ratio to ``process``, medians of the rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import dask.dataframe as dd
import machine
import pandas as pd

import dask_embed as de

WANTED = {"workers": 0.95, "resume": 0.97, "cache": 0.97}
WAYS = ("process", *WANTED)


@contextlib.contextmanager
def scheduler(way: str, cores: int) -> Iterator[None]:
    """Compute within the block in this process, or in a worker process for each core."""
    if way != "workers":
        with dask.config.set(scheduler="threads", num_workers=cores):
            yield
    else:
        with de.cluster("local", workers=cores, threads=1, dashboard=None):
            yield


def run(way: str, documents: int, cores: int) -> dict[str, Any]:
    """Return how many documents a second go from texts to Parquet files, and what ran."""
    model = de.datasets.minilm()
    rows = de.datasets.docstrings(["pandas", "dask", "torch"], rows=documents).compute(
        scheduler="sync"
    )
    rows = rows[["text"]].reset_index(drop=True)
    # processes do not share what they keep of texts that repeat
    rows = rows.drop_duplicates("text", ignore_index=True)
    with scheduler(way, cores), tempfile.TemporaryDirectory() as folder:
        write(
            rows[: 64 * cores].assign(text="warm " + rows["text"]), model, cores, f"{folder}/warm"
        )
        cache = {"cache": f"{folder}/seen"} if way == "cache" else {}
        before = de.stats()
        start = time.perf_counter()
        write(rows, model, cores, f"{folder}/out", resume=way == "resume", **cache)
        seconds = time.perf_counter() - start
        ran = de.stats().iloc[len(before) :]
        assert len(de.read_parquet(f"{folder}/out")) == len(rows)
    return {
        "rate": len(rows) / seconds,
        "rows": int(ran["rows"].sum()),
        "ran": int(ran["unique_rows"].sum()),
        "padding": int(ran["padding"].sum()),
    }


def write(
    rows: pd.DataFrame, model: str, cores: int, folder: str, *, resume: bool = False, **options: Any
) -> None:
    frame = dd.from_pandas(rows, npartitions=8 * cores)
    frame.ml.embed("text", model=model, **options).ml.to_parquet(folder, resume=resume)


def rounds(options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Return what each way gave in each round."""
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for number in range(options.rounds):
        turn = number % len(WAYS)
        for way in WAYS[turn:] + WAYS[:turn]:
            command = [sys.executable, __file__, "--way", way]
            command += ["--documents", str(options.documents), "--cores", str(options.cores)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found[way].append(json.loads(done.stdout.splitlines()[-1]))
            print(f"{number} {way:8} {found[way][-1]}", file=sys.stderr, flush=True)
    return found


def ratios(found: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    """Return the median over the rounds of each way's rate by that of one process."""
    return {
        way: round(
            statistics.median(
                one["rate"] / base["rate"]
                for one, base in zip(found[way], found["process"], strict=True)
            ),
            4,
        )
        for way in WANTED
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--documents", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--json", type=Path, help="where to write what was found")
    parser.add_argument("--way", choices=WAYS, help="run one way once and print it as json")
    options = parser.parse_args()
    if options.way is not None:
        print(json.dumps(run(options.way, options.documents, options.cores)))
        return
    found = rounds(options)
    told = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "documents": options.documents,
        "cores": options.cores,
        "machine": machine.describe("cpu"),
        "rounds": found,
        "ratios": ratios(found),
        "wanted": WANTED,
    }
    for way in WAYS:
        rate = statistics.median(each["rate"] for each in found[way])
        ratio = told["ratios"].get(way)
        wanted = "" if ratio is None else f"{ratio:8.3f} (wanted: {WANTED[way]} at least)"
        print(f"{way:8} {rate:8.1f} documents/s {wanted}")
    if options.json is not None:
        options.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
