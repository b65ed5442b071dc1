"""The pieces of a partition's texts, and what makes them."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa

from dask_embed.text.chunking import Rules, chunk_texts
from dask_embed.tokens.lists import TextTokenizer
from dask_embed.tokens.sequences import SequenceTokenizer
from dask_embed.tokens.texts import Made, Texts

PIECES = pa.list_(pa.struct([("start", pa.int64()), ("stop", pa.int64()), ("tokens", pa.int32())]))


@dataclasses.dataclass(frozen=True)
class Cutter:
    """Two tokenizers of one checkpoint: of whole texts with offsets, and of pieces."""

    whole: Any
    alone: Any

    @classmethod
    def of(cls, tokenizer: Any) -> Cutter:
        whole = SequenceTokenizer(copy.deepcopy(tokenizer), None, offsets=True, special=False)
        return cls(whole, TextTokenizer(tokenizer, None))

    def cut(self, rows: Texts, rules: Rules) -> Made:
        """Return the pieces of each text, of type `PIECES`, and why others cannot be cut."""
        texts = [text for (text,) in rows.rows]
        _, _, origins = self.whole(texts)
        offsets = [origin.offsets for origin in origins]
        cuts = chunk_texts(texts, offsets, lambda pieces: self.alone(pieces).lengths, rules)
        failures = {row: cut for row, cut in enumerate(cuts) if isinstance(cut, str)}
        kept = [row for row in range(len(cuts)) if row not in failures]
        pieces = [[vars(piece) for piece in cuts[row]] for row in kept]
        return Made(np.array(kept, np.int64), [pa.array(pieces, PIECES)], failures)


@dataclasses.dataclass(frozen=True)
class Chunks:
    """The rows of a partition's result.

    Attributes
    ----------
    texts : list of str or None
        Of the partition.
    first : numpy.ndarray
        The first chunk of each of these rows and, last, how many there are; a row has at least one.
    valid : numpy.ndarray
        Which chunks are of a text that could be cut.
    starts, stops, tokens : numpy.ndarray
        Of each chunk, of those that are not valid nothing that means anything.
    errors : dict
        Row to message.
    """

    texts: list[str | None]
    first: np.ndarray
    valid: np.ndarray
    starts: np.ndarray
    stops: np.ndarray
    tokens: np.ndarray
    errors: dict[int, str]

    @classmethod
    def of(cls, texts: list[str | None], pieces: pa.Array, errors: dict[int, str]) -> Chunks:
        lengths = pieces.value_lengths()
        counts = lengths.fill_null(1).to_numpy()
        valid = np.repeat(lengths.is_valid().to_numpy(zero_copy_only=False), counts)
        spans = np.zeros((3, len(valid)), np.int64)
        spans[:, valid] = [field.to_numpy() for field in pieces.flatten().flatten()]
        first = np.concatenate([[0], np.cumsum(counts)])
        return cls(texts, first, valid, spans[0], spans[1], spans[2], errors)

    @property
    def rows(self) -> np.ndarray:
        """For each chunk the row that it is from, int64, ascending."""
        return np.repeat(np.arange(len(self.texts)), np.diff(self.first))

    @property
    def numbers(self) -> np.ndarray:
        """For each chunk its number within the row."""
        return np.arange(self.first[-1]) - self.first[self.rows]

    def columns(self) -> list[pa.Array]:
        """Return chunk, number, start, end, tokens and error."""
        lost, rows = ~self.valid, self.rows.tolist()
        spans = zip(rows, self.starts.tolist(), self.stops.tolist(), lost.tolist(), strict=True)
        texts = [
            None if gone else (self.texts[row] or "")[start:stop]
            for row, start, stop, gone in spans
        ]
        return [
            pa.array(texts, pa.string()),
            pa.array(self.numbers, pa.int32(), mask=lost),
            pa.array(self.starts, pa.int64(), mask=lost),
            pa.array(self.stops, pa.int64(), mask=lost),
            pa.array(self.tokens, pa.int32(), mask=lost),
            pa.array([self.errors.get(row) for row in rows], pa.string()),
        ]
