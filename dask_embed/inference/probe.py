"""Which ways of batching give a model's true vectors: tried on load, never assumed.

The truth is the model's own call on one text, with what its tokenizer gives and nothing of ours,
on a model as it was loaded.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from dask_embed.inference.forward import Forward
from dask_embed.inference.lengths import SHORT, lengths_to_try, repeating_tokens
from dask_embed.inference.memory import Usage, is_out_of_memory, release
from dask_embed.inference.own_cache import keeps_cache
from dask_embed.inference.packing import Row
from dask_embed.inference.positions import Positions
from dask_embed.inference.state import ModelState
from dask_embed.loading.load import LoadedModel
from dask_embed.models.vocabulary import Tables
from dask_embed.tokens.lists import TokenLists

# Two ways must agree to this, relative to the size of the vectors.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 5e-3}
# No single vector may be further off than so many times the tolerance.
_EACH = 5.0
# In a type of fewer bits one way may be so many times as far off as another that is right.
_ROUNDING = 3.0
_LONGEST_LEAST = 16
# Packed rows are tried longer than the model has positions, unless it has more than this.
_MOST_POSITIONS = 1024
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
        Longest text for which batches were tried; longer ones run alone. None without a limit.
    pads, pads_left : bool
        Texts of different lengths may share a batch that is padded on the right, on the left.
        Not tried where texts run packed.
    by_length : bool
        Texts of one length may share a batch; where not even they may, each text runs alone.
        Not tried where texts run packed.
    keeps_state : bool
        A forward pass changes the model, which is put back after it: one text at a time.
    shortest : int
        Fewest tokens that the model takes.
    reason : str
        Why it does not run packed.
    """

    packed: bool
    up_to: int | None = None
    pads: bool = True
    pads_left: bool = False
    by_length: bool = True
    keeps_state: bool = False
    shortest: int = 1
    reason: str = ""

    @property
    def runs(self) -> str:
        """How texts run that are not longer than `up_to`, in a word or two."""
        if self.packed:
            return "packed"
        return "padded" if self.pads else "by length" if self.by_length else "alone"


class NotPerTokenError(ValueError):
    """The transformer gives other vectors than one for each token."""


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
        tokens, alone, shortest, up_to = _texts(exact, loaded, lengths, up_to)
        if keeps_cache(exact, loaded, tokens, alone):
            tokens, alone, shortest, up_to = _texts(exact, loaded, lengths, up_to)
        _require_vectors(loaded, tokens, alone)
        verdict = _judge(exact, loaded, tokens, alone)
        forward.positions, forward.row = exact.positions, exact.row
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
    tolerance = _tolerance(forward, tokens, alone)
    rounded = loaded.compute_dtype != torch.float32
    reason = None
    if not forward.changes:
        reason = _why_not_packed(forward, loaded, tokens, alone, tolerance)
        if not reason and not rounded:
            return Verdict(True)
    _require_repeatable(forward, loaded, tokens, alone)
    changes = _changes(forward, loaded, tokens, alone)
    if changes:
        why = f"a forward pass changes the model ({changes[0]})"
        return Verdict(False, pads=False, by_length=False, keeps_state=True, reason=why)
    if reason is None:
        reason = _why_not_packed(forward, loaded, tokens, alone, tolerance)

    def agrees(run: Callable[[], torch.Tensor]) -> bool:
        return not _disagreement(run, alone, tolerance)

    left = forward.positions is not None
    return Verdict(
        packed=not reason,
        pads=agrees(lambda: forward.padded(tokens, eager=True)),
        pads_left=left and agrees(lambda: forward.padded(tokens, "left", eager=True)),
        by_length=agrees(lambda: forward.equal_lengths(tokens)),
        reason=reason,
    )


def _why_not_packed(
    forward: Forward,
    loaded: LoadedModel,
    tokens: TokenLists,
    alone: torch.Tensor,
    tolerance: float,
) -> str:
    """Return why texts may not run packed, and find the positions of the model on the way."""

    def tried(positions: Positions) -> str:
        forward.positions = positions
        reason = _disagreement(lambda: forward.in_one_row(tokens), alone, tolerance)
        return reason and f"packed {reason}"

    most, reason = Positions(), ""
    if loaded.spec.attention != "auto":
        reason = f"attention={loaded.spec.attention!r} was asked for"
    elif not forward.takes_positions:
        reason = "its forward takes no position_ids"
    else:
        packed = tried(most)
        if not packed:
            forward.row = _row(forward, loaded, tokens, alone, tolerance)
            return ""
    forward.positions = _positions(forward, loaded, tokens, alone, tolerance)
    if reason or forward.positions == most:
        return reason or packed
    if forward.positions is None:
        return "it numbers positions in a way of its own"
    packed = tried(forward.positions)
    if not packed:
        forward.row = _row(forward, loaded, tokens, alone, tolerance)
    return packed


def _row(
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
        return not _disagreement(lambda: forward.in_one_row(row), expected, tolerance)

    if loaded.compute_dtype != torch.float32:
        return Row(None if longer() else limit)
    return Row(limit, longer)


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
    tolerance = max(_ROUNDING * _furthest(alone, exact), TOLERANCE[torch.float32])
    reason = _disagreement(lambda: forward.packed(tokens), exact, tolerance, each=1.0)
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


def _texts(
    forward: Forward, loaded: LoadedModel, lengths: list[int], up_to: int | None
) -> tuple[TokenLists, torch.Tensor, int, int | None]:
    """Return random texts that the model takes, their vectors, the least length, and `up_to`.

    Some models do not take every special token, such as one that stands for an image, and some no
    text longer than another number in their configuration.
    """
    problem = ""
    for special in (True, False):
        for shortest in range(1, min(_LONGEST_LEAST, max(lengths)) + 1):
            tokens = random_tokens(loaded, [max(n, shortest) for n in lengths], special=special)
            given = [_vectors_of(forward, tokens, text) for text in range(len(tokens))]
            taken = np.array([isinstance(each, torch.Tensor) for each in given])
            if taken[: len(SHORT)].all():
                limits = [int(length) - 1 for length in tokens.lengths[~taken]]
                limits += [] if up_to is None else [up_to]
                alone = torch.cat([each for each in given if isinstance(each, torch.Tensor)])
                kept = tokens.take(np.flatnonzero(taken))
                return kept, alone, shortest, min(limits, default=None)
            problem = problem or next(each for each in given if isinstance(each, str))
    raise ValueError(f"model {loaded.spec.name!r} does not run on a text: {problem}")


def _vectors_of(forward: Forward, tokens: TokenLists, text: int) -> torch.Tensor | str:
    """Return the vectors of a text, or why the model does not take it."""
    try:
        return forward.alone(tokens.take(np.array([text])))
    except Exception as error:  # every architecture has its own way to refuse
        if is_out_of_memory(error):
            raise
        return f"{type(error).__name__}: {error!s:.200}"


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
    with forward.padding():
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


def _positions(
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

        if not _disagreement(run, expected, tolerance):
            return positions
    return None


def _require_compiled(forward: Forward, loaded: LoadedModel, tokens: TokenLists) -> None:
    distance = difference(forward.padded(tokens), forward.padded(tokens, eager=True))
    if not distance <= TOLERANCE[loaded.compute_dtype]:
        raise ValueError(
            f"model {loaded.spec.name!r} gives other vectors when compiled (by "
            f"{distance:.1e}); load it with dask_embed.Model(..., compile=False)"
        )


def _tolerance(forward: Forward, tokens: TokenLists, alone: torch.Tensor) -> float:
    """Return how far two ways may be apart that are both right.

    In a type of fewer bits that is told by texts of one length in a batch and alone.
    """
    least = TOLERANCE[torch.float32]
    if alone.dtype == torch.float32:
        return least
    same = tokens.take(np.flatnonzero(tokens.lengths == tokens.lengths[0]).repeat(2))
    apart = difference(forward.equal_lengths(same), forward.alone(same))
    return min(max(_ROUNDING * apart, least), TOLERANCE[alone.dtype])


def _disagreement(
    run: Callable[[], torch.Tensor],
    expected: torch.Tensor,
    tolerance: float,
    each: float = _EACH,
) -> str:
    """Return why a way of batching is not right, nothing if it is."""
    try:
        given = run()
    except Exception as error:  # every architecture has its own way to refuse
        if is_out_of_memory(error):
            raise
        return f"is refused: {type(error).__name__}: {error!s:.200}"
    apart, furthest = difference(given, expected), _furthest(given, expected)
    if apart <= tolerance and furthest <= each * tolerance:
        return ""
    return f"differs from each text alone by {max(apart, furthest):.1e}"


def difference(given: torch.Tensor, expected: torch.Tensor) -> float:
    """Return how far two results are apart, relative to their size."""
    given, expected = given.float(), expected.float()
    return float((given - expected).norm() / expected.norm().clamp_min(1e-12))


def _furthest(given: torch.Tensor, expected: torch.Tensor) -> float:
    """Return how far the worst vector is off, relative to the size of vectors."""
    given, expected = given.float(), expected.float()
    size = expected.norm(dim=-1).mean().clamp_min(1e-12)
    return float((given - expected).norm(dim=-1).max() / size)


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
            run(random_tokens(loaded, texts, special=False))
            peaks.append(torch.cuda.max_memory_allocated(loaded.device) - before)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            return None  # an allocator of RMM's kind
        squares.append(length * length * len(texts))
    return Usage.fit(tokens, (squares[0], squares[1]), (peaks[0], peaks[1]))


def probed_lengths(loaded: LoadedModel) -> tuple[list[int], int | None]:
    """Return lengths to try, past those that the configuration names, and what they vouch for."""
    checkpoint = loaded.checkpoint
    # a factory's configuration need not say how many positions there are
    known = checkpoint.position_limit if loaded.spec.factory is None else checkpoint.default_limit
    return lengths_to_try(checkpoint.text_config, known)


def random_tokens(loaded: LoadedModel, lengths: list[int], *, special: bool = True) -> TokenLists:
    """Return texts of any tokens, with every special one among those of the first."""
    config = loaded.checkpoint.text_config
    # configurations of a factory's models need not say
    vocabulary = getattr(config, "vocab_size", None) or len(loaded.tokenizer)
    vocabulary = min(vocabulary, Tables.of(loaded.model, loaded.task).tokens or vocabulary)
    named = {*loaded.tokenizer.all_special_ids, getattr(config, "pad_token_id", None)}
    ids = sorted(each for each in named if each is not None and 0 <= each < vocabulary)
    allowed = np.setdiff1d(np.arange(vocabulary), ids)
    lists = repeating_tokens(allowed, lengths)
    if special and ids and lists:
        places = np.arange(1, max(len(lists[0]) - 1, 1))[: len(ids)]
        lists[0][places] = ids[: len(places)]
    return TokenLists.of([each.tolist() for each in lists])
