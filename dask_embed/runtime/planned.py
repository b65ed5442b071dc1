"""Who is told what will be computed, while its plan is made."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

from dask_embed.runtime.within import set_within

_listeners: list[Callable[[Any], None]] = []
_looking_only: ContextVar[bool] = ContextVar("_looking_only", default=False)


@contextlib.contextmanager
def listening(listener: Callable[[Any], None]) -> Iterator[None]:
    """Tell `listener` each node that is planned within the block, in whatever thread."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def looking_only() -> contextlib.AbstractContextManager[None]:
    """Tell nobody of plans that are made within the block, since nothing is computed of them."""
    return set_within(_looking_only, True)


def tell(node: Any) -> None:
    """Say that a node is part of what will be computed; it may be said more than once."""
    for listener in () if _looking_only.get() else tuple(_listeners):
        listener(node)
