"""Time the nearest rows of some queries among many vectors, beside NumPy and faiss.

Each run is a fresh process; its peak memory is the largest resident set. The share is of
the rate of a 2048 x 2048 matrix product that the products of all queries and rows would take::

    python benchmarks/nearest.py --rows 1000000 --output benchmarks/results/nearest-cpu.json
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from tables import finish, markdown
from vector_runs import (
    Run,
    in_memory,
    medians,
    one_run,
    parser,
    read_vectors,
    report_of,
    runs_of,
    timed,
)


def main() -> None:
    """Measure, print a table, write JSON."""
    arguments = parser(__doc__, queries=1000, k=10).parse_args()
    if arguments.run:
        one_run(CONTENDERS, arguments.run)
        return
    from machine import matmul_rate

    rates = [matmul_rate("cpu", "float32")]
    runs = runs_of(__file__, CONTENDERS, arguments)
    rates.append(matmul_rate("cpu", "float32"))
    needed = 2 * arguments.rows * arguments.queries * arguments.dimension / float(np.mean(rates))
    best = next((run["found"] for run in runs if run.get("contender") == "numpy"), None)
    for run in runs:
        if "seconds" in run:
            run["share_of_matmul"] = needed / run["seconds"]
            run["recall"] = recall(run["found"], best)
    for run in runs:
        run.pop("found", None)
    report = report_of(runs, arguments, "faiss") | {"matmul_flops_per_second": rates}
    finish("nearest", table(runs), report, arguments.output, arguments.page)


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


def recall(found: list[list[int]], best: list[list[int]] | None) -> float:
    if best is None:
        return float("nan")
    same = [len(set(a) & set(b)) for a, b in zip(found, best, strict=True)]
    return sum(same) / sum(map(len, best))


def table(runs: list[dict[str, Any]]) -> str:
    """Return seconds, share of the matrix product, memory and recall of each contender."""
    lines = []
    for name, found in medians(runs, "seconds", "share_of_matmul", "peak_mib", "recall").items():
        if isinstance(found, str):
            lines.append([name, found, "", "", ""])
        else:
            seconds, share, memory, same = found
            lines.append([name, f"{seconds:.1f}", f"{share:.0%}", f"{memory:,.0f}", f"{same:.3f}"])
    return markdown(["nearest", "seconds", "of matmul", "MiB", "recall"], lines)


if __name__ == "__main__":
    main()
