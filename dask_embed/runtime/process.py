"""Threads of the process around the math: as many as cores."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import torch
from dask.system import CPU_COUNT

from dask_embed.runtime.malloc import keep_freed_memory

_setting = threading.Lock()
_models_run_in: int | None = None  # the id of the process


def worker_threads() -> int | None:
    """Return the threads of the Dask workers in this process, None where there are none.

    A `LocalCluster` with ``processes=False`` has several workers in one process; they share
    the model, so they share the threads.
    """
    from distributed import Status, Worker  # noqa: PLC0415 - on workers alone
    from distributed.worker import get_worker  # noqa: PLC0415 - on workers alone

    try:
        get_worker()
    except ValueError:
        return None
    # a closed worker is listed until it is collected as garbage
    running = [w for w in list(Worker._instances) if w.status == Status.running]
    threads = sum(worker.state.nthreads for worker in running)
    return max(1, min(threads, CPU_COUNT))


def math_threads() -> int:
    """Return how many cores the models of this process may use.

    On a `distributed` worker, where Dask leaves torch with one thread, as many as the worker has
    threads; elsewhere what torch was last set to in any thread, by default all cores.
    """
    return worker_threads() or _setting_of_new_threads()


def set_math_threads(count: int) -> None:
    """Let torch compute with `count` threads in the calling thread, and in no other.

    `torch.set_num_threads` also says what threads begin with that first use torch afterwards, such
    as those of Dask: with 1, they and models that run in them would be left with one core.
    """
    if torch.get_num_threads() == count:
        return
    with _setting, ThreadPoolExecutor(1) as another:
        before = another.submit(torch.get_num_threads).result()
        torch.set_num_threads(count)
        another.submit(torch.set_num_threads, before).result()


def _setting_of_new_threads() -> int:
    counts: list[int] = []
    with _setting:
        another = threading.Thread(target=lambda: counts.append(torch.get_num_threads()))
        another.start()
        another.join()
    return counts[0]


def claim_process() -> None:
    """Note that models run in this process.

    A fork of it has neither their threads nor those of torch's math, and would wait for them.

    Raises
    ------
    RuntimeError
        If this process is such a fork.
    """
    global _models_run_in
    if _models_run_in is None:
        _models_run_in = os.getpid()
    if _models_run_in != os.getpid():
        raise RuntimeError(
            "this process was forked after a model ran in its parent, and would wait for threads "
            "that are not in it; start workers with spawn or forkserver"
        )


def prepare_process(device: torch.device) -> None:
    """Set up this process before it loads its first model; later calls do nothing."""
    claim_process()
    if device.type == "cpu":
        # texts are tokenized on the threads that compute; another team would be too many
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        keep_freed_memory()
