"""Prompts, candidates and texts to the sequences that a model scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from dask_embed.inference.runner import Runner
from dask_embed.inference.scoring.base import FIRST, REST, Scoring
from dask_embed.tokens.encoded import Encoded
from dask_embed.tokens.lists import TokenLists
from dask_embed.tokens.sequences import SequenceTokenizer
from dask_embed.tokens.sharing import count_truncated

# What a candidate is tokenized behind, so that it gets the tokens that it has within a text.
_ANCHOR = ":"
# Candidates of a row share one sequence up to this many tokens, or as many as the prompt has.
_SHARED_TOKENS = 512


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


@dataclass
class _Sequences:
    """Sequences with roles, as they are put together."""

    rows: list[int]
    ids: list[np.ndarray]
    roles: list[np.ndarray]
    context: list[Any]
    failures: dict[int, str]

    @classmethod
    def empty(cls) -> _Sequences:
        return cls([], [], [], [], {})

    def add(
        self, row: int, given: np.ndarray, candidates: Iterable[np.ndarray], context: Any = None
    ) -> None:
        parts = list(candidates)
        roles = [np.zeros(len(given), np.int8)]
        for part in parts:
            role = np.full(len(part), REST, np.int8)
            role[:1] = FIRST
            roles.append(role)
        self.rows.append(row)
        self.ids.append(np.concatenate([given, *parts]))
        self.roles.append(np.concatenate(roles))
        self.context.append(context)

    def encoded(self) -> Encoded:
        offsets = np.zeros(len(self.ids) + 1, np.int64)
        np.cumsum([len(ids) for ids in self.ids], out=offsets[1:])
        nothing = [np.zeros(0, np.int32)]
        values = np.concatenate(self.ids or nothing).astype(np.int32)
        roles = np.concatenate(self.roles or nothing).astype(np.int8)
        tokens = TokenLists(values, offsets, roles)
        rows = np.array(self.rows, np.int64)
        return Encoded(rows, tokens, context=self.context, failures=self.failures)


@dataclass(frozen=True)
class Limits:
    """How long a sequence may be, and what happens to a row of more tokens."""

    tokens: int | None
    cuts: bool
    encodes: bool = False


def tokenize_candidates(
    tokenizer: ScoringTokenizer, lists: Sequence[tuple[str, ...]], separator: str
) -> list[Candidates]:
    """Return the candidates of each row; those of equal rows are tokenized once."""
    texts = list(dict.fromkeys(text for own in dict.fromkeys(lists) for text in own))
    ids = dict(zip(texts, tokenizer.candidates(texts, separator), strict=True))
    found = {own: Candidates.of([ids[text] for text in own]) for own in dict.fromkeys(lists)}
    return [found[own] for own in lists]


def encode_candidates(
    scoring: Callable[[], Scoring],
    tokenizer: ScoringTokenizer,
    prompts: Sequence[str],
    candidates: Sequence[Candidates],
    limits: Limits,
) -> Encoded:
    """Return sequences of prompts and candidates; the context of each, its `Candidates`.

    `scoring` is called where there is a row that fits.
    """
    sequences = _Sequences.empty()
    fitting: dict[int, np.ndarray] = {}
    for row, (ids, own) in enumerate(zip(tokenizer.texts(prompts), candidates, strict=True)):
        try:
            fitting[row] = _fitting(tokenizer, ids, own, limits)
        except ValueError as error:
            sequences.failures[row] = str(error)
    for row, prompt in fitting.items():
        own = candidates[row]
        for group in _groups(scoring(), len(prompt), own):
            part = Candidates(
                [own.tokens[number] for number in group], [own.places[number] for number in group]
            )
            sequences.add(row, prompt, part.tokens, part)
    return sequences.encoded()


def encode_windows(
    tokenizer: ScoringTokenizer, texts: Sequence[str], limits: Limits, stride: int | None
) -> Encoded:
    """Return windows over texts, in which every token but the first is scored once.

    As in the guide of transformers on the perplexity of fixed-length models: a window begins
    `stride` tokens after the one before it, and scores what that did not reach.
    """
    sequences = _Sequences.empty()
    special = len(tokenizer.before)
    for row, text in enumerate(tokenizer.texts(texts)):
        ids = np.concatenate([tokenizer.before, text])
        if limits.tokens is not None and len(ids) > limits.tokens and not limits.cuts:
            sequences.failures[row] = _too_long(limits.tokens)
            continue
        length = limits.tokens or max(len(ids), 1)
        done = max(special, 1)
        for begin in range(0, max(len(ids), 1), stride or max(length // 2, 1)):
            end = min(begin + length, len(ids))
            scored = ids[done:end]
            sequences.add(row, ids[begin:done], [scored] if len(scored) else [])
            done = end
            if end == len(ids):
                break
    return sequences.encoded()


def encode_prompts(tokenizer: ScoringTokenizer, prompts: Sequence[str], limits: Limits) -> Encoded:
    """Return one sequence for each prompt."""
    sequences = _Sequences.empty()
    for row, ids in enumerate(tokenizer.texts(prompts)):
        try:
            sequences.add(row, _fitting(tokenizer, ids, None, limits), [])
        except ValueError as error:
            sequences.failures[row] = str(error)
    return sequences.encoded()


def tokenizer_for(runner: Runner, *, special: bool, ends: bool | None) -> ScoringTokenizer:
    """Return the tokenizer of prompts and candidates of a loaded model."""
    encodes = runner.loaded.checkpoint.config.is_encoder_decoder
    ends = encodes if ends is None else ends
    return runner.own_tokenizer(
        ("scoring", special, ends),
        lambda own: ScoringTokenizer(own, special=special, encodes=encodes, ends=ends),
    )


def _fitting(
    tokenizer: ScoringTokenizer, ids: np.ndarray, candidates: Candidates | None, limits: Limits
) -> np.ndarray:
    """Return a prompt that leaves room for the longest of its candidates.

    Raises
    ------
    ValueError
        If a candidate has no tokens or too many, or the prompt may not be cut.
    """
    longest = 0
    if candidates is not None:
        longest = candidates.longest
        if not all(len(each) for each in candidates.tokens):
            raise ValueError("a candidate has no tokens")
    limit = limits.tokens
    least = len(tokenizer.before) + len(tokenizer.after) + 1
    taken = 0 if limits.encodes else longest  # else an encoder and a decoder, each with its limit
    if limit is not None and (longest > limit or (longest and limit - taken < least)):
        raise ValueError(
            f"a candidate has {longest} tokens with its separator, which leave none of {limit} for "
            "its prompt"
        )
    room = None if limit is None else limit - taken
    special = least - 1
    if room is not None and len(ids) + special > room:
        if not limits.cuts:
            raise ValueError(_too_long(room, " besides its candidates" if taken else ""))
        count_truncated(1)
    return tokenizer.prompt(ids, room)


def _too_long(limit: int, what: str = "") -> str:
    return f"it has more than {limit} tokens{what}, and on_long='error'"


def _groups(scoring: Scoring, prompt: int, candidates: Candidates) -> list[list[int]]:
    """Part candidates into those that share a sequence."""
    most = max(prompt, _SHARED_TOKENS)
    room = scoring.room(prompt)
    if room is not None:
        most = min(most, room)
    groups: list[list[int]] = []
    used = 0
    for number, ids in enumerate(candidates.tokens):
        used += len(ids)
        if not groups or not scoring.shares or used > most:
            groups.append([])
            used = len(ids)
        groups[-1].append(number)
    return groups
