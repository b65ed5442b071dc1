"""Random numbers of each row, and the tokens that they choose."""

from __future__ import annotations

from typing import Any

import torch
from transformers import LogitsProcessor

from dask_embed.inference.generation.cache import Row


def draws_of(row: Row) -> torch.Tensor:
    """Return the numbers that choose the tokens of `row`."""
    assert row.draws is not None, "rows of a plan that samples have draws"
    return row.draws


def numbers(seed: int, count: int) -> torch.Tensor:
    """Return `count` random numbers in [0, 1), float64, that depend on nothing but `seed`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, generator=generator, dtype=torch.float64)


def draw(scores: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """Draw a token of each row by inverting its distribution.

    Parameters
    ----------
    scores : torch.Tensor
        Logarithms of unnormalized probabilities, shape (rows, vocabulary).
    numbers : torch.Tensor
        One number in [0, 1) for each row, float64.

    Returns
    -------
    torch.Tensor
        int64, shape (rows,); never a token whose score is minus infinity.
    """
    upper = scores.softmax(-1, dtype=torch.float64).cumsum(-1)
    total = upper[:, -1:]
    wanted = numbers.to(scores.device)[:, None] * total
    # rounding up to the total would point behind the last token
    wanted = torch.minimum(wanted, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(upper, wanted, right=True)[:, 0]


class SeededDraw(LogitsProcessor):
    """Draw for `generate`: leave it the drawn tokens alone to choose from.

    Parameters
    ----------
    draws : torch.Tensor
        Numbers of each row, shape (rows, new tokens).
    prompt : int
        Tokens that each row has before the first new one.
    """

    def __init__(self, draws: torch.Tensor, prompt: int) -> None:
        self._draws = draws
        self._prompt = prompt

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        drawn = draw(scores, self._draws[:, input_ids.shape[1] - self._prompt])
        only: Any = torch.full_like(scores, -torch.inf)
        return only.scatter_(1, drawn[:, None], 0.0)
