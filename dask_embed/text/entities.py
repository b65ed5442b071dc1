"""Labels of tokens to labelled spans of text, as transformers' token classification does it.

All functions work on the tokens of many sequences at a time, one after the other in flat arrays.

Source: transformers' ``TokenClassificationPipeline``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

_SPACE = ord(" ")


@dataclass(frozen=True)
class Tagged:
    """Labelled stretches of text, in order: tokens, words or entities.

    Attributes
    ----------
    sequences : numpy.ndarray
        Sequence of each, ascending, int64.
    labels : numpy.ndarray
        Number of its label, int64.
    scores : numpy.ndarray
        float32.
    starts, ends : numpy.ndarray
        First character and the one after the last, int64.
    """

    sequences: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    starts: np.ndarray
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, places: np.ndarray) -> Tagged:
        """Return those at `places`, a mask or numbers."""
        return Tagged(
            self.sequences[places],
            self.labels[places],
            self.scores[places],
            self.starts[places],
            self.ends[places],
        )

    def merged(self, firsts: np.ndarray) -> Tagged:
        """Return runs as one each, from the start of the first to the end of the last.

        Label and score are those of the first.
        """
        lasts = np.append(firsts[1:], len(self)) - 1
        return replace(self.take(firsts), ends=self.ends[lasts if len(firsts) else firsts])


class LabelScheme:
    """How labels name entities: ``B-`` begins one, ``I-`` or no prefix goes on.

    Parameters
    ----------
    labels : sequence of str

    Attributes
    ----------
    groups : list of str
        Names of entities.
    group_of : numpy.ndarray
        For each label the number of its group, int64.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        tags = [label[2:] if label.startswith(("B-", "I-")) else label for label in labels]
        names = [label.split("-", 1)[-1] for label in labels]
        self.groups = list(dict.fromkeys(names))
        self.group_of = np.array([self.groups.index(name) for name in names], np.int64)
        self._begins = np.array([label.startswith("B-") for label in labels])
        self._tags = np.unique(tags, return_inverse=True)[1]

    def entities(self, tokens: Tagged) -> Tagged:
        """Join neighbours of one tag; labels become groups and scores their means."""
        tags = self._tags[tokens.labels]
        begins = self._begins[tokens.labels]
        begins[1:] |= (tags[1:] != tags[:-1]) | (tokens.sequences[1:] != tokens.sequences[:-1])
        begins[:1] = True
        firsts = np.flatnonzero(begins)
        joined = tokens.merged(firsts)
        scores = _means(tokens.scores, firsts)
        return replace(joined, labels=self.group_of[joined.labels], scores=scores)


def words(
    tokens: Tagged, continues: np.ndarray, how: str, probabilities: np.ndarray | None = None
) -> Tagged:
    """Join the tokens of each word under one label.

    Parameters
    ----------
    tokens : Tagged
    continues : numpy.ndarray
        Whether a token goes on with the word of the one before, bool.
    how : {"first", "max", "average"}
        Label and score of the first token, of the one with the highest score (the first of
        several), or of the mean of the probabilities.
    probabilities : numpy.ndarray, optional
        Of shape (tokens, labels), for ``"average"``.
    """
    begins = ~continues
    begins[1:] |= tokens.sequences[1:] != tokens.sequences[:-1]
    begins[:1] = True
    firsts = np.flatnonzero(begins)
    joined = tokens.merged(firsts)
    if how == "first" or not len(tokens):
        return joined
    if how == "max":
        word = np.cumsum(begins) - 1
        # a stable sort by word, then by falling score, puts the wanted token of each word first
        order = np.lexsort((-tokens.scores, word))
        best = order[firsts]
        return replace(joined, labels=tokens.labels[best], scores=tokens.scores[best])
    assert probabilities is not None, "averages need the probabilities of all labels"
    means = _means(probabilities, firsts)
    labels = means.argmax(axis=1)
    return replace(joined, labels=labels, scores=means[np.arange(len(labels)), labels])


def _means(values: np.ndarray, firsts: np.ndarray) -> np.ndarray:
    """Return the means of runs of rows, of the dtype of `values`."""
    if not len(firsts):
        return values[:0]
    counts = np.diff(np.append(firsts, len(values))).astype(np.float64)
    sums = np.add.reduceat(values.astype(np.float64), firsts, axis=0)
    return (sums / counts.reshape(-1, *[1] * (values.ndim - 1))).astype(values.dtype)


def follows_no_space(texts: Sequence[str], tokens: Tagged) -> np.ndarray:
    """Return whether each token neither begins with a space nor follows one, bool.

    What stands at the beginning of a text follows nothing. `tokens.sequences` are places in
    `texts`.
    """
    codes = np.frombuffer("\0".join([*texts, ""]).encode("utf-32-le"), np.uint32)
    begins = np.cumsum([0, *(len(text) + 1 for text in texts[:-1])], dtype=np.int64)
    places = begins[tokens.sequences] + tokens.starts
    spaces = codes == _SPACE
    return (tokens.starts > 0) & ~spaces[places] & ~spaces[places - 1]
