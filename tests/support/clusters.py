"""Clusters on this machine, for a block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from distributed import Client, LocalCluster


@contextmanager
def cluster(
    workers: int, threads: int, *, processes: bool, memory_limit: str | int = "auto"
) -> Iterator[Client]:
    """Give the client of a cluster of so many workers, on ports that are free."""
    with (
        LocalCluster(
            n_workers=workers,
            threads_per_worker=threads,
            processes=processes,
            memory_limit=memory_limit,
            host="127.0.0.1" if processes else None,
            scheduler_port=0,
            dashboard_address="127.0.0.1:0",
        ) as local,
        Client(local) as client,
    ):
        yield client
