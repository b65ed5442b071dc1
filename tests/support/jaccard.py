"""Near duplicates by brute force: sets of n-grams in plain Python, all pairs by SciPy."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array

Pairs = dict[tuple[int, int], float]


def word_ngrams(texts: Sequence[str], ngram: int) -> list[set[tuple[str, ...]]]:
    """Return the n-grams of words of each text, of a shorter one all of its words as one."""
    found = []
    for text in texts:
        words = re.findall(r"\w+", text)
        grams = {tuple(words[i : i + ngram]) for i in range(len(words) - ngram + 1)}
        found.append(grams or ({tuple(words)} if words else set()))
    return found


def alike(sets: Sequence[set[tuple[str, ...]]], threshold: float) -> Pairs:
    """Return all pairs whose Jaccard similarity is at least `threshold`, with it."""
    known: dict[tuple[str, ...], int] = {}
    columns, ends = [], [0]
    for grams in sets:
        columns += [known.setdefault(gram, len(known)) for gram in grams]
        ends.append(len(columns))
    counts = np.ones(len(columns), np.int32)
    matrix = csr_array((counts, columns, ends), shape=(len(sets), len(known)))
    sizes = np.diff(ends)
    found: Pairs = {}
    for start in range(0, len(sets), 2000):
        shared = (matrix[start : start + 2000] @ matrix.T).tocoo()
        left, right = shared.row + start, shared.col
        similarity = shared.data / (sizes[left] + sizes[right] - shared.data)
        wanted = (left < right) & (similarity >= threshold)
        ends_of = zip(left[wanted].tolist(), right[wanted].tolist(), strict=True)
        found.update(zip(ends_of, similarity[wanted].tolist(), strict=True))
    return found


def kept(ids: Sequence[int], pairs: Pairs) -> set[int]:
    """Return the ids that are kept: no kept row of a lower id is like them."""
    beside: dict[int, list[int]] = {}
    for one, other in pairs:
        beside.setdefault(one, []).append(other)
        beside.setdefault(other, []).append(one)
    found: set[int] = set()
    for row in np.argsort(ids).tolist():
        if not any(ids[other] in found for other in beside.get(row, ())):
            found.add(ids[row])
    return found
