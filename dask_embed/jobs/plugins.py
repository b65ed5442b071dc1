"""What workers do when they start and leave: load models, keep to their cores."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from dask.tokenize import tokenize
from distributed import Worker, WorkerPlugin

from dask_embed._options import NamedOptions
from dask_embed._validation import shown
from dask_embed.operators.checkpointed import CheckpointOperator
from dask_embed.runtime.registry import forget


class ModelPlugin(NamedOptions, WorkerPlugin):
    """Load models when a worker starts, and free them when it leaves the cluster.

    Parameters
    ----------
    *operators : Embedder or ModelOperator
        What will run: an operator says with which head its model is loaded, and how.

    Raises
    ------
    TypeError
        If one is no operator that runs a model.
    ValueError, OSError
        If a model is missing or unfit here, on the client.

    Examples
    --------
    >>> import dask_embed as de
    >>> plugin = de.ModelPlugin(de.Embedder(de.datasets.minilm()))
    >>> with de.cluster("local", workers=1) as client:  # doctest: +SKIP
    ...     client.register_plugin(plugin)

    Notes
    -----
    Nothing needs it: without, the first partition of a worker loads the model. With it a worker is
    ready, or has failed with the reason in its log, before the first partition comes; a worker
    that joins later loads them, too. They are freed when the worker leaves, or by
    ``client.unregister_worker_plugin(plugin.name)``. Workers that share a process share the models,
    which stay until the last of them has left.
    """

    idempotent = True

    def __init__(self, *operators: CheckpointOperator) -> None:
        if not operators:
            raise TypeError(
                "ModelPlugin needs operators, as in ModelPlugin(Embedder('owner/model'))"
            )
        for each in operators:
            if not isinstance(each, CheckpointOperator):
                raise TypeError(
                    "ModelPlugin takes operators that run a model, such as "
                    f"dask_embed.Embedder('owner/model'); got {shown(each)}"
                )
        self.operators = tuple(each.pinned() for each in operators)
        for operator in self.operators:
            operator.types()
        self.name = f"dask-embed-models-{tokenize(self.operators)}"

    async def setup(self, worker: Any) -> None:
        """Load the models, beside the loop in which the worker answers."""
        await asyncio.to_thread(self._load)

    def _load(self) -> None:
        for operator in self.operators:
            operator.prepare()
            operator.runner()

    async def teardown(self, worker: Any) -> None:
        """Free the models, unless another worker of the process goes on with them."""
        others = [each for each in list(Worker._instances) if self.name in each.plugins]
        if not others:
            await asyncio.to_thread(self._free)

    def _free(self) -> None:
        from dask_embed.inference.runner import runner_key  # noqa: PLC0415 - torch, when a worker ends

        forget({runner_key(each.spec, each.loaded_task) for each in self.operators})


class BoundToNodes(WorkerPlugin):
    """Keep each worker of a local cluster to the cores of one NUMA node.

    Parameters
    ----------
    cores : list of set of int
        Of each node; worker ``i`` takes those of the i-th.
    """

    name = "dask-embed-numa"

    def __init__(self, cores: list[set[int]]) -> None:
        self.cores = cores

    def setup(self, worker: Any) -> None:
        """Bind every thread that the process has; those that begin later inherit it."""
        chosen = self.cores[int(worker.name) % len(self.cores)]
        for thread in Path("/proc/self/task").iterdir():
            os.sched_setaffinity(int(thread.name), chosen)
