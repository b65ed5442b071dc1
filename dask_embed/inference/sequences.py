"""Packed sequences: a batch without padding, in which none sees another."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention

from dask_embed.inference.attention import LayerSettings
from dask_embed.inference.upload import upload
from dask_embed.inference.varlen import fused, fuses


@dataclass(frozen=True, eq=False)
class Sequences:
    """Sequences one after the other, none of which sees another.

    Attributes
    ----------
    lengths : numpy.ndarray
        Tokens of each, int64; on the host, so that no layer asks a GPU for them.
    device : torch.device
        Where the batch is.
    """

    lengths: np.ndarray
    device: torch.device

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest."""
        return int(self.lengths.max())

    @cached_property
    def offsets(self) -> torch.Tensor:
        """Where each begins and the last ends, int32, on the device."""
        ends = np.cumsum(self.lengths)
        return upload(np.concatenate([[0], ends]).astype(np.int32), self.device)

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
        if not fuses(query, value):
            return self._by_length(query, key, value, settings, window)
        queries, keys, values = (part[0].transpose(0, 1) for part in (query, key, value))
        offsets, longest = (self.offsets, self.offsets), (self.longest, self.longest)
        seen = replace(settings, window=window)
        return fused(queries, keys, values, offsets, longest, seen)[None]

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
        for start, rows, length in self._equal_runs:
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

    @cached_property
    def _equal_runs(self) -> list[tuple[int, int, int]]:
        """First token, sequences and length of each run of neighbours of one length."""
        changes = np.flatnonzero(np.diff(self.lengths)) + 1
        firsts = np.concatenate([[0], changes])
        counts = np.diff(np.append(firsts, len(self.lengths)))
        starts = (np.cumsum(self.lengths) - self.lengths)[firsts]
        runs = zip(starts.tolist(), counts.tolist(), self.lengths[firsts].tolist(), strict=True)
        return [run for run in runs if run[2]]


def window_mask(length: int, window: int, causal: bool, device: torch.device) -> torch.Tensor:
    """Return who sees whom of a sequence within a sliding window, bool (length, length)."""
    position = torch.arange(length, device=device)
    distance = position[:, None] - position[None, :]
    near = distance.abs() < window
    return near & (distance >= 0) if causal else near
