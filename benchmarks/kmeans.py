"""Time and inertia of k-means, beside scikit-learn and faiss.

Each run is a fresh process; its peak memory is the largest resident set. Inertia is that of all
rows, computed in the same way for all::

    python benchmarks/kmeans.py --rows 1000000 --output benchmarks/results/kmeans-cpu.json
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from tables import finish, markdown
from vector_runs import (
    Run,
    in_memory,
    medians,
    memory_mib,
    one_run,
    parser,
    read_vectors,
    report_of,
    runs_of,
    timed,
)


def main() -> None:
    """Measure, print a table, write JSON."""
    arguments = parser(__doc__, clusters=100).parse_args()
    if arguments.run:
        one_run(CONTENDERS, arguments.run)
        return
    runs = runs_of(__file__, CONTENDERS, arguments)
    report = report_of(runs, arguments, "faiss", "sklearn")
    finish("kmeans", table(runs), report, arguments.output, arguments.page)


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
    """Read and fit; the inertia needs all vectors at once, so the peak is that of before."""
    import dask_embed as de

    series = de.read_parquet(folder)["embedding"]
    seconds, found = timed(lambda: de.KMeans(arguments.clusters, metric="euclidean").fit(series))
    peak = memory_mib()
    inertia = inertia_of(read_vectors(folder), found.centres)
    return {"seconds": seconds, "inertia": inertia, "peak_mib": peak}


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


def table(runs: list[dict[str, Any]]) -> str:
    """Return seconds, inertia and memory of each contender."""
    lines = []
    for name, found in medians(runs, "seconds", "inertia", "peak_mib").items():
        if isinstance(found, str):
            lines.append([name, found, "", ""])
        else:
            seconds, inertia, memory = found
            lines.append([name, f"{seconds:.1f}", f"{inertia:,.0f}", f"{memory:,.0f}"])
    return markdown(["k-means", "seconds", "inertia", "MiB"], lines)


if __name__ == "__main__":
    main()
