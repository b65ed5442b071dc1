"""Which tokens belong to which chunks, and the sums of their vectors."""

from __future__ import annotations

import dataclasses
import threading
from typing import TYPE_CHECKING

import numpy as np

from dask_embed.inference.sink import Sink
from dask_embed.operators.tokens.chunks import Chunks

if TYPE_CHECKING:
    import torch

    from dask_embed.tokens.encoded import Encoded
    from dask_embed.tokens.sequences import Origins


@dataclasses.dataclass(frozen=True)
class Members:
    """Which tokens of a window belong to which chunks: `tokens[i]` to `chunks[i]`."""

    tokens: np.ndarray
    chunks: np.ndarray


@dataclasses.dataclass(frozen=True)
class Pieces:
    """Where the chunks of one text are: `starts` and `stops`, and the number of the `first`."""

    starts: np.ndarray
    stops: np.ndarray
    first: int


def tokens_inside(origins: Origins, pieces: Pieces, skipped: int, shift: int) -> Members:
    """Return the tokens of a window that lie in each piece, the first ones left out."""
    real = np.flatnonzero(origins.parts == 0)[skipped:]
    spans = np.maximum.accumulate(origins.offsets[real] - shift, axis=0)
    first = np.searchsorted(spans[:, 1], pieces.starts, side="right")
    stop = np.searchsorted(spans[:, 0], pieces.stops, side="left")
    counts = np.maximum(stop - first, 0)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    tokens = real[np.repeat(first, counts) + within]
    return Members(tokens, np.repeat(np.arange(len(counts)), counts))


@dataclasses.dataclass
class Distinct:
    """The distinct texts of a partition, numbered from 0, and their chunks.

    Attributes
    ----------
    texts : list of str
    pieces : list of Pieces
        Of each text.
    chunks : int
    text_of, chunk_of : numpy.ndarray
        For each row of the result the number of its text, -1 where there is none, and of its
        chunk, 0 there.
    """

    texts: list[str]
    pieces: list[Pieces]
    chunks: int
    text_of: np.ndarray
    chunk_of: np.ndarray

    @classmethod
    def of(cls, chunks: Chunks) -> Distinct:
        places: dict[str, int] = {}
        pieces: list[Pieces] = []
        text_of = np.full(len(chunks.texts), -1)
        starts, count = chunks.first.tolist(), 0
        for row in np.flatnonzero(chunks.valid[chunks.first[:-1]]).tolist():
            text_of[row] = places.setdefault(chunks.texts[row] or "", len(places))
            if text_of[row] == len(pieces):
                own = slice(starts[row], starts[row + 1])
                pieces.append(Pieces(chunks.starts[own], chunks.stops[own], count))
                count += own.stop - own.start
        text_of = text_of[chunks.rows]
        first = np.array([*(each.first for each in pieces), 0])[text_of]  # -1 is the last
        chunk_of = np.where(text_of < 0, 0, first + chunks.numbers)
        return cls(list(places), pieces, count, text_of, chunk_of)


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
