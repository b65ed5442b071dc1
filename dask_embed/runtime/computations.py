"""Whether anybody still waits for what a task computes.

Dask's threads go on with the tasks that are under way when the computation has ended, by Ctrl-C or
because another task failed; so does a worker with a task that was cancelled. They would keep the
device busy for nobody.
"""

from __future__ import annotations

from concurrent.futures import CancelledError
from contextvars import ContextVar
from typing import Any, Protocol

from dask.callbacks import Callback


class Computation(Protocol):
    """What a task belongs to."""

    def wanted(self) -> bool:
        """Return whether somebody waits for it."""

    def error(self) -> Exception:
        """Return what ends a task that nobody waits for."""


class _Local:
    """A computation of Dask's threaded or synchronous scheduler."""

    def __init__(self, outer: Computation | None) -> None:
        self.outer = outer
        self.over = False

    def wanted(self) -> bool:
        return not self.over

    def error(self) -> Exception:
        return CancelledError("the computation has ended, so nobody waits for this partition")


class _Task:
    """A task of a distributed worker."""

    def __init__(self, worker: Any, key: Any) -> None:
        self._worker = worker
        self._key = key

    def wanted(self) -> bool:
        task = self._worker.state.tasks.get(self._key)
        return task is None or task.state != "cancelled"

    def error(self) -> Exception:
        from distributed import Reschedule

        return Reschedule()  # if it is wanted again meanwhile, it runs again instead of failing


# Dask's threads inherit it from the thread that computes.
_current: ContextVar[Computation | None] = ContextVar("_current", default=None)


def current() -> Computation | None:
    """Return what the task of this thread belongs to, None outside of Dask."""
    return _current.get() or _task()


def _task() -> Computation | None:
    from distributed.worker import get_worker

    try:
        worker = get_worker()
        return _Task(worker, worker.get_current_task())
    except (KeyError, ValueError):  # no worker, or none of its threads for tasks
        return None


def belongs_to(computation: Computation | None) -> None:
    """Say that this thread works for `computation` from now on."""
    _current.set(computation)


def require_wanted() -> None:
    """Raise what ends the task, if nobody waits for what this thread works for."""
    computation = current()
    if computation is not None and not computation.wanted():
        raise computation.error()


def follow() -> None:
    """Have Dask's local schedulers tell when they begin and end, from now on.

    To be called where work is planned: Dask forgets what is registered when computations of
    several threads overlap. Then their tasks just run to the end.
    """
    _FOLLOWER.register()


def _begin(graph: Any) -> None:
    _current.set(_Local(_current.get()))


def _end(graph: Any, state: Any, failed: bool) -> None:
    computation = _current.get()
    if isinstance(computation, _Local):
        computation.over = True
        _current.set(computation.outer)


_FOLLOWER = Callback(start=_begin, finish=_end)
