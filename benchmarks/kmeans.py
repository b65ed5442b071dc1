"""Time and inertia of k-means, beside scikit-learn and faiss.

Each run is a fresh process; its peak memory is the largest resident set. Inertia is that of all
rows, computed in the same way for all::

    python benchmarks/kmeans.py --rows 1000000 --output benchmarks/results/kmeans-cpu.json
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
    from machine import describe

    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        folder = Path(scratch) / "vectors"
        write_vectors(folder, arguments.rows, arguments.dimension)
        runs = [
            in_process(__file__, each, folder, arguments)
            for _ in range(arguments.rounds)
            for each in CONTENDERS
        ]
    show(runs)
    settings = {k: v for k, v in vars(arguments).items() if k not in ("output", "run")}
    report = {"runs": runs, "machine": describe("cpu"), "settings": settings}
    report["versions"] = versions("faiss", "sklearn")
    if arguments.output:
        Path(arguments.output).write_text(json.dumps(report, indent=2))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--clusters", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scratch", help="folder for the vectors, by default that of the system")
    parser.add_argument("--output", help="file for all figures, JSON")
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


def inertia_of(vectors: np.ndarray, centres: np.ndarray) -> float:
    """Return the squared distances of all rows to their nearest centres, summed."""
    total = 0.0
    for start in range(0, len(vectors), 16_384):
        block = vectors[start : start + 16_384]
        squares = np.einsum("ij,ij->i", block, block)
        products = block @ centres.T
        nearest = squares[:, None] - 2 * products + np.einsum("ij,ij->i", centres, centres)
        total += float(nearest.min(axis=1).sum(dtype=np.float64))
    return total


def from_files(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Read and fit; the vectors are held by the workers meanwhile."""
    import dask_embed as de

    series = de.read_parquet(folder)["embedding"]
    seconds, found = timed(lambda: de.KMeans(arguments.clusters, metric="euclidean").fit(series))
    return {"seconds": seconds, "inertia": inertia_of(read_vectors(folder), found.centres)}


def from_memory(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    import dask_embed as de

    vectors = read_vectors(folder)
    series = in_memory(vectors, max(1, arguments.rows // 50_000))["embedding"]
    seconds, found = timed(lambda: de.KMeans(arguments.clusters, metric="euclidean").fit(series))
    return {"seconds": seconds, "inertia": inertia_of(vectors, found.centres)}


def with_sklearn(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    from sklearn.cluster import KMeans

    vectors = read_vectors(folder)
    model = KMeans(arguments.clusters, n_init=1, random_state=0)
    seconds, found = timed(lambda: model.fit(vectors))
    return {"seconds": seconds, "inertia": inertia_of(vectors, found.cluster_centers_)}


def with_mini_batches(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    from sklearn.cluster import MiniBatchKMeans

    vectors = read_vectors(folder)
    model = MiniBatchKMeans(arguments.clusters, n_init=1, random_state=0, batch_size=8192)
    seconds, found = timed(lambda: model.fit(vectors))
    return {"seconds": seconds, "inertia": inertia_of(vectors, found.cluster_centers_)}


def with_faiss(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    import faiss

    vectors = read_vectors(folder)
    model = faiss.Kmeans(arguments.dimension, arguments.clusters, niter=25, seed=1)
    seconds, _ = timed(lambda: model.train(vectors))
    return {"seconds": seconds, "inertia": inertia_of(vectors, np.asarray(model.centroids))}


CONTENDERS: dict[str, Run] = {
    "dask-embed, files": from_files,
    "dask-embed": from_memory,
    "scikit-learn": with_sklearn,
    "scikit-learn, batches": with_mini_batches,
    "faiss": with_faiss,
}


def show(runs: list[dict[str, Any]]) -> None:
    print(f"{'contender':24}{'seconds':>9}{'inertia':>14}{'MiB':>8}")
    for run in runs:
        if "left_out" in run:
            print(f"{run['contender']:24}  left out: {run['left_out']}")
            continue
        figures = f"{run['seconds']:9.2f}{run['inertia']:14,.1f}{run['peak_mib']:8,.0f}"
        print(f"{run['contender']:24}{figures}")


if __name__ == "__main__":
    main()
