"""What does not change, asked or looked at once: an object's word, files as long as they stay."""

from __future__ import annotations

import contextlib
import functools
import time
import weakref
from collections.abc import Callable, Hashable
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar, cast

from dask_embed.runtime.within import set_within

T = TypeVar("T")
Told = TypeVar("Told")

# Clocks of file systems are coarse: a file may change twice within one tick.
_TICK_NANOSECONDS = 2_000_000_000


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


def once(read: Callable[..., Told]) -> Callable[..., Told]:
    """Return `read`, a function of a file, so that it reads a file again only once it changed."""

    @functools.lru_cache(maxsize=4096)
    def known(path: Path, state: tuple[int, ...], *arguments: Any) -> Told:
        return read(path, *arguments)

    @functools.wraps(read)
    def look(path: Path, *arguments: Any) -> Told:
        state = path.stat()
        if time.time_ns() - state.st_mtime_ns < _TICK_NANOSECONDS:
            return read(path, *arguments)
        changed = (state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
        return known(path, changed, *arguments)

    return look


_looked: ContextVar[dict[Any, Any] | None] = ContextVar("_looked", default=None)


def looking_once() -> contextlib.AbstractContextManager[None]:
    """Look at what `looked` names once within the block: files do not change meanwhile."""
    return set_within(_looked, {} if (known := _looked.get()) is None else known)


def looked(place: Hashable, look: Callable[[], Told]) -> Told:
    """Return what `look` gives, by `place` what it gave before in a block of `looking_once`."""
    known = _looked.get()
    if known is None:
        return look()
    if place not in known:
        known[place] = look()
    return cast(Told, known[place])
