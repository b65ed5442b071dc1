"""Which tokens belong to which chunks, and the sums of their vectors."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dask_embed.inference.sink import Sink
from dask_embed.operators.tokens.chunks import Chunks
from dask_embed.text.chunking import Piece

if TYPE_CHECKING:
    import torch

    from dask_embed.tokens.encoded import Encoded
    from dask_embed.tokens.sequences import Origins


@dataclasses.dataclass(frozen=True)
class Members:
    """Which tokens of a window belong to which chunks: `tokens[i]` to `chunks[i]`."""

    tokens: np.ndarray
    chunks: np.ndarray


def tokens_inside(origins: Origins, pieces: Sequence[Piece], skipped: int, shift: int) -> Members:
    """Return the tokens of a window that lie in each piece, the first ones left out."""
    real = np.flatnonzero(origins.parts == 0)[skipped:]
    spans = np.maximum.accumulate(origins.offsets[real] - shift, axis=0)
    first = np.searchsorted(spans[:, 1], [piece.start for piece in pieces], side="right")
    stop = np.searchsorted(spans[:, 0], [piece.stop for piece in pieces], side="left")
    counts = np.maximum(stop - first, 0)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    tokens = real[np.repeat(first, counts) + within]
    return Members(tokens, np.repeat(np.arange(len(pieces)), counts))


@dataclasses.dataclass
class Distinct:
    """The distinct texts of a partition and their chunks, numbered from 0.

    Attributes
    ----------
    texts : list of str
    pieces : list of list of Piece
        Of each text.
    first : list of int
        Number of the first chunk of each text.
    chunks : int
    text_of, chunk_of : list of int
        For each row of the result the number of its text, -1 where there is none, and of its
        chunk, 0 there.
    """

    texts: list[str] = dataclasses.field(default_factory=list)
    pieces: list[list[Piece]] = dataclasses.field(default_factory=list)
    first: list[int] = dataclasses.field(default_factory=list)
    chunks: int = 0
    text_of: list[int] = dataclasses.field(default_factory=list)
    chunk_of: list[int] = dataclasses.field(default_factory=list)

    @classmethod
    def of(cls, chunks: Chunks) -> Distinct:
        distinct = cls()
        known: dict[str, int] = {}
        rows = zip(chunks.rows.tolist(), chunks.numbers.tolist(), chunks.pieces, strict=True)
        for row, number, piece in rows:
            text = chunks.texts[row]
            if piece is None or text is None:
                distinct.text_of.append(-1)
                distinct.chunk_of.append(0)
                continue
            place = known.setdefault(text, len(known))
            if place == len(distinct.texts):
                distinct.texts.append(text)
                distinct.pieces.append([])
                distinct.first.append(distinct.chunks)
            if number == len(distinct.pieces[place]):
                distinct.pieces[place].append(piece)
                distinct.chunks += 1
            distinct.text_of.append(place)
            distinct.chunk_of.append(distinct.first[place] + number)
        return distinct


class Sums(Sink):
    """Sums of token vectors for each chunk, filled from any thread."""

    def __init__(self, chunks: int, dimension: int) -> None:
        import torch

        self._members: dict[int, Members] = {}
        self._sums = torch.zeros(max(1, chunks), dimension)
        self._counts = torch.zeros(max(1, chunks), 1)
        self._lock = threading.Lock()

    def begin(self, encoded: Encoded) -> np.ndarray:
        names = super().begin(encoded)
        self._members.update(zip(names.tolist(), encoded.context or (), strict=True))
        return names

    def put(self, names: np.ndarray, hidden: torch.Tensor, lengths: np.ndarray) -> None:
        """Add the token vectors of windows to the sums of their chunks."""
        import torch

        starts = (np.cumsum(lengths) - lengths).tolist()
        members = [self._members[name] for name in names.tolist()]
        tokens = np.concatenate([m.tokens + s for m, s in zip(members, starts, strict=True)])
        chunks, inverse = np.unique(
            np.concatenate([each.chunks for each in members]), return_inverse=True
        )
        index = torch.from_numpy(inverse).to(hidden.device)
        vectors = hidden[torch.from_numpy(tokens).to(hidden.device)].float()
        sums = vectors.new_zeros(len(chunks), hidden.shape[1]).index_add_(0, index, vectors)
        counts = torch.from_numpy(np.bincount(inverse, minlength=len(chunks))).unsqueeze(1)
        own = torch.from_numpy(chunks)
        here = sums.cpu()
        with self._lock:
            self._sums[own] += here
            self._counts[own] += counts

    def end(self, encoded: Encoded, names: np.ndarray, failures: dict[int, str]) -> None:
        for name in names.tolist():
            del self._members[name]

    def means(self) -> torch.Tensor:
        """Return the mean vector of each chunk, zero where it has no tokens."""
        return self._sums / self._counts.clamp_min(1)
