"""Texts as messages: what a user says, through the tokenizer's chat template, to be embedded.

Source: `Transformer.preprocess` of sentence-transformers 6.2 and its `InputFormatter`.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_embed.text.prompts import render_messages
from dask_embed.tokens.lists import TokenLists
from dask_embed.tokens.sequences import SequenceTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Models whose templates read plain content although they look as if they read parts of it.
_FLAT = ("apertus", "deepseek_v3", "gpt_oss", "seed_oss")
# What templates have in them that read the content of a message as a list of parts.
_OF_PARTS = ("content[0]", ".type", "'type'", '"type"', "message.content[")
# Two texts without a token in common at their ends: what both chats end with is the template's.
_FILLERS = ("0", "1 2 3 4")


@dataclass(frozen=True)
class ChatRules:
    """How a text becomes a chat.

    Attributes
    ----------
    form : {"auto", "flat", "structured"}
        Whether the content of a message is a text, or a list of parts. ``"auto"`` looks at the
        template.
    system : str
        Instructions before it; none where they are empty.
    model_type : str
    """

    form: str
    system: str = ""
    model_type: str = ""

    def messages(self, template: Any, text: str) -> list[dict[str, Any]]:
        """Return the messages of a text, in the form that a template reads."""
        parts = self.form == "structured" or (self.form == "auto" and self._reads_parts(template))
        said = [("system", self.system)] if self.system else []
        return [
            {"role": role, "content": [{"type": "text", "text": each}] if parts else each}
            for role, each in (*said, ("user", text))
        ]

    def _reads_parts(self, template: Any) -> bool:
        if self.model_type in _FLAT:
            return False
        known = isinstance(template, str) and template
        return not known or any(pattern in template for pattern in _OF_PARTS)


class ChatTokenizer:
    """Turn texts into the tokens of chats; the template's end outlives truncation.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        A tokenizer of its own, because each call sets limits on it.
    rules : ChatRules
    max_length : int, optional
        Cut chats after this many tokens.
    restores : bool
        Put the end of the template back where a chat was cut.

    Notes
    -----
    `__call__` may be used from several threads.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        rules: ChatRules,
        max_length: int | None,
        *,
        restores: bool,
    ) -> None:
        self._tokenizer = tokenizer
        self._rules = rules
        self._limit = max_length if restores else None
        self._tokenize = SequenceTokenizer(tokenizer, max_length, special=False)

    def __call__(self, texts: Sequence[str]) -> TokenLists:
        _, tokens, _ = self._tokenize([self._rendered(text) for text in texts])
        if self._limit is None or not (tokens.lengths >= self._limit).any():
            return tokens
        values = tokens.values.copy()  # they may be another operator's as well
        suffix = self._suffix[-self._limit :]
        for row in np.flatnonzero(tokens.lengths >= self._limit) if len(suffix) else ():
            end = tokens.offsets[row + 1]
            values[end - len(suffix) : end] = suffix
        return TokenLists(values, tokens.offsets, tokens.types)

    def _rendered(self, text: str) -> str:
        messages = self._rules.messages(self._tokenizer.chat_template, text)
        return render_messages(self._tokenizer, messages, add_generation_prompt=False)

    @functools.cached_property
    def _suffix(self) -> np.ndarray:
        """The tokens after the text in every chat; none where that cannot be told."""
        whole = SequenceTokenizer(self._tokenizer, None, special=False)
        _, tokens, _ = whole([self._rendered(filler) for filler in _FILLERS])
        first, second = tokens[0], tokens[1]
        pairs = zip(first[::-1].tolist(), second[::-1].tolist(), strict=False)
        count = len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)))
        return first[len(first) - count :] if count < min(len(first), len(second)) else first[:0]
