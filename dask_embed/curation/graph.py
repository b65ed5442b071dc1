"""Tasks of a node that takes several steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dask_embed.lazy._dask import Expr, List, Task, TaskRef

SPLIT = 8  # results of tasks that one task joins


class StepGraph:
    """The tasks of a node, each step under a name of its own.

    Parameters
    ----------
    kind : str
        What the names begin with.
    token : str
        Of the node.
    """

    def __init__(self, kind: str, token: str) -> None:
        self._kind, self._token = kind, token
        self.tasks: dict[Any, Any] = {}

    def add(self, step: str, number: int, function: Callable[..., Any], *args: Any) -> TaskRef:
        """Add a task, and return what stands for its result."""
        key = (f"{self._kind}-{step}-{self._token}", number)
        self.tasks[key] = Task(key, function, *args)
        return TaskRef(key)

    def task(self, key: Any, function: Callable[..., Any], *args: Any) -> None:
        """Add the task that makes a result of the node."""
        self.tasks[key] = Task(key, function, *args)

    def each(
        self, step: str, function: Callable[..., Any], parts: Sequence[TaskRef], *args: Any
    ) -> list[TaskRef]:
        """Add a task for each of some results."""
        return [self.add(step, place, function, part, *args) for place, part in enumerate(parts)]

    def tree(
        self, step: str, function: Callable[..., Any], parts: Sequence[TaskRef], number: int = 0
    ) -> TaskRef:
        """Join results a few at a time, always in the same order; `function` takes a list."""
        level, joined = 0, list(parts)
        while level == 0 or len(joined) > 1:
            groups = [joined[start : start + SPLIT] for start in range(0, len(joined), SPLIT)]
            joined = [
                self.add(f"{step}-{number}-{level}", place, function, List(*group))
                for place, group in enumerate(groups)
            ]
            level += 1
        return joined[0]

    def result(self, key: Any, found: TaskRef) -> None:
        """Let `key` stand for a result."""
        self.task(key, _same, found)


def partitions_of(frame: Expr) -> list[TaskRef]:
    """Return what stands for each partition of a frame."""
    return [TaskRef((frame._name, number)) for number in range(frame.npartitions)]


def _same(value: Any) -> Any:
    return value
