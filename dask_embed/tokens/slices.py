"""Rows to what a model reads: so many at a time, and in halves where one of them cannot be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from dask_embed.tokens.sequences import encoding_problem

E = TypeVar("E")


def slices(sizes: Iterable[int | None], most: float) -> Iterator[np.ndarray]:
    """Yield the places of neighbours that come to about `most`, those without a size left out."""
    places: list[int] = []
    total = 0
    for place, size in enumerate(sizes):
        if size is None:
            continue
        places.append(place)
        total += size
        if total >= most:
            yield np.array(places)
            places, total = [], 0
    if places:
        yield np.array(places)


def fitting(sizes: Sequence[int], most: int) -> Iterator[slice]:
    """Yield slices of neighbours that have at most `most` together, or of one that has more."""
    start = total = 0
    for place, size in enumerate(sizes):
        if place > start and total + size > most:
            yield slice(start, place)
            start, total = place, 0
        total += size
    if start < len(sizes):
        yield slice(start, len(sizes))


def in_halves(
    encode: Callable[[np.ndarray], E], places: np.ndarray
) -> tuple[list[E], dict[int, str]]:
    """Return what `encode` gives for `places`, in parts apart from those that it cannot do.

    Returns
    -------
    parts : list
    problems : dict
        Place to message.
    """
    try:
        return [encode(places)], {}
    except BaseException as error:  # tokenizers raise bare exceptions, those in Rust panic
        problem = encoding_problem(error)
    if len(places) == 1:
        return [], {int(places[0]): problem}
    half = len(places) // 2
    first, problems = in_halves(encode, places[:half])
    second, others = in_halves(encode, places[half:])
    return first + second, problems | others
