"""Whether texts may run one after the other, with which positions and in rows of which length."""

from __future__ import annotations

import numpy as np
import torch

from dask_embed.inference.agreement import disagreement
from dask_embed.inference.forward import Forward
from dask_embed.inference.packing import Row
from dask_embed.inference.positions import Positions
from dask_embed.loading.load import LoadedModel
from dask_embed.tokens.lists import TokenLists

# Packed rows are tried longer than the model has positions, unless it has more than this.
_MOST_POSITIONS = 1024


def why_not_packed(
    forward: Forward,
    loaded: LoadedModel,
    tokens: TokenLists,
    alone: torch.Tensor,
    tolerance: float,
) -> str:
    """Return why texts may not run packed, and find the positions of the model on the way."""

    def tried(positions: Positions) -> str:
        forward.positions = positions
        reason = disagreement(lambda: forward.in_one_row(tokens), alone, tolerance)
        return reason and f"packed {reason}"

    most, reason = Positions(), ""
    if loaded.spec.attention != "auto":
        reason = f"attention={loaded.spec.attention!r} was asked for"
    elif not forward.takes_positions:
        reason = "its forward takes no position_ids"
    else:
        packed = tried(most)
        if not packed:
            forward.row = longest_row(forward, loaded, tokens, alone, tolerance)
            return ""
    forward.positions = own_positions(forward, loaded, tokens, alone, tolerance)
    if reason or forward.positions == most:
        return reason or packed
    if forward.positions is None:
        return "it numbers positions in a way of its own"
    packed = tried(forward.positions)
    if not packed:
        forward.row = longest_row(forward, loaded, tokens, alone, tolerance)
    return packed


def longest_row(
    forward: Forward,
    loaded: LoadedModel,
    tokens: TokenLists,
    alone: torch.Tensor,
    tolerance: float,
) -> Row:
    """Return how long packed rows may be: as long as texts, longer ones if they agree too.

    Those of a model in float32 are tried when the first is wanted, for they take as long to run as
    all else that is tried. With more positions than are quick to try, rows are no longer.
    """
    limit = loaded.checkpoint.position_limit
    if limit is None or len(tokens.values) > limit:
        return Row()
    if limit > _MOST_POSITIONS:
        return Row(limit)

    def longer() -> bool:
        copies = limit // len(tokens.values) + 1
        row = tokens.take(np.tile(np.arange(len(tokens)), copies))
        expected = alone.repeat(copies, 1)
        return not disagreement(lambda: forward.in_one_row(row), expected, tolerance)

    if loaded.compute_dtype != torch.float32:
        return Row(None if longer() else limit)
    return Row(limit, longer)


def own_positions(
    forward: Forward,
    loaded: LoadedModel,
    tokens: TokenLists,
    alone: torch.Tensor,
    tolerance: float,
) -> Positions | None:
    """Return how the model numbers positions by itself; None if in no way that is known."""
    if not forward.takes_positions:
        return None
    padding = getattr(loaded.checkpoint.text_config, "pad_token_id", None)
    text = tokens.take(np.array([0]))  # it has the padding token in it
    expected = alone[: len(text.values)]
    for positions in Positions.known(padding):
        numbered = positions.of(text)

        def run(numbered: np.ndarray = numbered) -> torch.Tensor:
            return forward.at_positions(text, numbered)

        if not disagreement(run, expected, tolerance):
            return positions
    return None
