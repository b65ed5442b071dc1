"""What this process has run: totals while it runs, and one record per partition."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from typing import Any

from distributed.metrics import context_meter

from dask_embed.runtime import prometheus

_KEPT_RECORDS = 10_000
_lock = threading.Lock()
_totals: Counter[str] = Counter()
# Among the totals: rows of finished partitions that are not counted as `rows`.
_REST = "rest"
# Sums over all records, those that are not kept any more included, and how many `partitions`.
_recorded: Counter[str] = Counter()
_records: deque[PartitionStats] = deque(maxlen=_KEPT_RECORDS)


@dataclasses.dataclass
class PartitionStats:
    """One operator on one partition.

    Attributes
    ----------
    operator, model, device : str
    rows : int
        Rows with a text; nulls are not counted.
    cached : int
        Rows of these that did not run, since `cache` had their results.
    failed : int
        Rows that could not be used, and became null where that was asked for.
    unique_rows : int
        Rows that the model ran; the others repeat one of them, or have no tokens.
    tokenized : int
        Texts that were given to a tokenizer; of those that operators share, once.
    truncated : int
        Texts of these that have more tokens than `max_length`, of which the rest was not read.
    max_length : int or None
        The limit in force, in tokens; None where nothing limits a text, or windows read it whole.
    tokens : int
        Tokens of the unique rows.
    padding : int
        Tokens that were computed only because a batch was padded.
    batches : int
        Forward passes.
    splits : int
        Batches that did not fit in memory and were halved.
    pairs, alike : int
        Pairs of rows that a step over a corpus compared, and those of them that were alike.
    tokenize_seconds, forward_seconds, convert_seconds, waiting_seconds : float
        Wall time: texts to tokens; the model and its head; columns to texts and results to
        columns; waiting while the device ran other partitions. Tokenizing and the forward pass
        overlap; they share out the time in which either ran, by how long each did.
    """

    operator: str
    model: str
    device: str = ""
    rows: int = 0
    cached: int = 0
    failed: int = 0
    unique_rows: int = 0
    tokenized: int = 0
    truncated: int = 0
    max_length: int | None = None
    tokens: int = 0
    padding: int = 0
    batches: int = 0
    splits: int = 0
    pairs: int = 0
    alike: int = 0
    tokenize_seconds: float = 0.0
    forward_seconds: float = 0.0
    convert_seconds: float = 0.0
    waiting_seconds: float = 0.0


_PHASES = ("tokenize", "forward", "convert", "waiting")
_COUNTS = tuple(f.name for f in dataclasses.fields(PartitionStats) if f.type == "int")


class Meter:
    """Fill one `PartitionStats`, the totals of the process, and Dask's own metrics.

    Parameters
    ----------
    operator, model : str
    shared : SharedTokens, optional
        Tokens of the partition that other operators on it use too.

    Notes
    -----
    `count` and `busy` are for any thread, the rest for the thread of the task, whose metrics
    `distributed` collects.
    """

    def __init__(self, operator: str, model: str, shared: Any = None) -> None:
        self.record = PartitionStats(operator, model)
        self.shared = shared
        self._lock = threading.Lock()
        self._working = 0
        self._since = 0.0
        self._covered = 0.0
        self._spent: dict[str, float] = {}

    def count(self, **amounts: int) -> None:
        """Add to counts of the record and of the process, from any thread."""
        with _lock:
            for name, amount in amounts.items():
                setattr(self.record, name, getattr(self.record, name) + amount)
            _totals.update(amounts)

    @contextlib.contextmanager
    def seconds(self, phase: str) -> Iterator[None]:
        """Add the wall time of the block, in the task's own thread, to ``<phase>_seconds``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._add(phase, time.perf_counter() - start)

    @contextlib.contextmanager
    def busy(self, phase: str) -> Iterator[None]:
        """Note that a thread of the device works for this partition within the block."""
        start = time.perf_counter()
        with self._lock:
            self._working += 1
            if self._working == 1:
                self._since = start
        try:
            yield
        finally:
            stop = time.perf_counter()
            with self._lock:
                self._spent[phase] = self._spent.get(phase, 0.0) + stop - start
                self._working -= 1
                if not self._working:
                    self._covered += stop - self._since

    @contextlib.contextmanager
    def sharing_out(self) -> Iterator[None]:
        """Share out the wall time of the block among what was `busy`, the rest is waiting."""
        start = time.perf_counter()
        try:
            yield
        finally:
            wall = time.perf_counter() - start
            covered = min(self._covered, wall)
            total = sum(self._spent.values())
            for phase, spent in self._spent.items():
                self._add(phase, covered * spent / total)
            self._add("waiting", wall - covered)

    def _add(self, phase: str, seconds: float) -> None:
        name = f"{phase}_seconds"
        setattr(self.record, name, getattr(self.record, name) + seconds)
        context_meter.digest_metric(f"model-{phase}", seconds, "seconds")

    def complete(self, size: int) -> None:
        """Say that a partition of so many rows is done, those of nulls and no text included."""
        with _lock:
            _totals[_REST] += size - self.record.rows

    def finish(self) -> None:
        """Keep the record, and tell a distributed worker the counts."""
        record = self.record
        amounts = {name: getattr(record, name) for name in _COUNTS}
        with _lock:
            _records.append(record)
            _recorded.update({**amounts, "partitions": 1})
        for name, amount in amounts.items():
            context_meter.digest_metric(f"model-{name}", amount, name)
        seconds = {phase: getattr(record, f"{phase}_seconds") for phase in _PHASES}
        prometheus.count(record.operator, amounts, seconds)


@contextlib.contextmanager
def writing(method: str = "to_parquet") -> Iterator[None]:
    """Tell a distributed worker, and Prometheus, how long a partition took to write."""
    start = time.perf_counter()
    try:
        yield
    finally:
        spent = time.perf_counter() - start
        context_meter.digest_metric("model-write", spent, "seconds")
        prometheus.count(method, {}, {"write": spent})


@contextlib.contextmanager
def metered(operator: str, model: str, size: int, shared: Any = None) -> Iterator[Meter]:
    """Give a meter for a partition of `size` rows; its record is kept, also after an error."""
    meter = Meter(operator, model, shared)
    try:
        yield meter
        meter.complete(size)
    finally:
        meter.finish()


def totals() -> dict[str, int]:
    """Return the counts of `PartitionStats` summed over this process so far."""
    with _lock:
        return {name: _totals[name] for name in _COUNTS}


def rows_done() -> int:
    """Return the rows that operators are done with in this process so far, nulls included."""
    with _lock:
        return _totals["rows"] + _totals[_REST]


def recorded() -> dict[str, int]:
    """Return the counts of all records summed, those that are not kept any more included.

    And how many `partitions` they are of. Rows count also where no text ran through a model.
    """
    with _lock:
        return {name: _recorded[name] for name in (*_COUNTS, "partitions")}


def records() -> list[PartitionStats]:
    """Return the latest 10,000 partitions of this process, oldest first."""
    with _lock:
        return list(_records)
