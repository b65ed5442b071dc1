"""Prepare the next item in another thread while this one is used."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from dask_embed.inference.stats import Meter

T = TypeVar("T")
_END: Any = object()


@contextlib.contextmanager
def ahead(items: Iterator[T], meter: Meter) -> Iterator[Iterator[T]]:
    """Give the items of an iterator, each made while the one before it is used.

    The first one is begun on entering. Waiting for an item counts as waiting. Leaving the block
    waits for the item that is being made.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="dask-embed-tokenize") as pool:
        first = pool.submit(next, items, _END)

        def given() -> Iterator[T]:
            upcoming = first
            while True:
                with meter.seconds("waiting"):
                    item = upcoming.result()
                if item is _END:
                    return
                upcoming = pool.submit(next, items, _END)
                yield item

        yield given()
