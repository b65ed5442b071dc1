"""Whether a model computes otherwise where it may keep what it has read: it is asked for itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from dask_embed.inference.forward import Forward
    from dask_embed.loading.load import LoadedModel
    from dask_embed.tokens.lists import TokenLists


def keeps_cache(
    forward: Forward, loaded: LoadedModel, tokens: TokenLists, alone: torch.Tensor
) -> bool:
    """Return whether a model needs its cache for the vectors of its own call; then it stays on.

    Loading turns it off, since one forward pass has no use for it. But xLSTM cuts a long text in
    pieces only where it keeps one.

    Parameters
    ----------
    forward : Forward
    loaded : LoadedModel
    tokens : TokenLists
        Texts, of which the longest is tried.
    alone : torch.Tensor
        Their vectors without a cache, of shape (tokens, hidden).
    """
    own = loaded.checkpoint.text_config
    if not getattr(own, "use_cache", False) or getattr(own, "is_decoder", True) is False:
        return False
    longest = int(tokens.lengths.argmax())
    expected = alone[tokens.offsets[longest] : tokens.offsets[longest + 1]]
    configs = (forward.model.config, loaded.transformer.config)
    for config in configs:
        config.use_cache = True
    try:
        given = forward.alone(tokens.take(np.array([longest])))
        needed = not torch.allclose(given, expected, rtol=1e-4, atol=1e-5)
    except (AttributeError, RuntimeError, TypeError, ValueError):  # it cannot keep one
        needed = False
    if not needed:
        for config in configs:
            config.use_cache = False
    return needed
