"""Two worker processes, a manifest and a cache against the engine in one process, same cores.

    python benchmarks/cluster.py --documents 3000 --rounds 3 --json benchmarks/results/cluster.json

Each round runs every way once, in an order that turns from round to round and in processes of their
own. The clock starts when models are loaded (`ModelPlugin` on workers) and other texts have run:

- ``process``: the threaded scheduler, whose partitions share the engine's threads
- ``workers``: `dask_embed.cluster` with a process of one thread for each core; the client and the
  scheduler run on the same cores
- ``resume``: as ``process``, with a record of each partition
- ``cache``: as ``process``, with an empty cache that gets every row

Printed: documents a second of each, seconds of cores for a thousand documents, which tell work that
is done twice from cores that wait, and the ratio to ``process``, medians of the rounds. With two
cores and 3,000 documents a run takes about a minute, and each starts up for 10 to 30 seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
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
COUNTS = ("rows", "unique_rows", "padding")
# Of each core: when no other is left, a core waits for half a partition of the other's, on average.
PARTITIONS = 16


@contextlib.contextmanager
def scheduler(way: str, cores: int, embedder: de.Embedder) -> Iterator[Any]:
    """Compute within the block in this process, or in a worker process for each core.

    Gives the client of the workers, which have loaded the model, or None.
    """
    if way != "workers":
        with dask.config.set(scheduler="threads", num_workers=cores):
            embedder.runner()
            yield None
    else:
        with de.cluster("local", workers=cores, dashboard=None) as client:
            client.register_plugin(de.ModelPlugin(embedder))
            yield client


def run(way: str, documents: int, cores: int) -> dict[str, Any]:
    """Return how many documents a second go from texts to Parquet files, and what ran."""
    embedder = de.Embedder(de.datasets.minilm())
    rows = de.datasets.docstrings(["pandas", "dask", "torch"], rows=documents).compute(
        scheduler="sync"
    )
    rows = rows[["text"]].reset_index(drop=True)
    # processes do not share what they keep of texts that repeat
    rows = rows.drop_duplicates("text", ignore_index=True)
    began = time.perf_counter()
    with scheduler(way, cores, embedder) as client, tempfile.TemporaryDirectory() as folder:
        warm = rows[: 2 * PARTITIONS * cores].assign(text="warm " + rows["text"])
        write(warm, embedder, cores, f"{folder}/warm")
        if way == "cache":
            embedder = dataclasses.replace(embedder, cache=f"{folder}/seen")
        ready = time.perf_counter() - began
        before, used = counts(), processor_seconds(client)
        start = time.perf_counter()
        write(rows, embedder, cores, f"{folder}/out", resume=way == "resume")
        seconds = time.perf_counter() - start
        used = processor_seconds(client) - used
        ran = counts() - before
        assert len(de.read_parquet(f"{folder}/out")) == len(rows)
    return {
        "rate": len(rows) / seconds,
        "seconds": round(seconds, 2),
        "processor": round(used, 2),
        "ready after": round(ready, 2),
        **{name: int(ran[name]) for name in COUNTS},
    }


def counts() -> pd.Series:
    """Return what has run so far in this process and in all workers."""
    return de.stats()[list(COUNTS)].sum()


def processor_seconds(client: Any) -> float:
    """Return the seconds of cores that this process, scheduler and client, and workers have had."""
    workers = client.run(time.process_time).values() if client else ()
    return time.process_time() + sum(workers)


def write(
    rows: pd.DataFrame,
    embedder: de.Embedder,
    cores: int,
    folder: str,
    *,
    resume: bool = False,
) -> None:
    frame = dd.from_pandas(rows, npartitions=PARTITIONS * cores)
    embedder(frame).ml.to_parquet(folder, resume=resume)


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
        used = statistics.median(each["processor"] / each["rows"] for each in found[way])
        print(f"{way:8} {rate:8.1f} documents/s {1000 * used:7.1f} s of cores/1000 {wanted}")
    if options.json is not None:
        options.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
