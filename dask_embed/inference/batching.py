"""Samples to batches under a budget, and on which side padded ones are filled up."""

from __future__ import annotations

import contextlib
from contextvars import ContextVar

import numpy as np

from dask_embed.runtime.within import set_within

# Where the batch that runs is filled up if it is padded; None where its tokenizer says.
_side: ContextVar[str | None] = ContextVar("side", default=None)


def padded_on(side: str | None) -> contextlib.AbstractContextManager[None]:
    """Fill padded batches up on a side, within the block; no result depends on it."""
    return set_within(_side, side)


def side_of_batch() -> str | None:
    """Return where the batch that runs is to be filled up, None where its tokenizer says."""
    return _side.get()


def plan_batches(
    lengths: np.ndarray,
    *,
    max_tokens: int,
    max_rows: int | None = None,
    padded: bool = False,
    quadratic: float = 0.0,
    parts: int = 1,
) -> list[np.ndarray]:
    """Group rows of similar length into batches of at most `max_tokens`.

    Parameters
    ----------
    lengths : numpy.ndarray
        Tokens of each row, shape (rows,).
    max_tokens : int
        Budget of a batch in tokens. A longer row is a batch of its own.
    max_rows : int, optional
        At most so many rows in a batch.
    padded : bool
        Count every row of a batch as long as its longest one.
    quadratic : float
        What a squared length costs, in tokens: memory of attention scores.
    parts : int
        At least about so many batches, of about equal tokens: more than one where several are to
        run at a time, and the last must not be a small rest.

    Returns
    -------
    list of numpy.ndarray
        Row numbers of each batch, longest rows first. Every row is in exactly one batch.
    """
    order = np.argsort(-lengths, kind="stable")
    sorted_lengths = lengths[order]
    costs = sorted_lengths if not quadratic else sorted_lengths * (1 + quadratic * sorted_lengths)
    ends = np.cumsum(costs)
    batches: list[np.ndarray] = []
    start = 0
    while start < len(order):
        if padded:
            stop = start + int(max_tokens // max(costs[start], 1))
        else:
            used = ends[start - 1] if start else 0
            stop = int(np.searchsorted(ends, used + max_tokens, side="right"))
        left = parts - len(batches)
        if left > 1:
            stop = min(stop, _even(ends, start, left))
        stop = min(max(stop, start + 1), len(order))
        if max_rows is not None:
            stop = min(stop, start + max_rows)
        batches.append(order[start:stop])
        start = stop
    return batches


def _even(ends: np.ndarray, start: int, parts: int) -> int:
    """Return where the first of so many equal parts of the rows from `start` on ends."""
    used = ends[start - 1] if start else 0
    aim = used + (ends[-1] - used) / parts
    stop = int(np.searchsorted(ends, aim))
    before = ends[stop - 1] if stop else 0
    return stop if aim - before < ends[stop] - aim else stop + 1
