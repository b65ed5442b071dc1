"""One copy of every model per process, and of what is made from it."""

from __future__ import annotations

import gc
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from typing import Any, ClassVar, TypeVar
from weakref import WeakSet

T = TypeVar("T")

_inherited: list[Any] = []


class Registry:
    """What is built once for each key, until it is forgotten.

    Parameters
    ----------
    lasts : bool
        It is as old as the process and its `clear` part of `unload`; others belong to a model.

    Notes
    -----
    May be used from any thread. Each key is built under a lock of its own, so that one waits for no
    other; a build may ask for other keys as long as none of these asks for it.
    """

    _every: ClassVar[WeakSet[Registry]] = WeakSet()

    def __init__(self, *, lasts: bool = False) -> None:
        self._begin()
        if lasts:
            self._every.add(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._built: OrderedDict[Hashable, Any] = OrderedDict()
        self._building: dict[Hashable, threading.RLock] = {}

    def get_or_build(self, key: Hashable, build: Callable[[], T]) -> T:
        """Return what `build` gave for `key`, calling it at most once."""
        with self._lock:
            if key in self._built:
                self._built.move_to_end(key)
                found: T = self._built[key]
                return found
            lock = self._building.setdefault(key, threading.RLock())
        with lock:
            with self._lock:
                if key in self._built:
                    return self._built[key]
            built = build()
            with self._lock:
                self._built[key] = built
                self._building.pop(key, None)
            return built

    def held(self) -> list[Hashable]:
        """Return the keys of what is held, the least recently used first."""
        with self._lock:
            return list(self._built)

    def evict(self) -> bool:
        """Forget the least recently used; return False if nothing is held."""
        with self._lock:
            if not self._built:
                return False
            self._built.popitem(last=False)
            return True

    def forget(self, keys: Iterable[Hashable]) -> int:
        """Forget what was built for these keys, and return how much of it was held."""
        with self._lock:
            found = [key for key in keys if key in self._built]
            for key in found:
                del self._built[key]
            return len(found)

    def clear(self) -> int:
        """Forget all, and return how many there were."""
        with self._lock:
            count = len(self._built)
            self._built.clear()
            return count


_models = Registry(lasts=True)
parts = Registry(lasts=True)
"""Tokenizers of operators without a model, and arrays of heads: small, and nothing counts them."""


get_or_build = _models.get_or_build
"""``(key, build)`` to the model that `build` gave for `key`, calling it at most once."""

loaded = _models.held
"""``()`` to the keys of the models that this process holds, the least recently used first."""


def evict() -> bool:
    """Forget the model that was used least recently, and give its memory back, if any is held.

    A batch that is running keeps its model until it ends; the next one loads it again.
    """
    found = _models.evict()
    if found:
        _release_memory()
    return found


def forget(keys: Iterable[Hashable]) -> None:
    """Forget the models that were built for these keys, and give their memory back."""
    if _models.forget(keys):
        _release_memory()


def unload() -> int:
    """Forget every model of this process and give its memory back.

    Returns
    -------
    int
        How many models were held. A batch that is running keeps its model until it ends.

    Notes
    -----
    It acts on the calling process. On a cluster: ``client.run(dask_embed.unload)``.
    """
    count = _models.clear()
    held = sum(registry.clear() for registry in list(Registry._every))
    if count or held:
        _release_memory()
    return count


def _release_memory() -> None:
    import torch

    from dask_embed.runtime.malloc import trim  # noqa: PLC0415 - takes settings, which take Dask

    gc.collect()
    trim()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _begin_anew() -> None:
    """Forget in a forked process what threads that are not in it may have locked."""
    for registry in list(Registry._every):
        _inherited.append(
            registry._built
        )  # not freed here: GPU memory and engines are the parent's
        registry._begin()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
