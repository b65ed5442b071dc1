"""Rows on their way to other partitions: Dask's shuffles, of few partitions however many there are.

What is moved is small beside the corpus that it is of: hashes, numbers of rows, vectors. So
partitions are joined before a shuffle, and those that rows go back to are cut out of the few after
it: tasks grow with the number of partitions, not with its square.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from dask.dataframe.dispatch import concat

from dask_embed import config
from dask_embed.curation.graph import StepGraph, partitions_of
from dask_embed.lazy._dask import Expr, List, Projection, Shuffle, new_collection
from dask_embed.lazy.nodes import PartByPart

_TARGET = "_partitions"  # what Dask's shuffles take for the number of a partition
_FEW = 32  # partitions that are shuffled as they are


def fewer(npartitions: int) -> int:
    """Return in how many partitions rows of so many are shuffled.

    Twice the square root, so that each with each is four times as many as there were: of ten
    thousand partitions 200, which hold 50 of them each.
    """
    most = config.get("shuffle-partitions") or max(_FEW, 2 * math.isqrt(npartitions))
    return max(1, min(npartitions, most))


def shares(npartitions: int) -> list[tuple[int, int]]:
    """Return the bounds of the neighbouring partitions that are put together."""
    count = fewer(npartitions)
    bounds = [place * npartitions // count for place in range(count + 1)]
    return list(itertools.pairwise(bounds))


def joined(frame: Any) -> Any:
    """Return rows in no more partitions than are shuffled, neighbours put together."""
    parts = shares(frame.npartitions)
    return frame if len(parts) == frame.npartitions else new_collection(Joined(frame.expr, parts))


def in_one(frame: Any) -> Any:
    """Return the rows of a small frame in one partition."""
    return new_collection(Joined(frame.expr, [(0, frame.npartitions)]))


def together(frame: Any, by: str, npartitions: int | None = None) -> Any:
    """Return rows with those of one value of a column of numbers in one partition.

    Parameters
    ----------
    frame : dask.dataframe.DataFrame
    by : str
    npartitions : int, optional
        Of the result, by default those that are shuffled: frames that are to be in the same
        partitions take the same number.
    """
    npartitions = npartitions or fewer(frame.npartitions)
    return _shuffled(frame, npartitions, _bucket_of, by, npartitions)


def moved(frame: Any, npartitions: int, target: Callable[..., np.ndarray], *arguments: Any) -> Any:
    """Return rows in other partitions: in those that a function of a partition's frame says."""
    width = -(-npartitions // fewer(npartitions))
    if width == 1:
        return _shuffled(frame, npartitions, target, *arguments)
    wide = _shuffled(frame, -(-npartitions // width), _wide, target, width, *arguments)
    return new_collection(Apart(wide.expr, npartitions, width, target, arguments))


def _shuffled(frame: Any, npartitions: int, target: Callable[..., Any], *arguments: Any) -> Any:
    columns = list(frame.columns)
    aimed = Aimed(joined(frame).expr, target, *arguments)
    return new_collection(Projection(Shuffle(aimed, _TARGET, npartitions, True), columns))


def _wide(frame: pd.DataFrame, target: Any, width: int, *arguments: Any) -> np.ndarray:
    return target(frame, *arguments) // width


def _bucket_of(frame: pd.DataFrame, by: str, npartitions: int) -> np.ndarray:
    hashes = pd.util.hash_array(frame[by].to_numpy())
    return (hashes % np.uint64(npartitions)).astype(np.int64)


class Joined(Expr):
    """The rows of each few partitions that follow each other as one partition."""

    _parameters = ["frame", "shares"]  # noqa: RUF012 - the form of every Dask expression

    @functools.cached_property
    def _meta(self) -> pd.DataFrame:
        return self.frame._meta

    def _divisions(self) -> tuple[None, ...]:
        return (None,) * (len(self.operand("shares")) + 1)

    def _layer(self) -> dict[Any, Any]:
        graph = StepGraph("joined", self.deterministic_token)
        parts = partitions_of(self.frame)
        for number, (start, stop) in enumerate(self.operand("shares")):
            graph.task((self._name, number), _concatenated, List(*parts[start:stop]))
        return graph.tasks


def _concatenated(parts: list[pd.DataFrame]) -> pd.DataFrame:
    """Return partitions as one; of categories those of all."""
    return concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)


class Aimed(PartByPart):
    """The rows of each partition with the number of the partition that each is to go to."""

    _parameters = ["frame", "target"]  # noqa: RUF012 - the form of every Dask expression

    @staticmethod
    def operation(partition: pd.DataFrame, target: Any, *arguments: Any) -> pd.DataFrame:
        return partition.assign(**{_TARGET: target(partition, *arguments)})

    @functools.cached_property
    def _meta(self) -> pd.DataFrame:
        return self.frame._meta.assign(**{_TARGET: np.zeros(0, np.int64)})


class Apart(Expr):
    """Partitions of rows that are for `width` partitions each, cut into these."""

    _parameters = ["frame", "count", "width", "target", "arguments"]  # noqa: RUF012 - as all

    @functools.cached_property
    def _meta(self) -> pd.DataFrame:
        return self.frame._meta

    def _divisions(self) -> tuple[None, ...]:
        return (None,) * (self.operand("count") + 1)

    def _layer(self) -> dict[Any, Any]:
        graph = StepGraph("cut", self.deterministic_token)
        width, how = self.operand("width"), (self.operand("target"), self.operand("arguments"))
        cut = graph.each("parts", _cut, partitions_of(self.frame), *how)
        for number in range(self.operand("count")):
            graph.task((self._name, number), _part, cut[number // width], number)
        return graph.tasks


def _cut(
    rows: pd.DataFrame, target: Callable[..., np.ndarray], arguments: tuple[Any, ...]
) -> dict[int | None, pd.DataFrame]:
    """Return the rows for each partition that there are some for, and none under None."""
    found = target(rows, *arguments)
    order = np.argsort(found, kind="stable")
    rows, found = rows.iloc[order], found[order]
    numbers, starts = np.unique(found, return_index=True)
    stops = np.append(starts, len(found))[1:]  # of no rows none, too
    parts: dict[int | None, pd.DataFrame] = {None: rows.iloc[:0]}
    for number, start, stop in zip(numbers.tolist(), starts.tolist(), stops.tolist(), strict=True):
        parts[number] = rows.iloc[start:stop].reset_index(drop=True)
    return parts


def _part(parts: dict[int | None, pd.DataFrame], number: int) -> pd.DataFrame:
    return parts.get(number, parts[None])
