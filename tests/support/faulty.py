"""A filesystem of which calls fail, and an S3-compatible server on this machine."""

from __future__ import annotations

import contextlib
import random
import threading
import uuid
from collections.abc import Iterator
from typing import Any

from fsspec.implementations.memory import MemoryFileSystem

_FAILING = ("ls", "cat_file", "pipe_file", "_open", "info", "rm_file")


class FaultyFileSystem(MemoryFileSystem):
    """A store in memory that fails in one of so many calls, before or after it did its work."""

    protocol = "faulty"
    cachable = False
    store: dict[str, Any] = {}  # noqa: RUF012 - as fsspec's own, but not the same
    pseudo_dirs = [""]  # noqa: RUF012
    chance = random.Random(0)
    every = 5
    failed = 0
    lock = threading.Lock()

    def __dask_tokenize__(self) -> str:
        return "faulty"


def _faulty(name: str) -> Any:
    def call(self: Any, *args: Any, **options: Any) -> Any:
        kind = type(self)
        with kind.lock:
            fails = kind.every and kind.chance.randrange(kind.every) == 0
            late = kind.chance.random() < 0.5
        if fails and not late:
            kind.failed += 1
            raise TimeoutError(f"{name}: the store did not answer")
        done = getattr(MemoryFileSystem, name)(self, *args, **options)
        if fails:
            kind.failed += 1
            raise ConnectionResetError(f"{name}: the store did not answer in time")
        return done

    return call


for _name in _FAILING:
    setattr(FaultyFileSystem, _name, _faulty(_name))


@contextlib.contextmanager
def s3() -> Iterator[tuple[str, dict[str, Any]]]:
    """Give a folder in a bucket of a server on a free port, and what opens it."""
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        options = {
            "key": "test",
            "secret": "test",
            "client_kwargs": {"endpoint_url": f"http://{host}:{port}"},
        }
        bucket = uuid.uuid4().hex
        s3fs.S3FileSystem(**options).mkdir(bucket)
        yield f"s3://{bucket}/out", options
    finally:
        server.stop()
