"""Long texts in pieces of a limited number of tokens, cut where sentences or paragraphs end.

Pure logic: tokens come as offsets, and a function that counts those of a piece alone. Tokens of a
piece alone may be more than those that it has within its text, where it is cut inside a word, so
every piece is counted alone before it is given out; one that has too many is cut earlier.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from dask_embed.text.sentences import paragraph_starts, sentence_starts

# Pieces of a text that are counted at a time, at first.
_PROPOSED = 256
BOUNDARIES = ("tokens", "words", "sentences", "paragraphs")


@dataclass
class Places:
    """Where a text may be cut, its beginning and end included.

    Attributes
    ----------
    characters : numpy.ndarray
        Characters before each place, int64, ascending.
    tokens : numpy.ndarray
        Tokens before each place, int64.
    levels : numpy.ndarray
        What begins there, a number of `BOUNDARIES`, int8; at the end the highest.
    """

    characters: np.ndarray
    tokens: np.ndarray
    levels: np.ndarray

    @classmethod
    def of(cls, text: str, offsets: np.ndarray) -> Places:
        """Find them between the tokens of `text`.

        Parameters
        ----------
        text : str
        offsets : numpy.ndarray
            First character and the one after the last of each token, int64, shape (tokens, 2).
            Several tokens may share a character; there the text is not cut.
        """
        starts, ends = offsets[:, 0], np.maximum.accumulate(offsets[:, 1])
        free = 1 + np.flatnonzero(starts[1:] >= ends[:-1])
        places, first = np.unique(starts[free], return_index=True)
        kept = (places > 0) & (places < len(text))
        characters = np.concatenate([[0], places[kept], [len(text)]])
        tokens = np.concatenate([[0], free[first][kept], [len(offsets)]])
        return cls(characters, tokens, _levels(text, characters))

    def split(self, place: int, text: str, weight: int) -> None:
        """Allow cuts at every character up to the next place, where `weight` tokens turned up."""
        start, stop = self.characters[place : place + 2].tolist()
        inner = np.arange(start + 1, stop)
        each = -(-weight // (stop - start))
        grown = each * (stop - start) - (self.tokens[place + 1] - self.tokens[place])
        counts = self.tokens[place] + each * np.arange(1, len(inner) + 1)
        self.tokens[place + 1 :] += grown
        self.characters = np.insert(self.characters, place + 1, inner)
        self.tokens = np.insert(self.tokens, place + 1, counts)
        self.levels = _levels(text, self.characters)


def _levels(text: str, characters: np.ndarray) -> np.ndarray:
    """Return what begins at each place or, behind white space, right after it."""
    words = np.array([found.span() for found in re.finditer(r"\S+", text)], np.int64).reshape(-1, 2)
    if not len(words):
        return np.full(len(characters), len(BOUNDARIES) - 1, np.int8)
    following = np.searchsorted(words[:, 1], characters, side="right")
    following_start = words[np.minimum(following, len(words) - 1), 0]
    begins = np.maximum(characters, following_start)
    levels = np.zeros(len(characters), np.int8)
    levels[np.isin(begins, words[:, 0])] = 1
    levels[np.isin(begins, sentence_starts(text))] = 2
    levels[np.isin(begins, paragraph_starts(text))] = 3
    levels[following == len(words)] = len(BOUNDARIES) - 1
    return levels


@dataclass(frozen=True)
class Rules:
    """How texts are cut.

    Attributes
    ----------
    max_tokens : int
        Most tokens of a piece alone, special tokens included.
    special : int
        Special tokens of every piece.
    overlap : int
        Most tokens that neighbouring pieces share.
    boundary : str
        Where pieces end if they can: one of `BOUNDARIES`.
    """

    max_tokens: int
    special: int
    overlap: int = 0
    boundary: str = "sentences"

    @property
    def budget(self) -> int:
        """Tokens of a piece besides the special ones."""
        return self.max_tokens - self.special

    @property
    def level(self) -> int:
        return BOUNDARIES.index(self.boundary)


@dataclass(frozen=True)
class Piece:
    """A part of a text: its first character, the one after its last, its tokens when alone."""

    start: int
    stop: int
    tokens: int


def chunk_texts(
    texts: Sequence[str],
    offsets: Sequence[np.ndarray],
    count: Callable[[list[str]], Sequence[int]],
    rules: Rules,
) -> list[list[Piece] | str]:
    """Cut texts into pieces of at most `rules.max_tokens` tokens.

    Parameters
    ----------
    texts : sequence of str
    offsets : sequence of numpy.ndarray
        Of the tokens of each text, special tokens left out; see `Places.of`.
    count : callable
        Texts to the number of tokens of each, special tokens included.
    rules : Rules

    Returns
    -------
    list
        For each text its pieces in order, or the message why it cannot be cut. Pieces neither
        begin nor end with white space; every other character is in at least one. A text of
        nothing but white space has one empty piece.
    """
    documents = [
        _Document(text, Places.of(text, spans), rules)
        for text, spans in zip(texts, offsets, strict=True)
    ]
    open_documents = documents
    while open_documents:
        proposals = [document.propose() for document in open_documents]
        counts = iter(count([text for pieces in proposals for text in pieces]))
        for document, pieces in zip(open_documents, proposals, strict=True):
            document.decide([int(next(counts)) for _ in pieces])
        open_documents = [document for document in open_documents if not document.finished]
    return [document.problem or document.pieces for document in documents]


@dataclass
class _Document:
    """A text that is being cut: what is proposed is counted, then taken or cut earlier."""

    text: str
    places: Places
    rules: Rules
    pieces: list[Piece] = field(default_factory=list)
    problem: str = ""
    finished: bool = False
    _start: int = 0
    _reached: int = 0
    _limit: int | None = None
    _slack: int = 0
    _ahead: int = _PROPOSED
    _proposed: list[tuple[int, int]] = field(default_factory=list)

    def propose(self) -> list[str]:
        """Return pieces for the rest of the text, each cut as if counts within it were right."""
        self._proposed = []
        start, reached, last = self._start, self._reached, len(self.places.tokens) - 1
        budget = self._budget if self._limit is None else self._limit
        while reached < last and len(self._proposed) < self._ahead:
            tokens = self.places.tokens
            if start < reached and tokens[reached + 1] - tokens[start] > budget:
                start = reached  # there is no room for an overlap
            stop = self._stop(start, reached, budget)
            self._proposed.append((start, stop))
            budget = self._budget
            start, reached = self._next_start(start, stop, budget), stop
        return [self.text[slice(*self._trimmed(*piece))] for piece in self._proposed]

    def decide(self, counts: list[int]) -> None:
        """Take what was proposed up to the first piece that has too many tokens."""
        for number, (start, stop) in enumerate(self._proposed):
            if counts[number] > self.rules.max_tokens:
                self._start = start
                self._cut_earlier(start, stop, counts[number])
                self._ahead = 2 * number + 1
                return
            self._take(*self._trimmed(start, stop), counts[number])
            self._start = self._next_start(start, stop, self._budget)
            self._reached, self._limit = stop, None
        self._ahead *= 2
        self.finished = self._reached == len(self.places.tokens) - 1

    @property
    def _budget(self) -> int:
        return max(1, self.rules.budget - self._slack)

    def _stop(self, start: int, reached: int, budget: int) -> int:
        """Return the place to cut at: the last one of the highest level that there is."""
        levels = self.places.levels
        furthest = self._furthest(start, budget)
        furthest = max(furthest, reached + 1)
        if furthest == len(levels) - 1:
            return furthest
        for level in range(self.rules.level, 0, -1):
            found = np.flatnonzero(levels[reached + 1 : furthest + 1] >= level)
            if len(found):
                return reached + 1 + int(found[-1])
        return furthest

    def _next_start(self, start: int, stop: int, budget: int) -> int:
        """Return where the piece after a cut begins: the first place that shares few enough."""
        tokens, levels = self.places.tokens, self.places.levels
        if not self.rules.overlap or stop == len(tokens) - 1:
            return stop
        level = min(int(levels[stop]), self.rules.level)
        ahead = levels[stop + 1 : self._furthest(stop, budget) + 1] >= self.rules.level
        # what the pieces share must not push the next sentence out
        needed = stop + 1 + (int(ahead.argmax()) if ahead.any() else 0)
        earliest = max(tokens[stop] - self.rules.overlap, tokens[needed] - budget)
        low = max(start + 1, int(np.searchsorted(tokens, earliest)))
        found = np.flatnonzero(levels[low:stop] >= level)
        return low + int(found[0]) if len(found) else stop

    def _furthest(self, start: int, budget: int) -> int:
        tokens = self.places.tokens
        return int(np.searchsorted(tokens, tokens[start] + budget, side="right")) - 1

    def _cut_earlier(self, start: int, stop: int, count: int) -> None:
        expected = int(self.places.tokens[stop] - self.places.tokens[start])
        too_many = count - self.rules.max_tokens
        if stop > max(start, self._reached) + 1 or start < self._reached:
            self._limit = max(1, expected - too_many)
            excess = count - self.rules.special - expected
            self._slack = max(self._slack, min(excess, self.rules.budget // 8))
            if stop == self._reached + 1:
                self._start = self._reached
            return
        first, last = self.places.characters[[start, stop]].tolist()
        if last - first > 1:
            self.places.split(start, self.text, count - self.rules.special)
            self._limit = None
            return
        self.finished = True
        self.problem = (
            f"character {first} ({self.text[first]!r}) alone has {count} tokens, special ones "
            f"included, more than max_tokens={self.rules.max_tokens}"
        )

    def _take(self, start: int, stop: int, count: int) -> None:
        if not self.pieces:
            self.pieces.append(Piece(start, stop, count))
        elif start < stop and stop > self.pieces[-1].stop:
            last = self.pieces[-1]
            if last.start in (last.stop, start):
                self.pieces.pop()  # it is empty, or the beginning of this one
            self.pieces.append(Piece(start, stop, count))

    def _trimmed(self, start: int, stop: int) -> tuple[int, int]:
        """Return the characters between two places without white space around them."""
        first, last = self.places.characters[[start, stop]].tolist()
        piece = self.text[first:last]
        kept = piece.strip()
        first += len(piece) - len(piece.lstrip()) if kept else 0
        return first, first + len(kept)
