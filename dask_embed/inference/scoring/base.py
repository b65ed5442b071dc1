"""What every way to score tokens shares: their roles in sequences of prompts and candidates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from dask_embed._validation import shown_error
from dask_embed.inference.agreement import TOLERANCE
from dask_embed.inference.memory import is_final
from dask_embed.inference.runner import Runner
from dask_embed.tokens.lists import TokenLists

# Roles of tokens, as `TokenLists.types`: what is given, where a candidate begins, and the rest of
# it. So a sequence holds any number of candidates, one after the other behind their prompt.
GIVEN, FIRST, REST = 0, 1, 2


class Scoring(Protocol):
    """What a model gives for sequences of a prompt and candidates.

    Attributes
    ----------
    shares : bool
        A sequence may hold several candidates; else one.
    reason : str
        Why not.
    """

    shares: bool
    reason: str

    def word(self, token: int) -> str:
        """Return a token as text."""

    def room(self, prompt: int) -> int | None:
        """Return the most tokens of candidates in a sequence, None where nothing limits them."""

    def log_likelihoods(self, tokens: TokenLists) -> list[np.ndarray]:
        """Return for each sequence the log-likelihoods of its candidates, float64."""

    def next_tokens(self, tokens: TokenLists, count: int) -> list[Any]:
        """Return for each sequence ids and log-probabilities of the likeliest next tokens."""


@dataclass(frozen=True)
class Targets:
    """The candidates' tokens of a batch.

    Attributes
    ----------
    places : numpy.ndarray
        Where each of them is among the tokens of the batch, ascending; int64, shape (targets,).
    candidates : numpy.ndarray
        Number of its candidate within the batch, int64, shape (targets,).
    counts : numpy.ndarray
        Candidates of each sequence, int64, shape (sequences,).
    sequences : numpy.ndarray
        Sequence of each token, int64, shape (tokens,).
    """

    places: np.ndarray
    candidates: np.ndarray
    counts: np.ndarray
    sequences: np.ndarray

    @classmethod
    def of(cls, tokens: TokenLists) -> Targets:
        roles = roles_of(tokens)
        sequences = np.repeat(np.arange(len(tokens)), tokens.lengths)
        counts = np.bincount(sequences, roles == FIRST, len(tokens)).astype(np.int64)
        places = np.flatnonzero(roles != GIVEN)
        candidates = np.cumsum(roles == FIRST)[places] - 1
        return cls(places, candidates, counts, sequences)

    def sums(self, values: np.ndarray) -> list[np.ndarray]:
        """Return the sum over each candidate's tokens, one array for each sequence."""
        total = np.bincount(self.candidates, values, int(self.counts.sum()))
        return np.split(total, np.cumsum(self.counts)[:-1])


def roles_of(tokens: TokenLists) -> np.ndarray:
    """Return the role of every token."""
    assert tokens.types is not None, "sequences to score come with roles"
    return tokens.types


class LoadedScoring:
    """What any way of scoring takes from the loaded model."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def _apart(self) -> float:
        """Return how far scores of what runs together are from those of each by itself."""
        raise NotImplementedError

    def _differing(self, what: str) -> str:
        """Return why nothing may run together, `what` where scores differ; "" if it may."""
        try:
            apart = self._apart()
        except Exception as error:  # every architecture has its own way to refuse
            if is_final(error):
                raise
            return shown_error(error)
        if apart <= TOLERANCE[self._runner.loaded.compute_dtype]:
            return ""
        return f"{what} by {apart:.1e}"

    def word(self, token: int) -> str:
        return str(self._runner.loaded.tokenizer.decode([token]))
