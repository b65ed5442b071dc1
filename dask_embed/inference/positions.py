"""The position ids that a model gives the tokens of a text, found by trying."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dask_embed.tokens.lists import TokenLists


@dataclass(frozen=True)
class Positions:
    """How a model numbers tokens.

    Attributes
    ----------
    first : int
        Position id of the first token.
    skipped : int or None
        Id of a token that is not counted and has the position before the first: padding, also
        where a text has that token in it (transformers: create_position_ids_from_input_ids).
    """

    first: int = 0
    skipped: int | None = None

    @property
    def padding(self) -> int:
        """Position id of padding, which the mask hides."""
        return max(self.first - 1, 0)

    def of(self, tokens: TokenLists) -> np.ndarray:
        """Return the position id of every token in its text, int64, shape (tokens,)."""
        starts = np.repeat(tokens.offsets[:-1], tokens.lengths)
        if self.skipped is None:
            return np.arange(len(tokens.values)) - starts + self.first
        counts = tokens.values != self.skipped
        before = np.concatenate([[0], np.cumsum(counts)])
        places = before[1:] - before[starts] - 1 + self.first
        return np.where(counts, places, self.padding)

    @staticmethod
    def known(padding: int | None) -> Iterator[Positions]:
        """Yield the ways of numbering that models have, of one whose padding has this id."""
        yield Positions()
        if padding is not None:
            yield Positions(padding + 1, padding)
            yield Positions(padding + 1)
        yield from (Positions(first) for first in (2, 1))  # Nystromformer, OPT
