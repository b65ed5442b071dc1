"""Prompts and candidates to the tokens that they have behind each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from dask_embed.inference.runner import Runner
from dask_embed.tokens.sequences import SequenceTokenizer

# What a candidate is tokenized behind, so that it gets the tokens that it has within a text.
_ANCHOR = ":"


@dataclass(frozen=True)
class Candidates:
    """Distinct candidates of a row.

    Attributes
    ----------
    tokens : list of numpy.ndarray
        Ids of each.
    places : list of numpy.ndarray
        Where each of them stands in the row's list.
    """

    tokens: list[np.ndarray]
    places: list[np.ndarray]

    @classmethod
    def of(cls, lists: Sequence[np.ndarray]) -> Candidates:
        found: dict[bytes, list[int]] = {}
        for place, ids in enumerate(lists):
            found.setdefault(ids.tobytes(), []).append(place)
        places = [np.array(each) for each in found.values()]
        return cls([lists[each[0]] for each in places], places)

    @property
    def longest(self) -> int:
        return max(map(len, self.tokens))


class ScoringTokenizer:
    """Turn prompts and candidates into tokens.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        A tokenizer of its own.
    special : bool
        Put the tokenizer's special tokens around prompts.
    encodes : bool
        The model has an encoder, whose prompts end as its texts do; a prompt that a candidate
        follows has only the special tokens in front.
    ends : bool
        A candidate ends with the end of sequence; for an encoder it is a text of its own.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, *, special: bool, encodes: bool, ends: bool
    ) -> None:
        self._plain = SequenceTokenizer(tokenizer, None, special=False)
        self._whole = SequenceTokenizer(tokenizer, None)
        self._encodes = encodes
        self._cuts_end = encodes and tokenizer.truncation_side == "right"
        self._ends = ends
        self._end: int | None = tokenizer.eos_token_id
        if ends and not encodes and self._end is None:
            raise ValueError("the tokenizer has no token for the end of a candidate")
        start = tokenizer.bos_token_id
        self._start: int | None = self._end if start is None else start
        before, after = self._around()
        nothing = before[:0]
        self.before = before if special else nothing
        self.after = after if special and encodes else nothing

    def texts(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the ids of texts without special tokens."""
        _, tokens, _ = self._plain(texts)
        return [tokens[row] for row in range(len(tokens))]

    def prompt(self, ids: np.ndarray, room: int | None) -> np.ndarray:
        """Return a prompt with its special tokens, cut to `room` tokens.

        A decoder goes on from the end of a prompt, so that its beginning is cut; what an encoder
        reads is cut where its tokenizer cuts texts.
        """
        if room is not None:
            kept = max(room - len(self.before) - len(self.after), 0)
            ids = ids[:kept] if self._cuts_end else ids[max(len(ids) - kept, 0) :]
        prompt = np.concatenate([self.before, ids, self.after])
        if len(prompt):
            return prompt
        if self._start is None:
            raise ValueError("it has no tokens, and the tokenizer none to start with")
        return np.array([self._start], np.int32)  # as lm-evaluation-harness does

    def candidates(self, candidates: Sequence[str], separator: str) -> list[np.ndarray]:
        """Return the ids of candidates as they stand behind a prompt and the separator."""
        if self._encodes:
            _, tokens, _ = (self._whole if self._ends else self._plain)(candidates)
            return [tokens[row] for row in range(len(tokens))]
        behind = [separator + text for text in candidates]
        (anchor,) = self.texts([_ANCHOR])
        anchored = self.texts([_ANCHOR + text for text in behind])
        alone = self.texts(behind)
        end = [self._end] if self._ends else []
        found = [
            whole[len(anchor) :] if np.array_equal(whole[: len(anchor)], anchor) else own
            for whole, own in zip(anchored, alone, strict=True)
        ]
        return [np.append(ids, np.array(end, np.int32)) for ids in found]

    def _around(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the special tokens in front of a text and behind it."""
        (content,) = self.texts([_ANCHOR])
        _, tokens, _ = self._whole([_ANCHOR])
        whole, size = tokens[0], len(content)
        for start in range(len(whole) - size + 1):
            if np.array_equal(whole[start : start + size], content):
                return whole[:start], whole[start + size :]
        raise ValueError("the tokenizer gives texts other tokens where it adds special ones")


def tokenize_candidates(
    tokenizer: ScoringTokenizer, lists: Sequence[tuple[str, ...]], separator: str
) -> list[Candidates]:
    """Return the candidates of each row; those of equal rows are tokenized once."""
    texts = list(dict.fromkeys(text for own in dict.fromkeys(lists) for text in own))
    ids = dict(zip(texts, tokenizer.candidates(texts, separator), strict=True))
    found = {own: Candidates.of([ids[text] for text in own]) for own in dict.fromkeys(lists)}
    return [found[own] for own in lists]


def tokenizer_for(runner: Runner, *, special: bool, ends: bool | None) -> ScoringTokenizer:
    """Return the tokenizer of prompts and candidates of a loaded model."""
    encodes = runner.loaded.checkpoint.config.is_encoder_decoder
    ends = encodes if ends is None else ends
    return runner.own_tokenizer(
        ("scoring", special, ends),
        lambda own: ScoringTokenizer(own, special=special, encodes=encodes, ends=ends),
    )
