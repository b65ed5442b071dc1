"""Time the nearest rows of some queries among many vectors, beside NumPy and faiss.

Each run is a fresh process; its peak memory is the largest resident set. The share is of
the rate of a 2048 x 2048 matrix product that the products of all queries and rows would take::

    python benchmarks/nearest.py --rows 1000000 --output benchmarks/results/nearest-cpu.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from vector_runs import (
    Run,
    in_memory,
    in_process,
    one_run,
    read_vectors,
    timed,
    versions,
    write_vectors,
)


def main() -> None:
    """Measure, print a table, write JSON."""
    arguments = parse()
    if arguments.run:
        one_run(CONTENDERS, arguments.run)
        return
    from machine import describe, matmul_rate

    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        folder = Path(scratch) / "vectors"
        write_vectors(folder, arguments.rows, arguments.dimension)
        runs, rates = [], []
        for _ in range(arguments.rounds):
            rates.append(matmul_rate("cpu", "float32"))
            runs += [in_process(__file__, each, folder, arguments) for each in CONTENDERS]
    rate = float(np.median(rates))
    needed = 2 * arguments.rows * arguments.queries * arguments.dimension / rate
    best = next((run["found"] for run in runs if run["contender"] == "numpy"), None)
    for run in runs:
        if "seconds" in run:
            run["share_of_matmul"] = needed / run["seconds"]
            run["recall"] = recall(run.pop("found"), best)
    show(runs, rate)
    settings = {k: v for k, v in vars(arguments).items() if k not in ("output", "run")}
    report = {"runs": runs, "matmul_flops_per_second": rates, "machine": describe("cpu")}
    report |= {"settings": settings, "versions": versions("faiss")}
    if arguments.output:
        Path(arguments.output).write_text(json.dumps(report, indent=2))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scratch", help="folder for the vectors, by default that of the system")
    parser.add_argument("--output", help="file for all figures, JSON")
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


def queries_of(arguments: argparse.Namespace) -> np.ndarray:
    random = np.random.default_rng(1)
    queries = random.normal(size=(arguments.queries, arguments.dimension)).astype(np.float32)
    return queries / np.linalg.norm(queries, axis=1, keepdims=True)


def rows_of(found: Any, arguments: argparse.Namespace) -> list[list[int]]:
    return found["neighbour"].to_numpy().reshape(arguments.queries, -1).tolist()


def from_files(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Read, search and merge, partition by partition."""
    import dask_embed as de

    search = de.read_parquet(folder).ml.nearest(queries_of(arguments), arguments.k)
    seconds, found = timed(search.compute)
    return {"seconds": seconds, "found": rows_of(found, arguments)}


def from_memory(folder: Path, arguments: argparse.Namespace, **options: Any) -> dict[str, Any]:
    vectors = read_vectors(folder)
    search = in_memory(vectors, max(1, arguments.rows // 50_000)).ml.nearest(
        queries_of(arguments), arguments.k, **options
    )
    seconds, found = timed(search.compute)
    return {"seconds": seconds, "found": rows_of(found, arguments)}


def with_index(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """By inverted lists, made before: of a search that uses them again."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as index:
        options = {"engine": "faiss", "index": index}
        built = from_memory(folder, arguments, **options)
        return {**from_memory(folder, arguments, **options), "first_seconds": built["seconds"]}


def with_numpy(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    vectors, queries, k = read_vectors(folder), queries_of(arguments), arguments.k

    def search() -> np.ndarray:
        values, rows = [], []
        for start in range(0, len(vectors), 16_384):
            products = queries @ vectors[start : start + 16_384].T
            best = np.argpartition(products, -min(k, products.shape[1]), axis=1)[:, -k:]
            values.append(np.take_along_axis(products, best, axis=1))
            rows.append(best + start)
        every, places = np.concatenate(values, axis=1), np.concatenate(rows, axis=1)
        order = np.argsort(-every, axis=1)[:, :k]
        return np.take_along_axis(places, order, axis=1)

    seconds, found = timed(search)
    return {"seconds": seconds, "found": found.tolist()}


def with_faiss(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    import faiss

    vectors = read_vectors(folder)

    def search() -> np.ndarray:
        index = faiss.IndexFlatIP(arguments.dimension)
        index.add(vectors)
        return index.search(queries_of(arguments), arguments.k)[1]

    seconds, found = timed(search)
    return {"seconds": seconds, "found": found.tolist()}


CONTENDERS: dict[str, Run] = {
    "dask-embed, files": from_files,
    "dask-embed": from_memory,
    "dask-embed, faiss": with_index,
    "numpy": with_numpy,
    "faiss": with_faiss,
}


def recall(found: list[list[int]], best: list[list[int]] | None) -> float | None:
    if best is None:
        return None
    same = [len(set(a) & set(b)) for a, b in zip(found, best, strict=True)]
    return sum(same) / sum(map(len, best))


def show(runs: list[dict[str, Any]], rate: float) -> None:
    print(f"matrix product: {rate / 1e9:.0f} Gflop/s")
    print(f"{'contender':20}{'seconds':>9}{'share':>8}{'MiB':>8}{'recall':>8}")
    for run in runs:
        if "left_out" in run:
            print(f"{run['contender']:20}  left out: {run['left_out']}")
            continue
        share, told = f"{run['share_of_matmul']:.0%}", run["recall"]
        line = f"{run['contender']:20}{run['seconds']:9.2f}{share:>8}{run['peak_mib']:8,.0f}"
        print(line + ("" if told is None else f"{told:8.3f}"))


if __name__ == "__main__":
    main()
