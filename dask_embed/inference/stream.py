"""The rows of a partition, chunk by chunk, as samples for a model.

So that besides its results only the samples of a few chunks are in memory: while the batches of
one run, the next is encoded. The task's own thread waits; the work is done by the threads of the
device (`lanes`), for all partitions alike.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np
import torch

from dask_embed import config
from dask_embed.inference.memory import Budget
from dask_embed.runtime.lanes import Jobs, lanes_of
from dask_embed.runtime.stats import Meter
from dask_embed.tokens.encoded import Encoded
from dask_embed.tokens.sharing import tokenizing_for
from dask_embed.tokens.slices import in_halves, slices

# A chunk holds the tokens of about so many batches: enough to sort by length, little memory. Those
# of a GPU are large, and it waits for the first chunk.
_BATCHES_PER_CHUNK = {"cpu": 32}
_BATCHES_PER_CHUNK_OTHERWISE = 4
_CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True)
class Batching:
    """How batches are cut; none of it changes a result.

    Attributes
    ----------
    max_tokens : int or None
        Token budget of a batch, by default ``embed.tokens-per-batch`` for the model's device,
        less where memory asks for it.
    max_rows : int or None
        At most so many rows in a batch.
    padding_side : str or None
        Where padded batches are filled up, by default as the tokenizer says.
    """

    max_tokens: int | None = None
    max_rows: int | None = None
    padding_side: str | None = None

    @classmethod
    def least(cls, several: Sequence[Batching]) -> Batching:
        """Return the smallest batches that several ask for."""
        tokens = [each.max_tokens for each in several if each.max_tokens is not None]
        rows = [each.max_rows for each in several if each.max_rows is not None]
        sides = [each.padding_side for each in several if each.padding_side is not None]
        return cls(min(tokens, default=None), min(rows, default=None), next(iter(sides), None))


class Running(Protocol):
    """A model that runs samples of one kind on a device; of token lists it is a `Runner`.

    Attributes
    ----------
    budget : Budget
        What its batches may take.
    phase : str
        What statistics call the time of its batches.
    smallest_share : int
        A few samples are parted among the lanes, but not into batches of less than this.
    """

    budget: Budget
    phase: str
    smallest_share: int

    @property
    def device(self) -> torch.device: ...

    @property
    def shares(self) -> bool:
        """Whether several threads may run it at a time."""

    def usable(self, encoded: Encoded) -> Encoded:
        """Return the rows that it takes; the others are failures."""

    def runs_packed(self, longest: int) -> bool:
        """Return whether a batch with a sample of this length takes no more than its samples."""

    def amounts(self, lengths: np.ndarray) -> dict[str, int]:
        """Return what statistics count of a batch of samples of these lengths."""

    def session(self) -> contextlib.AbstractContextManager[None]:
        """Give the context to compute in."""


@dataclass
class Stream:
    """Give the rows of a partition to a model.

    Attributes
    ----------
    runner : Running
    encode : callable
        ``(row numbers) -> Encoded``, called on the threads of the device.
    sizes : sequence of int or None
        Characters of each row, which say where chunks end; None for rows that do not run.
    meter : Meter
    batching : Batching
    longest : int or None
        Most tokens of a row.
    counts_rows : bool
        Nobody else counts the rows that are done.
    failures : dict
        Row number to message, for rows that could not be encoded or run.
    """

    runner: Running
    encode: Callable[[np.ndarray], Encoded]
    sizes: Sequence[int | None]
    meter: Meter
    batching: Batching = Batching()
    longest: int | None = None
    counts_rows: bool = True
    failures: dict[int, str] = field(default_factory=dict)

    @contextlib.contextmanager
    def jobs(self) -> Iterator[Jobs]:
        """Give a place to submit to, for the time of the block."""
        device = self.runner.device
        self.meter.record.device = str(device)
        self.meter.record.max_length = self.longest
        with self.meter.sharing_out(), lanes_of(device).jobs() as jobs:
            yield jobs

    def chunks(self, jobs: Jobs) -> Iterator[Encoded]:
        """Yield all rows, encoded; the next chunk is made while one is used."""
        works = (partial(self._encode, rows) for rows in self._rows(jobs.lanes.count))
        upcoming = next(works, None)
        future = upcoming and jobs.tokenize(upcoming)
        while future:
            parts, problems = future.result()
            upcoming = next(works, None)
            future = upcoming and jobs.tokenize(upcoming)
            self._fail({row: f"it cannot be encoded: {why}" for row, why in problems.items()})
            for part in parts:
                self._fail(part.failures)
                yield part

    @property
    def tokens_per_batch(self) -> int:
        """What a batch may take, if memory has it."""
        return self.batching.max_tokens or config.get("tokens-per-batch")[self.runner.device.type]

    def _encode(self, rows: np.ndarray) -> tuple[list[Encoded], dict[int, str]]:
        with self.meter.busy("tokenize"), tokenizing_for(self.meter):
            return in_halves(lambda some: self.runner.usable(self.encode(some)), rows)

    def count(self, rows: int) -> None:
        """Count rows that are done, or take back that they are."""
        if self.counts_rows:
            self.meter.count(rows=rows)

    def _fail(self, failures: dict[int, str]) -> None:
        self.failures.update(failures)
        self.count(len(failures))

    def _rows(self, lanes: int) -> Iterator[np.ndarray]:
        """Yield the row numbers of each chunk."""
        kind = self.runner.device.type
        batches = max(_BATCHES_PER_CHUNK.get(kind, _BATCHES_PER_CHUNK_OTHERWISE), 4 * lanes)
        most = batches * self.tokens_per_batch * _CHARACTERS_PER_TOKEN
        longest = (self.longest or most) * _CHARACTERS_PER_TOKEN
        sizes = (
            None if size is None else min(size + _CHARACTERS_PER_TOKEN, longest)
            for size in self.sizes
        )
        return slices(sizes, most)
