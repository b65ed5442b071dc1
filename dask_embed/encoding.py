"""Texts, or pairs of texts, to sequences of tokens that are traced back to characters."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_embed.tokenization import TokenLists

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from dask_embed.inference.rows import Row
    from dask_embed.inference.runner import Runner
    from dask_embed.inference.stream import Encoded


@dataclass(frozen=True)
class Origins:
    """Where the tokens of one sequence come from.

    Attributes
    ----------
    offsets : numpy.ndarray
        First character and the one after the last of each token, int64, shape (tokens, 2).
    parts : numpy.ndarray
        0 for tokens of the text, 1 for those of its pair, -1 for special tokens; int8.
    """

    offsets: np.ndarray
    parts: np.ndarray


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
        Say where tokens come from; only tokenizers in Rust can.
    special : bool
        Add special tokens.

    Raises
    ------
    ValueError
        If offsets are asked of a tokenizer that has none.

    Notes
    -----
    May be called from several threads.
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
        special: bool = True,
    ) -> None:
        if offsets and not tokenizer.is_fast:
            raise ValueError(
                f"tokenizer {type(tokenizer).__name__} does not say where tokens come from; "
                "one in Rust is needed (tokenizer.json)"
            )
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        self._windows = windows
        self._offsets = offsets
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

    def __call__(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None
    ) -> tuple[np.ndarray, TokenLists, list[Origins] | None]:
        """Return the row of each sequence, its tokens and, if asked for, where they come from."""
        if not texts:
            return np.zeros(0, np.int64), TokenLists.of([]), [] if self._offsets else None
        second = None if pairs is None else list(pairs)
        with self._lock:
            encoded = self._tokenizer(list(texts), second, **self._arguments)
        types = encoded["token_type_ids"] if self._types else None
        tokens = TokenLists.of(encoded["input_ids"], types)
        rows = encoded.get("overflow_to_sample_mapping", range(len(tokens)))
        origins = None
        if self._offsets:
            origins = [
                Origins(
                    np.array(encoding.offsets, np.int64).reshape(-1, 2),
                    np.array([-1 if p is None else p for p in encoding.sequence_ids], np.int8),
                )
                for encoding in encoded.encodings
            ]
        return np.asarray(rows, np.int64), tokens, origins


def encode_rows(
    runner: Runner, rows: Sequence[Row], max_length: int | None, *, on_long: str = "truncate"
) -> Encoded:
    """Return one sequence for each row, of its text or of its pair of texts.

    With ``on_long="error"`` rows of more than `max_length` tokens are failures.
    """
    from dask_embed.inference.stream import Encoded

    # one token more tells what is too long from what just fits
    cut = max_length + 1 if max_length is not None and on_long == "error" else max_length
    if rows and len(rows[0]) == 2:
        tokenizer = runner.own_tokenizer(("pairs", cut), lambda own: SequenceTokenizer(own, cut))
        _, tokens, _ = tokenizer([row[0] for row in rows], [row[1] for row in rows])
    else:
        tokens = runner.tokenizer(cut)([row[0] for row in rows])
    failures = too_long(tokens, max_length) if on_long == "error" else {}
    kept = np.array([row for row in range(len(rows)) if row not in failures], np.int64)
    return Encoded(kept, tokens.take(kept) if failures else tokens, failures=failures)


def too_long(tokens: TokenLists, max_length: int | None) -> dict[int, str]:
    """Return the message of each sequence that has more than `max_length` tokens."""
    if max_length is None:
        return {}
    return {
        int(row): f"it has more than {max_length} tokens, and on_long='error'"
        for row in np.flatnonzero(tokens.lengths > max_length)
    }
