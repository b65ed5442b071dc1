"""Repeated n-grams of words, of many texts at once."""

from __future__ import annotations

import numpy as np

from dask_embed.operators.filters.pieces import Words, first_places


def repeated_words(words: Words, n: int) -> np.ndarray:
    """Return which words stand in an n-gram that is equal to an earlier one of its text.

    Returns
    -------
    numpy.ndarray
        bool, shape (words,). A word in several such n-grams is one word.
    """
    places, codes = words.ngrams(n)
    return _covered(places[~first_places(codes)], n, len(words.owners))


def top_words(words: Words, n: int) -> np.ndarray:
    """Return which words stand in the most frequent n-gram of their text.

    It must stand there twice. Of several that are equally frequent it is the one of most
    characters, then the first.
    """
    places, codes = words.ngrams(n)
    first = first_places(codes)
    counts = np.bincount(codes, minlength=int(first.sum()))
    owners, starts = words.owners[places[first]], places[first]
    lengths = np.zeros(len(starts), np.int64)
    for shift in range(n):
        lengths += words.lengths[starts + shift]
    best = np.lexsort((starts, -lengths, -counts, owners))
    best = best[first_places(owners[best])]
    chosen = np.zeros(len(counts), bool)
    chosen[best[counts[best] > 1]] = True
    return _covered(places[chosen[codes]], n, len(words.owners))


def _covered(starts: np.ndarray, n: int, count: int) -> np.ndarray:
    """Return which of `count` words are among the n from one of `starts` on."""
    change = np.zeros(count + 1, np.int64)
    change[starts] += 1
    np.subtract.at(change, starts + n, 1)
    return np.cumsum(change[:-1]) > 0
