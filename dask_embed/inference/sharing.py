"""Texts of a partition that several operators tokenize alike are tokenized once."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING

import numpy as np

from dask_embed.models.tokenizer_files import tokenizer_fingerprint
from dask_embed.text.tokenization import TokenLists

if TYPE_CHECKING:
    from dask_embed.inference.runner import Runner
    from dask_embed.inference.stats import Meter

_meter: ContextVar[Meter | None] = ContextVar("dask_embed_meter", default=None)


class SharedTokens:
    """Token lists of the texts of one partition, for the operators that run on it.

    Parameters
    ----------
    users : int
        Operators that are still to run. What the last one tokenizes is not kept.

    Notes
    -----
    It holds each distinct text's tokens, 4 bytes a token and about 200 bytes a text, until the
    last operator has run. May be used from several threads.
    """

    def __init__(self, users: int) -> None:
        self._users = users
        self._lock = threading.Lock()
        self._known: dict[Hashable, dict[str, np.ndarray]] = {}

    def begin(self) -> None:
        """Note that the next of the operators starts to run."""
        self._users -= 1

    def lists(
        self, key: Hashable, texts: Sequence[str], tokenize: Callable[[Sequence[str]], TokenLists]
    ) -> TokenLists:
        """Return the token lists of `texts`, those from `tokenize` that are not known yet.

        Parameters
        ----------
        key : hashable
            Equal for equal ways to tokenize.
        texts : sequence of str
        tokenize : callable
            ``(texts) -> TokenLists``.
        """
        with self._lock:
            known = self._known.setdefault(key, {})
            found = {text: known[text] for text in texts if text in known}
        missing = [text for text in dict.fromkeys(texts) if text not in found]
        if missing:
            tokens = tokenize(missing)
            fresh = {text: tokens[place] for place, text in enumerate(missing)}
            if self._users:
                with self._lock:
                    known.update(fresh)
            found |= fresh
        return _joined([found[text] for text in texts])


def _joined(lists: list[np.ndarray]) -> TokenLists:
    offsets = np.zeros(len(lists) + 1, np.int64)
    np.cumsum([len(ids) for ids in lists], out=offsets[1:])
    values = np.concatenate(lists) if lists else np.zeros(0, np.int32)
    return TokenLists(values, offsets)


@contextlib.contextmanager
def tokenizing_for(meter: Meter) -> Iterator[None]:
    """Within the block, in this thread, tokenize for the operator that has this meter."""
    token = _meter.set(meter)
    try:
        yield
    finally:
        _meter.reset(token)


def count_tokenized(texts: int) -> None:
    """Count texts that are given to a tokenizer."""
    meter = _meter.get()
    if meter is not None:
        meter.count(tokenized=texts)


def tokenize_once(runner: Runner, texts: Sequence[str], max_length: int | None) -> TokenLists:
    """Return the token lists of `texts`, from another operator of the partition where it has them.

    Parameters
    ----------
    runner : Runner
        The tokenizer is its own.
    texts : sequence of str
    max_length : int, optional
        Cut after this many tokens.
    """
    tokenizer = runner.tokenizer(max_length)

    def tokenize(missing: Sequence[str]) -> TokenLists:
        count_tokenized(len(missing))
        return tokenizer(missing)

    meter = _meter.get()
    if meter is None or meter.shared is None:
        return tokenize(texts)
    loaded = runner.loaded
    key = (tokenizer_fingerprint(loaded.spec, loaded.checkpoint), max_length)
    return meter.shared.lists(key, texts, tokenize)
