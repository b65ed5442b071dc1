"""How long a job that is gone on with takes to know what is missing, and a second night.

    python benchmarks/resume.py --partitions 10000 --rows 20000

Seconds by the clock and of the processor: on a machine that does other things they differ.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import dask.dataframe as dd
import pandas as pd

import dask_embed as de
from dask_embed.jobs.folder import records_path
from dask_embed.jobs.manifest import Record, read_records


@contextlib.contextmanager
def timed(name: str, into: dict[str, Any]) -> Iterator[None]:
    began, used = time.perf_counter(), time.process_time()
    yield
    into[name] = {
        "seconds": round(time.perf_counter() - began, 3),
        "processor": round(time.process_time() - used, 3),
    }


def decision(partitions: int, root: Path) -> dict[str, Any]:
    """Measure a job of which all partitions but one are done, as far as its folder tells."""
    told: dict[str, Any] = {"partitions": partitions}
    rows = pd.DataFrame({"text": [f"row {n}" for n in range(partitions)]})
    frame = dd.from_pandas(rows, npartitions=partitions, sort=False)
    out = frame.ml.text_statistics("text", columns=["words"])
    job = out.ml.to_parquet(root / "decision", resume=True, compute=False).expr.job
    job.begin()
    run = job.run
    for place in range(partitions - 1):
        name = run.part_name(place)
        Path(run.path, name).write_bytes(b"0123456789")
        done = Record({name: 10}, {}).to_bytes()
        Path(records_path(run), f"{place}-of-{partitions}.json").write_bytes(done)
    with timed("records", told):
        assert len(read_records(run)) == partitions - 1
    with timed("decision", told):
        written = out.ml.to_parquet(root / "decision", resume=True, compute=False)
        assert written.expr.job.there.missing(partitions) == [partitions - 1]
    return told


def nights(rows: int, root: Path) -> dict[str, Any]:
    """Measure two nights, the second with 5 % more rows, which alone run."""
    told: dict[str, Any] = {"rows": rows}
    model = de.datasets.minilm()

    def corpus(count: int) -> pd.DataFrame:
        texts = [f"document {n} of a corpus that grows every night" for n in range(count)]
        return pd.DataFrame({"id": range(count), "text": texts})

    embedded = dd.from_pandas(corpus(64), npartitions=1).ml.embed("text", model=model)
    embedded.compute()  # loads the model
    for name, count in (
        ("first", rows),
        ("second", rows + rows // 20),
        ("same", rows + rows // 20),
    ):
        frame = dd.from_pandas(corpus(count), npartitions=16).ml.embed("text", model=model)
        with timed(name, told):
            changes = frame.ml.to_parquet(root / "nights", resume="rows", id="id")
        told[name]["new"] = changes.new
    assert len(de.read_parquet(root / "nights")) == rows + rows // 20
    told["times as fast"] = round(told["first"]["seconds"] / told["second"]["seconds"], 1)
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--partitions", type=int, default=10_000)
    parser.add_argument("--rows", type=int, default=20_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, dask.config.set(scheduler="threads"):
        print(json.dumps(decision(given.partitions, Path(folder))), flush=True)
        print(json.dumps(nights(given.rows, Path(folder))), flush=True)


if __name__ == "__main__":
    main()
