"""Texts to token lists: one flat array of ids and its offsets, as in an Arrow list column."""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from dask_embed.tokens.prefix import cut_after, cuts_at_spaces

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Characters of a text that are tokenized at first, per token that is kept. Docstrings have four to
# five a token; where that was not enough, more of the text follows.
_CHARACTERS_PER_TOKEN = 5
_DIGEST_BYTES = 16


@dataclass(frozen=True)
class TokenLists:
    """Token ids of many texts.

    Attributes
    ----------
    values : numpy.ndarray
        All ids one after the other, int32, shape (tokens,).
    offsets : numpy.ndarray
        Where each text begins, and the end; int64, shape (texts + 1,).
    types : numpy.ndarray or None
        Token type of every id (0 or 1 for the parts of a pair), int8, shape (tokens,).
    truncated : int
        How many of the texts were longer, when they were tokenized.
    """

    unit: ClassVar[str] = "tokens"

    values: np.ndarray
    offsets: np.ndarray
    types: np.ndarray | None = None
    truncated: int = 0

    @classmethod
    def of(
        cls, lists: Sequence[Sequence[int]], types: Sequence[Sequence[int]] | None = None
    ) -> TokenLists:
        """Build from one sequence of ids per text, and of token types where there are any."""
        offsets = np.zeros(len(lists) + 1, np.int64)
        np.cumsum([len(ids) for ids in lists], out=offsets[1:])
        flat = np.fromiter(itertools.chain.from_iterable(lists), np.int32, count=offsets[-1])
        if types is None:
            return cls(flat, offsets)
        kinds = itertools.chain.from_iterable(types)
        return cls(flat, offsets, np.fromiter(kinds, np.int8, count=offsets[-1]))

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
        if not len(rows):
            return TokenLists(self.values[:0], offsets, self.types)
        values = np.concatenate([self[row] for row in rows])
        if self.types is None:
            return TokenLists(values, offsets)
        starts, stops = self.offsets[rows], self.offsets[rows + 1]
        spans = zip(starts.tolist(), stops.tolist(), strict=True)
        types = np.concatenate([self.types[start:stop] for start, stop in spans])
        return TokenLists(values, offsets, types)

    def mask(self, side: str = "right", longest: int | None = None) -> np.ndarray:
        """Return where tokens stand in rows of one length that are filled up on a side."""
        lengths = self.lengths[:, None]
        longest = int(lengths.max()) if longest is None else longest
        column = np.arange(longest)
        return column >= longest - lengths if side == "left" else column < lengths

    def in_rows(self, mask: np.ndarray, filler: int) -> np.ndarray:
        """Return the ids in rows, where `mask` is True, as integers of 64 bits."""
        ids = np.full(mask.shape, filler, np.int64)
        ids[mask] = self.values
        return ids

    def types_in_rows(self, mask: np.ndarray) -> np.ndarray:
        """Return the types in rows as `in_rows`; they are 0 where there are none."""
        types = np.zeros(mask.shape, np.int64)
        if self.types is not None:
            types[mask] = self.types
        return types

    def digests(self) -> list[bytes]:
        """Return 16 bytes for each text, equal for equal ids and token types."""
        values, size = self.values.tobytes(), self.values.itemsize
        types = b"" if self.types is None else self.types.astype(np.int8).tobytes()
        kind = b"" if self.types is None else b"types"
        found = []
        for start, stop in itertools.pairwise(self.offsets.tolist()):
            ids = values[start * size : stop * size]
            digest = hashlib.blake2b(ids, digest_size=_DIGEST_BYTES, person=kind)
            digest.update(types[start:stop])
            found.append(digest.digest())
        return found


def were_longer(encodings: Sequence[Any], max_length: int | None) -> list[bool]:
    """Return which texts were cut to `max_length` tokens.

    Parameters
    ----------
    encodings : sequence of tokenizers.Encoding, or of ids
        Ids, of a tokenizer in Python, do not tell whether there were more: those that fill the
        limit count.
    max_length : int, optional
    """
    if max_length is None:
        return [False] * len(encodings)
    return [
        len(each) >= max_length and bool(getattr(each, "overflowing", True)) for each in encodings
    ]


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
        self.max_length = max_length
        self._lock = threading.Lock()
        special = tokenizer.num_special_tokens_to_add(pair=False)
        if max_length is not None and max_length < special:
            raise ValueError(
                f"max_length must be at least {special}, the special tokens of every text; "
                f"got {max_length}"
            )
        self._backend = self._matching_backend()
        self.cuts_first = (
            max_length is not None
            and self._backend is not None
            and tokenizer.truncation_side == "right"
            and cuts_at_spaces(self._backend)
        )

    def __call__(self, texts: Sequence[str]) -> TokenLists:
        """Return the token lists of `texts`, special tokens added, not padded."""
        if not texts:
            return TokenLists.of([])
        if self._backend is None:
            with self._lock:
                lists, longer = self._by_reference(list(texts))
        elif self.cuts_first:
            lists, longer = self._of_beginnings(texts)
        else:
            lists, longer = self._encode(list(texts))
        return replace(TokenLists.of(lists), truncated=sum(longer))

    @property
    def kind(self) -> str:
        """How texts are tokenized, in a few words."""
        if self._backend is None:
            return "as transformers calls it, one thread"
        return "Rust, beginnings of long texts only" if self.cuts_first else "Rust, whole texts"

    def prompt_length(self, prompt: str) -> int:
        """Return how many leading tokens `prompt` takes, a closing special token left out."""
        ids = self([prompt])[0]
        closes = len(ids) and int(ids[-1]) in self._tokenizer.all_special_ids
        return len(ids) - bool(closes)

    def _encode(self, texts: list[str]) -> tuple[list[list[int]], list[bool]]:
        """Return the ids of each text, and whether it has more."""
        encodings = self._backend.encode_batch_fast(texts)
        return [each.ids for each in encodings], were_longer(encodings, self.max_length)

    def _of_beginnings(self, texts: Sequence[str]) -> tuple[list[list[int]], list[bool]]:
        """Tokenize what truncation is expected to keep, and more of a text where it keeps more."""
        assert self.max_length is not None
        wanted = self.max_length * _CHARACTERS_PER_TOKEN
        beginnings = [cut_after(text, wanted) for text in texts]
        lists, longer = self._encode(beginnings)
        short = list(range(len(texts)))
        while True:
            short = [
                row
                for row in short
                if len(lists[row]) < self.max_length and len(beginnings[row]) < len(texts[row])
            ]
            if not short:
                break
            wanted *= 4
            more = [cut_after(texts[row], wanted) for row in short]
            ids, cut = self._encode(more)
            for place, row in enumerate(short):
                beginnings[row], lists[row], longer[row] = more[place], ids[place], cut[place]
        for row, text in enumerate(texts):
            longer[row] = longer[row] or bool(text[len(beginnings[row]) :].strip())
        return lists, longer

    def _by_reference(self, texts: list[str]) -> tuple[list[list[int]], list[bool]]:
        encoded = self._tokenizer(
            texts,
            padding=False,
            truncation=self.max_length is not None,
            max_length=self.max_length,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        lists = encoded["input_ids"]
        return lists, were_longer(encoded.encodings or lists, self.max_length)

    def _matching_backend(self) -> Any:
        """Return the Rust tokenizer if it alone gives the reference's ids, else None."""
        samples = ["Dask: tables, lazily.", "  two\n lines é", "", "a " * 40]
        reference, _ = self._by_reference(samples)
        if not self._tokenizer.is_fast:
            return None
        backend = self._tokenizer.backend_tokenizer
        backend.no_padding()
        if self.max_length is None:
            backend.no_truncation()
        else:
            backend.enable_truncation(self.max_length, direction=self._tokenizer.truncation_side)
        alone = [encoding.ids for encoding in backend.encode_batch_fast(samples)]
        return backend if alone == reference else None
