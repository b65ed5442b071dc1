"""What the benchmarks of vector columns share: files of vectors, runs in processes of their own."""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

FILE_ROWS = 20_000
CLUSTERS = 200  # that the vectors lie around

Run = Callable[[Path, argparse.Namespace], dict[str, Any]]
"""From a folder of vectors to figures, with the ``seconds`` that count."""


def write_vectors(folder: Path, rows: int, dimension: int) -> None:
    """Write vectors of length one around some centres, 20,000 to a Parquet file."""
    folder.mkdir()
    random = np.random.default_rng(0)
    centres = random.normal(size=(CLUSTERS, dimension)).astype(np.float32)
    for start in range(0, rows, FILE_ROWS):
        count = min(FILE_ROWS, rows - start)
        vectors = random.normal(size=(count, dimension)).astype(np.float32)
        vectors += centres[random.integers(CLUSTERS, size=count)]
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        flat = pa.array(vectors.reshape(-1))
        columns = {
            "id": pa.array(np.arange(start, start + count)),
            "embedding": pa.FixedSizeListArray.from_arrays(flat, dimension),
        }
        file = folder / f"part.{start // FILE_ROWS:05}.parquet"
        # numbers that all differ: neither a dictionary nor compression makes them less
        pq.write_table(pa.table(columns), file, compression="none", use_dictionary=False)


def read_vectors(folder: Path) -> np.ndarray:
    """Return all vectors of a folder, float32, shape (rows, dimension), in one piece of memory."""
    files = sorted(folder.iterdir())
    counts = [pq.read_metadata(file).num_rows for file in files]
    dimension = pq.read_schema(files[0]).field("embedding").type.list_size
    vectors = np.empty((sum(counts), dimension), np.float32)
    # Arrow's own memory keeps what was freed, and peaks would tell that
    usual = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    start = 0
    for file in files:
        for chunk in pq.read_table(file, columns=["embedding"])["embedding"].chunks:
            vectors[start : start + len(chunk)] = chunk.flatten().to_numpy().reshape(len(chunk), -1)
            start += len(chunk)
    pa.set_memory_pool(usual)
    return vectors


def in_memory(vectors: np.ndarray, partitions: int) -> Any:
    """Return vectors in memory as a Dask DataFrame, without a copy."""
    import dask.dataframe as dd

    import dask_embed  # noqa: F401 - registers .ml

    array = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    frame = pd.DataFrame({"embedding": pd.Series(pd.arrays.ArrowExtensionArray(array))})
    return dd.from_pandas(frame, npartitions=partitions, sort=False)


def parser(description: str | None, **counts: int) -> argparse.ArgumentParser:
    """Return a parser of what all of them take, and of some numbers."""
    found = argparse.ArgumentParser(description=description)
    every = {"rows": 1_000_000, "dimension": 384, "rounds": 1, **counts}
    for name, default in every.items():
        found.add_argument(f"--{name}", type=int, default=default)
    found.add_argument("--scratch", help="folder for the vectors, by default that of the system")
    found.add_argument("--output", help="file for all figures, JSON")
    found.add_argument("--page", action="store_true", help="put the table into docs/performance.md")
    found.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    return found


def runs_of(
    script: str, contenders: Mapping[str, Run], arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """Return what all contenders tell, taking turns."""
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        folder = Path(scratch) / "vectors"
        write_vectors(folder, arguments.rows, arguments.dimension)
        return [
            in_process(script, each, folder, arguments)
            for _ in range(arguments.rounds)
            for each in contenders
        ]


def report_of(
    runs: list[dict[str, Any]], arguments: argparse.Namespace, *modules: str
) -> dict[str, Any]:
    """Return runs with what they were measured with."""
    from machine import describe

    settings = {k: v for k, v in vars(arguments).items() if k not in ("output", "run", "page")}
    report = {"runs": runs, "machine": describe("cpu"), "settings": settings}
    return report | {"versions": versions(*modules)}


def medians(runs: list[dict[str, Any]], *figures: str) -> dict[str, list[float] | str]:
    """Return the medians of some figures of each contender, or why there are none."""
    found: dict[str, list[float] | str] = {}
    for name in dict.fromkeys(run["contender"] for run in runs):
        own = [run for run in runs if run["contender"] == name]
        if "left_out" in own[0]:
            found[name] = f"left out: {own[0]['left_out']}"
        else:
            found[name] = [statistics.median(run[f] for run in own) for f in figures]
    return found


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def memory_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_process(script: str, contender: str, folder: Path, arguments: argparse.Namespace) -> Any:
    """Return what a run in a process of its own tells, or why there is none."""
    package = "faiss" if "faiss" in contender else "numpy"
    if importlib.util.find_spec(package) is None:
        return {"contender": contender, "left_out": f"{package} is not installed"}
    given = {name: value for name, value in vars(arguments).items() if name != "run"}
    command = [sys.executable, script, "--run", contender, str(folder), json.dumps(given)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return {"contender": contender, "left_out": done.stderr.strip().splitlines()[-1]}
    return {"contender": contender, **json.loads(done.stdout.splitlines()[-1])}


def one_run(contenders: dict[str, Run], given: list[str]) -> None:
    """Run a contender in this process, and print its figures."""
    contender, folder, settings = given
    figures = contenders[contender](Path(folder), argparse.Namespace(**json.loads(settings)))
    print(json.dumps({"peak_mib": memory_mib(), **figures}))


def versions(*modules: str) -> dict[str, str]:
    found = {}
    for name in ("dask", "dask_embed", "numpy", "pandas", *modules):
        if importlib.util.find_spec(name) is not None:
            found[name] = importlib.import_module(name).__version__
    return found
