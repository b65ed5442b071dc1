"""Texts of a partition that several operators tokenize alike are tokenized once."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Hashable, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from dask_embed.runtime.within import set_within
from dask_embed.tokens.lists import TokenLists

if TYPE_CHECKING:
    from dask_embed.runtime.stats import Meter
    from dask_embed.tokens.lists import TextTokenizer

T = TypeVar("T", bound=Hashable)

_meter: ContextVar[Meter | None] = ContextVar("dask_embed_meter", default=None)


class SharedTokens:
    """Tokens of the texts of one partition, for operators on it that have the same tokenizer.

    Parameters
    ----------
    users : int
        Operators that are still to run. What the last one tokenizes is not kept.

    Notes
    -----
    It holds each distinct text's tokens until the last operator has run: 4 bytes a token and
    about 200 bytes a text, with offsets 17 to 25 bytes a token more. May be used from several
    threads.
    """

    def __init__(self, users: int) -> None:
        self._users = users
        self._lock = threading.Lock()
        self._known: dict[Hashable, dict[Any, Any]] = {}

    def begin(self) -> None:
        """Note that the next of the operators starts to run."""
        self._users -= 1

    def of(
        self, key: Hashable, texts: Sequence[T], tokenize: Callable[[list[T]], Sequence[Any]]
    ) -> list[Any]:
        """Return what `tokenize` gives for each of `texts`, calling it for those not known yet.

        Parameters
        ----------
        key : hashable
            Equal for equal ways to use the tokenizer.
        texts : sequence of hashable
            Texts, or pairs of them.
        tokenize : callable
            Distinct texts to as many results.
        """
        with self._lock:
            known = self._known.setdefault(key, {})
            found = {text: known[text] for text in texts if text in known}
        missing = [text for text in dict.fromkeys(texts) if text not in found]
        if missing:
            fresh = dict(zip(missing, tokenize(missing), strict=True))
            if self._users:
                with self._lock:
                    known.update(fresh)
            found |= fresh
        return [found[text] for text in texts]


def tokenizing_for(meter: Meter) -> contextlib.AbstractContextManager[None]:
    """Within the block, in this thread, tokenize for the operator that has this meter."""
    return set_within(_meter, meter)


def count_tokenized(texts: int) -> None:
    """Count texts that are given to a tokenizer."""
    meter = _meter.get()
    if meter is not None:
        meter.count(tokenized=texts)


def count_truncated(texts: int, limit: int | None = None) -> None:
    """Count texts that were cut: by a tokenizer, if its `limit` is the one of the operator.

    Another limit is there to tell texts that are too long, which then fail.
    """
    meter = _meter.get()
    if meter is not None and limit in (None, meter.record.max_length):
        meter.count(truncated=texts)


def shared_tokens() -> SharedTokens | None:
    """Return the tokens that the operator of this thread shares with others, None without any."""
    meter = _meter.get()
    return None if meter is None else meter.shared


def tokenize_once(tokenizer: TextTokenizer, texts: Sequence[str]) -> TokenLists:
    """Return the token lists of `texts`, from another operator of the partition where it has them.

    Parameters
    ----------
    tokenizer : TextTokenizer
    texts : sequence of str
    """

    def tokenize(some: Sequence[str]) -> TokenLists:
        count_tokenized(len(some))
        tokens = tokenizer(some)
        count_truncated(tokens.truncated, tokenizer.max_length)
        return tokens

    def each(missing: list[str]) -> list[np.ndarray]:
        tokens = tokenize(missing)
        return [tokens[row] for row in range(len(tokens))]

    shared = shared_tokens()
    if shared is None:
        return tokenize(texts)
    return joined(shared.of(("texts", tokenizer.max_length), texts, each))


def joined(lists: Sequence[np.ndarray], types: Sequence[np.ndarray] | None = None) -> TokenLists:
    """Return lists of ids, and of token types where there are any, as one."""
    offsets = np.zeros(len(lists) + 1, np.int64)
    np.cumsum([len(ids) for ids in lists], out=offsets[1:])
    values = np.concatenate([np.zeros(0, np.int32), *lists])
    if types is None:
        return TokenLists(values, offsets)
    return TokenLists(values, offsets, np.concatenate([np.zeros(0, np.int8), *types]))
