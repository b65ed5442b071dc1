"""Freed memory stays for the next batch, but does not grow with the number of batches."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import dask
import pytest

from dask_embed.runtime import malloc

MIB = 2**20
needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")


@pytest.fixture(autouse=True)
def _as_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(malloc, "_least", float("inf"))


def resident_after(sizes: list[int], monkeypatch: pytest.MonkeyPatch, kept: int | str) -> list[int]:
    """Go through so many resident MiB; giving back leaves half. Return which gave back."""
    given_back: list[int] = []
    now = 0
    monkeypatch.setattr(malloc, "_resident_bytes", lambda: now * MIB)

    def trim() -> None:
        nonlocal now
        given_back.append(now)
        now //= 2

    monkeypatch.setattr(malloc, "trim", trim)
    with dask.config.set({"embed.keep-freed-bytes": kept}):
        for now in sizes:  # noqa: B007
            malloc.give_back_freed_memory()
    return given_back


@needs_glibc
@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([100, 110, 120, 130], []),
        ([100, 110, 133, 98], [133]),  # and from 66 on
        ([100, 133, 98, 99], [133, 99]),
        ([100, 60, 80, 93], [93]),  # what others gave back counts too
        ([100, 140, 100, 140], [140, 140]),  # from 70 on 102 would be too many
    ],
)
def test_memory_is_given_back_once_it_grew(
    sizes: list[int], expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert resident_after(sizes, monkeypatch, 32 * MIB) == expected


def test_nothing_is_done_where_malloc_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resident_after([100, 1000, 10000], monkeypatch, 0) == []


@needs_glibc
def test_a_size_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resident_after([100, 110, 133, 98], monkeypatch, "32MiB") == [133]


def test_nothing_is_done_where_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_bytes", _no_such_file)
    assert malloc._resident_bytes() == 0


def _no_such_file(path: Path) -> bytes:
    raise FileNotFoundError(path)


HOLES = """
import threading
import numpy as np
import torch
from dask_embed.runtime.lanes import Lanes
from dask_embed.runtime import malloc

MIB, living = 2**20, []


def leave_holes():
    freed = []
    for _ in range(200):
        freed.append(np.ones(MIB, np.uint8))
        living.append(np.ones(2**12, np.uint8))
    del freed
    return malloc._resident_bytes()


malloc.keep_freed_memory()
with Lanes(torch.device("cpu"), 1).jobs() as jobs:
    jobs.run(threading.get_native_id).result()  # what there was at first
    before = jobs.run(leave_holes).result()
    after = jobs.run(malloc._resident_bytes).result()
print(len(living), (before - after) // MIB)
"""


@needs_glibc
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_lanes_give_back_what_malloc_keeps() -> None:
    """Holes between blocks that live on are such memory; in a process that has no others."""
    done = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True)
    blocks, given_back = map(int, done.stdout.split())
    assert blocks == 200
    assert given_back > 150
