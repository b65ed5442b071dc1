"""Which ways of batching give a model's true vectors: tried on load, never assumed.

The truth is the model's own call on one text, with what its tokenizer gives and nothing of ours,
on a model as it was loaded.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch

from dask_embed.inference.agreement import (
    ROUNDING,
    TOLERANCE,
    difference,
    disagreement,
    furthest,
    tolerance_of,
)
from dask_embed.inference.forward import Forward
from dask_embed.inference.memory import is_out_of_memory, release
from dask_embed.inference.own_cache import keeps_cache
from dask_embed.inference.packed import why_not_packed
from dask_embed.inference.samples import probed_lengths, texts_alone
from dask_embed.inference.state import ModelState
from dask_embed.inference.verdict import NotPerTokenError, Verdict
from dask_embed.loading.load import LoadedModel
from dask_embed.tokens.lists import TokenLists


def judge(forward: Forward, loaded: LoadedModel) -> Verdict:
    """Compare random texts in each way of batching with each text alone.

    What packing needs to know, positions and the longest row, is set on `forward`.

    Raises
    ------
    NotPerTokenError
        If the model gives other vectors than one for each token.
    ValueError
        If the model does not run, its vectors are no numbers, are others for the same text, or have
        another size than its configuration promises.
    """
    lengths, up_to = probed_lengths(loaded)
    state = ModelState(loaded.transformer)
    with _exact(forward, loaded) as exact:
        tokens, alone, shortest, up_to = texts_alone(exact, loaded, lengths, up_to)
        if keeps_cache(exact, loaded, tokens, alone):
            tokens, alone, shortest, up_to = texts_alone(exact, loaded, lengths, up_to)
        _require_vectors(loaded, tokens, alone)
        verdict = _judge(exact, loaded, tokens, alone)
        forward.positions, forward.row = exact.positions, exact.row
        del exact  # a copy in float32 is not to be held while the model itself is tried
    if loaded.compute_dtype != torch.float32:
        verdict = _judge_rounded(forward, loaded, tokens, alone, verdict)
    if loaded.base is not None and state.rewrote_weights():
        raise ValueError(
            f"model {loaded.spec.name!r} ({loaded.checkpoint.config.model_type}) changes its "
            "weights with the first text, which others share; load it with "
            "dask_embed.Model(..., merge_adapter=True)"
        )
    if loaded.spec.compile and not verdict.packed:
        _require_compiled(forward, loaded, tokens)
    return replace(verdict, up_to=up_to, shortest=shortest)


def _judge(
    forward: Forward, loaded: LoadedModel, tokens: TokenLists, alone: torch.Tensor
) -> Verdict:
    """Try packed batches first: where they agree, every text was run again among others."""
    tolerance = tolerance_of(forward, tokens, alone)
    rounded = loaded.compute_dtype != torch.float32
    reason = None
    if not forward.changes:
        reason = why_not_packed(forward, loaded, tokens, alone, tolerance)
        if not reason and not rounded:
            return Verdict(True)
    _require_repeatable(forward, loaded, tokens, alone)
    changes = _changes(forward, loaded, tokens, alone)
    if changes:
        why = f"a forward pass changes the model ({changes[0]})"
        return Verdict(False, pads=False, by_length=False, keeps_state=True, reason=why)
    if reason is None:
        reason = why_not_packed(forward, loaded, tokens, alone, tolerance)

    def agrees(run: Callable[[], torch.Tensor]) -> bool:
        return not disagreement(run, alone, tolerance)

    left = forward.positions is not None
    return Verdict(
        packed=not reason,
        pads=agrees(lambda: forward.padded(tokens, eager=True)),
        pads_left=left and agrees(lambda: forward.padded(tokens, "left", eager=True)),
        by_length=agrees(lambda: forward.equal_lengths(tokens)),
        reason=reason,
    )


def _judge_rounded(
    forward: Forward, loaded: LoadedModel, tokens: TokenLists, exact: torch.Tensor, verdict: Verdict
) -> Verdict:
    """Hold packed batches in a type of fewer bits to what it does to each text alone.

    So the model itself has run before threads share it, whatever it does with its first text.
    """
    alone = forward.alone(tokens)
    if not bool(torch.isfinite(alone).all(dim=1).any()):
        raise ValueError(
            f"model {loaded.spec.name!r} gives vectors that are no finite numbers in "
            f"{_name(loaded.compute_dtype)}, which is too small for it; run it in another type"
        )
    if not verdict.packed:
        return verdict
    tolerance = max(ROUNDING * furthest(alone, exact), TOLERANCE[torch.float32])
    reason = disagreement(lambda: forward.packed(tokens), exact, tolerance, each=1.0)
    return replace(verdict, packed=not reason, reason=reason and f"packed {reason}")


@contextlib.contextmanager
def _exact(forward: Forward, loaded: LoadedModel) -> Iterator[Forward]:
    """Give a `Forward` of the same weights in float32, where rounding hides nothing.

    Weights that cannot be copied (quantized, placed by others, no memory) are judged as they are.
    """
    with torch.autocast(loaded.device.type, enabled=False):
        spec = loaded.spec
        rounded = loaded.transformer.dtype != torch.float32
        if not rounded or spec.quantization is not None or spec.device_map is not None:
            yield forward
            return
        try:
            model = copy.deepcopy(loaded.transformer).float()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            model = None
        if model is None:
            release(loaded.device)
            yield forward
            return
        plain = replace(spec, compile=False, dtype="float32")
        yield Forward(replace(loaded, transformer=model, spec=plain))
        del model
    release(loaded.device)


def _require_vectors(loaded: LoadedModel, tokens: TokenLists, alone: torch.Tensor) -> None:
    if len(alone) != len(tokens.values):
        raise NotPerTokenError(
            f"model {loaded.spec.name!r} ({loaded.checkpoint.config.model_type}) gives "
            f"{len(alone)} vectors for {len(tokens.values)} tokens, and one for each is needed"
        )
    if alone.shape[1] != loaded.checkpoint.hidden_size:
        raise ValueError(
            f"model {loaded.spec.name!r} gives vectors of {alone.shape[1]} values, but its "
            f"configuration says {loaded.checkpoint.hidden_size}"
        )
    if not bool(torch.isfinite(alone).all()):
        raise ValueError(
            f"model {loaded.spec.name!r} gives vectors that are no finite numbers: its weights "
            f"are damaged, or too large for {_name(alone.dtype)}"
        )


def _require_repeatable(
    forward: Forward, loaded: LoadedModel, tokens: TokenLists, alone: torch.Tensor
) -> None:
    again = forward.alone(tokens.take(np.array([0])))
    apart = difference(again, alone[: len(again)])
    if not apart <= TOLERANCE[torch.float32]:
        raise ValueError(
            f"model {loaded.spec.name!r} ({loaded.checkpoint.config.model_type}) gives a text "
            f"other vectors each time (by {apart:.1e}): it draws random numbers"
        )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _changes(
    forward: Forward, loaded: LoadedModel, tokens: TokenLists, alone: torch.Tensor
) -> list[str]:
    """Return what forward passes change in the model, long after short and short after long."""
    long, short = int(np.argmax(tokens.lengths)), int(np.argmin(tokens.lengths))
    parts = alone.split(tokens.lengths.tolist())
    state = ModelState(forward.model)
    apart = 0.0
    for text in (long, short, long):
        vectors = forward.equal_lengths(tokens.take(np.array([text])))
        apart = max(apart, difference(vectors, parts[text]))
    changes = state.changes()
    state.restore()
    if not changes and not apart <= TOLERANCE[alone.dtype]:
        raise ValueError(
            f"model {loaded.spec.name!r} ({loaded.checkpoint.config.model_type}) gives a text "
            f"other vectors after another text (by {apart:.1e}), and does not show why"
        )
    return changes


def _require_compiled(forward: Forward, loaded: LoadedModel, tokens: TokenLists) -> None:
    distance = difference(forward.padded(tokens), forward.padded(tokens, eager=True))
    if not distance <= TOLERANCE[loaded.compute_dtype]:
        raise ValueError(
            f"model {loaded.spec.name!r} gives other vectors when compiled (by "
            f"{distance:.1e}); load it with dask_embed.Model(..., compile=False)"
        )
