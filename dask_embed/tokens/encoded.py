"""What rows of a dataframe are for a model: samples, such as token lists, traced back to rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

import numpy as np

Row = tuple[str, ...]
"""The input texts of a row."""


class Samples(Protocol):
    """What a model reads, one after the other: token lists, or pixels, or frames of a sound.

    Attributes
    ----------
    unit : str
        What lengths count, for messages.
    """

    unit: ClassVar[str]

    def __len__(self) -> int: ...

    @property
    def lengths(self) -> np.ndarray:
        """What each takes of a batch's budget, int64; 0 where there is nothing to run."""

    def digests(self) -> list[bytes]:
        """Return 16 bytes for each, equal for equal samples."""

    def take(self, places: np.ndarray) -> Self:
        """Return the samples at `places`, in that order."""


S = TypeVar("S", bound=Samples)


@dataclass(frozen=True)
class Encoded(Generic[S]):
    """What some rows are for the model: any number of samples for each row.

    Attributes
    ----------
    rows : numpy.ndarray
        Row of each sample, int64, ascending.
    samples : Samples
        Of texts a `TokenLists`, with one list per sequence.
    context : list or None
        Anything the operator wants to find again beside the result of a sample.
    costs : numpy.ndarray or None
        What each sample takes while it runs, where that is more than its length.
    failures : dict
        Row to message, for rows that cannot run; they have no samples.
    """

    rows: np.ndarray
    samples: S
    context: Sequence[Any] | None = None
    costs: np.ndarray | None = None
    failures: dict[int, str] = field(default_factory=dict)

    def without(self, failures: dict[int, str]) -> Encoded[S]:
        """Return the same without the samples of rows that failed, which are named."""
        if not failures:
            return self
        kept = np.flatnonzero(~np.isin(self.rows, list(failures)))
        context = self.context
        return Encoded(
            self.rows[kept],
            self.samples.take(kept),
            None if context is None else [context[place] for place in kept.tolist()],
            None if self.costs is None else self.costs[kept],
            self.failures | failures,
        )

    def at(self, rows: np.ndarray) -> Encoded[S]:
        """Return the same of other rows: `rows` are those that its numbers stand for."""
        failures = {int(rows[row]): message for row, message in self.failures.items()}
        return Encoded(rows[self.rows], self.samples, self.context, self.costs, failures)
