"""Texts to token lists: one flat array of ids and its offsets, as in an Arrow list column."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class TokenLists:
    """Token ids of many texts.

    Attributes
    ----------
    values : numpy.ndarray
        All ids one after the other, int32, shape (tokens,).
    offsets : numpy.ndarray
        Where each text begins, and the end; int64, shape (texts + 1,).
    """

    values: np.ndarray
    offsets: np.ndarray

    @classmethod
    def of(cls, lists: Sequence[Sequence[int]]) -> TokenLists:
        """Build from one sequence of ids per text."""
        offsets = np.zeros(len(lists) + 1, np.int64)
        np.cumsum([len(ids) for ids in lists], out=offsets[1:])
        flat = itertools.chain.from_iterable(lists)
        return cls(np.fromiter(flat, np.int32, count=offsets[-1]), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each text, int64, shape (texts,)."""
        return np.diff(self.offsets)

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    def take(self, rows: np.ndarray) -> TokenLists:
        """Return the texts at `rows`, in that order."""
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(self.lengths[rows], out=offsets[1:])
        parts = [self[row] for row in rows]
        return TokenLists(np.concatenate(parts) if parts else self.values[:0], offsets)

    def unique(self) -> tuple[np.ndarray, np.ndarray]:
        """Find texts with the same ids.

        Returns
        -------
        first : numpy.ndarray
            Row at which each distinct text is first seen, int64, shape (distinct,).
        inverse : numpy.ndarray
            For every row its position in `first`, int64, shape (texts,).
        """
        seen: dict[bytes, int] = {}
        first: list[int] = []
        inverse = np.empty(len(self), np.int64)
        for row in range(len(self)):
            position = seen.setdefault(self[row].tobytes(), len(first))
            if position == len(first):
                first.append(row)
            inverse[row] = position
        return np.asarray(first, np.int64), inverse


class TextTokenizer:
    """Turn texts into token lists exactly as the checkpoint's tokenizer does.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        A tokenizer of its own: truncation is set on it once, here, because changing it while
        another thread encodes is an error in the Rust library.
    max_length : int, optional
        Cut after this many tokens, special tokens included.

    Raises
    ------
    ValueError
        If `max_length` does not hold the special tokens.

    Notes
    -----
    `__call__` may be used from several threads.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int | None) -> None:
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._lock = threading.Lock()
        special = tokenizer.num_special_tokens_to_add(pair=False)
        if max_length is not None and max_length < special:
            raise ValueError(
                f"max_length must be at least {special}, the special tokens of every text; "
                f"got {max_length}"
            )
        self._backend = self._matching_backend()

    def __call__(self, texts: Sequence[str]) -> TokenLists:
        """Return the token lists of `texts`, special tokens added, not padded."""
        if not texts:
            return TokenLists.of([])
        if self._backend is not None:
            return TokenLists.of([e.ids for e in self._backend.encode_batch_fast(list(texts))])
        with self._lock:
            return TokenLists.of(self._by_reference(list(texts)))

    def prompt_length(self, prompt: str) -> int:
        """Return how many leading tokens `prompt` takes, a closing special token left out."""
        ids = self([prompt])[0]
        closes = len(ids) and int(ids[-1]) in self._tokenizer.all_special_ids
        return len(ids) - bool(closes)

    def _by_reference(self, texts: list[str]) -> list[list[int]]:
        encoded = self._tokenizer(
            texts,
            padding=False,
            truncation=self._max_length is not None,
            max_length=self._max_length,
            return_attention_mask=False,
        )
        if any(any(types) for types in encoded.get("token_type_ids", ())):
            name = type(self._tokenizer).__name__
            raise ValueError(f"tokenizer {name} gives single texts a token type other than 0")
        return encoded["input_ids"]

    def _matching_backend(self) -> Any:
        """Return the Rust tokenizer if it alone gives the reference's ids, else None."""
        samples = ["Dask: tables, lazily.", "  two\n lines é", "", "a " * 40]
        reference = self._by_reference(samples)
        if not self._tokenizer.is_fast:
            return None
        backend = self._tokenizer.backend_tokenizer
        backend.no_padding()
        if self._max_length is None:
            backend.no_truncation()
        else:
            backend.enable_truncation(self._max_length, direction=self._tokenizer.truncation_side)
        alone = [encoding.ids for encoding in backend.encode_batch_fast(samples)]
        return backend if alone == reference else None
