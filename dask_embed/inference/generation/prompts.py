"""Prompts to tokens, those that are too long cut at their beginning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dask_embed.text.prompts import render_chat
from dask_embed.tokens.lists import TokenLists
from dask_embed.tokens.sequences import SequenceTokenizer, too_long
from dask_embed.tokens.sharing import count_truncated


@dataclass(frozen=True)
class PromptRules:
    """How prompts become tokens.

    Attributes
    ----------
    most : int or None
        Most tokens of a prompt.
    cuts : bool
        Longer ones are cut, else they are failures.
    side : str or None
        Which side of a long prompt is cut, by default as the tokenizer says.
    special : bool
        Add the tokenizer's special tokens.
    chat : bool
        A prompt is what the user says in a conversation.
    system : str or None
        Instructions before it.
    chat_arguments : tuple
        More arguments of the chat template, as items.
    start : int or None
        Token that stands for a prompt without any.
    """

    most: int | None = None
    cuts: bool = True
    side: str | None = None
    special: bool = True
    chat: bool = False
    system: str | None = None
    chat_arguments: tuple[tuple[str, Any], ...] = ()
    start: int | None = None


class PromptTokenizer:
    """Turn prompts into token lists as `rules` say.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        One of its own.
    rules : PromptRules
    """

    def __init__(self, tokenizer: Any, rules: PromptRules) -> None:
        self._rules = rules
        self._tokenizer = tokenizer
        if rules.side is not None:
            tokenizer.truncation_side = rules.side
        tokenizer.model_max_length = int(1e30)  # longer texts are no cause to warn
        most = rules.most
        # one token more tells what is too long from what just fits
        cut = most + 1 if most is not None and not rules.cuts else most
        whole = None if rules.chat else cut
        special = rules.special and not rules.chat
        self._tokenize = SequenceTokenizer(tokenizer, whole, special=special)

    def __call__(self, prompts: Sequence[str]) -> tuple[TokenLists, dict[int, str]]:
        """Return the tokens of the prompts, and place to message for those that cannot be used."""
        texts = [self._rendered(prompt) for prompt in prompts]
        tokens = self._tokenize(texts)[1]
        most = self._rules.most
        if self._rules.chat and self._rules.cuts and most is not None:
            long = np.flatnonzero(tokens.lengths > most).tolist()
            for place in long:
                texts[place] = self._rendered(self._shortened(prompts[place], most))
            count_truncated(len(long))
            tokens = self._tokenize(texts)[1] if long else tokens
        # the types of tokens are nothing that a generating model would read
        tokens = TokenLists(tokens.values, tokens.offsets)
        failures = too_long(tokens, None if self._rules.cuts else most)
        return self._begun(tokens, failures)

    def _rendered(self, prompt: str) -> str:
        rules = self._rules
        if not rules.chat:
            return prompt
        arguments = dict(rules.chat_arguments)
        return render_chat(self._tokenizer, prompt, system=rules.system, **arguments)

    def _shortened(self, message: str, most: int) -> str:
        """Return as much of a message as fits in a chat whose template stays whole.

        Decoders read its end, which they continue, encoders its beginning.
        """
        kept, at_most = 0, len(message)
        while kept < at_most:
            middle = (kept + at_most + 1) // 2
            if self._chat_length(self._part(message, middle)) <= most:
                kept = middle
            else:
                at_most = middle - 1
        part = self._part(message, kept)
        if not kept and self._chat_length(part) > most:
            raise ValueError(f"its chat has more than {most} tokens even without the prompt")
        return part

    def _part(self, message: str, characters: int) -> str:
        cuts_left = self._tokenizer.truncation_side == "left"
        first = len(message) - characters if cuts_left else 0
        return message[first : first + characters]

    def _chat_length(self, message: str) -> int:
        return int(self._tokenize([self._rendered(message)])[1].lengths[0])

    def _begun(
        self, tokens: TokenLists, failures: dict[int, str]
    ) -> tuple[TokenLists, dict[int, str]]:
        """Let prompts without a token begin with the one that begins all texts."""
        empty = np.flatnonzero(tokens.lengths == 0).tolist()
        if not empty:
            return tokens, failures
        if self._rules.start is None:
            message = "its prompt has no token, and the model has none that begins a text"
            return tokens, failures | dict.fromkeys(empty, message)
        start = [self._rules.start]
        lists = [tokens[row].tolist() or start for row in range(len(tokens))]
        return TokenLists.of(lists), failures
