"""Token lists to vectors: plan the batches, run them, put every row where it belongs.

A partition holds the model for all its batches. Threads that took turns batch by batch would each
keep a team of math threads spinning, which cost a tenth on 2 cores.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dask_embed import config
from dask_embed.batching import plan_batches
from dask_embed.inference import counters
from dask_embed.inference.heads import apply_modules
from dask_embed.inference.runner import Runner
from dask_embed.models.modules import HeadModule
from dask_embed.tokenization import TokenLists


@dataclass(frozen=True)
class Batching:
    """How batches are cut; none of it changes a result.

    Attributes
    ----------
    max_tokens : int or None
        Token budget of a batch, by default ``embed.tokens-per-batch`` for the model's device.
    max_rows : int or None
        At most so many rows in a batch.
    padding_side : str or None
        Where padded batches are filled up, by default as the tokenizer says.
    """

    max_tokens: int | None = None
    max_rows: int | None = None
    padding_side: str | None = None


def text_vectors(
    runner: Runner,
    tokens: TokenLists,
    modules: Sequence[HeadModule],
    dimension: int,
    *,
    skipped: int = 0,
    batching: Batching = Batching(),
    on_device: bool = False,
) -> torch.Tensor:
    """Return one vector per token list; lists with the same tokens run once.

    Parameters
    ----------
    runner : Runner
    tokens : TokenLists
        An empty list gives the zero vector.
    modules : sequence of HeadModule
        Pooling first.
    dimension : int
        What `modules` give.
    skipped : int
        Leading tokens that pooling leaves out where the checkpoint asks for it.
    batching : Batching
    on_device : bool
        Leave the result on the model's device.

    Returns
    -------
    torch.Tensor
        float32, shape (texts, dimension).
    """
    first, inverse = tokens.unique()
    distinct = tokens.take(first)
    counts = np.bincount(inverse, minlength=len(first))
    device = runner.loaded.device if on_device else torch.device("cpu")
    out = torch.zeros((len(distinct), dimension), device=device)
    with runner.session():
        for rows, batch in _batches(runner, distinct, batching):
            hidden = runner.token_vectors(batch, _side(runner, batching))
            lengths = torch.as_tensor(batch.lengths, device=hidden.device)
            vectors = apply_modules(modules, runner.loaded.layers, hidden, lengths, skipped)
            out[torch.as_tensor(rows, device=device)] = vectors.to(device)
            _count(batch, rows=int(counts[rows].sum()))
    counters.add(rows=int(counts[distinct.lengths == 0].sum()))
    return out[torch.as_tensor(inverse, device=device)] if len(first) < len(inverse) else out


def token_vectors(
    runner: Runner,
    tokens: TokenLists,
    *,
    batching: Batching = Batching(),
    on_device: bool = False,
) -> torch.Tensor:
    """Return the last hidden state of every token, float32, shape (tokens, hidden size)."""
    device = runner.loaded.device if on_device else torch.device("cpu")
    out = torch.zeros((len(tokens.values), runner.loaded.checkpoint.hidden_size), device=device)
    with runner.session():
        for rows, batch in _batches(runner, tokens, batching):
            hidden = runner.token_vectors(batch, _side(runner, batching)).float().to(device)
            for row, part in zip(rows, hidden.split(batch.lengths.tolist()), strict=True):
                out[tokens.offsets[row] : tokens.offsets[row + 1]] = part
            _count(batch, rows=len(rows))
    counters.add(rows=int((tokens.lengths == 0).sum()))
    return out


def _batches(
    runner: Runner, tokens: TokenLists, batching: Batching
) -> Iterator[tuple[np.ndarray, TokenLists]]:
    """Yield the row numbers and token lists of each batch; empty lists are in none."""
    lengths = tokens.lengths
    present = np.flatnonzero(lengths)
    budget = config.get("tokens-per-batch")[runner.loaded.device.type]
    for batch in plan_batches(
        lengths[present],
        max_tokens=batching.max_tokens or budget,
        max_rows=batching.max_rows,
        padded=not runner.runs_packed(int(lengths.max(initial=0))),
    ):
        yield present[batch], tokens.take(present[batch])


def _side(runner: Runner, batching: Batching) -> str:
    return batching.padding_side or runner.loaded.tokenizer.padding_side


def _count(batch: TokenLists, *, rows: int) -> None:
    counters.add(rows=rows, distinct_rows=len(batch), tokens=len(batch.values), batches=1)
