"""Token lists to batches under a token budget, and back to row order."""

from __future__ import annotations

import numpy as np


def plan_batches(
    lengths: np.ndarray, *, max_tokens: int, max_rows: int | None = None, padded: bool = False
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

    Returns
    -------
    list of numpy.ndarray
        Row numbers of each batch, longest rows first. Every row is in exactly one batch.
    """
    order = np.argsort(-lengths, kind="stable")
    ends = np.cumsum(lengths[order])
    batches = []
    start = 0
    while start < len(order):
        longest = max(int(lengths[order[start]]), 1)
        if padded:
            stop = start + max_tokens // longest
        else:
            used = ends[start - 1] if start else 0
            stop = int(np.searchsorted(ends, used + max_tokens, side="right"))
        stop = min(max(stop, start + 1), len(order))
        if max_rows is not None:
            stop = min(stop, start + max_rows)
        batches.append(order[start:stop])
        start = stop
    return batches
