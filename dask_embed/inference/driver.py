"""The rows of a partition through a model: one loop, whatever is read and whatever it gives.

Encode, take repeats out, plan batches, run them on the threads of the device, in halves where
memory asks for it, two chunks under way, and put results in their places. What is read is any kind
of `Samples`, what it gives goes to a `Sink`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from dask_embed.inference.batching import padded_on, plan_batches
from dask_embed.inference.execution import Execution
from dask_embed.inference.repeats import Claimed, Repeats
from dask_embed.inference.sink import Sink
from dask_embed.inference.stream import Stream
from dask_embed.runtime.lanes import Jobs
from dask_embed.tokens.encoded import Encoded

_CHUNKS_UNDER_WAY = 2


@dataclass
class _Scope:
    """What ends together: a chunk, or where results are kept the partition."""

    execution: Execution
    repeats: Repeats


@dataclass
class _Chunk:
    """What is under way."""

    encoded: Encoded
    names: np.ndarray
    scope: _Scope
    futures: list[Future[None]]


class Driver:
    """Run a stream.

    Parameters
    ----------
    stream : Stream
    compute : callable
        ``(samples) -> results`` of a batch, one for each sample.
    sink : Sink
    repeats : bool
        Equal samples have equal results.
    claims : Claimed, optional
        What other partitions have computed, for a sink that keeps.
    """

    def __init__(
        self,
        stream: Stream,
        compute: Callable[[Any], Any],
        sink: Sink,
        *,
        repeats: bool = True,
        claims: Claimed | None = None,
    ) -> None:
        self._stream = stream
        self._sink = sink
        self._compute = partial(_padded_on, stream.batching.padding_side, compute)
        self._claims = claims
        self._finds_repeats = repeats
        self._whole = self._scope()

    def run(self) -> None:
        """Run all chunks of the stream; rows that fail are in its `failures`."""
        with self._stream.jobs() as jobs:
            self.run_chunks(jobs, self._stream.chunks(jobs))

    def run_chunks(self, jobs: Jobs, chunks: Iterable[Encoded]) -> None:
        """Run chunks of the stream, at most two at a time."""
        under_way: deque[_Chunk] = deque()
        try:
            for encoded in chunks:
                under_way.append(self._begin(jobs, encoded))
                if len(under_way) == _CHUNKS_UNDER_WAY:
                    self._end(under_way.popleft())
            while under_way:
                self._end(under_way.popleft())
            if self._sink.keeps:
                self._finish(jobs)
        finally:
            if self._claims is not None:
                self._claims.release()

    def _scope(self) -> _Scope:
        runner, meter = self._stream.runner, self._stream.meter
        execution = Execution(
            runner, self._compute, self._sink, meter, counts_rows=self._stream.counts_rows
        )
        return _Scope(execution, Repeats(self._claims))

    def _begin(self, jobs: Jobs, encoded: Encoded) -> _Chunk:
        names = self._sink.begin(encoded)
        scope = self._whole if self._sink.keeps else self._scope()
        if self._finds_repeats:
            fresh = scope.repeats.first_seen(names, encoded.samples)
        else:
            fresh = np.flatnonzero(encoded.samples.lengths)
        rows = int(self._stream.counts_rows and _is_one_each(encoded))
        self._stream.count(rows * (len(names) - len(fresh)))
        futures = self._submit(jobs, scope.execution, encoded, fresh, names, rows)
        return _Chunk(encoded, names, scope, futures)

    def _end(self, chunk: _Chunk) -> None:
        """Wait for a chunk, and have it used up unless the sink keeps all."""
        _wait_for(chunk.futures)
        if self._sink.keeps:
            return
        rows = chunk.encoded.rows
        failures = self._complete(chunk.scope)
        if failures:
            named = zip(rows.tolist(), chunk.names.tolist(), strict=True)
            lost = {row: failures[name] for row, name in named if name in failures}
            self._stream.failures.update(lost)
        if not _is_one_each(chunk.encoded):
            self._stream.count(len(np.unique(rows)))
        with self._stream.meter.seconds("convert"):
            self._sink.end(chunk.encoded, chunk.names, self._stream.failures)

    def _complete(self, scope: _Scope) -> dict[int, str]:
        """Give repeats their results, and return what failed, by name."""
        failures = {**scope.execution.failures, **self._sink.failures}
        with self._stream.meter.seconds("convert"):
            self._sink.flush()
            scope.repeats.copy_all(self._sink, failures)
        return failures

    def _finish(self, jobs: Jobs) -> None:
        """Bring together what other partitions computed, and give repeats their results."""
        execution = self._whole.execution
        if self._claims is not None:
            with self._stream.meter.seconds("convert"):
                self._sink.flush()
            self._claims.publish({**execution.failures, **self._sink.failures})
            self._claims.release()
            lost = self._claims.collect()
            if len(lost):
                self._stream.count(-len(lost))  # they are counted again when they run
                encoded = self._stream.encode(lost)
                _wait_for(self._submit(jobs, execution, encoded, np.arange(len(lost)), lost, 1))
        self._stream.failures.update(self._complete(self._whole))

    def _submit(
        self,
        jobs: Jobs,
        execution: Execution,
        encoded: Encoded,
        fresh: np.ndarray,
        names: np.ndarray,
        rows: int,
    ) -> list[Future[None]]:
        """Submit the samples at the places `fresh`, in batches under the budget."""
        costs = encoded.samples.lengths if encoded.costs is None else encoded.costs
        batches = self._plan(costs[fresh], jobs.lanes.count)
        threads = self._threads(len(batches), jobs.lanes.count)
        submitted = []
        for batch in batches:
            chosen = fresh[batch]
            samples = encoded.samples.take(chosen)
            work = partial(execution.run, names[chosen], samples, costs[chosen], rows)
            submitted.append(jobs.run(work, threads))
        return submitted

    def _plan(self, costs: np.ndarray, lanes: int) -> list[np.ndarray]:
        """Cut batches under the budget, small enough that every lane gets one."""
        runner = self._stream.runner
        budget = runner.budget.tokens(self._stream.tokens_per_batch)
        parts = 1
        if runner.shares and lanes > 1:
            total = int(costs.sum())
            rounds = -(-total // (lanes * budget))
            parts = max(1, min(lanes * rounds, total // runner.smallest_share))
        return plan_batches(
            costs,
            max_tokens=budget,
            parts=parts,
            max_rows=self._stream.batching.max_rows,
            padded=not runner.runs_packed(int(costs.max(initial=0))),
            quadratic=runner.budget.quadratic,
        )

    def _threads(self, batches: int, lanes: int) -> int:
        """Return the math threads of a batch: more than one where there are idle lanes."""
        return max(1, lanes // max(batches, 1)) if self._stream.runner.shares else lanes


def _padded_on(side: str | None, compute: Callable[[Any], Any], samples: Any) -> Any:
    with padded_on(side):
        return compute(samples)


def _is_one_each(encoded: Encoded) -> bool:
    """Return whether every row has one sample, so that rows are counted batch by batch."""
    rows = encoded.rows
    return len(rows) < 2 or bool((rows[1:] != rows[:-1]).all())


def _wait_for(futures: Sequence[Future[None]]) -> None:
    """Return when all are done, or raise the first error."""
    for future in futures:
        future.result()
