"""Texts, or pairs of texts, to sequences of tokens that are traced back to characters."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_embed._validation import shown
from dask_embed.tokens.lists import TokenLists, were_longer
from dask_embed.tokens.sharing import (
    count_tokenized,
    count_truncated,
    joined,
    shared_tokens,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Origins:
    """Where the tokens of one sequence come from.

    Attributes
    ----------
    offsets : numpy.ndarray
        First character and the one after the last of each token, int64, shape (tokens, 2).
    parts : numpy.ndarray
        0 for tokens of the text, 1 for those of its pair, -1 for special tokens; int8.
    words : numpy.ndarray or None
        Word of each token in its text, as the tokenizer splits it, -1 for special tokens; int64.
    """

    offsets: np.ndarray
    parts: np.ndarray
    words: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.parts)


# The sequences of a row: the ids, token types and origins of each.
_Row = list[tuple[np.ndarray, np.ndarray | None, Origins | None]]


@dataclass(frozen=True)
class SequenceSettings:
    """How a `SequenceTokenizer` makes sequences: its parameters."""

    max_length: int | None
    truncation: str = "longest_first"
    stride: int = 0
    windows: bool = False
    offsets: bool = False
    words: bool = False
    special: bool = True

    def build(self, tokenizer: PreTrainedTokenizerBase) -> SequenceTokenizer:
        """Return what makes them with a tokenizer of its own."""
        return SequenceTokenizer(tokenizer, **asdict(self))


class SequenceTokenizer:
    """Turn texts or pairs into sequences exactly as the checkpoint's tokenizer does when called.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        A tokenizer of its own, because each call sets limits on it.
    max_length : int, optional
        Most tokens of a sequence, special tokens included.
    truncation : {"longest_first", "only_first", "only_second"}
        What is cut of a pair that is too long.
    stride : int
        Tokens that neighbouring windows share.
    windows : bool
        What is cut off goes into further sequences of the same row.
    offsets : bool
        Say where tokens come from.
    words : bool
        Say which words tokens belong to; needs `offsets`.
    special : bool
        Add special tokens.

    Raises
    ------
    ValueError
        If windows or offsets are asked of a tokenizer that is not in Rust, or if windows have no
        room for more than what they share.

    Notes
    -----
    May be called from several threads. What it makes is kept for other operators that run on the
    partition with the same settings, where there are any.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int | None,
        *,
        truncation: str = "longest_first",
        stride: int = 0,
        windows: bool = False,
        offsets: bool = False,
        words: bool = False,
        special: bool = True,
    ) -> None:
        if (offsets or windows) and not tokenizer.is_fast:
            raise ValueError(
                f"tokenizer {type(tokenizer).__name__} does not say where tokens come from; "
                "one in Rust is needed (tokenizer.json)"
            )
        if windows and max_length is not None:
            _require_room(tokenizer, max_length, stride, special)
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        self._offsets = offsets
        self._words = words
        self._types = "token_type_ids" in tokenizer.model_input_names
        self._arguments: dict[str, Any] = {
            "add_special_tokens": special,
            "padding": False,
            "truncation": truncation if max_length is not None else False,
            "max_length": max_length,
            "stride": stride,
            "return_attention_mask": False,
            "return_token_type_ids": self._types,
        }
        if tokenizer.is_fast:
            self._arguments["return_overflowing_tokens"] = windows
            self._arguments["return_offsets_mapping"] = offsets
        settings = SequenceSettings(
            max_length, truncation, stride, windows, offsets, words, special
        )
        self._key: Hashable = (settings, tokenizer.truncation_side)

    def __call__(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None
    ) -> tuple[np.ndarray, TokenLists, list[Origins] | None]:
        """Return the row of each sequence, its tokens and, if asked for, where they come from."""
        if not texts:
            return np.zeros(0, np.int64), TokenLists.of([]), [] if self._offsets else None
        self._require_special_tokens(pair=pairs is not None)
        shared = shared_tokens()
        if shared is None:
            return self._tokenized(texts, pairs)
        rows: Sequence[Any] = texts if pairs is None else list(zip(texts, pairs, strict=True))
        return self._joined(shared.of(self._key, rows, self._of_each))

    def _tokenized(
        self, texts: Sequence[str], pairs: Sequence[str] | None
    ) -> tuple[np.ndarray, TokenLists, list[Origins] | None]:
        count_tokenized(len(texts))
        second = None if pairs is None else list(pairs)
        with self._lock:
            encoded = self._tokenizer(list(texts), second, **self._arguments)
        self._count_truncated(encoded)
        types = encoded["token_type_ids"] if self._types else None
        tokens = TokenLists.of(encoded["input_ids"], types)
        rows = encoded.get("overflow_to_sample_mapping", range(len(tokens)))
        origins = None
        if self._offsets:
            origins = [self._origins(encoding) for encoding in encoded.encodings]
        return np.asarray(rows, np.int64), tokens, origins

    def _count_truncated(self, encoded: Any) -> None:
        limit = self._arguments["max_length"]
        if limit is not None and not self._arguments.get("return_overflowing_tokens"):
            longer = were_longer(encoded.encodings or encoded["input_ids"], limit)
            count_truncated(sum(longer), limit)

    def _of_each(self, rows: list[Any]) -> list[_Row]:
        """Return the sequences of each of some texts or pairs."""
        alone = isinstance(rows[0], str)
        texts, pairs = (rows, None) if alone else zip(*rows, strict=True)
        owners, tokens, origins = self._tokenized(texts, pairs)
        found: list[_Row] = [[] for _ in rows]
        for place, owner in enumerate(owners.tolist()):
            span = slice(*tokens.offsets[place : place + 2])
            types = None if tokens.types is None else tokens.types[span]
            found[owner].append((tokens.values[span], types, origins and origins[place]))
        return found

    def _joined(self, rows: Sequence[_Row]) -> tuple[np.ndarray, TokenLists, list[Origins] | None]:
        """Return the sequences of all rows."""
        owners = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
        ids, types, origins = zip(*itertools.chain.from_iterable(rows), strict=True)
        tokens = joined(ids, types if self._types else None)
        return owners, tokens, list(origins) if self._offsets else None

    def _require_special_tokens(self, *, pair: bool) -> None:
        """Raise where truncation would cut special tokens, which the tokenizers do in silence."""
        most = self._arguments["max_length"]
        if most is None or not self._arguments["add_special_tokens"]:
            return
        special = self._tokenizer.num_special_tokens_to_add(pair=pair)
        if most < special:
            raise ValueError(
                f"max_length must be at least {special}, the special tokens of every "
                f"{'pair' if pair else 'text'}; got {most}"
            )

    def _origins(self, encoding: Any) -> Origins:
        count = 2 * len(encoding)
        flat = np.fromiter(itertools.chain.from_iterable(encoding.offsets), np.int64, count)
        return Origins(
            flat.reshape(-1, 2),
            _or_minus_one(encoding.sequence_ids, np.int8),
            _or_minus_one(encoding.word_ids, np.int64) if self._words else None,
        )


def _or_minus_one(values: Sequence[int | None], dtype: Any) -> np.ndarray:
    return np.array([-1 if value is None else value for value in values], dtype)


def _require_room(
    tokenizer: PreTrainedTokenizerBase, max_length: int, stride: int, special: bool
) -> None:
    """Raise unless a window is longer than what it shares with the next.

    The Rust library panics in this case, and that is no Exception.
    """
    around = tokenizer.num_special_tokens_to_add(pair=False) if special else 0
    if max_length <= around:
        raise ValueError(
            f"max_length must be at least {around + 1} tokens ({around} special, 1 of the text); "
            f"got {max_length}"
        )
    if stride >= max_length - around:
        raise ValueError(
            f"stride must be less than {max_length - around}, the tokens of a window (max_length "
            f"{max_length}, {around} of them special); got {stride}"
        )


def check_stride(stride: int | None, on_long: str) -> None:
    """Raise unless `stride` is None or a count of tokens, and long rows may be read in windows.

    Raises
    ------
    TypeError, ValueError
    """
    if stride is None:
        return
    if isinstance(stride, bool) or not isinstance(stride, int):
        raise TypeError(f"stride must be an integer of at least 0, or None; got {shown(stride)}")
    if stride < 0:
        raise ValueError(f"stride must be an integer of at least 0, or None; got {shown(stride)}")
    if on_long == "error":
        raise ValueError(
            f"stride={stride} reads long rows in windows, but on_long='error' refuses them; "
            "give one of the two"
        )


def encoding_problem(error: BaseException) -> str:
    """Return what an error of a tokenizer says; raise it if it is none.

    A panic of one in Rust is no Exception.
    """
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        raise error
    return str(error) or type(error).__name__


def types_single_texts(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether tokens of a single text have other types than 0, as XLNet's last one."""
    if "token_type_ids" not in tokenizer.model_input_names:
        return False
    return any(tokenizer("a b", return_token_type_ids=True)["token_type_ids"])


def tokens_kept(max_length: int | None, on_long: str) -> int | None:
    """Return after how many tokens a row is cut, None where nothing limits them.

    With ``on_long="error"`` one more tells what is too long from what just fits.
    """
    return max_length + 1 if max_length is not None and on_long == "error" else max_length


def too_long(tokens: TokenLists, max_length: int | None) -> dict[int, str]:
    """Return the message of each sequence that has more than `max_length` tokens."""
    if max_length is None:
        return {}
    return {
        int(row): f"it has more than {max_length} tokens, and on_long='error'"
        for row in np.flatnonzero(tokens.lengths > max_length)
    }
