"""Whether a limit leaves room for a text: told on the client, by the tokenizer without weights."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dask_embed.models.spec import Model
from dask_embed.models.tokenizers import tokenizer_checkpoint, tokenizer_of
from dask_embed.text.encoding import SequenceSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from dask_embed.models.checkpoint import Checkpoint
    from dask_embed.operators.model import ModelOperator

# More special tokens than any tokenizer adds: a limit with so much room is not looked into, which
# spares the client a vocabulary of many megabytes.
_PLENTY = 32


def require_room(operator: ModelOperator, checkpoint: Checkpoint) -> None:
    """Raise unless `max_length`, where it was given, holds what no truncation takes away.

    Raises
    ------
    ValueError
        If it is less than the special tokens and what else the operator needs.
    """
    limit = operator.max_length
    if limit is None:
        return
    needed = operator.needed_tokens(checkpoint)
    if limit >= sum(needed.values()) + _PLENTY:
        return
    needed = {"special": operator.special_tokens(tokenizer_of(operator.spec)), **needed}
    least = sum(needed.values())
    if limit < least:
        parts = ", ".join(f"{count} {name}" for name, count in needed.items() if count)
        raise ValueError(f"max_length must be at least {least} tokens ({parts}); got {limit}")


def require_window(operator: ModelOperator, stride: int | None, limit: int | None) -> None:
    """Raise unless a window of `limit` tokens has one that it does not share with the next.

    Raises
    ------
    ValueError
        If `stride` is not less than the tokens besides the special ones.
    """
    if stride is None or limit is None:
        return
    if stride >= limit:
        raise ValueError(f"stride must be less than max_length, {limit}; got {stride}")
    if limit - stride >= _PLENTY:
        return
    special = operator.special_tokens(tokenizer_of(operator.spec))
    if stride >= limit - special:
        raise ValueError(
            f"stride must be less than {limit - special}, the tokens of a window (max_length "
            f"{limit}, {special} of them special); got {stride}"
        )


def most_tokens(model: Model, texts: Sequence[str]) -> int:
    """Return the tokens of the longest of `texts`, without special tokens."""
    return _most_tokens(model, tokenizer_checkpoint(model).revision, tuple(texts))


@functools.lru_cache(maxsize=64)
def _most_tokens(model: Model, revision: str, texts: tuple[str, ...]) -> int:
    settings = SequenceSettings(None, special=False)
    _, tokens, _ = settings.build(copied_tokenizer(model))(texts)
    return int(tokens.lengths.max())


def copied_tokenizer(model: Model) -> PreTrainedTokenizerBase:
    """Return a tokenizer to call and to change, which a client keeps no longer than it needs it."""
    tokenizer = copy.deepcopy(tokenizer_of(model))
    tokenizer.model_max_length = int(1e30)  # longer texts are no cause to warn
    return tokenizer
