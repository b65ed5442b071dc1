"""Which ways of batching give a model's true vectors: tried on load, never assumed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from dask_embed.inference.forward import Forward
from dask_embed.inference.memory import Usage, is_out_of_memory
from dask_embed.models.loading import LoadedModel
from dask_embed.models.vocabulary import Tables
from dask_embed.text.tokenization import TokenLists

# Two ways must agree to this, relative to the size of the vectors.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 5e-3}
# Windows up to this are probed beyond their length; longer texts of wider windows run padded.
_WIDEST_PROBED_WINDOW = 512
# Memory is measured on texts of this length and an eighth of it, eight times as many tokens.
_LONGEST_MEASURED = 2048
_MEASURED_TEXTS = 8


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
    lengths, up_to = probed_lengths(loaded)
    tokens = random_tokens(loaded, lengths)
    alone = forward.equal_lengths(tokens)
    if alone.shape[1] != loaded.checkpoint.hidden_size:
        raise ValueError(
            f"model {loaded.spec.name!r} gives vectors of {alone.shape[1]} values, but its "
            f"configuration says {loaded.checkpoint.hidden_size}"
        )
    tolerance = TOLERANCE[loaded.compute_dtype]
    pads = difference(forward.padded(tokens, eager=True), alone) <= tolerance
    verdict = _judge_packed(forward, loaded, tokens, alone, pads)
    if loaded.spec.compile and not verdict.packed:
        distance = difference(forward.padded(tokens), alone)
        if not distance <= tolerance:
            raise ValueError(
                f"model {loaded.spec.name!r} gives other vectors when compiled (by "
                f"{distance:.1e}); load it with dask_embed.Model(..., compile=False)"
            )
    return replace(verdict, up_to=up_to) if verdict.packed else verdict


def _judge_packed(
    forward: Forward, loaded: LoadedModel, tokens: TokenLists, alone: torch.Tensor, pads: bool
) -> Verdict:
    if loaded.spec.attention != "auto":
        asked = f"attention={loaded.spec.attention!r} was asked for"
        return Verdict(False, pads=pads, reason=asked)
    if not forward.takes_positions:
        return Verdict(False, pads=pads, reason="its forward takes no position_ids")
    try:
        distance = difference(forward.packed(tokens), alone)
    except Exception as error:  # every architecture has its own way to refuse
        if is_out_of_memory(error):
            raise
        return Verdict(False, pads=pads, reason=f"{type(error).__name__}: {error!s:.200}")
    if not distance <= TOLERANCE[loaded.compute_dtype]:
        reason = f"packed differs from each text alone by {distance:.1e}"
        return Verdict(False, pads=pads, reason=reason)
    return Verdict(True, pads=pads)


def measure(run: Callable[[TokenLists], Any], loaded: LoadedModel) -> Usage | None:
    """Return the GPU memory that batches take, from two passes with short and long texts.

    None on a CPU, where small batches are faster and memory is no limit, and where the
    allocator keeps no peak.
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
            run(random_tokens(loaded, texts))
            peaks.append(torch.cuda.max_memory_allocated(loaded.device) - before)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            return None  # an allocator of RMM's kind
        squares.append(length * length * len(texts))
    return Usage.fit(tokens, (squares[0], squares[1]), (peaks[0], peaks[1]))


def difference(given: torch.Tensor, expected: torch.Tensor) -> float:
    """Return how far two results are apart, relative to their size."""
    given, expected = given.float(), expected.float()
    return float((given - expected).norm() / expected.norm().clamp_min(1e-12))


def probed_lengths(loaded: LoadedModel) -> tuple[list[int], int | None]:
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


def random_tokens(loaded: LoadedModel, lengths: list[int]) -> TokenLists:
    """Return texts of these lengths, of any tokens but padding."""
    draw = np.random.default_rng(0)
    config = loaded.checkpoint.text_config
    padding = getattr(config, "pad_token_id", None)
    # configurations of a factory's models need not say
    vocabulary = getattr(config, "vocab_size", None) or len(loaded.tokenizer)
    vocabulary = min(vocabulary, Tables.of(loaded.model, loaded.task).tokens or vocabulary)
    allowed = np.setdiff1d(np.arange(vocabulary), [] if padding is None else [padding])
    return TokenLists.of([draw.choice(allowed, length).tolist() for length in lengths])
