"""What pictures are made of: coordinates of vectors, counts of values, texts side by side."""

from __future__ import annotations

import difflib
import heapq
import html
import importlib.util
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from dask_embed.columns import to_host
from dask_embed.curation.kmeans import joined_hashes, lowest_hashes, sampled
from dask_embed.curation.pairwise import nearest_rows
from dask_embed.curation.vectors import vectors_of

CELLS = 200
"""Of a histogram of points, on each side."""
_SAMPLE = 10_000  # vectors that pacmap is fitted to


class Sums(NamedTuple):
    """Number of vectors, their sum and the sum of their products with each other."""

    rows: int
    sums: np.ndarray
    products: np.ndarray


class Extent(NamedTuple):
    """Number of points, the lowest and the highest coordinates."""

    rows: int
    low: np.ndarray
    high: np.ndarray


# ------------------------------------------------------------------------------------- coordinates
def moments(partition: Any, column: Any, dimension: int) -> Sums:
    """Return the sums that directions are found by, in float64."""
    vectors = vectors_of(partition, column, dimension)[0].astype(np.float64)
    return Sums(len(vectors), vectors.sum(axis=0), vectors.T @ vectors)


def directions(parts: Sequence[Sums]) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean, and the two directions in which vectors differ most, shape (dimension, 2).

    Signs are such that the largest value of a direction is above zero, as scikit-learn has them.
    """
    rows = max(1, sum(part.rows for part in parts))
    mean = np.sum([part.sums for part in parts], axis=0) / rows
    covariance = np.sum([part.products for part in parts], axis=0) / rows - np.outer(mean, mean)
    found = np.linalg.eigh(covariance)[1][:, ::-1][:, :2]
    signs = np.sign(found[np.abs(found).argmax(axis=0), [0, 1][: found.shape[1]]])
    return mean, found * np.where(signs == 0, 1, signs)


def projected(
    partition: Any, column: Any, dimension: int, onto: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Return the coordinates of the vectors of a partition, float32, shape (rows, 2)."""
    vectors, _ = vectors_of(partition, column, dimension)
    return ((vectors - onto[0]) @ onto[1]).astype(np.float32)


def some_hashes(partition: Any, column: Any, dimension: int) -> Any:
    vectors, _ = vectors_of(partition, column, dimension)
    return lowest_hashes(vectors, 0, _SAMPLE)


def some_vectors(partition: Any, column: Any, dimension: int, parts: Sequence[Any]) -> Any:
    """Return those vectors of a partition that are among the sample of all."""
    vectors, _ = vectors_of(partition, column, dimension)
    lowest = joined_hashes(parts, _SAMPLE).lowest
    return sampled(vectors, 0, int(lowest[-1]) if len(lowest) else 0)


def require_pacmap() -> None:
    """Raise ImportError unless pacmap is installed."""
    if importlib.util.find_spec("pacmap") is None:
        raise ImportError("method='pacmap' needs pacmap: pip install pacmap")


def pacmap_of(parts: Sequence[Any], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a sample of vectors and their places by pacmap."""
    import pacmap

    hashes, vectors = (np.concatenate(each) for each in zip(*parts, strict=True))
    vectors = vectors[np.argsort(hashes, kind="stable")]
    fitted = pacmap.PaCMAP(n_components=2, random_state=seed)
    return vectors, np.asarray(fitted.fit_transform(vectors))


def placed(
    partition: Any, column: Any, dimension: int, known: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Return for each vector of a partition the place of the nearest vector that has one."""
    vectors, _ = vectors_of(partition, column, dimension)
    nearest = nearest_rows(vectors.astype(np.float32), known[0], 1, "euclidean").rows[:, 0]
    return known[1][nearest].astype(np.float32)


# --------------------------------------------------------------------------------- what is drawn
def extent(points: np.ndarray) -> Extent:
    if not len(points):
        return Extent(0, np.full(2, np.inf), np.full(2, -np.inf))
    return Extent(len(points), points.min(axis=0), points.max(axis=0))


def drawn(
    partition: Any,
    column: Any,
    points: np.ndarray,
    extents: Sequence[Extent],
    most: int,
    color: Any,
) -> pd.DataFrame | np.ndarray:
    """Return what is drawn of a partition: its points and their color, or counts in a grid.

    Counts where all partitions together have more points than `most`.
    """
    if sum(each.rows for each in extents) <= most:
        frame = pd.DataFrame(points, columns=["x", "y"])
        if color is not None:
            rows = ~np.asarray(partition[column].isna().to_numpy(), bool)
            frame["color"] = to_host(partition[[color]])[color].to_numpy()[rows]
        return frame
    low, high = (np.array([getattr(each, end) for each in extents]) for end in ("low", "high"))
    sides = np.stack([low.min(axis=0), high.max(axis=0)], axis=1)
    grid = np.histogram2d(points[:, 0], points[:, 1], bins=CELLS, range=sides)
    return np.asarray(grid[0])


def ends(partition: Any, column: Any) -> tuple[float, float]:
    """Return the lowest and the highest value of a column, infinite where there is none."""
    values = _numbers(partition, column)
    if not len(values):
        return np.inf, -np.inf
    return float(values.min()), float(values.max())


def edges(found: Sequence[tuple[float, float]], bins: int, threshold: float | None) -> np.ndarray:
    """Return the edges of a histogram, one of them a threshold if that lies within."""
    low, high = min(end[0] for end in found), max(end[1] for end in found)
    if low > high:
        low, high = 0.0, 1.0
    if low == high:
        low, high = low - 0.5, high + 0.5
    evenly = np.linspace(low, high, bins + 1)
    if threshold is None or not low < threshold < high:
        return evenly
    nearest = int(np.clip(np.abs(evenly - threshold).argmin(), 1, bins - 1)) if bins > 1 else 0
    if bins > 1:
        evenly = np.concatenate(
            [
                np.linspace(low, threshold, nearest + 1),
                np.linspace(threshold, high, bins - nearest + 1)[1:],
            ]
        )
    return evenly


def counted(partition: Any, column: Any, edges: np.ndarray) -> np.ndarray:
    """Return how many values of a column lie between edges; nulls do not."""
    return np.histogram(_numbers(partition, column), edges)[0]


def _numbers(partition: Any, column: Any) -> np.ndarray:
    values = to_host(partition[[column]])[column].to_numpy("float64", na_value=np.nan)
    return values[~np.isnan(values)]


# ------------------------------------------------------------------------------------------ pairs
class Pair(NamedTuple):
    """A duplicate, least similar first."""

    similarity: float
    row: Any
    kept: Any
    text: Any


def least_similar(partition: Any, columns: Sequence[Any], count: int) -> list[Pair]:
    """Return the duplicates of a partition that are least like the row that is kept.

    Parameters
    ----------
    partition : DataFrame
    columns : sequence of str
        Similarity, what knows a row, what it is a duplicate of, text.
    count : int
    """
    frame = to_host(partition[list(dict.fromkeys(columns))])
    there = frame[frame[columns[2]].notna()]
    pairs = (Pair(*each) for each in zip(*(there[name] for name in columns), strict=True))
    return least(pairs, count)


def least(pairs: Any, count: int) -> list[Pair]:
    """Return the pairs of the lowest similarity, of equal ones those of the lowest id."""
    return heapq.nsmallest(count, pairs, key=lambda pair: pair[:2])


def texts_of(
    partition: Any, row: Any, text: Any, parts: Sequence[list[Pair]], count: int
) -> dict[Any, Any]:
    """Return the texts of rows of a partition that pairs are duplicates of."""
    wanted = {pair.kept for pair in least([each for part in parts for each in part], count)}
    frame = to_host(partition[list(dict.fromkeys([row, text]))])
    found = frame[frame[row].isin(list(wanted))]
    return dict(zip(found[row], found[text], strict=True))


def with_differences(left: Any, right: Any) -> tuple[str, str]:
    """Return two texts as HTML, escaped, the words that only one of them has marked."""
    words = [re.findall(r"\s+|\S+", "" if each is None else str(each)) for each in (left, right)]
    matcher = difflib.SequenceMatcher(None, words[0], words[1], autojunk=False)
    out: tuple[list[str], list[str]] = ([], [])
    for tag, *ends in matcher.get_opcodes():
        for side, (start, stop) in enumerate((ends[:2], ends[2:])):
            text = html.escape("".join(words[side][start:stop]))
            out[side].append(text if tag == "equal" or not text else f"<mark>{text}</mark>")
    return "".join(out[0]), "".join(out[1])
