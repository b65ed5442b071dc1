"""Who computes when: the threads of a device, which take batches of all partitions."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

import torch

from dask_embed.models.malloc import give_back_freed_memory
from dask_embed.models.process import claim_process, math_threads, set_math_threads

T = TypeVar("T")
_lock = threading.Lock()
_lanes: dict[tuple[str, int], Lanes] = {}


def lanes_of(device: torch.device) -> Lanes:
    """Return this process's lanes of `device`: on a CPU as many as torch, or the worker, has.

    Raises
    ------
    RuntimeError
        In a process that was forked from one in which models ran.
    """
    claim_process()
    count = math_threads() if device.type == "cpu" else 1
    with _lock:
        key = (str(device), count)
        if key not in _lanes:
            _lanes[key] = Lanes(device, count)
        return _lanes[key]


class Lanes:
    """Threads that each run a batch of their own.

    On a CPU there is one per core, and each computes alone: in a team of math threads all wait
    for the slowest at every step, which is costly where something else runs on one of the cores.
    Texts are tokenized on the same threads. A GPU has one lane, and a thread that tokenizes
    meanwhile.

    Attributes
    ----------
    count : int
        Batches that run at a time.
    """

    def __init__(self, device: torch.device, count: int) -> None:
        self.count = count
        self._on_cpu = device.type == "cpu"
        self._free = count
        self._changed = threading.Condition()
        self._pool = ThreadPoolExecutor(count, thread_name_prefix=f"dask-embed-{device}")
        self._tokenizing = self._pool
        if not self._on_cpu:
            self._tokenizing = ThreadPoolExecutor(1, thread_name_prefix="dask-embed-tokenize")

    @contextlib.contextmanager
    def jobs(self) -> Iterator[Jobs]:
        """Give a place to submit to; on leaving, what has not begun is dropped."""
        jobs = Jobs(self)
        try:
            yield jobs
        finally:
            jobs.drop()

    def submit(self, work: Callable[[], T], threads: int = 1) -> Future[T]:
        """Run `work` on a lane, with so many math threads."""
        return self._pool.submit(self._run, work, threads)

    def submit_tokenizing(self, work: Callable[[], T]) -> Future[T]:
        """Submit to the lanes of a CPU, beside those of a GPU."""
        return self._tokenizing.submit(self._run, work, 1)

    def _run(self, work: Callable[[], T], threads: int) -> T:
        if not self._on_cpu:
            return work()
        with self._changed:
            self._changed.wait_for(lambda: self._free >= threads)
            self._free -= threads
        try:
            set_math_threads(threads)
            return work()
        finally:
            try:
                # a setting that changed meanwhile is no reason to lose a batch
                with contextlib.suppress(Exception):
                    give_back_freed_memory()
            finally:
                with self._changed:
                    self._free += threads
                    self._changed.notify_all()


class Jobs:
    """What one partition has submitted."""

    def __init__(self, lanes: Lanes) -> None:
        self.lanes = lanes
        self._futures: list[Future[Any]] = []

    def run(self, work: Callable[[], T], threads: int = 1) -> Future[T]:
        """Submit a batch that uses so many of the cores."""
        return self._kept(self.lanes.submit(work, threads))

    def tokenize(self, work: Callable[[], T]) -> Future[T]:
        return self._kept(self.lanes.submit_tokenizing(work))

    def drop(self) -> None:
        """Cancel what has not begun, and wait for what has."""
        for future in self._futures:
            future.cancel()
        wait(self._futures)
        self._futures.clear()

    def _kept(self, future: Future[T]) -> Future[T]:
        self._futures = [other for other in self._futures if not other.done()]
        self._futures.append(future)
        return future
