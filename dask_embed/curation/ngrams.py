"""Texts as sets of hashed n-grams, flat with offsets, and how alike two sets are. Free of Dask."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from dask_embed.curation.hashing import mixed

UNITS = ("word", "char", "token")
WORD = r"[^\pL\pM\pN_]+"
"""What stands between words: all but letters, marks, digits and the underscore."""

_TEXTS = 8192  # taken at a time: what is held besides the hashes
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, of the golden ratio
_COMPARED = 1 << 22  # hashes of pairs at a time


@dataclasses.dataclass(frozen=True)
class Lists:
    """Lists of numbers, one after the other.

    Attributes
    ----------
    values : numpy.ndarray
        All numbers, uint64.
    offsets : numpy.ndarray
        Where each list begins, and the last ends, int64.
    """

    values: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """The length of each list."""
        return np.diff(self.offsets)

    @classmethod
    def joined(cls, parts: Sequence[Lists]) -> Lists:
        """Return the lists of several as one."""
        lengths = [part.lengths for part in parts] or [np.zeros(0, np.int64)]
        values = [part.values for part in parts] or [np.zeros(0, np.uint64)]
        return cls(np.concatenate(values), offsets_of(np.concatenate(lengths)))

    def to_bytes(self, rows: np.ndarray) -> list[bytes]:
        """Return some of the lists as bytes, to be sent."""
        starts, stops = self.offsets[:-1][rows], self.offsets[1:][rows]
        return [
            self.values[start:stop].tobytes()
            for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)
        ]

    @classmethod
    def from_bytes(cls, sent: Sequence[bytes]) -> Lists:
        """Return the lists that were sent."""
        lengths = np.fromiter((len(each) // 8 for each in sent), np.int64, len(sent))
        return cls(np.frombuffer(b"".join(sent), np.uint64), offsets_of(lengths))


def offsets_of(lengths: np.ndarray) -> np.ndarray:
    """Return where lists of these lengths begin and end."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def ngrams(texts: Sequence[str | None], ngram: int, unit: str) -> Lists:
    """Return the hashed n-grams of each text.

    Parameters
    ----------
    texts : sequence of str or None
        A null has no n-grams.
    ngram : int
        Words or characters of one. A text of fewer is one n-gram.
    unit : {"word", "char"}
        Words are what `WORD` stands between.
    """
    parts = []
    for start in range(0, len(texts), _TEXTS):
        some = texts[start : start + _TEXTS]
        units = _words(some) if unit == "word" else _characters(some)
        parts.append(_ngrams(units, ngram))
    return Lists.joined(parts)


def token_ngrams(tokens: Lists, ngram: int) -> Lists:
    """Return the hashed n-grams of each list of token ids."""
    hashed = mixed(tokens.values.astype(np.uint64) + np.uint64(1))
    return _ngrams(Lists(hashed, tokens.offsets), ngram)


def sets(lists: Lists) -> Lists:
    """Return each list sorted and without repeats."""
    rows = np.repeat(np.arange(len(lists)), lists.lengths)
    order = np.lexsort((lists.values, rows))
    values, rows = lists.values[order], rows[order]
    first = np.ones(len(values), bool)
    first[1:] = (values[1:] != values[:-1]) | (rows[1:] != rows[:-1])
    counts = np.bincount(rows[first], minlength=len(lists)).astype(np.int64)
    return Lists(values[first], offsets_of(counts))


def _words(texts: Sequence[str | None]) -> Lists:
    """Return the words of each text by a hash of 64 bits."""
    split = pc.split_pattern_regex(pa.array(texts, pa.large_string()), WORD)
    words = split.flatten()
    lengths = pc.list_value_length(split).fill_null(0).to_numpy().astype(np.int64)
    real = pc.not_equal(words, "").to_numpy(zero_copy_only=False)
    rows = np.repeat(np.arange(len(texts)), lengths)[real]
    encoded = words.filter(pa.array(real)).dictionary_encode()
    known = pd.util.hash_array(encoded.dictionary.to_numpy(zero_copy_only=False), categorize=False)
    values = known[encoded.indices.to_numpy()] if len(known) else known
    return Lists(values, offsets_of(np.bincount(rows, minlength=len(texts))))


def _characters(texts: Sequence[str | None]) -> Lists:
    plain = [text or "" for text in texts]
    codes = np.frombuffer("".join(plain).encode("utf-32-le"), np.uint32)
    lengths = np.fromiter(map(len, plain), np.int64, len(plain))
    return Lists(mixed(codes.astype(np.uint64) + np.uint64(1)), offsets_of(lengths))


def _ngrams(units: Lists, ngram: int) -> Lists:
    """Return a hash of every `ngram` neighbours, of all where a list has fewer."""
    lengths = units.lengths
    short = np.flatnonzero((lengths < ngram) & (lengths > 0))
    whole = np.maximum(lengths - ngram + 1, 0)
    windows = np.zeros(max(len(units.values) - ngram + 1, 0), np.uint64)
    for place in range(ngram):
        windows = windows * _FACTOR + units.values[place : place + len(windows)]
    offsets = offsets_of(np.where(lengths < ngram, np.minimum(lengths, 1), whole))
    values = np.zeros(offsets[-1], np.uint64)
    rows = np.repeat(np.arange(len(units)), whole)
    inside = np.arange(len(rows)) - np.repeat(offsets_of(whole)[:-1], whole)
    values[offsets[:-1][rows] + inside] = windows[units.offsets[:-1][rows] + inside]
    for row in short.tolist():
        values[offsets[row]] = _of_all(units.values[units.offsets[row] : units.offsets[row + 1]])
    return Lists(mixed(values), offsets)


def _of_all(units: np.ndarray) -> np.uint64:
    found = np.zeros(1, np.uint64)
    for unit in units:
        found = found * _FACTOR + unit
    return found[0] + np.uint64(len(units))


def jaccard(left: Lists, right: Lists, pairs: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return the Jaccard similarity of pairs of sets: shared hashes by all that either has.

    Parameters
    ----------
    left, right : Lists
        Sets, each ascending.
    pairs : (numpy.ndarray, numpy.ndarray)
        Which of `left` and which of `right`, int64.

    Returns
    -------
    numpy.ndarray
        float64; 0 where both are empty.
    """
    shared = np.zeros(len(pairs[0]), np.int64)
    rows = np.repeat(np.arange(len(right)), right.lengths)
    known = np.sort(_keys(rows, right.values))
    for start, stop in _shares(left.lengths[pairs[0]]):
        ones, others = pairs[0][start:stop], pairs[1][start:stop]
        lengths = left.lengths[ones]
        where = np.repeat(np.arange(len(ones)), lengths)
        inside = np.arange(len(where)) - np.repeat(offsets_of(lengths)[:-1], lengths)
        values = left.values[left.offsets[:-1][ones][where] + inside]
        keys = _keys(others[where], values)
        places = np.searchsorted(known, keys)
        found = places < len(known)
        found[found] = known[places[found]] == keys[found]
        shared[start:stop] = np.bincount(where[found], minlength=len(ones))
    total = left.lengths[pairs[0]] + right.lengths[pairs[1]] - shared
    return shared / np.maximum(total, 1)


def _keys(rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return a hash of each value and the row that it is of."""
    return mixed(values ^ mixed(rows.astype(np.uint64) + np.uint64(1)))


def _shares(costs: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield parts of a sequence whose costs are bounded, each of one at least."""
    ends = np.cumsum(costs)
    start = 0
    while start < len(costs):
        done = ends[start - 1] if start else 0
        stop = max(int(np.searchsorted(ends, done + _COMPARED, side="right")), start + 1)
        yield start, stop
        start = stop
