"""One pass over the texts of a partition for any number of embedders."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from dask_embed.columns import Result, TextColumn, TokenVectors, Vectors
from dask_embed.columns.types import vector_type
from dask_embed.inference.driver import Driver
from dask_embed.inference.heads import apply_modules
from dask_embed.inference.kept_columns import KeptColumns, KeptResults
from dask_embed.inference.memory import is_out_of_memory
from dask_embed.inference.precision import DTYPES, to_precision
from dask_embed.inference.repeats import Claims
from dask_embed.inference.runner import Runner
from dask_embed.inference.sinks import Reduction, SideBySide, TokenVectorSink, VectorSink
from dask_embed.inference.stream import Batching, Stream
from dask_embed.models.modules import HeadModule
from dask_embed.runtime.stats import Meter
from dask_embed.tokens.encoded import Encoded, Row

Outcome = tuple[dict[str, Result], dict[int, str]]


@dataclasses.dataclass(frozen=True)
class EmbeddingRequest:
    """What an embedder wants of a pass.

    Attributes
    ----------
    output : str
        The column of its vectors.
    encode : callable
        ``(runner, rows) -> Encoded``.
    limit : int or None
        Most tokens of a text.
    batching : Batching
    prompt : str
        Stands before every text; its characters count in the size of batches.
    leaves_out_prompt : bool
        Pooling may leave out the tokens of the prompt.
    modules : tuple of HeadModule
        What follows the transformer; none for token vectors.
    dimension : int
    precision : str
    ranges : tuple or None
        Lowest and highest values, for precisions that need them.
    """

    output: str
    encode: Callable[[Runner, list[Row]], Encoded]
    limit: int | None
    batching: Batching
    prompt: str
    leaves_out_prompt: bool
    modules: tuple[HeadModule, ...]
    dimension: int
    precision: str
    ranges: Any

    def reduction(self, runner: Runner, skipped: int) -> Reduction:
        """Return how token vectors become what is stored."""
        ranges = None if self.ranges is None else torch.tensor(self.ranges)

        def reduce(hidden: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
            return apply_modules(self.modules, runner.loaded.layers, hidden, lengths, skipped)

        def store(vectors: torch.Tensor) -> torch.Tensor:
            return to_precision(vectors, self.precision, ranges)

        stored = vector_type(self.dimension, self.precision)
        return Reduction(
            reduce,
            store,
            stored.list_size,
            DTYPES[self.precision],
            kind=(self.modules, skipped, self.precision, self.ranges),
        )


def embed_vectors(
    requests: Sequence[EmbeddingRequest],
    runner: Runner,
    column: TextColumn,
    *,
    on_device: bool,
    meter: Meter,
) -> Outcome:
    """Return the vectors of each request, from one forward pass.

    Parameters
    ----------
    requests : sequence of EmbeddingRequest
        Of embedders with an equal `forward_key`.
    runner : Runner
    column : TextColumn
    on_device : bool
    meter : Meter

    Returns
    -------
    results : dict
        The output of each; those that ask for the same vectors share them.
    failures : dict
        Row number to message.
    """
    stream = _stream(requests, runner, column.values, meter)
    first = requests[0]
    left_out = first.prompt if first.leaves_out_prompt else ""
    skipped = runner.tokenizer(first.limit).prompt_length(left_out) if left_out else 0
    wanted = {request.output: request.reduction(runner, skipped) for request in requests}
    reductions = list({each.kind: each for each in wanted.values()}.values())
    rows = len(column.values)
    outs = [_allocate(stream, (rows, each.dimension), each.dtype, on_device) for each in reductions]
    claims = None
    if outs[0].device.type == "cpu" and runner.vector_cache.holds(1):
        kind = tuple(each.kind for each in reductions)
        claims = Claims(runner.vector_cache, kind, SideBySide(outs))
    Driver(stream, runner.token_vectors, VectorSink(outs, reductions), claims=claims).run()
    valid = _valid(column, stream)
    vectors = {each.kind: Vectors(out, valid) for each, out in zip(reductions, outs, strict=True)}
    return {name: vectors[each.kind] for name, each in wanted.items()}, stream.failures


def embed_tokens(
    request: EmbeddingRequest,
    runner: Runner,
    column: TextColumn,
    *,
    on_device: bool,
    meter: Meter,
) -> Outcome:
    """Return the token vectors of every text."""
    stream = _stream([request], runner, column.values, meter)
    lengths = np.zeros(len(column.values), np.int64)
    with stream.jobs() as jobs:
        chunks = list(stream.chunks(jobs))
        for encoded in chunks:
            lengths[encoded.rows] = encoded.samples.lengths
        starts = np.cumsum(lengths) - lengths
        shape = (int(lengths.sum()), runner.loaded.checkpoint.hidden_size)
        out = _allocate(stream, shape, torch.float32, on_device)
        sink = TokenVectorSink(out, starts)
        kept = KeptColumns.of(runner.kept) if out.device.type == "cpu" else None
        claims = KeptResults(kept, "token vectors", sink) if kept else None
        Driver(stream, runner.token_vectors, sink, claims=claims).run_chunks(jobs, chunks)
    valid = _valid(column, stream)
    if lengths[~valid].any():
        out = out[torch.from_numpy(np.repeat(valid, lengths)).to(out.device)]
    return {request.output: TokenVectors(out, lengths[valid], valid)}, stream.failures


def _valid(column: TextColumn, stream: Stream) -> np.ndarray:
    """Return which rows have a result."""
    valid = np.array([text is not None for text in column.values])
    valid[list(stream.failures)] = False
    return valid


def _stream(
    requests: Sequence[EmbeddingRequest],
    runner: Runner,
    texts: list[str | None],
    meter: Meter,
) -> Stream:
    first = requests[0]

    def encode(rows: np.ndarray) -> Encoded:
        return first.encode(runner, [(texts[row] or "",) for row in rows.tolist()]).at(rows)

    return Stream(
        runner,
        encode,
        [None if text is None else len(text) + len(first.prompt) for text in texts],
        meter,
        Batching.least([request.batching for request in requests]),
        first.limit,
    )


def _allocate(
    stream: Stream, shape: tuple[int, int], dtype: torch.dtype, on_device: bool
) -> torch.Tensor:
    device = stream.runner.device if on_device else torch.device("cpu")
    try:
        return torch.zeros(shape, dtype=dtype, device=device)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        size = shape[0] * shape[1] * dtype.itemsize / 2**30
        raise MemoryError(
            f"the results of a partition of {len(stream.sizes)} rows take {size:.1f} GiB of "
            f"{device} memory, which is not there; use smaller partitions "
            "(ddf.repartition(partition_size=...))"
        ) from error
