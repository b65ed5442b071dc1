"""The main job on real input: docstrings to vectors to answers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dask_embed import datasets
from dask_embed.jobs.progress import progress
from dask_embed.jobs.reading import read_parquet
from dask_embed.lazy.arrays import to_array
from dask_embed.operators import Embedder

QUESTIONS = (
    "merge two tables on a key",
    "fill in missing values",
    "run a function on many machines at once",
)
# Packages about data, so that the questions have answers among a few thousand docstrings.
PACKAGES = ("pandas", "dask", "distributed")
_ROWS_IN_PACKAGES = 6000
_OUTPUT_MARK = "part.0[-.]*"


def run_demo(
    rows: int = 2000,
    queries: Sequence[str] | None = None,
    packages: Sequence[str] | None = None,
    output: Path = Path("demo-output"),
) -> None:
    """Embed docstrings into `output`, then print answers and near-duplicates.

    Parameters
    ----------
    rows : int
        Docstrings to read; fewer if the packages have fewer.
    queries : sequence of str, optional
        Questions in plain English.
    packages : sequence of str, optional
        Installed packages to read; by default packages about data, all for many rows.
    output : Path
        Folder of the Parquet files; what an earlier run wrote there is replaced.

    Raises
    ------
    ValueError, OSError
        If a package is not installed, or `output` holds something else.
    """
    _check_output(output)
    model = datasets.minilm()
    if packages is None and rows <= _ROWS_IN_PACKAGES:
        packages = PACKAGES
    docs = datasets.docstrings(packages, rows=rows)
    print("Docstrings -> vectors (all-MiniLM-L6-v2, 384 x float32) -> Parquet")
    start = time.perf_counter()
    with progress(total=rows, description="embed"):
        docs.ml.embed("text", model=model).ml.to_parquet(output, overwrite=True)
    seconds = time.perf_counter() - start
    found = read_parquet(output).compute().reset_index(drop=True)
    print(f"{len(found):,} docstrings in {seconds:.1f} s, written to {output}/\n")
    vectors = to_array(found["embedding"])
    questions = list(queries or QUESTIONS)
    _print_answers(questions, found, vectors, Embedder(model))
    _print_near_duplicates(found, vectors)


def _check_output(output: Path) -> None:
    if output.exists() and (
        not output.is_dir() or (any(output.iterdir()) and not any(output.glob(_OUTPUT_MARK)))
    ):
        raise FileExistsError(
            f"--output {str(output)!r} exists and was not written by this demo; name another folder"
        )


def _print_answers(
    questions: list[str], docs: pd.DataFrame, vectors: np.ndarray, embedder: Embedder
) -> None:
    asked = to_array(embedder(pd.DataFrame({"text": questions}))["embedding"])
    for question, scores in zip(questions, asked @ vectors.T, strict=True):
        print(f'"{question}"')
        for row in _best_distinct(scores, docs["text"]):
            print(f"  {scores[row]:.2f}  {_place(docs, row)}: {_first_line(docs, row)}")
        print()


def _best_distinct(scores: np.ndarray, texts: pd.Series, count: int = 3) -> list[int]:
    best: dict[str, int] = {}
    for row in np.argsort(-scores, kind="stable"):
        best.setdefault(texts[row], int(row))
        if len(best) == count:
            break
    return list(best.values())


def _print_near_duplicates(docs: pd.DataFrame, vectors: np.ndarray, count: int = 3) -> None:
    """Show the most similar pairs whose texts differ."""
    rows = docs.drop_duplicates("text").index.to_numpy()
    print("Nearest near-duplicates (different texts):")
    for similarity, left, right in _closest_pairs(vectors[rows], count):
        print(f"  {similarity:.3f}  {_place(docs, rows[left])}: {_first_line(docs, rows[left])}")
        print(f"         {_place(docs, rows[right])}: {_first_line(docs, rows[right])}")


def _closest_pairs(
    vectors: np.ndarray, count: int, block: int = 1024
) -> list[tuple[float, int, int]]:
    """Return the `count` most similar pairs, a block of rows at a time to bound memory."""
    best: list[tuple[float, int, int]] = []
    for start in range(0, len(vectors), block):
        similar = vectors[start : start + block] @ vectors[start:].T
        similar[np.tril_indices(len(similar), m=similar.shape[1])] = -1.0
        top = np.argpartition(-similar, min(count, similar.size - 1), axis=None)[:count]
        for left, right in zip(*np.unravel_index(top, similar.shape), strict=True):
            best.append((float(similar[left, right]), start + int(left), start + int(right)))
        best = sorted(best, reverse=True)[:count]
    return best


def _place(docs: pd.DataFrame, row: int) -> str:
    parts = [str(docs.loc[row, "module"]), str(docs.loc[row, "name"])]
    return ".".join(part for part in parts if part)


def _first_line(docs: pd.DataFrame, row: int) -> str:
    line = str(docs.loc[row, "text"]).strip().splitlines()[0]
    return line if len(line) <= 60 else line[:57] + "..."
