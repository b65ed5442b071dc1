"""Time exact and fuzzy duplicates of synthetic texts, and how time and memory grow with rows.

Each run is a fresh process that reads Parquet files of 20,000 rows; its peak memory is the largest
resident set. A tenth of the texts are copies, another tenth copies with some words changed::

    python benchmarks/curation.py --sizes 100000 300000 1000000 --output results/curation-cpu.json
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tables import finish, markdown

FILE_ROWS = 20_000
WORDS = 50_000
THRESHOLD = 0.8
NGRAM = 5
Kept = tuple[int, dict[str, Any]]


def main() -> None:
    """Measure, print a table, write JSON."""
    arguments = parse()
    if arguments.run:
        task, contender, folder = arguments.run
        print(json.dumps(one_run(task, contender, Path(folder))))
        return
    from machine import describe

    runs = []
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        for rows in arguments.sizes:
            folder = Path(scratch) / str(rows)
            write_corpus(folder, rows)
            for task, contenders in CONTENDERS.items():
                runs += [measured(task, each, rows, folder, arguments) for each in contenders]
    report = {"runs": runs, "growth": growth(runs), "machine": describe("cpu")}
    left = ("output", "run", "page")
    report["settings"] = {k: v for k, v in vars(arguments).items() if k not in left}
    report["versions"] = versions()
    told = f"{table(runs)}\n\n{grown(report['growth'])}"
    finish("curation", told, report, arguments.output, arguments.page)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, 300_000, 1_000_000])
    parser.add_argument("--peer-rows", type=int, default=100_000, help="most rows of slow peers")
    parser.add_argument("--scratch", help="folder for the corpora, by default that of the system")
    parser.add_argument("--output", help="file for all figures, JSON")
    parser.add_argument("--page", action="store_true", help="put the table into the docs")
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


def write_corpus(folder: Path, rows: int) -> None:
    """Write texts of 20 to 200 words, some of them again, some of those changed, in any order."""
    folder.mkdir()
    random = np.random.default_rng(rows)
    words = np.array([f"word{i}" for i in range(WORDS)])
    for start in range(0, rows, FILE_ROWS):
        count = min(FILE_ROWS, rows - start)
        texts: list[str] = []
        for length in random.integers(20, 200, size=count).tolist():
            chance = random.random() if texts else 1.0
            if chance < 0.2:
                copied = texts[int(random.integers(len(texts)))].split()
                for place in random.integers(len(copied), size=2 if chance < 0.1 else 0).tolist():
                    copied[place] = "changed"
                texts.append(" ".join(copied))
            else:
                # a few words are frequent, as in any language
                ranks = (WORDS ** random.random(length)).astype(int) - 1
                texts.append(" ".join(words[ranks]))
        frame = pd.DataFrame({"id": np.arange(start, start + count), "text": texts})
        frame.to_parquet(folder / f"part.{start // FILE_ROWS:05}.parquet")


def measured(
    task: str, contender: str, rows: int, folder: Path, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Return what a run in a process of its own tells, or why there is none."""
    told = {"task": task, "contender": contender, "rows": rows}
    package = PACKAGES.get(contender)
    if package and importlib.util.find_spec(package) is None:
        return told | {"left_out": f"{package} is not installed"}
    if package and rows > arguments.peer_rows:
        return told | {"left_out": f"more than --peer-rows={arguments.peer_rows}"}
    command = [sys.executable, __file__, "--run", task, contender, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return told | {"left_out": done.stderr.strip().splitlines()[-1]}
    return told | json.loads(done.stdout.splitlines()[-1])


def one_run(task: str, contender: str, folder: Path) -> dict[str, Any]:
    """Run a contender in this process, and tell time, memory and the rows that are kept."""
    run = CONTENDERS[task][contender]
    before = memory_mib()
    start = time.perf_counter()
    kept, more = run(folder)
    seconds = time.perf_counter() - start
    figures = {"seconds": seconds, "peak_mib": memory_mib(), "before_mib": before, "kept": kept}
    return figures | more


def memory_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def with_dask_embed(method: str, **options: Any) -> Callable[[Path], Kept]:
    def run(folder: Path) -> Kept:
        import dask.dataframe as dd

        import dask_embed  # noqa: F401 - registers .ml

        ddf = dd.read_parquet(folder)
        kept = getattr(ddf.ml, method)("text", id="id", **options)
        return len(kept), {"partitions": ddf.npartitions}

    return run


def with_pandas(folder: Path) -> Kept:
    return len(pd.read_parquet(folder).drop_duplicates("text")), {}


def with_datasketch(folder: Path) -> Kept:
    """Keep each row that the index has no candidate for, as the documentation of MinHashLSH."""
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=THRESHOLD, num_perm=128)
    kept = 0
    for number, text in enumerate(pd.read_parquet(folder)["text"]):
        minhash = MinHash(128)
        minhash.update_batch([gram.encode() for gram in grams_of(text)])
        if not index.query(minhash):
            index.insert(number, minhash)
            kept += 1
    return kept, {}


def with_numpy_permutations(folder: Path) -> Kept:
    """The method of text-dedup's MinHash script, written for this: NumPy, dictionaries, union-find.

    Of each text 128 permutations of 32-bit hashes of its n-grams, in the bands that datasketch
    chooses; texts that share a band are one cluster unseen, of which the first stays.
    """
    from datasketch.lsh import _optimal_param

    bands, rows = _optimal_param(THRESHOLD, 128, 0.5, 0.5)
    random = np.random.default_rng(1)
    prime = np.uint64((1 << 61) - 1)
    factors, offsets = random.integers(1, prime, size=(2, 128), dtype=np.uint64)
    tables: list[dict[bytes, int]] = [{} for _ in range(bands)]
    parent: list[int] = []
    for number, text in enumerate(pd.read_parquet(folder)["text"]):
        parent.append(number)
        hashes = [hashlib.sha1(gram.encode()).digest()[:4] for gram in grams_of(text)]
        values = np.frombuffer(b"".join(hashes), np.uint32).astype(np.uint64)
        signature = (np.outer(values, factors) + offsets) % prime & np.uint64(0xFFFFFFFF)
        lowest = signature.min(axis=0).astype(np.uint32)
        for band, found in enumerate(tables):
            first = found.setdefault(lowest[band * rows : (band + 1) * rows].tobytes(), number)
            one, other = root_of(parent, first), root_of(parent, number)
            parent[max(one, other)] = min(one, other)
    return sum(row == root_of(parent, row) for row in range(len(parent))), {}


def root_of(parent: list[int], row: int) -> int:
    while parent[row] != row:
        parent[row] = row = parent[parent[row]]
    return row


def grams_of(text: str) -> set[str]:
    words = text.split()
    return {" ".join(words[i : i + NGRAM]) for i in range(len(words) - NGRAM + 1)}


CONTENDERS: dict[str, dict[str, Callable[[Path], Kept]]] = {
    "exact": {
        "dask-embed": with_dask_embed("drop_exact_duplicates"),
        "pandas": with_pandas,
    },
    "fuzzy": {
        "dask-embed": with_dask_embed("drop_fuzzy_duplicates", threshold=THRESHOLD, ngram=NGRAM),
        "datasketch": with_datasketch,
        "text-dedup": with_numpy_permutations,
    },
}
PACKAGES = {"datasketch": "datasketch", "text-dedup": "datasketch"}
"""What a contender needs, of those that are too slow for the largest corpus."""


def growth(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return how time grows with rows, as the exponent between the least and the most of them."""
    found = {}
    for task in CONTENDERS:
        own = [r for r in runs if (r["task"], r["contender"]) == (task, "dask-embed")]
        own = [r for r in own if "seconds" in r]
        if len(own) < 2:
            continue
        first, last = own[0], own[-1]
        ratio = np.log(last["rows"] / first["rows"])
        found[task] = {
            "exponent": float(np.log(last["seconds"] / first["seconds"]) / ratio),
            "peak_mib": [each["peak_mib"] for each in own],
        }
    return found


def versions() -> dict[str, str]:
    import dask
    import datasketch

    import dask_embed as de

    return {each.__name__: each.__version__ for each in (dask, datasketch, de, np, pd)}


def table(runs: list[dict[str, Any]]) -> str:
    """Return seconds, rows a second, memory and rows kept of each run."""
    lines = []
    for run in runs:
        line = [f"{run['task']}, {run['contender']}", f"{run['rows']:,}"]
        if "left_out" in run:
            lines.append([*line, f"left out: {run['left_out']}", "", "", ""])
            continue
        rate = run["rows"] / run["seconds"]
        line += [f"{run['seconds']:.1f}", f"{rate:,.0f}", f"{run['peak_mib']:,.0f}"]
        lines.append([*line, f"{run['kept']:,}"])
    return markdown(["duplicates", "rows", "seconds", "rows/s", "MiB", "kept"], lines)


def grown(grows: dict[str, Any]) -> str:
    told = [
        f"{task} duplicates: seconds grow with rows to the power of {each['exponent']:.2f}"
        for task, each in grows.items()
    ]
    return "; ".join(told)


if __name__ == "__main__":
    main()
