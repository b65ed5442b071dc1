"""Look inside: how a model runs here, and what has run."""

from __future__ import annotations

import dataclasses
import os
import socket
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd

from dask_embed import config
from dask_embed._options import named_options
from dask_embed._reprs import ShortRepr
from dask_embed._validation import one_of, shown
from dask_embed.models.checkpoint import read_checkpoint
from dask_embed.models.pin import pinned
from dask_embed.models.spec import Model
from dask_embed.models.tasks import TASKS, require_head, saved_tasks
from dask_embed.operators.language.base import LANGUAGE_TASKS
from dask_embed.operators.language.generator import Generator
from dask_embed.runtime.libraries import import_libraries

if TYPE_CHECKING:
    from dask_embed.inference.footprint import Footprint
    from dask_embed.inference.runner import Runner
    from dask_embed.models.checkpoint import Checkpoint

T = TypeVar("T")
Process = tuple[str, int]
"""Host and number of a process."""


@dataclasses.dataclass(frozen=True)
class ModelDescription(ShortRepr):
    """How a model runs in this process.

    Attributes
    ----------
    name, revision, architecture : str
    task : str
        What it was loaded for: its head.
    parameters : int
        Numbers in its weights.
    dtype, device : str
    hidden_size : int or None
        None where the configuration of a factory's model does not say.
    position_limit : int or None
        Longest text that the model has positions for, in tokens.
    max_length : int or None
        After how many tokens texts are cut where an operator does not say: the least of the
        positions, the limit of sentence-transformers and that of the tokenizer.
    tokenizer : str
    runs : str
        ``"packed"``: texts of a batch one after the other, without padding; ``"padded"``;
        ``"by length"``: only texts of one length together; or ``"alone"``: one after the other.
    reason : str
        Why it does not run packed, or only up to a length.
    tokens_per_batch : int
        What is planned for now.
    weights_mib : int
        Memory of its weights, on its device.
    batch_mib : int or None
        Memory that a batch of so many tokens takes while it runs, by an estimate; of a language
        model with the keys and values of the texts that `Generator` has under way. Like the next,
        None where the model's sizes cannot be told from its files.
    worker_mib : int or None
        Memory that a worker process needs in all to run it, at its highest: Python and its
        libraries, weights, tokenizer, and a batch for each thread; by an estimate that is right to
        a quarter or so. Rows and results are more.
    compiled : bool
    """

    name: str
    revision: str | None
    architecture: str
    task: str
    parameters: int
    dtype: str
    device: str
    hidden_size: int | None
    position_limit: int | None
    max_length: int | None
    tokenizer: str
    runs: str
    reason: str
    tokens_per_batch: int
    weights_mib: int
    batch_mib: int | None
    worker_mib: int | None
    compiled: bool

    def __str__(self) -> str:
        values = dataclasses.asdict(self)
        return "\n".join(f"{name:17} {value}" for name, value in values.items() if value != "")


@named_options
def describe_model(model: str | Path | Model, task: str | None = None) -> ModelDescription:
    """Load a model in this process and return how it runs here.

    Parameters
    ----------
    model : str, Path or Model
        As in any operator that runs one.
    task : {"embed", "classify", "classify-tokens", "answer", "fill-mask", "causal-lm", \
"seq2seq-lm"}, optional
        With which head: what an operator has as its `task`. By default the one that the
        checkpoint was saved with, ``"embed"`` for those of sentence-transformers and for bare
        transformers.

    Raises
    ------
    ValueError
        If the checkpoint has no such head, or is missing or unfit.

    Notes
    -----
    What workers do is theirs to say: ``client.run(dask_embed.describe_model, model)``.
    """
    one_of("task", task, (None, *TASKS))
    import_libraries()
    spec = Model.of(model)
    checkpoint = read_checkpoint(spec)
    if checkpoint.static is not None:
        raise ValueError(
            f"model {spec.name!r} is a table of {checkpoint.static.tokens} vectors of dimension "
            f"{checkpoint.static.dimension} (StaticEmbedding): it runs in no batches, and there is "
            "nothing else to describe"
        )
    resolved = pinned(spec, checkpoint)
    runner = _runner(resolved, checkpoint, task)
    loaded, verdict = runner.loaded, runner.verdict
    limit = f"texts of more than {verdict.up_to} tokens run alone" if verdict.up_to else ""
    needed = _footprint(resolved, runner)
    built = loaded.model if spec.factory is None else loaded.model.module
    return ModelDescription(
        name=spec.name,
        revision=checkpoint.revision,
        architecture=type(built).__name__,
        task=loaded.task,
        parameters=sum(weights.numel() for weights in loaded.model.parameters()),
        dtype=str(loaded.compute_dtype).removeprefix("torch."),
        device=str(loaded.device),
        hidden_size=getattr(checkpoint.text_config, "hidden_size", None),
        position_limit=checkpoint.position_limit,
        max_length=checkpoint.default_limit,
        tokenizer=_tokenizer_kind(runner, checkpoint),
        runs=verdict.runs,
        reason=verdict.reason or limit,
        tokens_per_batch=runner.budget.tokens(config.get("tokens-per-batch")[loaded.device.type]),
        weights_mib=_mib(sum(w.numel() * w.element_size() for w in loaded.model.parameters())),
        batch_mib=None if needed is None else _mib(needed.batch),
        worker_mib=None if needed is None else _mib(needed.process),
        compiled=spec.compile,
    )


def _runner(spec: Model, checkpoint: Checkpoint, task: str | None) -> Runner:
    """Load a model with the head of `task`, or with the first of those it may have that runs."""
    from dask_embed.inference.runner import runner_for

    first: ValueError | None = None
    for each in (task,) if task is not None else saved_tasks(checkpoint, spec):
        try:
            require_head(each, checkpoint, spec)
            return runner_for(spec, each)
        except ValueError as error:
            first = first or error
    assert first is not None, "there is a task to try"
    raise first


def _footprint(spec: Model, runner: Runner) -> Footprint | None:
    """Return what the model needs of this process."""
    from dask_embed.inference.footprint import footprint
    from dask_embed.runtime.lanes import lanes_of

    device, task = runner.loaded.device, runner.loaded.task
    tokens = config.get("tokens-per-batch")[device.type]
    if task in LANGUAGE_TASKS:
        tokens = Generator(spec).batching.max_tokens or tokens
    count = lanes_of(device).count if device.type == "cpu" else 0
    dtype = str(runner.loaded.model.dtype).removeprefix("torch.")
    return footprint(spec, task, tokens, count, dtype=dtype)


def _mib(size: int) -> int:
    return round(size / 2**20)


def _tokenizer_kind(runner: Runner, checkpoint: Checkpoint) -> str:
    """Say how an operator of this task tokenizes single texts."""
    if runner.loaded.task in ("embed", "classify"):
        return runner.tokenizer(checkpoint.default_limit).kind
    return "as transformers calls it, one thread"


@named_options
def stats(client: Any = None) -> pd.DataFrame:
    """Return what operators have done, one row per partition they ran on.

    Parameters
    ----------
    client : distributed.Client, optional
        Ask its workers too; by default the current client, if there is one.

    Returns
    -------
    pandas.DataFrame
        Columns ``worker`` (the address, empty for this process), ``operator``, ``model``,
        ``device``, the counts ``rows``, ``failed``, ``unique_rows``, ``tokenized``, ``truncated``
        (texts that had more tokens than the limit), ``max_length`` (that limit), ``tokens``,
        ``padding``, ``batches``, ``splits``, ``pairs`` and ``alike`` (that a step over a corpus
        compared, and that were alike), and ``tokenize_seconds``, ``forward_seconds``,
        ``convert_seconds`` and ``waiting_seconds``; see
        `dask_embed.runtime.stats.PartitionStats`. Each process keeps its latest 10,000
        partitions. A worker that does not answer is left out, with a warning.

    Raises
    ------
    ValueError
        If the client is asynchronous.
    """
    from dask_embed.runtime.stats import PartitionStats

    found = {_this_process(): ("", _records())}
    client = current_client() if client is None else client
    if client is not None:
        for address, answer in answers(client, _process_records, "stats").items():
            if isinstance(answer, BaseException):
                problem = f"the statistics of worker {address} are left out: {answer!r}"
                warnings.warn(problem, stacklevel=3)
            else:
                process, records = answer
                found.setdefault(process, (address, records))
    rows = [
        {"worker": worker, **record} for worker, records in found.values() for record in records
    ]
    names = ["worker", *(field.name for field in dataclasses.fields(PartitionStats))]
    return pd.DataFrame(rows, columns=names).astype({"max_length": "Int64"})


def answers(client: Any, function: Callable[[], T], asking: str) -> dict[str, T | BaseException]:
    """Return what `function` gives on each worker of `client`, or why it does not, by address.

    Raises
    ------
    TypeError, ValueError
        If it is no client, or an asynchronous one; `asking` is the public function that needs it.
    """
    if not hasattr(client, "asynchronous"):
        raise TypeError(f"client must be a distributed.Client, got {shown(client)}")
    if client.asynchronous:
        raise ValueError(
            f"{asking} waits for the workers, so it needs a synchronous client, got the "
            f"asynchronous {client!r}; outside of its event loop call "
            f"{asking}(client=distributed.Client(address))"
        )
    found: dict[str, T | BaseException] = client.run(function, on_error="return")
    return found


def process_totals() -> tuple[Process, tuple[int, int]]:
    """Return this process, the rows that it is done with, and the tokens that it has run."""
    from dask_embed.runtime.stats import rows_done, totals

    return _this_process(), (rows_done(), totals()["tokens"])


def _process_records() -> tuple[Process, list[dict[str, Any]]]:
    return _this_process(), _records()


def _this_process() -> Process:
    return socket.gethostname(), os.getpid()


def _records() -> list[dict[str, Any]]:
    from dask_embed.runtime.stats import records

    return [dataclasses.asdict(record) for record in records()]


def current_client() -> Any:
    """Return the client that Dask computes with here, None without one."""
    from distributed import default_client

    try:
        return default_client()
    except ValueError:
        return None
