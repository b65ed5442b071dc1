"""Whether a limit leaves room for a text: told on the client, by the tokenizer without weights."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from dask_embed.models.spec import Model
from dask_embed.models.tokenizers import tokenizer_checkpoint, tokenizer_of
from dask_embed.tokens.sequences import SequenceSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


# More special tokens than any tokenizer adds: a limit with so much room is not looked into, which
# spares the client a vocabulary of many megabytes.
_PLENTY = 32


def require_room(limit: int, needed: Mapping[str, int], special: Callable[[], int]) -> None:
    """Raise unless `max_length` holds what no truncation takes away.

    Parameters
    ----------
    limit : int
    needed : mapping
        Tokens besides special ones, by what they are.
    special : callable
        Returns the special tokens; only called where they can matter.

    Raises
    ------
    ValueError
        If it is less than the special tokens and what else the operator needs.
    """
    if limit >= sum(needed.values()) + _PLENTY:
        return
    needed = {"special": special(), **needed}
    least = sum(needed.values())
    if limit < least:
        parts = ", ".join(f"{count} {name}" for name, count in needed.items() if count)
        raise ValueError(f"max_length must be at least {least} tokens ({parts}); got {limit}")


def require_window(stride: int | None, limit: int | None, special: Callable[[], int]) -> None:
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
    around = special()
    if stride >= limit - around:
        raise ValueError(
            f"stride must be less than {limit - around}, the tokens of a window (max_length "
            f"{limit}, {around} of them special); got {stride}"
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
