"""One pass over the texts of a partition for any number of embedders."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from dask_embed.columns import Result, TextColumn, TokenVectors, Vectors
from dask_embed.columns.types import vector_type
from dask_embed.inference import engine
from dask_embed.inference.engine import Reduction
from dask_embed.inference.stream import Batching, Stream
from dask_embed.text.encoded import Encoded

if TYPE_CHECKING:
    import torch

    from dask_embed.inference.runner import Runner
    from dask_embed.inference.stats import Meter
    from dask_embed.operators.embedder import Embedder

Outcome = tuple[dict[str, Result], dict[int, str]]


def embed_vectors(
    embedders: Sequence[Embedder], column: TextColumn, *, on_device: bool, meter: Meter
) -> Outcome:
    """Return the vectors of each of `embedders`, from one forward pass.

    Parameters
    ----------
    embedders : sequence of Embedder
        With an equal `Embedder.forward_key`.
    column : TextColumn
    on_device : bool
    meter : Meter

    Returns
    -------
    results : dict
        The output of each embedder; those that ask for the same vectors share them.
    failures : dict
        Row number to message.
    """
    first = embedders[0]
    runner = first.runner()
    stream = _stream(embedders, column.values, runner, meter)
    limit, prompt = stream.longest, _prompt(first, runner)
    chats = first.chat_rules(runner.loaded.checkpoint) is not None  # no prompt is left out of them
    skipped = runner.tokenizer(limit).prompt_length(prompt) if prompt and not chats else 0
    reductions: dict[Hashable, Reduction] = {}
    kinds = {}
    for embedder in embedders:
        reduction = _reduction(embedder, runner, skipped)
        reductions.setdefault(reduction.kind, reduction)
        kinds[embedder.output] = reduction.kind
    outcomes = engine.vectors(stream, list(reductions.values()), on_device=on_device)
    valid = np.array([text is not None for text in column.values])
    valid[list(stream.failures)] = False
    vectors = {
        kind: Vectors(outcome.values, valid)
        for kind, outcome in zip(reductions, outcomes, strict=True)
    }
    return {name: vectors[kind] for name, kind in kinds.items()}, stream.failures


def embed_tokens(
    embedder: Embedder, column: TextColumn, *, on_device: bool, meter: Meter
) -> Outcome:
    """Return the token vectors of every text."""
    stream = _stream([embedder], column.values, embedder.runner(), meter)
    outcome = engine.token_vectors(stream, on_device=on_device)
    valid = np.array([text is not None for text in column.values])
    valid[list(outcome.failures)] = False
    result = TokenVectors(outcome.values, outcome.lengths[valid], valid)
    return {embedder.output: result}, outcome.failures


def _stream(
    embedders: Sequence[Embedder], texts: list[str | None], runner: Runner, meter: Meter
) -> Stream:
    first = embedders[0]
    prompt = _prompt(first, runner)
    return Stream(
        runner,
        lambda rows: _encode(first, runner, texts, rows),
        [None if text is None else len(text) + len(prompt) for text in texts],
        meter,
        _batching(embedders),
        first.limit(runner.loaded.checkpoint),
    )


def _prompt(embedder: Embedder, runner: Runner) -> str:
    return embedder.prompt_text(runner.loaded.checkpoint) or ""


def _batching(embedders: Sequence[Embedder]) -> Batching:
    """Return the smallest of the batches that are asked for."""
    tokens = [e.tokens_per_batch for e in embedders if e.tokens_per_batch is not None]
    rows = [e.batch_size for e in embedders if e.batch_size is not None]
    sides = [e.padding_side for e in embedders if e.padding_side is not None]
    return Batching(min(tokens, default=None), min(rows, default=None), next(iter(sides), None))


def _encode(
    embedder: Embedder, runner: Runner, texts: list[str | None], rows: np.ndarray
) -> Encoded:
    """Return the tokens of the texts at `rows`, none of them null."""
    encoded = embedder.encode(runner, [(texts[row] or "",) for row in rows.tolist()])
    failures = {int(rows[row]): text for row, text in encoded.failures.items()}
    return dataclasses.replace(encoded, rows=rows[encoded.rows], failures=failures)


def _reduction(embedder: Embedder, runner: Runner, skipped: int) -> Reduction:
    """Return how token vectors become what an embedder stores."""
    import torch

    from dask_embed.inference.heads import apply_modules
    from dask_embed.inference.precision import DTYPES, to_precision

    checkpoint = runner.loaded.checkpoint
    modules = embedder.modules(checkpoint)
    ranges = None if embedder.ranges is None else torch.tensor(embedder.ranges)

    def reduce(hidden: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        vectors = apply_modules(modules, runner.loaded.layers, hidden, lengths, skipped)
        return to_precision(vectors, embedder.precision, ranges)

    stored = vector_type(embedder.dimension(checkpoint), embedder.precision)
    return Reduction(
        reduce,
        stored.list_size,
        DTYPES[embedder.precision],
        kind=(modules, skipped, embedder.precision, embedder.ranges),
    )
