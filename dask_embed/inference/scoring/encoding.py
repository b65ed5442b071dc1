"""Prompts, candidates and texts to the sequences that a model scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dask_embed.inference.scoring.base import FIRST, REST, Scoring
from dask_embed.inference.scoring.tokenizer import Candidates, ScoringTokenizer
from dask_embed.tokens.encoded import Encoded
from dask_embed.tokens.lists import TokenLists
from dask_embed.tokens.sharing import count_truncated

# Candidates of a row share one sequence up to this many tokens, or as many as the prompt has.
_SHARED_TOKENS = 512


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
