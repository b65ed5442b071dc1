"""Log-probabilities over a vocabulary, of which only a part is computed at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch

# Logits that are held at a time; a vocabulary of 128,000 words has this many at 128 tokens.
MOST_LOGITS = 2**24
# Gives the logits of the tokens at some places, shape (places, words).
LogitsAt = Callable[[np.ndarray], torch.Tensor]


def log_probabilities(logits: LogitsAt, sources: np.ndarray, chosen: torch.Tensor) -> np.ndarray:
    """Return the log-probability of each chosen token at its source, float64.

    The vocabulary is computed once for each distinct source, a bounded number at a time.
    """
    distinct, inverse = np.unique(sources, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    result = np.empty(len(sources))
    for start, part in _portions(logits, distinct):
        low, high = np.searchsorted(inverse[order], [start, start + len(part)])
        places = order[low:high]
        rows = torch.from_numpy(inverse[places] - start).to(part.device)
        words = chosen[torch.from_numpy(places)].to(part.device)
        taken = part[rows, words] - torch.logsumexp(part, -1)[rows]
        result[places] = taken.double().cpu().numpy()
    return result


def likeliest(
    logits: LogitsAt, places: np.ndarray, count: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return ids and log-probabilities of the likeliest tokens at each place, best first."""
    results: list[tuple[np.ndarray, np.ndarray]] = []
    for _, part in _portions(logits, places):
        best = torch.log_softmax(part, -1).topk(count)
        results += zip(best.indices.cpu().numpy(), best.values.cpu().numpy(), strict=True)
    return results


def _portions(logits: LogitsAt, places: np.ndarray) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield float32 logits of some places at a time, and the number of the first."""
    size, start = 1, 0
    while start < len(places):
        part = logits(places[start : start + size]).float()
        yield start, part
        start += len(part)
        size = max(MOST_LOGITS // part.shape[-1], 1)  # the first one tells the vocabulary
