"""The memory that batches of a model take, measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from dask_embed.inference.memory import Usage, is_final
from dask_embed.inference.samples import random_tokens
from dask_embed.loading.load import LoadedModel
from dask_embed.tokens.lists import TokenLists

# Memory is measured on texts of this length and an eighth of it, eight times as many tokens.
_LONGEST_MEASURED = 2048
_MEASURED_TEXTS = 8


def measure(run: Callable[[TokenLists], Any], loaded: LoadedModel) -> Usage | None:
    """Return the GPU memory that batches take, from two passes with short and long texts.

    None on a CPU, where small batches are faster and memory is no limit, where the allocator
    keeps no peak, and for a model that refuses texts without special tokens (T5's classifiers).
    """
    if loaded.device.type != "cuda":
        return None
    longest = min(loaded.checkpoint.position_limit or _LONGEST_MEASURED, _LONGEST_MEASURED)
    tokens = longest * _MEASURED_TEXTS
    lengths = (max(longest // _MEASURED_TEXTS, 1), longest)
    peaks, squares = [], []
    for length in lengths:
        texts = [length] * (tokens // length)
        try:
            torch.cuda.reset_peak_memory_stats(loaded.device)
            before = torch.cuda.memory_allocated(loaded.device)
            run(random_tokens(loaded, texts, special=False))
            peaks.append(torch.cuda.max_memory_allocated(loaded.device) - before)
        except Exception as error:
            if is_final(error):
                raise
            return None  # an allocator of RMM's kind, or a model that does not take such texts
        squares.append(length * length * len(texts))
    return Usage.fit(tokens, (squares[0], squares[1]), (peaks[0], peaks[1]))
