"""Which ways of batching give a model's true vectors: tried on load, never assumed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from dask_embed.inference.forward import Forward
from dask_embed.models.loading import LoadedModel
from dask_embed.tokenization import TokenLists

# Two ways must agree to this, relative to the size of the vectors.
_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 5e-3}
# Windows up to this are probed beyond their length; longer texts of wider windows run padded.
_WIDEST_PROBED_WINDOW = 512


@dataclass(frozen=True)
class Verdict:
    """How a model may run.

    Attributes
    ----------
    packed : bool
        Texts may run one after the other without padding.
    up_to : int or None
        Longest text for which that was tried; None where there is no limit.
    pads : bool
        Texts of different lengths may share a padded batch.
    reason : str
        Why it does not run packed.
    """

    packed: bool
    up_to: int | None = None
    pads: bool = True
    reason: str = ""


def judge(forward: Forward, loaded: LoadedModel) -> Verdict:
    """Compare texts of random tokens packed, padded and alone.

    Raises
    ------
    ValueError
        If the model's vectors do not have the size that its configuration promises.
    """
    lengths, up_to = _lengths(loaded)
    tokens = _random_tokens(loaded, lengths)
    alone = forward.equal_lengths(tokens)
    if alone.shape[1] != loaded.checkpoint.hidden_size:
        raise ValueError(
            f"model {loaded.spec.name!r} gives vectors of {alone.shape[1]} values, but its "
            f"configuration says {loaded.checkpoint.hidden_size}"
        )
    tolerance = _TOLERANCE[loaded.compute_dtype]
    pads = _difference(forward.padded(tokens), alone) <= tolerance
    if loaded.spec.attention != "auto":
        asked = f"attention={loaded.spec.attention!r} was asked for"
        return Verdict(False, pads=pads, reason=asked)
    if not forward.takes_positions:
        return Verdict(False, pads=pads, reason="its forward takes no position_ids")
    try:
        difference = _difference(forward.packed(tokens), alone)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # every architecture has its own way to refuse
        return Verdict(False, pads=pads, reason=f"{type(error).__name__}: {error!s:.200}")
    if not difference <= tolerance:
        reason = f"packed differs from each text alone by {difference:.1e}"
        return Verdict(False, pads=pads, reason=reason)
    return Verdict(True, up_to, pads)


def _difference(given: torch.Tensor, expected: torch.Tensor) -> float:
    given, expected = given.float(), expected.float()
    return float((given - expected).norm() / expected.norm().clamp_min(1e-12))


def _lengths(loaded: LoadedModel) -> tuple[list[int], int | None]:
    """Return lengths to try, longer than any window, and the length that they vouch for."""
    limit = loaded.checkpoint.position_limit or _WIDEST_PROBED_WINDOW * 2
    lengths = [min(length, limit) for length in (11, 3, 7, 7, 1)]
    window = _widest_window(loaded)
    if window is None or window >= limit:
        return lengths, None
    if window <= _WIDEST_PROBED_WINDOW:
        return [*lengths, min(window + 9, limit)], None
    return lengths, window


def _widest_window(loaded: LoadedModel) -> int | None:
    config = loaded.checkpoint.text_config
    names = ("sliding_window", "local_attention", "attention_window", "attention_chunk_size")
    windows = [getattr(config, name, None) for name in names]
    return max((window for window in windows if isinstance(window, int)), default=None)


def _random_tokens(loaded: LoadedModel, lengths: list[int]) -> TokenLists:
    draw = np.random.default_rng(0)
    config = loaded.checkpoint.text_config
    padding = getattr(config, "pad_token_id", None)
    allowed = np.setdiff1d(np.arange(config.vocab_size), [] if padding is None else [padding])
    return TokenLists.of([draw.choice(allowed, length).tolist() for length in lengths])
