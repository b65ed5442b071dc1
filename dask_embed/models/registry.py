"""One copy of every model per process.

Notes
-----
All functions may be called from any thread. Building happens under one lock for the whole
process, because `from_pretrained` is not thread-safe: it changes the default dtype and the
initialization switches of torch while it runs.
"""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")

_lock = threading.RLock()
_loaded: dict[Hashable, Any] = {}
_inherited: list[dict[Hashable, Any]] = []


def get_or_build(key: Hashable, build: Callable[[], T]) -> T:
    """Return what `build` gave for `key` in this process, calling it at most once."""
    try:
        return _loaded[key]
    except KeyError:
        pass
    with _lock:
        if key not in _loaded:
            _loaded[key] = build()
        return _loaded[key]


def loaded() -> list[Hashable]:
    """Return the keys of what this process holds, oldest first."""
    with _lock:
        return list(_loaded)


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
    with _lock:
        count = len(_loaded)
        _loaded.clear()
    gc.collect()
    if count:
        _release_memory()
    return count


def _release_memory() -> None:
    import torch

    from dask_embed.models.malloc import trim

    trim()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _begin_anew() -> None:
    """Forget in a forked process what threads that are not in it may have locked."""
    global _lock, _loaded
    _inherited.append(_loaded)  # not freed here: GPU memory and engines are the parent's
    _lock, _loaded = threading.RLock(), {}


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
