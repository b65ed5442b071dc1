"""What an object that never changes tells: asked of it once."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import TypeVar

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
