"""Packed sequences: a batch without padding, in which none sees another."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from dask_embed.inference.attention import LayerSettings


@dataclass(frozen=True)
class Sequences:
    """Sequences one after the other, none of which sees another.

    Attributes
    ----------
    offsets : torch.Tensor
        Where each begins and the last ends, int32, on the device of the batch.
    longest : int
        Tokens of the longest.
    """

    offsets: torch.Tensor
    longest: int

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        settings: LayerSettings,
    ) -> torch.Tensor:
        """Attend within each sequence; see `Layout`."""
        window = settings.window
        if window is not None and self.longest <= window:
            window = None
        if query.is_cuda and query.dtype in (torch.float16, torch.bfloat16):
            return self._fused(query, key, value, settings, window)
        return self._by_length(query, key, value, settings, window)

    def _fused(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        settings: LayerSettings,
        window: int | None,
    ) -> torch.Tensor:
        from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415 - on GPUs alone

        reach = -1 if window is None else window - 1
        output: Any = varlen_attn(
            query[0].transpose(0, 1),
            key[0].transpose(0, 1),
            value[0].transpose(0, 1),
            self.offsets,
            self.offsets,
            self.longest,
            self.longest,
            scale=settings.scaling,
            window_size=(reach, 0 if settings.causal else reach),
            enable_gqa=query.shape[1] != key.shape[1],
        )
        return output.unsqueeze(0)

    def _by_length(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        settings: LayerSettings,
        window: int | None,
    ) -> torch.Tensor:
        """Run runs of equally long sequences together, as a batch that needs no padding."""
        heads, tokens = query.shape[1:3]
        output = query.new_empty(1, tokens, heads, value.shape[-1])
        for start, rows, length in _equal_runs(self.offsets.tolist()):
            stop = start + rows * length
            q, k, v = (
                part[0, :, start:stop].unflatten(1, (rows, length)).transpose(0, 1)
                for part in (query, key, value)
            )
            mask = None
            if window is not None and length > window:
                mask = window_mask(length, window, settings.causal, query.device)
            attended = scaled_dot_product_attention(
                q,
                k,
                v,
                attn_mask=mask,
                is_causal=settings.causal and mask is None,
                scale=settings.scaling,
                enable_gqa=heads != key.shape[1],
            )
            output[0, start:stop].view(rows, length, heads, -1).copy_(attended.transpose(1, 2))
        return output


def _equal_runs(offsets: list[int]) -> list[tuple[int, int, int]]:
    """Return (first token, sequences, length) for each run of neighbours of one length."""
    runs: list[tuple[int, int, int]] = []
    for start, stop in pairwise(offsets):
        length = stop - start
        if runs and runs[-1][2] == length:
            first, rows, _ = runs[-1]
            runs[-1] = (first, rows + 1, length)
        elif length:
            runs.append((start, 1, length))
    return runs


def window_mask(length: int, window: int, causal: bool, device: torch.device) -> torch.Tensor:
    """Return who sees whom of a sequence within a sliding window, bool (length, length)."""
    position = torch.arange(length, device=device)
    distance = position[:, None] - position[None, :]
    near = distance.abs() < window
    return near & (distance >= 0) if causal else near
