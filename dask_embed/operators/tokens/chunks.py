"""The pieces of a partition's texts, and what makes them."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from dask_embed.text.chunking import Piece, Rules, chunk_texts
from dask_embed.tokens.lists import TextTokenizer
from dask_embed.tokens.sequences import SequenceTokenizer

Cut = list[Piece] | str


@dataclasses.dataclass(frozen=True)
class Cutter:
    """Two tokenizers of one checkpoint: of whole texts with offsets, and of pieces."""

    whole: Any
    alone: Any

    @classmethod
    def of(cls, tokenizer: Any) -> Cutter:
        whole = SequenceTokenizer(copy.deepcopy(tokenizer), None, offsets=True, special=False)
        return cls(whole, TextTokenizer(tokenizer, None))

    def cut(self, texts: list[str], rules: Rules) -> list[Cut]:
        _, _, origins = self.whole(texts)
        offsets = [origin.offsets for origin in origins]
        return chunk_texts(texts, offsets, lambda pieces: self.alone(pieces).lengths, rules)


@dataclasses.dataclass(frozen=True)
class Chunks:
    """The rows of a partition's result.

    Attributes
    ----------
    texts : list of str or None
        Of the partition.
    rows : numpy.ndarray
        For each chunk the row that it is from, int64, ascending.
    numbers : numpy.ndarray
        Its number within the row.
    pieces : list of Piece or None
        None for rows without text.
    errors : dict
        Row to message.
    """

    texts: list[str | None]
    rows: np.ndarray
    numbers: np.ndarray
    pieces: list[Piece | None]
    errors: dict[int, str]

    @classmethod
    def of(cls, texts: list[str | None], cuts: dict[str, Cut], errors: dict[int, str]) -> Chunks:
        by_row: list[Sequence[Piece | None]] = []
        for row, text in enumerate(texts):
            cut = None if text is None or row in errors else cuts[text]
            by_row.append([None] if cut is None or isinstance(cut, str) else cut)
        counts = np.array([len(pieces) for pieces in by_row])
        numbers = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        flat = [piece for pieces in by_row for piece in pieces]
        return cls(texts, np.repeat(np.arange(len(texts)), counts), numbers, flat, errors)

    def columns(self) -> list[pa.Array]:
        """Return chunk, number, start, end, tokens and error."""
        found = list(zip(self.rows.tolist(), self.numbers.tolist(), self.pieces, strict=True))
        texts = [p and (self.texts[row] or "")[p.start : p.stop] for row, _, p in found]
        return [
            pa.array(texts, pa.string()),
            pa.array([None if p is None else number for _, number, p in found], pa.int32()),
            pa.array([p and p.start for p in self.pieces], pa.int64()),
            pa.array([p and p.stop for p in self.pieces], pa.int64()),
            pa.array([p and p.tokens for p in self.pieces], pa.int32()),
            pa.array([self.errors.get(row) for row in self.rows.tolist()], pa.string()),
        ]
