"""Rows of texts as samples, for what runs a tokenizer and no model, and what is made of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pyarrow as pa

from dask_embed.tokens.encoded import Row

_DIGEST_BYTES = 16


@dataclass(frozen=True)
class Texts:
    """The texts of some rows.

    Attributes
    ----------
    rows : sequence of tuple of str
    """

    unit: ClassVar[str] = "characters"

    rows: Sequence[Row]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lengths(self) -> np.ndarray:
        """Characters of each row, int64; an empty one counts 1, for it has special tokens."""
        sizes = (sum(map(len, row)) for row in self.rows)
        return np.maximum(np.fromiter(sizes, np.int64, len(self.rows)), 1)

    def digests(self) -> list[bytes]:
        """Return 16 bytes for each row, equal for equal texts."""
        known = {row: _digest(row) for row in set(self.rows)}
        return [known[row] for row in self.rows]

    def take(self, places: np.ndarray) -> Texts:
        """Return the rows at `places`, in that order."""
        return Texts([self.rows[place] for place in places.tolist()])


@dataclass(frozen=True)
class Made:
    """What was made of a batch of texts.

    Attributes
    ----------
    rows : numpy.ndarray
        The places in the batch of those that did not fail.
    columns : sequence of pyarrow.Array
        Values of these rows.
    failures : dict
        Place to message.
    """

    rows: np.ndarray
    columns: Sequence[pa.Array]
    failures: dict[int, str] = field(default_factory=dict)


def _digest(row: Row) -> bytes:
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for value in row:
        digest.update(b"\xff")  # of no text, so that each of two is told from their sum
        if isinstance(value, str):
            digest.update(value.encode("utf-8", "surrogatepass"))
            continue
        for text in value:  # a row of candidates
            digest.update(b"\xfe" + text.encode("utf-8", "surrogatepass"))
    return digest.digest()
