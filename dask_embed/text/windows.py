"""Long texts that are read in windows: one result for each stretch of the text."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from dask_embed.text.entities import Tagged


def without_overlaps(entities: Tagged) -> Tagged:
    """Keep of entities of one text that overlap the longest, of equal ones the best.

    Entities are compared from the left, each with the one that was kept before it.
    """
    order = np.argsort(entities.starts, kind="stable")
    starts, ends = entities.starts[order].tolist(), entities.ends[order].tolist()
    ranks = [
        (end - start, score)
        for start, end, score in zip(starts, ends, entities.scores[order].tolist(), strict=True)
    ]
    kept: list[int] = []
    for place, start in enumerate(starts):
        if kept and start < ends[kept[-1]]:
            if ranks[place] > ranks[kept[-1]]:
                kept[-1] = place
        else:
            kept.append(place)
    return entities.take(order[kept])


def positions_in_windows(lengths: Sequence[int], stride: int, *, backwards: bool) -> list[range]:
    """Return which tokens of a text its windows hold.

    Parameters
    ----------
    lengths : sequence of int
        Tokens of each window, special tokens left out.
    stride : int
        Tokens that neighbours share.
    backwards : bool
        The first window is the end of the text.
    """
    step = lengths[0] - stride
    if not backwards:
        return [range(i * step, i * step + length) for i, length in enumerate(lengths)]
    count = (len(lengths) - 1) * step + lengths[-1]
    stops = [count - i * step for i in range(len(lengths))]
    return [range(stop - length, stop) for stop, length in zip(stops, lengths, strict=True)]


def widest_context(windows: Sequence[range]) -> np.ndarray:
    """Return for each token of a text the window in which it is farthest from an edge, int64.

    Of equal ones the earlier window in the text; the text's own beginning and end count as edges.
    """
    count = max(window.stop for window in windows)
    distance = np.full(count, -1)
    chosen = np.zeros(count, np.int64)
    for number in sorted(range(len(windows)), key=lambda number: windows[number].start):
        window = windows[number]
        place = np.arange(len(window))
        inside = np.minimum(place, len(window) - 1 - place)
        better = inside > distance[window.start : window.stop]
        chosen[window.start : window.stop][better] = number
        distance[window.start : window.stop][better] = inside[better]
    return chosen


def merged(spans: Tagged, owners: np.ndarray, windows: Sequence[range]) -> Tagged:
    """Return spans without overlaps where a text has several windows.

    Parameters
    ----------
    spans : Tagged
        Its `sequences` are windows.
    owners : numpy.ndarray
        Text of each window, ascending, int64.
    windows : sequence of range
        Windows of each text.
    """
    if all(len(row) == 1 for row in windows):
        return spans
    edges = np.searchsorted(owners[spans.sequences], np.arange(len(windows) + 1)).tolist()
    parts = []
    for row, (start, stop) in zip(windows, itertools.pairwise(edges), strict=True):
        part = spans.take(np.arange(start, stop))
        parts.append(without_overlaps(part) if len(row) > 1 else part)
    names = [field.name for field in dataclasses.fields(Tagged)]
    return Tagged(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def every_token_once(
    special: Sequence[np.ndarray], windows: Sequence[range], stride: int, *, backwards: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return the place of each token in its text, and in the windows one after the other.

    Parameters
    ----------
    special : sequence of numpy.ndarray
        For each window which of its tokens are special, bool.
    windows : sequence of range
        Windows of each text, at least one.
    stride, backwards
        See `positions_in_windows`.

    Returns
    -------
    index : numpy.ndarray
        Place among all tokens of the text, special ones before it included, int64.
    place : numpy.ndarray
        Place in the window that is `widest_context`, special tokens left out, int64.
    """
    lengths = [int((~mask).sum()) for mask in special]
    begins = np.cumsum([0, *lengths])
    indexes, places = [], []
    for row in windows:
        found = positions_in_windows([lengths[w] for w in row], stride, backwards=backwards)
        chosen = widest_context(found)
        starts = np.array([window.start for window in found])
        position = np.arange(len(chosen))
        leading = int(special[row.start].argmin()) if len(chosen) else 0
        places.append(begins[row.start + chosen] + position - starts[chosen])
        indexes.append(position + leading)
    return np.concatenate(indexes), np.concatenate(places)
