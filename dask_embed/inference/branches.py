"""Sequences that part into branches: a beginning that is computed once for all its continuations.

A branch sees the trunk of its sequence and itself, at the positions that it would have if the two
were a sequence of their own. Because the trunk sees no branch, every token gets the vector that it
has in trunk and branch alone (source: tree attention, as in SpecInfer, arXiv:2305.09781).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby, pairwise
from typing import Any, TypeVar

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention

from dask_embed.inference.attention import LayerSettings, NotPackableError
from dask_embed.inference.sequences import window_mask
from dask_embed.inference.varlen import fused, fuses
from dask_embed.tokens.lists import TokenLists

T = TypeVar("T")


@dataclass(frozen=True)
class _Run:
    """Neighbouring sequences of one shape: the first token, how many, trunk and branches."""

    start: int
    count: int
    trunk: int
    branches: tuple[int, ...]

    @property
    def length(self) -> int:
        return self.trunk + sum(self.branches)

    def mask(self, window: int | None, device: torch.device) -> torch.Tensor:
        """Return what the tokens of the branches see, bool (tokens of branches, length)."""
        sizes = torch.tensor(self.branches)
        owner = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
        begin = torch.repeat_interleave(sizes.cumsum(0) - sizes, sizes)
        position = torch.cat(
            [torch.arange(self.trunk), self.trunk + torch.arange(len(owner)) - begin]
        )
        owner = torch.cat([torch.full((self.trunk,), -1), owner])
        distance = position[self.trunk :, None] - position[None]
        same = (owner[None] < 0) | (owner[None] == owner[self.trunk :, None])
        seen = same & (distance >= 0)
        return (seen if window is None else seen & (distance < window)).to(device)


@dataclass(frozen=True)
class _Segments:
    """Trunks and branches as sequences of their own, each after a copy of what it sees."""

    queries: torch.Tensor
    keys: torch.Tensor
    taken: torch.Tensor
    longest: int


@dataclass(frozen=True)
class BranchedTokens(TokenLists):
    """Token lists that part into branches; only for a batch that runs packed.

    Attributes
    ----------
    branch : numpy.ndarray
        For every token 0 in the trunk, then the number of its branch from 1 on, without gaps
        within a sequence; int64, shape (tokens,). A trunk has at least one token.
    """

    branch: np.ndarray = field(kw_only=True)
    _made: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def positions(self) -> np.ndarray:
        """Position of every token behind the trunk of its sequence, int64, shape (tokens,)."""
        parts = []
        for run in self._runs:
            sizes = [np.arange(run.trunk), *(run.trunk + np.arange(size) for size in run.branches)]
            parts += [np.concatenate(sizes)] * run.count
        return np.concatenate(parts)

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        settings: LayerSettings,
    ) -> torch.Tensor:
        """Attend within trunks and branches; see `Layout`.

        Raises
        ------
        NotPackableError
            If the layer is not causal: a trunk would see its branches.
        """
        if not settings.causal:
            raise NotPackableError("only causal attention can share the beginning of sequences")
        if fuses(query, value):
            return self._fused(query, key, value, settings)
        options = {"scale": settings.scaling, "enable_gqa": query.shape[1] != key.shape[1]}
        output = query.new_empty(1, query.shape[2], query.shape[1], value.shape[-1])
        for run in self._runs:
            rows = slice(run.start, run.start + run.count * run.length)
            parts = [
                part[0, :, rows].unflatten(1, (run.count, run.length)).transpose(0, 1)
                for part in (query, key, value)
            ]
            attended = self._attend_run(run, parts, settings.window, options)
            shape = (run.count, run.length, query.shape[1], -1)
            output[0, rows].view(shape).copy_(attended.transpose(1, 2))
        return output

    def _attend_run(
        self, run: _Run, parts: list[torch.Tensor], window: int | None, options: dict[str, Any]
    ) -> torch.Tensor:
        """Attend in sequences of one shape; tensors of shape (count, heads, length, size)."""
        query, key, value = parts
        mask = None
        if window is not None and run.trunk > window:
            mask = self._once(
                (run.trunk, window), lambda: window_mask(run.trunk, window, True, query.device)
            )
        own_query, own_key, own_value = (part[:, :, : run.trunk] for part in parts)
        attended = scaled_dot_product_attention(
            own_query, own_key, own_value, attn_mask=mask, is_causal=mask is None, **options
        )
        if not run.branches:
            return attended
        seen = self._once((run.trunk, run.branches, window), lambda: run.mask(window, query.device))
        branches = scaled_dot_product_attention(
            query[:, :, run.trunk :], key, value, attn_mask=seen, **options
        )
        return torch.cat([attended, branches], dim=2)

    def _once(self, key: Hashable, build: Callable[[], T]) -> T:
        """Return what `build` gives, which all layers of the model share."""
        if key not in self._made:
            self._made[key] = build()
        return self._made[key]

    def _fused(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        settings: LayerSettings,
    ) -> torch.Tensor:
        segments = self._once("segments", lambda: _segments(self._runs, query.device))
        queries, keys, values = (part[0].transpose(0, 1) for part in (query, key, value))
        return fused(
            queries,
            keys[segments.taken],
            values[segments.taken],
            (segments.queries, segments.keys),
            (segments.longest,) * 2,
            settings,
        )[None]

    @cached_property
    def _runs(self) -> list[_Run]:
        shapes = []
        for start, stop in pairwise(self.offsets.tolist()):
            trunk, *branches = np.bincount(self.branch[start:stop]).tolist()
            shapes.append((trunk, tuple(branches)))
        runs: list[_Run] = []
        start = 0
        for (trunk, sizes), same in groupby(shapes):
            run = _Run(start, len(list(same)), trunk, sizes)
            runs.append(run)
            start += run.count * run.length
        return runs


def _segments(runs: list[_Run], device: torch.device) -> _Segments:
    lengths, spans = [], []
    for run in runs:
        for row in range(run.count):
            start = run.start + row * run.length
            trunk = np.arange(start, start + run.trunk)
            lengths.append(run.trunk)
            spans.append(trunk)
            begin = start + run.trunk
            for size in run.branches:
                lengths.append(size)
                spans.append(np.concatenate([trunk, np.arange(begin, begin + size)]))
                begin += size

    def offsets(sizes: list[int]) -> torch.Tensor:
        return torch.tensor([0, *np.cumsum(sizes)], dtype=torch.int32, device=device)

    keys = [len(span) for span in spans]
    taken = torch.from_numpy(np.concatenate(spans)).to(device)
    return _Segments(offsets(lengths), offsets(keys), taken, max(keys))
