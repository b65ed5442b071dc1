"""What does not change, asked or looked at once: an object's word, files within a call."""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Callable, Hashable, Iterator
from contextvars import ContextVar
from typing import Any, TypeVar, cast

T = TypeVar("T")
Told = TypeVar("Told")


def remembered(tell: Callable[[T], Told]) -> Callable[[T], Told]:
    """Return `tell`, a function of one object, so that each object is asked once while it lives.

    Objects are told apart as such, not by their values, which may be long or have no hash.
    """
    known: dict[int, tuple[weakref.ref[T], Told]] = {}

    @functools.wraps(tell)
    def ask(thing: T) -> Told:
        place = id(thing)
        found = known.get(place)
        if found is not None and found[0]() is thing:
            return found[1]
        told = tell(thing)
        known[place] = (weakref.ref(thing, lambda _: known.pop(place, None)), told)
        return told

    return ask


_looked: ContextVar[dict[Any, Any] | None] = ContextVar("_looked", default=None)


@contextlib.contextmanager
def looking_once() -> Iterator[None]:
    """Look at what `looked` names once within the block: files do not change meanwhile."""
    token = _looked.set({} if (known := _looked.get()) is None else known)
    try:
        yield
    finally:
        _looked.reset(token)


def looked(place: Hashable, look: Callable[[], Told]) -> Told:
    """Return what `look` gives, by `place` what it gave before in a block of `looking_once`."""
    known = _looked.get()
    if known is None:
        return look()
    if place not in known:
        known[place] = look()
    return cast(Told, known[place])
