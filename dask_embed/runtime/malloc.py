"""Freed memory of the process: kept for the next batch, but not more and more of it."""

from __future__ import annotations

import ctypes
import functools
import math
import os
import platform
import threading
from pathlib import Path

from dask_embed import config

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_NEVER, _LARGEST_OF_OLD_GLIBC = 2**30, 32 * 2**20
_giving_back = threading.Lock()
_least = math.inf  # resident bytes, the fewest since memory was given back


@functools.cache
def keep_freed_memory() -> None:
    """Tell malloc to keep what a batch frees, for the next batch.

    By default each large activation is mapped anew and faulted in page by page. Dask's nanny
    lowers the threshold further (``MALLOC_TRIM_THRESHOLD_``), which costs a third of the speed.
    """
    libc = _glibc()
    if libc is None or not config.get("keep-freed-bytes"):
        return
    libc.mallopt(_M_TRIM_THRESHOLD, _NEVER)
    if not libc.mallopt(_M_MMAP_THRESHOLD, _NEVER):
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_OF_OLD_GLIBC)


def give_back_freed_memory() -> None:
    """Call between batches: gives back where ``embed.keep-freed-bytes`` more are taken than before.

    glibc reuses only part of what batches free, because no two are of one size; the rest would
    grow with the number of batches.
    """
    global _least
    kept = config.get("keep-freed-bytes")
    if _glibc() is None or not kept or not _giving_back.acquire(blocking=False):
        return
    try:
        resident = _resident_bytes()
        if resident > _least + kept:
            trim()
            _least = _resident_bytes()
        else:
            _least = min(_least, resident)
    finally:
        _giving_back.release()


def trim() -> None:
    """Give memory that malloc keeps back to the system."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def _resident_bytes() -> int:
    """Return how much memory this process has, 0 where the system does not say."""
    try:
        pages = Path("/proc/self/statm").read_bytes().split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
