"""A block of texts, cut into words, lines and paragraphs once for all that is measured of it."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_LINE_BREAK = re.compile(r"\r\n|\r|\n")
_BLANK_LINES = re.compile(r"(?:\r\n|\r|\n)(?:[^\S\r\n]*(?:\r\n|\r|\n))+")
# Characters that are measured at a time: what is made of them takes some fifty times as many bytes.
_BLOCK_CHARACTERS = 2_000_000


class Pieces:
    """The words, lines or paragraphs of some texts, one after the other.

    Parameters
    ----------
    texts : iterable of list of str
        The pieces of each text.

    Attributes
    ----------
    values : pyarrow.Array
        All pieces.
    counts : numpy.ndarray
        int64, shape (texts,): pieces of each text.
    owners : numpy.ndarray
        int64, shape (pieces,): the number of the text that each piece is from.
    """

    def __init__(self, texts: Iterable[list[str]]) -> None:
        pieces = list(texts)
        self.counts = np.array([len(each) for each in pieces], np.int64)
        self.values = pa.array([piece for each in pieces for piece in each], pa.large_string())
        self.owners = np.repeat(np.arange(len(pieces)), self.counts)

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Characters of each piece, int64."""
        return pc.utf8_length(self.values).to_numpy().astype(np.int64)

    @functools.cached_property
    def codes(self) -> np.ndarray:
        """A number of each piece, int64: the same for equal pieces of one text, by first place."""
        encoded = self.values.dictionary_encode()
        equal = encoded.indices.to_numpy().astype(np.int64)
        return numbered(self.owners * (len(encoded.dictionary) + 1) + equal)

    @functools.cached_property
    def repeated(self) -> np.ndarray:
        """Whether each piece is equal to an earlier one of its text, bool."""
        return ~first_places(self.codes)

    def totals(self, of_pieces: np.ndarray | None = None) -> np.ndarray:
        """Return the sum over the pieces of each text, by default their lengths; float64."""
        weights = self.lengths if of_pieces is None else of_pieces
        return np.bincount(self.owners, weights, len(self.counts))

    def share(self, chosen: Any) -> np.ndarray:
        """Return which share of the pieces of each text is chosen."""
        return share(self.totals(as_numbers(chosen)), self.counts)

    def share_of_characters(self, chosen: np.ndarray) -> np.ndarray:
        """Return which share of the characters of all pieces is in those that are chosen."""
        return share(self.totals(self.lengths * chosen), self.totals())


class Words(Pieces):
    """Pieces with the n-grams that are made of them."""

    def __init__(self, texts: Iterable[list[str]]) -> None:
        super().__init__(texts)
        self._ngrams: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def ngrams(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Return where each n-gram begins, and its number by first place; both int64.

        An n-gram is its first n - 1 words, which have a number, and one more word. Words of two
        texts have different numbers, so an n-gram belongs to one text.
        """
        if n == 1:
            return np.arange(len(self.owners)), self.codes
        if n not in self._ngrams:
            places, codes = self.ngrams(n - 1)
            last = places + n - 1
            within = last < len(self.owners)
            within[within] = self.owners[last[within]] == self.owners[places[within]]
            keys = codes[within] * (len(self.owners) + 1) + self.codes[last[within]]
            self._ngrams[n] = places[within], numbered(keys)
        return self._ngrams[n]


class Texts:
    """Some texts, with what several measures need of them."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts
        self.values = pa.array(texts, pa.large_string())

    def __len__(self) -> int:
        return len(self.values)

    @functools.cached_property
    def characters(self) -> np.ndarray:
        return pc.utf8_length(self.values).to_numpy().astype(np.int64)

    @functools.cached_property
    def words(self) -> Words:
        """Runs of characters that are no white space."""
        return Words(text.split() for text in self._texts)

    @functools.cached_property
    def lines(self) -> Pieces:
        """What stands between line breaks, without white space at its ends; no blank lines."""
        return Pieces(_stripped(_LINE_BREAK.split(text)) for text in self._texts)

    @functools.cached_property
    def paragraphs(self) -> Pieces:
        """What stands between blank lines, without white space at its ends."""
        return Pieces(_stripped(_BLANK_LINES.split(text)) for text in self._texts)

    def counted(self, pattern: str) -> np.ndarray:
        """Return how often a regular expression matches each text; int64."""
        return pc.count_substring_regex(self.values, pattern).to_numpy().astype(np.int64)


def blocks(texts: Sequence[str]) -> Iterator[Texts]:
    """Yield texts in blocks that are small enough to be measured at once."""
    start = size = 0
    for place, text in enumerate(texts):
        size += len(text)
        if size >= _BLOCK_CHARACTERS:
            yield Texts(texts[start : place + 1])
            start, size = place + 1, 0
    if start < len(texts):
        yield Texts(texts[start:])


def share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return `part` of `whole`, 0 of nothing; float64."""
    return np.divide(part, whole, out=np.zeros(len(whole)), where=whole > 0)


def as_numbers(values: Any) -> np.ndarray:
    """Return booleans, of Arrow too, as an array of NumPy."""
    return values if isinstance(values, np.ndarray) else values.to_numpy(zero_copy_only=False)


def numbered(keys: np.ndarray) -> np.ndarray:
    """Return numbers from 0 on in place of keys, in the order of their first places."""
    import pandas as pd  # noqa: PLC0415 - cuDF's users need not have it imported before

    return pd.factorize(keys)[0]


def first_places(codes: np.ndarray) -> np.ndarray:
    """Return which of the numbers that `numbered` gave stand there for the first time."""
    if not len(codes):
        return np.zeros(0, bool)
    highest = np.maximum.accumulate(codes)
    return np.concatenate([[True], highest[1:] > highest[:-1]])


def _stripped(pieces: list[str]) -> list[str]:
    return [kept for piece in pieces if (kept := piece.strip())]
