"""Where the results of batches go: arrays of the whole partition, filled in any order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from dask_embed.inference.sink import Sink
from dask_embed.inference.upload import upload

# Rows that are copied at a time: a bounded temporary.
_COPIED_ROWS = 65_536


@dataclass(frozen=True)
class Reduction:
    """How the token vectors of a batch become one vector per text.

    Attributes
    ----------
    reduce : callable
        ``(token vectors, lengths) -> vectors``, floating, shape (texts, dimension).
    store : callable
        ``vectors -> values``, shape (texts, size), of type `dtype`.
    dimension : int
        Size of what is stored.
    dtype : torch.dtype
    kind : hashable
        Equal for reductions that give the same vectors.
    """

    reduce: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    store: Callable[[torch.Tensor], torch.Tensor]
    dimension: int
    dtype: torch.dtype
    kind: Hashable


class VectorSink(Sink):
    """Reduce token vectors to one vector per text, in one or several ways.

    Parameters
    ----------
    outs : sequence of torch.Tensor
        Shape (rows, dimension), on the CPU or the model's device.
    reductions : sequence of Reduction
        One for each of `outs`.
    """

    keeps = True

    def __init__(self, outs: Sequence[torch.Tensor], reductions: Sequence[Reduction]) -> None:
        self._parts = [
            (out, each, Downloads(out)) for out, each in zip(outs, reductions, strict=True)
        ]

    def put(
        self, rows: np.ndarray, hidden: torch.Tensor, lengths: np.ndarray
    ) -> torch.Tensor | None:
        """Return which vectors are finite numbers, whatever they are stored as."""
        counts = upload(lengths, hidden.device)
        finite = None
        for out, reduction, downloads in self._parts:
            vectors = reduction.reduce(hidden, counts)
            stored = reduction.store(vectors).to(out.dtype)
            downloads.put(rows, stored)
            known = vectors.isfinite().all(1)
            if stored.is_floating_point():
                known = known & stored.isfinite().all(1)
            finite = known if finite is None else finite & known
        return finite

    def copy(self, rows: np.ndarray, sources: np.ndarray) -> None:
        for out, _, _ in self._parts:
            for start in range(0, len(rows), _COPIED_ROWS):
                part = slice(start, start + _COPIED_ROWS)
                out[_index(rows[part], out)] = out[_index(sources[part], out)]

    def flush(self) -> None:
        for _, _, downloads in self._parts:
            downloads.flush()


class SideBySide:
    """The vectors of a row from several arrays as one, in bytes."""

    def __init__(self, outs: Sequence[torch.Tensor]) -> None:
        self._parts = [out.numpy().view(np.uint8) for out in outs]
        ends = np.cumsum([part.shape[1] for part in self._parts])
        self._cuts = ends[:-1].tolist()
        self.shape = (len(self._parts[0]), int(ends[-1]))
        self.itemsize = 1

    def __getitem__(self, row: int) -> np.ndarray:
        return np.concatenate([part[row] for part in self._parts])

    def __setitem__(self, row: int, vector: np.ndarray) -> None:
        for part, values in zip(self._parts, np.split(vector, self._cuts), strict=True):
            part[row] = values


class TokenVectorSink(Sink):
    """Keep every token vector.

    Parameters
    ----------
    out : torch.Tensor
        Shape (tokens, hidden size).
    starts : numpy.ndarray
        First token of each row in `out`.
    """

    keeps = True

    def __init__(self, out: torch.Tensor, starts: np.ndarray) -> None:
        self._out = out
        self._starts = starts
        self._lengths = np.zeros(len(starts), np.int64)

    def put(self, rows: np.ndarray, hidden: torch.Tensor, lengths: np.ndarray) -> None:
        self._lengths[rows] = lengths
        parts = hidden.to(self._out).split(lengths.tolist())
        for row, part in zip(rows, parts, strict=True):
            self._out[self._starts[row] : self._starts[row] + len(part)] = part

    def copy(self, rows: np.ndarray, sources: np.ndarray) -> None:
        for row, source in zip(rows.tolist(), sources.tolist(), strict=True):
            start, length = self._starts[source], self._lengths[source]
            target = self._starts[row]
            self._out[target : target + length] = self._out[start : start + length]

    @property
    def row_bytes(self) -> float:
        return self._out.nbytes / max(len(self._starts), 1)

    def fill(self, rows: np.ndarray, columns: list[pa.Array]) -> None:
        """Take the token vectors of rows that need not run."""
        for row, vectors in zip(rows.tolist(), columns[0], strict=True):
            part = torch.from_numpy(vectors.values.to_numpy().copy()).view(-1, self._out.shape[1])
            self._lengths[row] = len(part)
            self._out[self._starts[row] : self._starts[row] + len(part)] = part

    def of(self, rows: np.ndarray) -> list[pa.Array]:
        """Return the token vectors of some rows, on the CPU, one after the other."""
        spans = zip(self._starts[rows].tolist(), self._lengths[rows].tolist(), strict=True)
        parts = [self._out[start : start + length].flatten().numpy() for start, length in spans]
        return [pa.array(parts, pa.list_(pa.float32()))]


class Downloads:
    """Rows from a device into their places in `out`, while the next batch computes.

    From a GPU to the host they go through pinned buffers on a stream of their own; everywhere
    else they are written at once.
    """

    _MOST_UNDER_WAY = 2

    def __init__(self, out: torch.Tensor) -> None:
        self._out = out
        self._under_way: deque[tuple[np.ndarray, torch.Tensor, torch.cuda.Event]] = deque()
        self._stream: torch.cuda.Stream | None = None

    def put(self, rows: np.ndarray, values: torch.Tensor) -> None:
        if values.device == self._out.device:
            self._out[_index(rows, self._out)] = values
            return
        if self._stream is None:
            self._stream = torch.cuda.Stream(values.device)
        self._stream.wait_stream(torch.cuda.current_stream(values.device))
        with torch.cuda.stream(self._stream):
            buffer = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            buffer.copy_(values, non_blocking=True)
            values.record_stream(self._stream)
            done = torch.cuda.Event()
            done.record(self._stream)
        self._under_way.append((rows, buffer, done))
        if len(self._under_way) > self._MOST_UNDER_WAY:
            self._store_oldest()

    def flush(self) -> None:
        while self._under_way:
            self._store_oldest()

    def _store_oldest(self) -> None:
        rows, buffer, done = self._under_way.popleft()
        done.synchronize()
        self._out[_index(rows, self._out)] = buffer


def _index(rows: np.ndarray, out: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(rows).to(out.device)
