"""The beginnings of texts that have a limited number of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dask_embed.tokens.sequences import Origins, SequenceTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class TextCutter:
    """Cut texts to a number of tokens, without special tokens.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        One in Rust, of its own.
    most : int
        Most tokens of a text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, most: int) -> None:
        self._tokenize = SequenceTokenizer(tokenizer, None, offsets=True, special=False)
        self._most = most

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """Return the texts, each the longest beginning, up to a token, of no more tokens."""
        distinct = list(dict.fromkeys(texts))
        _, tokens, origins = self._tokenize(distinct)
        assert origins is not None, "the tokenizer was asked for offsets"
        cut = {
            text: text if length <= self._most else self._cut(text, found)
            for text, length, found in zip(distinct, tokens.lengths.tolist(), origins, strict=True)
        }
        return [cut[text] for text in texts]

    def _cut(self, text: str, origins: Origins) -> str:
        """Cut after a token; what is left may have more tokens than before, then after less."""
        for count in range(self._most, 0, -1):
            beginning = text[: origins.offsets[count - 1, 1]]
            if self._tokenize([beginning])[1].lengths[0] <= self._most:
                return beginning
        return ""
