"""Values that hold within a block, in one thread or task."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")


@contextlib.contextmanager
def set_within(variable: ContextVar[T], value: T) -> Iterator[None]:
    """Give a variable another value within the block."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)
