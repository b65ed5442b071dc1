"""How long a job that is gone on with takes to know what is missing, and a second night.

    python benchmarks/resume.py --partitions 10000 --rows 20000 --json resume.json

- ``decision``: of so many partitions all but one are done; reading their records, and the decision
- ``rows``: two nights with ``resume="rows"``, the second with 5 % more rows; then the same again
- ``cache``: two nights with ``cache=`` and a folder each, the second in other partitions as well

Seconds by the clock and of cores: on a machine that does other things they differ. The model is
loaded before the first night; importing the libraries and loading it is told apart, as ``ready``,
since a night that begins in a new process has it to add, however many rows are new. With two cores
20,000 rows take about two minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import dask.dataframe as dd
import machine
import pandas as pd
import psutil

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


def nights(count: int, root: Path) -> dict[str, Any]:
    """Measure two nights, the second with 5 % more rows, which alone run."""
    told: dict[str, Any] = {"rows": count}
    for name, rows in (("first", count), ("second", more(count)), ("same", more(count))):
        with timed(name, told):
            frame = dd.from_pandas(corpus(rows, "read"), npartitions=16)
            out = frame.ml.embed("text", model=de.datasets.minilm())
            told_by_job = out.ml.to_parquet(root / "nights", resume="rows", id="id")
        told[name]["ran"] = told_by_job.new
    assert len(de.read_parquet(root / "nights")) == more(count)
    return faster(told)


def cached_nights(count: int, root: Path) -> dict[str, Any]:
    """Measure two nights that write all rows, and run those that are in no cache."""
    told: dict[str, Any] = {"rows": count}
    for name, rows, partitions in (("first", count, 16), ("second", more(count), 7)):
        before = de.stats()["unique_rows"].sum()
        with timed(name, told):
            frame = dd.from_pandas(corpus(rows, "looked up"), npartitions=partitions)
            out = frame.ml.embed("text", model=de.datasets.minilm(), cache=root / "seen")
            out.ml.to_parquet(root / name)
        told[name]["ran"] = int(de.stats()["unique_rows"].sum() - before)
    assert len(de.read_parquet(root / "second")) == more(count)
    return faster(told)


def corpus(count: int, how: str) -> pd.DataFrame:
    """Return texts that are no others' with another word: a process keeps vectors of its last."""
    texts = [f"document {n} of a corpus that grows and is {how} each night" for n in range(count)]
    return pd.DataFrame({"id": range(count), "text": texts})


def more(count: int) -> int:
    return count + count // 20


def faster(told: dict[str, Any]) -> dict[str, Any]:
    first, second = told["first"], told["second"]
    assert (first["ran"], second["ran"]) == (told["rows"], told["rows"] // 20), told
    return {**told, "times as fast": round(first["seconds"] / second["seconds"], 1)}


def warmed() -> dict[str, Any]:
    """Load the model and run a few rows; return how long that took since the process began."""
    model = de.datasets.minilm()
    dd.from_pandas(corpus(64, "warmed up"), npartitions=2).ml.embed("text", model=model).compute()
    since = time.time() - psutil.Process().create_time()
    return {"seconds": round(since, 3), "processor": round(time.process_time(), 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--partitions", type=int, default=10_000)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--json", type=Path, help="where to write what was found")
    given = parser.parse_args()
    told: dict[str, Any] = {"ready": warmed()}
    with tempfile.TemporaryDirectory() as folder, dask.config.set(scheduler="threads"):
        for name, measure, size in (
            ("decision", decision, given.partitions),
            ("rows", nights, given.rows),
            ("cache", cached_nights, given.rows),
        ):
            told[name] = measure(size, Path(folder))
            print(name, json.dumps(told[name]), flush=True)
    told["date"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    told["machine"] = machine.describe("cpu")
    if given.json is not None:
        given.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
