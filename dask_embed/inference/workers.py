"""Whether workers have the memory that a model needs: told before they restart or pause."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import dask.config

from dask_embed import config
from dask_embed.runtime import registry

if TYPE_CHECKING:
    from dask_embed.inference.footprint import Footprint
    from dask_embed.models.spec import Model

_MIB = 2**20


def warn_of_small_workers(footprint_of: Callable[..., Footprint | None]) -> None:
    """Warn, on the client, if workers of the current client have too little memory for a model.

    Parameters
    ----------
    footprint_of : callable
        ``(threads, *, on_gpu)`` to the memory that a worker needs, None where it is not known.
    """
    workers = _workers()
    if not workers:
        return
    small, needed = [], None
    for address, worker in workers.items():
        limit = _usable(worker.get("memory_limit"))
        if limit is None:
            continue
        found = footprint_of(worker["nthreads"], on_gpu="gpu" in worker)
        if found is not None and found.process > limit:
            small.append((address, worker["memory_limit"]))
            needed = found
    if needed is not None:
        address, limit = small[0]
        who = f"worker {address} has" if len(small) == 1 else f"{len(small)} workers have"
        warnings.warn(_message(needed, f"{who} {_mib(limit)} MiB"), stacklevel=4)


def make_room_on_worker(model: Model, task: str) -> None:
    """Forget models that a worker ran before, if they leave too little memory for another.

    Warns, on the worker and its client, if the worker has too little for this one alone.
    """
    worker = _this_worker()
    limit = None if worker is None else worker.memory_manager.memory_limit
    usable = _usable(limit)
    if worker is None or usable is None:
        return
    from distributed import warn  # noqa: PLC0415 - where there is a cluster

    from dask_embed.inference.footprint import PROCESS, footprint  # noqa: PLC0415 - torch

    kind = model.device.partition(":")[0]
    batches = worker.state.nthreads if kind == "cpu" else 1
    found = footprint(model, task, config.get("tokens-per-batch")[kind], batches)
    if found is None:
        return
    while (
        worker.monitor.get_process_memory() + found.process - PROCESS > usable and registry.evict()
    ):
        pass
    if found.process > usable:
        warn(_message(found, f"worker {worker.address} has {_mib(limit)} MiB"))


def _message(needed: Footprint, who: str) -> str:
    return (
        f"model {needed.model!r} needs {needed} in a worker process, and {who}, with which Dask "
        "pauses or restarts it again and again; give workers more memory (memory_limit=), or "
        "start fewer of them"
    )


def _mib(size: Any) -> int:
    return round(size / _MIB)


def _usable(limit: Any) -> float | None:
    """Return the bytes above which Dask pauses a worker, None where it never does."""
    if not limit:
        return None
    fraction = dask.config.get("distributed.worker.memory.pause", 0.8)
    return float(limit * fraction) if fraction else None


def _workers() -> dict[str, Any]:
    """Return what the scheduler knows of the workers, nothing without a client."""
    if "distributed" not in sys.modules:
        return {}
    from distributed import default_client  # noqa: PLC0415 - where there is a cluster

    try:
        client = default_client()
    except ValueError:
        return {}
    if client.status != "running":
        return {}
    workers: dict[str, Any] = client.scheduler_info(n_workers=-1)["workers"]
    return workers


def _this_worker() -> Any:
    if "distributed" not in sys.modules:
        return None
    from distributed import get_worker  # noqa: PLC0415 - where there is a cluster

    try:
        return get_worker()
    except ValueError:
        return None
