"""The best answers among the spans of a text, as for SQuAD: pure numpy, one window at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from dask_embed.tokens.sequences import Origins


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the probabilities of logits of shape (n,), float64."""
    raised = np.exp(logits.astype(np.float64) - logits.max(initial=-np.inf))
    return raised / raised.sum()


class Text:
    """A text, and where its white space is.

    Parameters
    ----------
    text : str
    """

    def __init__(self, text: str) -> None:
        self._spaces = np.zeros(len(text) + 1, bool)  # one more, for what is behind the last
        self._spaces[:-1] = [character.isspace() for character in text]
        place = np.arange(len(self._spaces))
        after = np.where(self._spaces, len(place), place)
        self._following = np.minimum.accumulate(after[::-1])[::-1]
        self._previous = np.maximum.accumulate(np.where(self._spaces, -1, place))

    def answers(
        self, offsets: np.ndarray, words: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return where answers begin and end that begin and end with each token.

        Parameters
        ----------
        offsets : numpy.ndarray
            First character and the one after the last of tokens that follow each other, int64,
            shape (tokens, 2).
        words : numpy.ndarray, optional
            Word of each token; answers then begin and end with words. A word does not reach over
            white space, whatever the tokenizer takes for one.

        Returns
        -------
        starts, ends : numpy.ndarray
            Without white space around the answer, int64, shape (tokens,).
        """
        starts, ends = offsets[:, 0], offsets[:, 1]
        if words is not None and len(words):
            behind_space = (starts > 0) & self._spaces[starts - 1]
            # a token of white space alone belongs to the word behind it, as "▁" does
            blank = (self._following[starts] >= ends) & (ends > starts)
            apart = self._spaces[starts[1:]] | (behind_space[1:] & ~blank[:-1])
            begins = np.append(True, (words[1:] != words[:-1]) | apart | (words[1:] < 0))
            firsts = np.flatnonzero(begins)
            word = np.cumsum(begins) - 1
            lasts = np.append(firsts[1:], len(words)) - 1
            starts, ends = starts[firsts[word]], ends[lasts[word]]
        return self._following[starts], np.where(ends > 0, self._previous[ends - 1] + 1, 0)


def best_spans(
    start: np.ndarray,
    end: np.ndarray,
    places: tuple[np.ndarray, np.ndarray],
    *,
    max_tokens: int,
    count: int,
) -> list[tuple[int, int, float]]:
    """Return the best answers of a window: first character, the one after the last, and score.

    Parameters
    ----------
    start, end : numpy.ndarray
        Probability of each context token to begin and to end the answer, float64.
    places : tuple of numpy.ndarray
        What `Text.answers` gave for the tokens.
    max_tokens : int
        Most tokens of an answer.
    count : int
        How many answers to give; each has other characters. Of equal scores the earlier one.
    """
    starts, ends = places
    tokens = len(start)
    width = min(max_tokens, tokens)
    if not tokens:
        return []
    last = np.arange(tokens)[:, None] + np.arange(width)
    inside = last < tokens
    last = np.minimum(last, tokens - 1)
    inside &= ends[last] > starts[:, None]
    scores = np.where(inside, start[:, None] * end[last], -1.0).ravel()
    order = [scores.argmax()] if count == 1 else np.argsort(-scores, kind="stable")
    found: dict[tuple[int, int], float] = {}
    for place in order:
        if scores[place] < 0 or len(found) == count:
            break
        first = place // width
        span = int(starts[first]), int(ends[last[first, place % width]])
        found.setdefault(span, float(scores[place]))
    return [(*span, score) for span, score in found.items()]


def null_token(
    ids: np.ndarray, origins: Origins, wanted: Sequence[int | None], part: int
) -> int | None:
    """Return the place of the token that stands for "no answer", None without one.

    Parameters
    ----------
    ids : numpy.ndarray
        The tokens of a window.
    origins : Origins
    wanted : sequence of int or None
        Special tokens that it may be, the best first; without any it is the first token.
    part : int
        The text, whose tokens it is none of.
    """
    special = origins.parts < 0
    for token in wanted:
        if token is not None and (found := special & (ids == token)).any():
            return int(found.argmax())
    return 0 if len(ids) and origins.parts[0] != part else None
