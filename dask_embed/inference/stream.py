"""The rows of a partition, chunk by chunk: encoded, cut into batches, handed to the device.

So that besides its results only the tokens of a few chunks are in memory: while the batches of one
run, the next is tokenized. The task's own thread plans and waits; the work is done by the threads
of the device (`lanes`), for all partitions alike.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from dask_embed import config
from dask_embed.inference.batching import plan_batches
from dask_embed.inference.execution import Execution
from dask_embed.inference.runner import Runner
from dask_embed.models.vocabulary import Tables
from dask_embed.runtime.lanes import Jobs, lanes_of
from dask_embed.runtime.stats import Meter
from dask_embed.tokens.encoded import Encoded
from dask_embed.tokens.lists import TokenLists
from dask_embed.tokens.sequences import encoding_problem
from dask_embed.tokens.sharing import tokenizing_for

# A chunk holds the tokens of about so many batches: enough to sort by length, little memory.
_BATCHES_PER_CHUNK = 32
_CHARACTERS_PER_TOKEN = 4
CHUNKS_UNDER_WAY = 2
# A few texts are parted among the lanes, but not into batches of fewer tokens than this.
_SMALLEST_SHARE = 256


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


@dataclass
class Stream:
    """Give the rows of a partition to a model.

    Attributes
    ----------
    runner : Runner
    encode : callable
        ``(row numbers) -> Encoded``, called on the threads of the device.
    sizes : sequence of int or None
        Characters of each row, which say where chunks end; None for rows that do not run.
    meter : Meter
    batching : Batching
    longest : int or None
        Most tokens of a row.
    failures : dict
        Row number to message, for rows that could not be encoded or run.
    """

    runner: Runner
    encode: Callable[[np.ndarray], Encoded]
    sizes: Sequence[int | None]
    meter: Meter
    batching: Batching = Batching()
    longest: int | None = None
    failures: dict[int, str] = field(default_factory=dict)

    @contextlib.contextmanager
    def jobs(self) -> Iterator[Jobs]:
        """Give a place to submit to, for the time of the block."""
        device = self.runner.loaded.device
        self.meter.record.device = str(device)
        self.meter.record.max_length = self.longest
        with self.meter.sharing_out(), lanes_of(device).jobs() as jobs:
            yield jobs

    @property
    def padding_side(self) -> str:
        return self.batching.padding_side or self.runner.loaded.tokenizer.padding_side

    def chunks(self, jobs: Jobs) -> Iterator[Encoded]:
        """Yield all rows, encoded; the next chunk is made while one is used."""
        works = (partial(self._encode, rows) for rows in self._rows(jobs.lanes.count))
        upcoming = next(works, None)
        future = upcoming and jobs.tokenize(upcoming)
        while future:
            parts = future.result()
            upcoming = next(works, None)
            future = upcoming and jobs.tokenize(upcoming)
            for part in parts:
                self.failures.update(part.failures)
                self.meter.count(rows=len(part.failures))
                yield part

    def submit(
        self,
        jobs: Jobs,
        execution: Execution,
        encoded: Encoded,
        fresh: np.ndarray,
        names: np.ndarray,
    ) -> list[Future[None]]:
        """Submit the sequences at the places `fresh`, in batches under the budget.

        The execution's sink gets their `names`.
        """
        lengths = encoded.tokens.lengths if encoded.costs is None else encoded.costs
        batches = self._plan(lengths[fresh], jobs.lanes.count)
        threads = self._threads(len(batches), jobs.lanes.count)
        submitted = []
        for batch in batches:
            chosen = fresh[batch]
            tokens = encoded.tokens.take(chosen)
            work = partial(execution.run, names[chosen], tokens, lengths[chosen])
            submitted.append(jobs.run(work, threads))
        return submitted

    def _plan(self, lengths: np.ndarray, lanes: int) -> list[np.ndarray]:
        """Cut batches under the budget, small enough that every lane gets one."""
        budget = self.runner.budget.tokens(self._tokens_per_batch)
        parts = 1
        if self.runner.shares and lanes > 1:
            total = int(lengths.sum())
            rounds = -(-total // (lanes * budget))
            parts = max(1, min(lanes * rounds, total // _SMALLEST_SHARE))
        return plan_batches(
            lengths,
            max_tokens=budget,
            parts=parts,
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

    def _encode(self, rows: np.ndarray) -> list[Encoded]:
        """Encode `rows`, in halves where one of them cannot be, which is then named."""
        try:
            with self.meter.busy("tokenize"), tokenizing_for(self.meter):
                return [self._possible(within(self.runner.tables, self.encode(rows)))]
        except BaseException as error:
            problem = encoding_problem(error)
        if len(rows) > 1:
            half = len(rows) // 2
            return self._encode(rows[:half]) + self._encode(rows[half:])
        failed = {int(rows[0]): f"it cannot be encoded: {problem}"}
        return [Encoded(rows[:0], TokenLists.of([]), failures=failed)]

    def _possible(self, encoded: Encoded) -> Encoded:
        """Return what the model takes; a text without tokens never reaches it."""
        least = self.runner.verdict.shortest
        lengths = encoded.tokens.lengths
        if least == 1:
            return encoded
        short = np.flatnonzero((lengths > 0) & (lengths < least))
        return encoded.without(
            {
                int(encoded.rows[place]): f"of tokens it has {lengths[place]}, and the "
                f"model takes no fewer than {least}"
                for place in short
            }
        )

    def _rows(self, lanes: int) -> Iterator[np.ndarray]:
        """Yield the row numbers of each chunk."""
        batches = max(_BATCHES_PER_CHUNK, 4 * lanes)
        most = batches * self._tokens_per_batch * _CHARACTERS_PER_TOKEN
        longest = (self.longest or most) * _CHARACTERS_PER_TOKEN
        rows: list[int] = []
        characters = 0
        for row, size in enumerate(self.sizes):
            if size is None:
                continue
            rows.append(row)
            characters += min(size + _CHARACTERS_PER_TOKEN, longest)
            if characters >= most:
                yield np.array(rows)
                rows, characters = [], 0
        if rows:
            yield np.array(rows)


def within(tables: Tables, encoded: Encoded) -> Encoded:
    """Return the rows whose tokens all have an embedding; the others are failures.

    On a GPU an id without one would end all that the process may still do there.
    """
    failures = {
        **_beyond(encoded, encoded.tokens.types, tables.types, "token type"),
        **_beyond(encoded, encoded.tokens.values, tables.tokens, "token id"),
    }
    return encoded.without(failures)


def _beyond(
    encoded: Encoded, values: np.ndarray | None, table: int | None, what: str
) -> dict[int, str]:
    """Return the message of each row that has a value for which a table has no row."""
    if values is None or table is None or not len(values):
        return {}
    if int(values.max()) < table and int(values.min()) >= 0:
        return {}
    places = np.flatnonzero((values >= table) | (values < 0))
    sequences = np.searchsorted(encoded.tokens.offsets, places, side="right") - 1
    return {
        int(encoded.rows[sequence]): f"it has the {what} {values[place]}, and the model has "
        f"embeddings up to {table - 1}"
        for place, sequence in zip(places[::-1], sequences[::-1], strict=True)
    }


def wait_for(futures: Sequence[Future[None]]) -> None:
    """Return when all are done, or raise the first error."""
    for future in futures:
        future.result()
