"""When two ways to run a model give the same vectors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from dask_embed._validation import shown_error
from dask_embed.inference.forward import Forward
from dask_embed.inference.memory import is_final
from dask_embed.tokens.lists import TokenLists

# Two ways must agree to this, relative to the size of the vectors.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 5e-3}
# No single vector may be further off than so many times the tolerance.
_EACH = 5.0
# In a type of fewer bits one way may be so many times as far off as another that is right.
ROUNDING = 3.0


def tolerance_of(forward: Forward, tokens: TokenLists, alone: torch.Tensor) -> float:
    """Return how far two ways may be apart that are both right.

    In a type of fewer bits that is told by texts of one length in a batch and alone.
    """
    least = TOLERANCE[torch.float32]
    if alone.dtype == torch.float32:
        return least
    same = tokens.take(np.flatnonzero(tokens.lengths == tokens.lengths[0]).repeat(2))
    apart = difference(forward.equal_lengths(same), forward.alone(same))
    return min(max(ROUNDING * apart, least), TOLERANCE[alone.dtype])


def disagreement(
    run: Callable[[], torch.Tensor],
    expected: torch.Tensor,
    tolerance: float,
    each: float = _EACH,
) -> str:
    """Return why a way of batching is not right, nothing if it is."""
    try:
        given = run()
    except Exception as error:  # every architecture has its own way to refuse
        if is_final(error):
            raise
        return f"is refused: {shown_error(error)}"
    apart, worst = difference(given, expected), furthest(given, expected)
    if apart <= tolerance and worst <= each * tolerance:
        return ""
    return f"differs from each text alone by {max(apart, worst):.1e}"


def difference(given: torch.Tensor, expected: torch.Tensor) -> float:
    """Return how far two results are apart, relative to their size."""
    given, expected = given.float(), expected.float()
    return float((given - expected).norm() / expected.norm().clamp_min(1e-12))


def furthest(given: torch.Tensor, expected: torch.Tensor) -> float:
    """Return how far the worst vector is off, relative to the size of vectors."""
    given, expected = given.float(), expected.float()
    size = expected.norm(dim=-1).mean().clamp_min(1e-12)
    return float((given - expected).norm(dim=-1).max() / size)
