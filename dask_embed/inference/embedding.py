"""One pass over the texts of a partition for any number of embedders."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import torch

from dask_embed.columns import Result, TextColumn, TokenVectors, Vectors
from dask_embed.columns.types import vector_type
from dask_embed.inference import engine
from dask_embed.inference.heads import apply_modules
from dask_embed.inference.precision import DTYPES, to_precision
from dask_embed.inference.runner import Runner
from dask_embed.inference.sinks import Reduction
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
    first = requests[0]
    stream = _stream(requests, runner, column.values, meter)
    left_out = first.prompt if first.leaves_out_prompt else ""
    skipped = runner.tokenizer(first.limit).prompt_length(left_out) if left_out else 0
    reductions: dict[Hashable, Reduction] = {}
    kinds = {}
    for request in requests:
        reduction = request.reduction(runner, skipped)
        reductions.setdefault(reduction.kind, reduction)
        kinds[request.output] = reduction.kind
    outcomes = engine.vectors(stream, list(reductions.values()), on_device=on_device)
    valid = np.array([text is not None for text in column.values])
    valid[list(stream.failures)] = False
    vectors = {
        kind: Vectors(outcome.values, valid)
        for kind, outcome in zip(reductions, outcomes, strict=True)
    }
    return {name: vectors[kind] for name, kind in kinds.items()}, stream.failures


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
    outcome = engine.token_vectors(stream, on_device=on_device)
    valid = np.array([text is not None for text in column.values])
    valid[list(outcome.failures)] = False
    result = TokenVectors(outcome.values, outcome.lengths[valid], valid)
    return {request.output: result}, outcome.failures


def _stream(
    requests: Sequence[EmbeddingRequest],
    runner: Runner,
    texts: list[str | None],
    meter: Meter,
) -> Stream:
    first = requests[0]

    def encode(rows: np.ndarray) -> Encoded:
        encoded = first.encode(runner, [(texts[row] or "",) for row in rows.tolist()])
        failures = {int(rows[row]): text for row, text in encoded.failures.items()}
        return dataclasses.replace(encoded, rows=rows[encoded.rows], failures=failures)

    return Stream(
        runner,
        encode,
        [None if text is None else len(text) + len(first.prompt) for text in texts],
        meter,
        Batching.least([request.batching for request in requests]),
        first.limit,
    )
