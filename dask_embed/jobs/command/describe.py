"""How a model runs on this machine, in words."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from typing import Any

import click

from dask_embed.jobs.command import ending
from dask_embed.jobs.command.ending import ends_soon, ends_with


def describe(model: str, task: str | None, *, as_json: bool) -> None:
    """Print how a model runs here, and what in the environment is in its way.

    Raises
    ------
    ending.Ended
        If it cannot be loaded.
    """
    with ends_soon() as last_words, ends_with(ending.MODEL):
        last_words.append(ending.ended(KeyboardInterrupt()).show)
        from dask_embed.jobs.inspection import describe_model

        found = describe_model(model, task)
        more = _as_vectors(model) if found.task == "embed" else {}
    told = {**dataclasses.asdict(found), **more, "traps": [*_traps(found)]}
    if as_json:
        print(json.dumps(told, default=str))
        return
    click.echo(found)
    for name, value in more.items():
        click.echo(f"{name:17} {value}")
    for trap in told["traps"]:
        click.echo(f"trap: {trap}")


def _as_vectors(model: str) -> dict[str, Any]:
    """Return what `Embedder` makes of a checkpoint by default."""
    from dask_embed.operators import Embedder

    told = Embedder(model).resolved()
    return {name: told[name] for name in ("dimension", "pooling", "normalized", "prompt")}


def _traps(found: Any) -> Iterator[str]:
    """Yield what is set or missing here that makes jobs slow or fail."""
    import torch
    from dask.system import CPU_COUNT
    from distributed.system import MEMORY_LIMIT

    threads = os.environ.get("OMP_NUM_THREADS")
    if threads is not None and found.device == "cpu" and threads != str(CPU_COUNT):
        yield (
            f"OMP_NUM_THREADS={threads} leaves a model in this process with so many of "
            f"{CPU_COUNT} cores; workers of Dask take one for each of their threads"
        )
    if os.environ.get("HF_HUB_OFFLINE", "0").lower() in ("1", "true", "yes", "on"):
        yield "HF_HUB_OFFLINE is set: only models that are in the cache can be loaded"
    if found.device == "cpu" and torch.version.cuda:
        yield "this torch is built for CUDA, but sees no GPU: look at the driver"
    if found.worker_mib is not None and found.worker_mib * 2**20 > MEMORY_LIMIT:
        yield f"a process needs {found.worker_mib} MiB, this machine has {MEMORY_LIMIT >> 20} MiB"
    if found.runs in ("by length", "alone"):
        yield f"its batches run {found.runs}, which is slow: {found.reason}"
