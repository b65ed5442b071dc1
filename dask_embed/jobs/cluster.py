"""A cluster for a block: on this machine with sound defaults, or one that is there already."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask.config
from dask.system import CPU_COUNT
from dask.utils import parse_bytes, parse_timedelta

from dask_embed._options import named_options
from dask_embed._secrets import refuse_password
from dask_embed._validation import (
    local_path,
    non_empty_string,
    positive_integer,
    shown,
    shown_error,
)
from dask_embed.jobs.interrupts import loop_without_interrupts

_NODES = Path("/sys/devices/system/node")
# Of a local cluster: nobody else's business, on a port that is free.
_LOOPBACK = "127.0.0.1"


@contextlib.contextmanager
@named_options
def cluster(
    where: str | Path = "local",
    *,
    workers: int | None = None,
    threads: int | None = None,
    memory: str | int | None = None,
    dashboard: str | None = "127.0.0.1:0",
    timeout: str | int | None = None,
) -> Iterator[Any]:
    """Give the client of a cluster within the ``with`` block, which Dask computes with there.

    Parameters
    ----------
    where : str or Path
        ``"local"``: processes on this machine's cores, one for each NUMA node, bound to it, with as
        many threads as the node has cores. ``"cuda"``: one process for each GPU, memory pools of
        RMM that torch shares. Else the address of a scheduler (``"tcp://host:8786"``) or the file
        that it writes (``"scheduler.json"``): that cluster is left as it is at the end.
    workers : int, optional
        Processes of a cluster that is started here.
    threads : int, optional
        Threads of each: so many batches run at a time, each on one core.
    memory : str or int, optional
        Limit of each process, as in ``"8GiB"``; by default its share of this machine's.
    dashboard : str, optional
        Address of the dashboard of a local cluster, None for none: ``/metrics`` and ``/health`` are
        then on a free port of the loopback.
    timeout : str or int, optional
        How long to wait for a scheduler that does not answer, by default as Dask is set.

    Yields
    ------
    distributed.Client

    Raises
    ------
    ValueError, TypeError
        If `where` is none of these, or an option is not of a cluster that is there already.
    OSError
        If no scheduler answers.
    ModuleNotFoundError
        If ``"cuda"`` is asked for without dask-cuda.

    Notes
    -----
    Any other client works as well: nothing here is needed for one. Workers import the script that
    starts them, so its work stands under ``if __name__ == "__main__":``. ``"cuda"`` is written from
    the documentation of dask-cuda and has not run yet.
    """
    for name, value in (("workers", workers), ("threads", threads)):
        positive_integer(name, value)
    _require_amounts(memory, timeout)
    if dashboard is not None:
        non_empty_string("dashboard", dashboard)
    if not isinstance(where, str | Path) or not str(where).strip():
        raise TypeError(
            "where must be 'local', 'cuda', the address of a scheduler or the file that it writes, "
            f"got {shown(where)}"
        )
    started: dict[str, Any] = {"workers": workers, "threads": threads, "memory": memory}
    if where == "local":
        with _local(workers, threads, memory, dashboard) as client:
            yield client
    elif where == "cuda":
        with _cuda(workers, threads, memory, dashboard) as client:
            yield client
    else:
        for name, value in started.items():
            if value is not None:
                raise ValueError(
                    f"{name} is not for the cluster {shown(str(where))}, which has its own"
                )
        with _joined(str(where), timeout) as client:
            yield client


def _require_amounts(memory: Any, timeout: Any) -> None:
    """Raise ValueError for a limit or a time that Dask does not read as one."""
    for name, given, parse, example in (
        ("memory", memory, parse_bytes, "8GiB"),
        ("timeout", timeout, parse_timedelta, "30s"),
    ):
        if given is None:
            continue
        amount: Any = None
        if isinstance(given, str | int | float) and not isinstance(given, bool):
            with contextlib.suppress(ValueError, KeyError, IndexError, OverflowError):
                amount = parse(given)
        if amount is None or not 0 < amount < math.inf:
            raise ValueError(f"{name} must be an amount such as {example!r}, got {shown(given)}")


@contextlib.contextmanager
def _local(
    workers: int | None, threads: int | None, memory: Any, dashboard: str | None
) -> Iterator[Any]:
    from distributed import Client, LocalCluster

    cores = cores_of_nodes()
    count = workers or len(cores)
    total = sum(map(len, cores))
    with (
        _closed(
            LocalCluster,
            n_workers=count,
            threads_per_worker=threads or max(1, total // count),
            memory_limit="auto" if memory is None else memory,
            host=_LOOPBACK,
            scheduler_port=0,
            **_dashboard(dashboard),
        ) as local,
        Client(local) as client,
    ):
        if len(cores) > 1 and count == len(cores):
            from dask_embed.jobs.plugins import BoundToNodes  # noqa: PLC0415 - distributed

            client.register_plugin(BoundToNodes(cores))
        yield client


@contextlib.contextmanager
def _cuda(
    workers: int | None, threads: int | None, memory: Any, dashboard: str | None
) -> Iterator[Any]:
    from distributed import Client

    try:
        from dask_cuda import LocalCUDACluster
    except ImportError as error:
        raise ModuleNotFoundError(
            "a cluster of GPUs needs dask-cuda: pip install 'dask-embed[cuda13]' (or cuda12)"
        ) from error
    options = {"n_workers": workers, "memory_limit": memory}
    with (
        _closed(
            LocalCUDACluster,
            **{name: value for name, value in options.items() if value is not None},
            threads_per_worker=threads or 1,
            rmm_pool_size=0.5,
            rmm_allocator_external_lib_list=["torch"],
            **_dashboard(dashboard),
        ) as local,
        Client(local) as client,
    ):
        yield client


def _dashboard(address: str | None) -> dict[str, Any]:
    """Return what makes a scheduler show its pages at an address, or none.

    Without an address Dask would leave out the pages, and serve the rest on port 8787.
    """
    if address is not None:
        return {"dashboard_address": address}
    return {"scheduler_kwargs": {"dashboard": False, "dashboard_address": f"{_LOOPBACK}:0"}}


@contextlib.contextmanager
def _closed(kind: Any, **options: Any) -> Iterator[Any]:
    """Give a cluster that is closed at the end.

    Processes that do not go in time are killed; that this takes long on a busy machine is no
    failure of what was computed.
    """
    with loop_without_interrupts() as loop:
        made = kind(loop=loop, **options)
        try:
            yield made
        finally:
            with contextlib.suppress(TimeoutError, RuntimeError):
                made.close()


@contextlib.contextmanager
def _joined(where: str, timeout: str | int | None) -> Iterator[Any]:
    from distributed import Client
    from distributed.comm.registry import backends

    options: dict[str, Any] = {} if timeout is None else {"timeout": timeout}
    refuse_password("where", where)
    scheme, is_address, _ = where.partition("://")
    if is_address:
        options["address"] = where
    elif (file := local_path("where", where)).suffix == ".json" or file.is_file():
        _wait_for(file, timeout)
        options["scheduler_file"] = str(file)
    if not options.keys() & {"address", "scheduler_file"} or (
        is_address and scheme not in backends
    ):
        raise ValueError(
            "where must be 'local', 'cuda', the address of a scheduler ('tcp://host:8786') or a "
            f"file that it wrote, got {shown(where)}"
        )
    try:
        client = Client(**options)
    except (OSError, ValueError) as error:
        raise OSError(f"no scheduler answers at {shown(where)}: {shown_error(error)}") from error
    with client:
        yield client


def _wait_for(file: Path, timeout: str | int | None) -> None:
    """Wait for a file that a scheduler writes when it starts, as long as for the scheduler."""
    patience = dask.config.get("distributed.comm.timeouts.connect") if timeout is None else timeout
    deadline = time.monotonic() + parse_timedelta(patience)
    while not file.is_file():
        if time.monotonic() > deadline:
            raise FileNotFoundError(f"no scheduler has written the file {str(file)!r}")
        time.sleep(0.1)


def cores_of_nodes() -> list[set[int]]:
    """Return the cores of each NUMA node that this process may use.

    Where a limit of the container leaves fewer than they are, they count as one node.
    """
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(CPU_COUNT))
    if len(allowed) > CPU_COUNT:
        return [set(sorted(allowed)[:CPU_COUNT])]
    lists = sorted(_NODES.glob("node[0-9]*/cpulist"))
    nodes = [_cores(file.read_text()) & allowed for file in lists]
    found = [node for node in nodes if node]
    return found if set().union(*found) == allowed else [allowed]


def _cores(text: str) -> set[int]:
    """Return the numbers of a list such as ``0-3,8``."""
    found: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found
