"""Texts of a partition to vectors, every row in its place."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from dask_embed.inference.execution import Execution
from dask_embed.inference.memory import is_out_of_memory
from dask_embed.inference.repeats import Claims, Repeats
from dask_embed.inference.sinks import Reduction, TokenVectorSink, VectorSink
from dask_embed.inference.stream import CHUNKS_UNDER_WAY, Stream, wait_for
from dask_embed.runtime.lanes import Jobs
from dask_embed.tokens.encoded import Encoded
from dask_embed.tokens.lists import TokenLists


@dataclass(frozen=True)
class Outcome:
    """What became of the rows of a partition.

    Attributes
    ----------
    values : torch.Tensor
        One row per text, zeros where there is no result; or one row per token.
    failures : dict
        Row number to message, for rows that could not be run.
    lengths : numpy.ndarray
        Tokens of each row.
    """

    values: torch.Tensor
    failures: dict[int, str] = field(default_factory=dict)
    lengths: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))


def vectors(stream: Stream, reductions: Sequence[Reduction], *, on_device: bool) -> list[Outcome]:
    """Return one vector per text for each of the `reductions`, from one forward pass."""
    rows = len(stream.sizes)
    outs = [_allocate(stream, (rows, r.dimension), r.dtype, on_device) for r in reductions]
    sink = VectorSink(outs, reductions)
    claims = None
    if outs[0].device.type == "cpu" and stream.runner.vector_cache.holds(1):
        kind = tuple(reduction.kind for reduction in reductions)
        every: Any = _SideBySide(outs)
        claims = Claims(stream.runner.vector_cache, kind, every)
    try:
        with stream.jobs() as jobs:
            run = _Run(stream, jobs, sink, claims)
            run.all(stream.chunks(jobs))
            run.finish()
    finally:
        if claims is not None:
            claims.release()
    return [Outcome(out, stream.failures) for out in outs]


def token_vectors(stream: Stream, *, on_device: bool) -> Outcome:
    """Return the last hidden state of every token, float32, shape (tokens, hidden size)."""
    with stream.jobs() as jobs:
        chunks = list(stream.chunks(jobs))
        lengths = np.zeros(len(stream.sizes), np.int64)
        for encoded in chunks:
            lengths[encoded.rows] = encoded.tokens.lengths
        ends = np.cumsum(lengths)
        size = (int(lengths.sum()), stream.runner.loaded.checkpoint.hidden_size)
        out = _allocate(stream, size, torch.float32, on_device)
        run = _Run(stream, jobs, TokenVectorSink(out, ends - lengths))
        run.all(iter(chunks))
        run.finish()
    lost = np.isin(np.arange(len(lengths)), list(stream.failures))
    if lengths[lost].any():
        out = out[torch.from_numpy(np.repeat(~lost, lengths)).to(out.device)]
        lengths[lost] = 0
    return Outcome(out, stream.failures, lengths)


class _Run:
    """All batches of one partition."""

    def __init__(
        self,
        stream: Stream,
        jobs: Jobs,
        sink: VectorSink | TokenVectorSink,
        claims: Claims | None = None,
    ) -> None:
        self._stream = stream
        self._jobs = jobs
        self._sink = sink
        self._claims = claims
        self._repeats = Repeats(stream.meter)
        self._execution = Execution(
            stream.runner, self._compute, sink, stream.meter, counts_rows=True
        )

    def all(self, chunks: Iterator[Encoded]) -> None:
        """Submit the batches of each chunk, at most two chunks at a time."""
        under_way: deque[list[Future[None]]] = deque()
        for encoded in chunks:
            fresh = self._fresh(encoded)
            under_way.append(self._submit(encoded, fresh))
            if len(under_way) == CHUNKS_UNDER_WAY:
                wait_for(under_way.popleft())
        while under_way:
            wait_for(under_way.popleft())

    def finish(self) -> None:
        """Bring together what other partitions computed, and give repeats their results."""
        meter, failures = self._stream.meter, self._execution.failures
        with meter.seconds("convert"):
            self._sink.flush()
        if self._claims is not None:
            self._claims.publish(failures)
            self._claims.release()
            lost = self._claims.collect()
            if len(lost):
                meter.count(rows=-len(lost))  # they are counted again when they run
                encoded = self._stream.encode(lost)
                wait_for(self._submit(encoded, np.arange(len(lost))))
        failures = self._execution.failures
        with meter.seconds("convert"):
            self._sink.flush()
            self._repeats.copy_all(self._sink, failures)
        self._stream.failures.update(failures)

    def _fresh(self, encoded: Encoded) -> np.ndarray:
        """Return the places of a chunk that have to run."""
        fresh, digests = self._repeats.first_seen(encoded.rows, encoded.tokens)
        if self._claims is None or not len(fresh):
            return fresh
        runs = self._claims.to_compute(encoded.rows[fresh], digests)
        self._stream.meter.count(rows=int((~runs).sum()))
        return fresh[runs]

    def _submit(self, encoded: Encoded, fresh: np.ndarray) -> list[Future[None]]:
        return self._stream.submit(self._jobs, self._execution, encoded, fresh, encoded.rows)

    def _compute(self, tokens: TokenLists) -> torch.Tensor:
        return self._stream.runner.token_vectors(tokens, self._stream.padding_side)


class _SideBySide:
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


def _allocate(
    stream: Stream, shape: tuple[int, int], dtype: torch.dtype, on_device: bool
) -> torch.Tensor:
    device = stream.runner.loaded.device if on_device else torch.device("cpu")
    try:
        return torch.zeros(shape, dtype=dtype, device=device)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        size = shape[0] * shape[1] * dtype.itemsize / 2**30
        raise MemoryError(
            f"the results of a partition of {len(stream.sizes)} rows take {size:.1f} GiB of "
            f"{device} memory, which is not there; use smaller partitions "
            "(ddf.repartition(partition_size=...))"
        ) from error
