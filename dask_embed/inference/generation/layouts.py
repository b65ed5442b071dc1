"""Who sees whom in the two passes of decoding: prompts, then a token for each row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dask_embed.inference.attention import LayerSettings, NotPackableError
from dask_embed.inference.generation.cache import Cohort
from dask_embed.inference.sequences import Sequences


@dataclass(frozen=True, eq=False)
class Prompts:
    """The prompts of a cohort, which keeps their keys and values."""

    cohort: Cohort
    sequences: Sequences

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        settings: LayerSettings,
    ) -> torch.Tensor:
        """Attend within each prompt; see `Layout`."""
        attended = self.sequences.attend(query, key, value, settings)
        self.cohort.put(_numbered(settings), key[0], value[0])
        return attended


@dataclass(frozen=True, eq=False)
class NewestTokens:
    """The newest token of every row of some cohorts, which sees all before it."""

    cohorts: Sequence[Cohort]

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        settings: LayerSettings,
    ) -> torch.Tensor:
        """Attend to the states of each row; see `Layout`."""
        layer = _numbered(settings)
        parts, start = [], 0
        q, k, v = (part[0].transpose(0, 1) for part in (query, key, value))
        for cohort in self.cohorts:
            own = slice(start, start + len(cohort.rows))
            parts.append(cohort.attend(layer, q[own], k[own], v[own], settings))
            start = own.stop
        return torch.cat(parts)[None]


def _numbered(settings: LayerSettings) -> int:
    if settings.number is None:
        raise NotPackableError("a layer has no number, by which its keys and values are kept")
    return settings.number
