"""What rows of a dataframe are for a model: sequences of tokens, traced back to the rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dask_embed.tokens.lists import TokenLists

Row = tuple[str, ...]
"""The input texts of a row."""


@dataclass(frozen=True)
class Encoded:
    """What some rows are for the model: sequences of tokens, any number for each row.

    Attributes
    ----------
    rows : numpy.ndarray
        Row of each sequence, int64, ascending.
    tokens : TokenLists
        One list per sequence.
    context : list or None
        Anything the operator wants to find again beside the result of a sequence.
    costs : numpy.ndarray or None
        Tokens that each sequence takes while it runs, where that is more than its own.
    failures : dict
        Row to message, for rows that cannot run; they have no sequences.
    """

    rows: np.ndarray
    tokens: TokenLists
    context: Sequence[Any] | None = None
    costs: np.ndarray | None = None
    failures: dict[int, str] = field(default_factory=dict)

    def without(self, failures: dict[int, str]) -> Encoded:
        """Return the same without the sequences of rows that failed, which are named."""
        if not failures:
            return self
        kept = np.flatnonzero(~np.isin(self.rows, list(failures)))
        context = self.context
        return Encoded(
            self.rows[kept],
            self.tokens.take(kept),
            None if context is None else [context[place] for place in kept.tolist()],
            None if self.costs is None else self.costs[kept],
            self.failures | failures,
        )
