"""Who computes when: the threads of a device, which take batches of all partitions."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from dask_embed.runtime.computations import belongs_to, current
from dask_embed.runtime.malloc import give_back_freed_memory
from dask_embed.runtime.process import math_threads, set_math_threads

T = TypeVar("T")
_lock = threading.Lock()
_lanes: dict[tuple[str, int], Lanes] = {}


def lanes_of(device: torch.device) -> Lanes:
    """Return this process's lanes of `device`: on a CPU as many as torch, or the worker, has."""
    count = math_threads() if device.type == "cpu" else 1
    with _lock:
        key = (str(device), count)
        if key not in _lanes:
            _lanes[key] = Lanes(device, count)
        return _lanes[key]


@dataclass(eq=False)
class _Work:
    """Something to run on a lane, with so many math threads."""

    run: Callable[[], Any]
    threads: int
    future: Future[Any] = field(default_factory=Future)


class _Turns:
    """Threads that take work of all partitions in turn: a short one waits for no long one."""

    def __init__(self, count: int, name: str, run: Callable[[_Work], Any]) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix=name)
        self._run = run
        self._lock = threading.Lock()
        self._waiting: deque[Jobs] = deque()

    def add(self, jobs: Jobs, work: _Work, queue: deque[_Work]) -> None:
        """Queue work of `jobs`, whose work for these threads is in `queue`."""
        with self._lock:
            if not queue:
                self._waiting.append(jobs)
            queue.append(work)
        self._pool.submit(self._take)

    def _next(self) -> tuple[Jobs, _Work]:
        with self._lock:
            jobs = self._waiting.popleft()
            queue = jobs.queues[self]
            work = queue.popleft()
            if queue:
                self._waiting.append(jobs)
            return jobs, work

    def _take(self) -> None:
        jobs, work = self._next()
        future = work.future
        if not future.set_running_or_notify_cancel():
            return
        computation = jobs.computation
        if computation is not None and not computation.wanted():
            future.set_exception(computation.error())
            return
        belongs_to(computation)
        try:
            result = self._run(work)
        except BaseException as error:  # the partition's own thread raises it
            future.set_exception(error)
        else:
            future.set_result(result)
        finally:
            belongs_to(None)
            del jobs, work, future  # whose error refers to this frame


class Lanes:
    """Threads that each run a batch of their own.

    On a CPU there is one per core, and each computes alone: in a team of math threads all wait
    for the slowest at every step, which is costly where something else runs on one of the cores.
    Texts are tokenized on the same threads. A GPU has one lane, and a thread that tokenizes
    meanwhile. Partitions take turns, batch by batch.

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
        self._next: deque[_Work] = deque()
        self.computing = self.tokenizing = _Turns(count, f"dask-embed-{device}", self._run)
        if not self._on_cpu:
            self.tokenizing = _Turns(1, "dask-embed-tokenize", self._run)

    @contextlib.contextmanager
    def jobs(self) -> Iterator[Jobs]:
        """Give a place to submit to; on leaving, what has not begun is dropped."""
        jobs = Jobs(self)
        try:
            yield jobs
        finally:
            jobs.drop()

    def _run(self, work: _Work) -> Any:
        if not self._on_cpu:
            return work.run()
        self._take_cores(work)
        try:
            set_math_threads(work.threads)
            return work.run()
        finally:
            try:
                # a setting that changed meanwhile is no reason to lose a batch
                with contextlib.suppress(Exception):
                    give_back_freed_memory()
            finally:
                with self._changed:
                    self._free += work.threads
                    self._changed.notify_all()

    def _take_cores(self, work: _Work) -> None:
        """Wait for cores, one after the other: what needs several is not overtaken for ever."""
        with self._changed:
            self._next.append(work)
            self._changed.wait_for(lambda: self._next[0] is work and self._free >= work.threads)
            self._next.popleft()
            self._free -= work.threads
            self._changed.notify_all()


class Jobs:
    """What one partition has submitted.

    Attributes
    ----------
    computation : Computation or None
        What ends when nobody waits for the partition any more, and its work then.
    queues : dict
        What has not begun, by the threads that it is for.
    """

    def __init__(self, lanes: Lanes) -> None:
        self.lanes = lanes
        self.computation = current()
        self.queues: dict[_Turns, deque[_Work]] = {
            turns: deque() for turns in (lanes.computing, lanes.tokenizing)
        }
        self._futures: list[Future[Any]] = []

    def run(self, work: Callable[[], T], threads: int = 1) -> Future[T]:
        """Submit a batch that uses so many of the cores."""
        return self._submit(self.lanes.computing, _Work(work, threads))

    def tokenize(self, work: Callable[[], T]) -> Future[T]:
        """Submit to the lanes of a CPU, beside those of a GPU."""
        return self._submit(self.lanes.tokenizing, _Work(work, 1))

    def drop(self) -> None:
        """Cancel what has not begun, and wait for what has."""
        wait([future for future in self._futures if not future.cancel()])
        self._futures.clear()

    def _submit(self, turns: _Turns, work: _Work) -> Future[Any]:
        self._futures = [other for other in self._futures if not other.done()]
        self._futures.append(work.future)
        turns.add(self, work, self.queues[turns])
        return work.future


def _begin_anew() -> None:
    """Forget in a forked process the lanes of its parent, whose threads are not in it."""
    global _lock, _lanes
    _lock, _lanes = threading.Lock(), {}


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
