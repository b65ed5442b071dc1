"""Two worker processes against the engine in one process, on the same cores.

    python benchmarks/cluster.py --documents 3000 --rounds 3

Each round runs both, one after the other, in processes of their own, after a warm-up that loads the
model. Printed: documents a second of each, and the ratio, lowest and highest of the rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import dask
import dask.dataframe

import dask_embed as de

WAYS = ("process", "workers")


@contextlib.contextmanager
def scheduler(way: str, cores: int) -> Iterator[None]:
    """Compute within the block in this process, or in a worker process for each core."""
    if way == "process":
        with dask.config.set(scheduler="threads", num_workers=cores):
            yield
    else:
        with de.cluster("local", workers=cores, threads=1, dashboard=None):
            yield


def run(way: str, documents: int, cores: int) -> float:
    """Return how many documents a second go from texts to Parquet files."""
    model = de.datasets.minilm()
    rows = de.datasets.docstrings(["pandas", "dask", "torch"], rows=documents).compute(
        scheduler="sync"
    )
    frame = dask.dataframe.from_pandas(rows.reset_index(drop=True), npartitions=8 * cores)
    with scheduler(way, cores), tempfile.TemporaryDirectory() as folder:
        frame.partitions[: 2 * cores].ml.embed("text", model=model).ml.to_parquet(f"{folder}/warm")
        start = time.perf_counter()
        out = frame.ml.embed("text", model=model, output="vector")
        out.ml.to_parquet(f"{folder}/out", resume=True)
        return len(rows) / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--documents", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--way", choices=WAYS, help="run one way once and print its rate as json")
    options = parser.parse_args()
    if options.way is not None:
        print(json.dumps(run(options.way, options.documents, options.cores)))
        return
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(options.rounds):
        for way in WAYS if number % 2 == 0 else reversed(WAYS):
            command = [sys.executable, __file__, "--way", way]
            command += ["--documents", str(options.documents), "--cores", str(options.cores)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            rates[way].append(json.loads(done.stdout.splitlines()[-1]))
    ratios = [two / one for one, two in zip(rates["process"], rates["workers"], strict=True)]
    for way, found in rates.items():
        print(f"{way:8} {min(found):8.1f} to {max(found):8.1f} documents/s")
    print(f"ratio    {min(ratios):8.3f} to {max(ratios):8.3f} (wanted: 0.95 at least)")


if __name__ == "__main__":
    main()
