"""Texts of a partition to rows of results: tokenize, batch, run, put every row in its place.

A partition streams through in chunks, so that besides its results only the tokens of a few chunks
are in memory: while the batches of one run, the next is tokenized. The task's own thread plans
and waits; the work is done by the threads of the device (`lanes`), for all partitions alike.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch

from dask_embed import config
from dask_embed.batching import plan_batches
from dask_embed.inference.execution import Execution, Sink
from dask_embed.inference.lanes import Jobs, lanes_of
from dask_embed.inference.memory import is_out_of_memory
from dask_embed.inference.runner import Runner
from dask_embed.inference.sinks import TokenVectorSink, VectorSink
from dask_embed.inference.stats import Meter
from dask_embed.tokenization import TextTokenizer, TokenLists

# A chunk holds the tokens of about so many batches: enough to sort by length, little memory.
_BATCHES_PER_CHUNK = 32
_CHARACTERS_PER_TOKEN = 4
_CHUNKS_UNDER_WAY = 2
# A few texts are parted among the lanes, but not into batches of fewer tokens than this.
_SMALLEST_SHARE = 256
Chunk = tuple[np.ndarray, TokenLists]
Reduce = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


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


@dataclass
class Partition:
    """The texts of one partition and what they run through.

    Attributes
    ----------
    runner : Runner
    tokenizer : TextTokenizer
    texts : sequence of str or None
        None rows have no result.
    meter : Meter
    batching : Batching
    on_device : bool
        Leave results on the model's device.
    prepare : callable
        Applied to each text before it is tokenized.
    """

    runner: Runner
    tokenizer: TextTokenizer
    texts: Sequence[str | None]
    meter: Meter
    batching: Batching = Batching()
    on_device: bool = False
    prepare: Callable[[str], str] = str
    failures: dict[int, str] = field(default_factory=dict)

    def vectors(self, reduce: Reduce, dimension: int, dtype: torch.dtype) -> Outcome:
        """Return one vector per text.

        Parameters
        ----------
        reduce : callable
            ``(token vectors, lengths) -> vectors`` of a batch, shape (texts, dimension).
        dimension : int
        dtype : torch.dtype
            Of the result.
        """
        out = self._allocate((len(self.texts), dimension), dtype)
        with self._jobs() as jobs:
            self._run(jobs, VectorSink(out, reduce), self._tokenized(jobs))
        return Outcome(out, self.failures)

    def token_vectors(self) -> Outcome:
        """Return the last hidden state of every token, float32, shape (tokens, hidden size)."""
        with self._jobs() as jobs:
            chunks = list(self._tokenized(jobs))
            lengths = np.zeros(len(self.texts), np.int64)
            for rows, tokens in chunks:
                lengths[rows] = tokens.lengths
            ends = np.cumsum(lengths)
            size = (int(lengths.sum()), self.runner.loaded.checkpoint.hidden_size)
            out = self._allocate(size, torch.float32)
            self._run(jobs, TokenVectorSink(out, ends - lengths), iter(chunks))
        lost = np.isin(np.arange(len(lengths)), list(self.failures))
        if lengths[lost].any():
            out = out[torch.from_numpy(np.repeat(~lost, lengths)).to(out.device)]
            lengths[lost] = 0
        return Outcome(out, self.failures, lengths)

    @contextlib.contextmanager
    def _jobs(self) -> Iterator[Jobs]:
        device = self.runner.loaded.device
        self.meter.record.device = str(device)
        with self.meter.sharing_out(), lanes_of(device).jobs() as jobs:
            yield jobs

    def _run(self, jobs: Jobs, sink: Sink, chunks: Iterator[Chunk]) -> None:
        """Submit the batches of each chunk, at most two chunks at a time."""
        execution = Execution(self.runner, self.batching.padding_side, sink, self.meter)
        under_way: deque[list[Future[None]]] = deque()
        for rows, tokens in chunks:
            fresh = execution.first_seen(rows, tokens)
            batches = self._plan(tokens.lengths[fresh], jobs.lanes.count)
            threads = self._threads(len(batches), jobs.lanes.count)
            submitted = []
            for batch in batches:
                chosen = fresh[batch]
                work = partial(execution.run, rows[chosen], tokens.take(chosen))
                submitted.append(jobs.run(work, threads))
            under_way.append(submitted)
            if len(under_way) == _CHUNKS_UNDER_WAY:
                _finish(under_way.popleft())
        while under_way:
            _finish(under_way.popleft())
        execution.finish()
        self.failures.update(execution.failures)

    def _plan(self, lengths: np.ndarray, lanes: int) -> list[np.ndarray]:
        """Cut batches under the budget, small enough that every lane gets one."""
        budget = self.runner.budget.tokens(self._tokens_per_batch)
        if self.runner.shares and lanes > 1:
            share = -(-int(lengths.sum()) // lanes)
            budget = min(budget, max(share, _SMALLEST_SHARE))
        return plan_batches(
            lengths,
            max_tokens=budget,
            max_rows=self.batching.max_rows,
            padded=not self.runner.runs_packed(int(lengths.max(initial=0))),
            quadratic=self.runner.budget.quadratic,
        )

    def _threads(self, batches: int, lanes: int) -> int:
        """Return the math threads of a batch: more than one where there are idle lanes."""
        return max(1, lanes // max(batches, 1)) if self.runner.shares else lanes

    @property
    def _tokens_per_batch(self) -> int:
        device = self.runner.loaded.device.type
        return self.batching.max_tokens or config.get("tokens-per-batch")[device]

    def _tokenized(self, jobs: Jobs) -> Iterator[Chunk]:
        """Yield row numbers and token lists; the next chunk is made while one is used."""
        works = (partial(self._tokenize, rows) for rows in self._chunks(jobs.lanes.count))
        upcoming = next(works, None)
        future = upcoming and jobs.tokenize(upcoming)
        while future:
            parts = future.result()
            upcoming = next(works, None)
            future = upcoming and jobs.tokenize(upcoming)
            yield from parts

    def _tokenize(self, rows: np.ndarray) -> list[Chunk]:
        """Tokenize `rows`, in halves where one of them cannot be, which is then named."""
        try:
            with self.meter.busy("tokenize"):
                texts = [self.prepare(self.texts[row]) for row in rows]
                return [(rows, self.tokenizer(texts))]
        except Exception as error:  # tokenizers raise bare exceptions
            problem = str(error) or type(error).__name__
        if len(rows) > 1:
            half = len(rows) // 2
            return self._tokenize(rows[:half]) + self._tokenize(rows[half:])
        self.failures[int(rows[0])] = f"it cannot be tokenized: {problem}"
        self.meter.count(rows=1)
        return []

    def _chunks(self, lanes: int) -> Iterator[np.ndarray]:
        batches = max(_BATCHES_PER_CHUNK, 4 * lanes)
        most = batches * self._tokens_per_batch * _CHARACTERS_PER_TOKEN
        longest = (self.tokenizer.max_length or most) * _CHARACTERS_PER_TOKEN
        added = len(self.prepare("")) + _CHARACTERS_PER_TOKEN
        rows: list[int] = []
        characters = 0
        for row, text in enumerate(self.texts):
            if text is None:
                continue
            rows.append(row)
            characters += min(len(text) + added, longest)
            if characters >= most:
                yield np.array(rows)
                rows, characters = [], 0
        if rows:
            yield np.array(rows)

    def _allocate(self, shape: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
        device = self.runner.loaded.device if self.on_device else torch.device("cpu")
        try:
            return torch.zeros(shape, dtype=dtype, device=device)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            size = shape[0] * shape[1] * dtype.itemsize / 2**30
            raise MemoryError(
                f"the results of a partition of {len(self.texts)} rows take {size:.1f} GiB of "
                f"{device} memory, which is not there; use smaller partitions "
                "(ddf.repartition(partition_size=...))"
            ) from error


def _finish(futures: list[Future[None]]) -> None:
    for future in futures:
        future.result()
