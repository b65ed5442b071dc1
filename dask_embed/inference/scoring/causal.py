"""How likely a causal language model takes tokens to be behind others: prompts and candidates."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from dask_embed.inference.agreement import TOLERANCE, difference
from dask_embed.inference.branches import BranchedTokens
from dask_embed.inference.runner import Runner
from dask_embed.inference.samples import probed_lengths, random_tokens
from dask_embed.inference.scoring.base import FIRST, GIVEN, REST, LoadedScoring, Targets, roles_of
from dask_embed.inference.scoring.vocabulary import LogitsAt, likeliest, log_probabilities
from dask_embed.tokens.lists import TokenLists

_PROBED_CANDIDATES = (3, 1, 4, 2, 3)


class CausalScoring(LoadedScoring):
    """Score with a causal language model; see `Scoring`.

    The prompt of several candidates is computed once, where that gives the token vectors that
    each candidate has behind a prompt of its own: tried with random tokens, not assumed.

    Raises
    ------
    ValueError
        If tokens see those that follow: then there is nothing to predict.
    """

    def __init__(self, runner: Runner) -> None:
        super().__init__(runner)
        with runner.session():
            self._require_causal()
            self.reason = self._why_not_shared()
        self.shares = not self.reason

    def room(self, prompt: int) -> int | None:
        limit = self._runner.verdict.up_to
        return None if limit is None else max(limit - prompt, 0)

    def log_likelihoods(self, tokens: TokenLists) -> list[np.ndarray]:
        targets = Targets.of(tokens)
        several = targets.counts > 1
        if several.any() and not several.all():  # a sequence of its own may be too long to share
            results: list[Any] = [None] * len(tokens)
            for part in (np.flatnonzero(several), np.flatnonzero(~several)):
                own = self.log_likelihoods(tokens.take(part))
                for place, result in zip(part.tolist(), own, strict=True):
                    results[place] = result
            return results
        if not len(targets.places):
            return [np.zeros(0)] * len(tokens)
        inputs, sources = _inputs(tokens, targets)
        with self._runner.session():
            chosen = torch.from_numpy(tokens.values[targets.places].astype(np.int64))
            given = log_probabilities(self._logits(inputs), sources, chosen)
        return targets.sums(given)

    def next_tokens(self, tokens: TokenLists, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
        plain = TokenLists(tokens.values, tokens.offsets)
        with self._runner.session():
            logits = self._logits(plain)
            return likeliest(logits, tokens.offsets[1:] - 1, count)

    def _logits(self, tokens: TokenLists) -> LogitsAt:
        """Run the transformer; return what gives the logits of the tokens at some places."""
        head = self._runner.head
        assert head is not None, "a language model has a head"
        if head.reads is None:
            logits = self._runner.logits(tokens)
            return lambda places: logits[torch.from_numpy(places).to(logits.device)]
        hidden = self._runner.token_vectors(tokens)
        return lambda places: head.on_tokens(hidden[torch.from_numpy(places).to(hidden.device)])

    def _require_causal(self) -> None:
        """Compare the vectors of a text's beginning with and without what follows."""
        loaded = self._runner.loaded
        length = min(11, loaded.checkpoint.position_limit or 11)
        whole = random_tokens(loaded, [length])
        begin = TokenLists.of([whole.values[: length - 3].tolist()])
        vectors = [self._runner.token_vectors(tokens) for tokens in (whole, begin)]
        apart = difference(vectors[0][: length - 3], vectors[1])
        if not apart <= TOLERANCE[loaded.compute_dtype]:
            raise ValueError(
                f"model {loaded.spec.name!r} ({loaded.checkpoint.config.model_type}) lets tokens "
                "see those that follow, so it cannot say how likely they are; a causal language "
                "model is needed"
            )

    def _why_not_shared(self) -> str:
        """Return why candidates do not share their prompt, nothing if they may."""
        runner, loaded = self._runner, self._runner.loaded
        if not runner.verdict.packed:
            return runner.verdict.reason
        if runner.head is None or runner.head.reads is None:
            return "its head cannot be told from its transformer"
        if not (runner.shares or loaded.spec.compile):
            return "its forward pass depends on the other sequences of a batch"
        return self._differing("candidates differ from those behind a prompt of their own")

    def _apart(self) -> float:
        """Return how far candidates behind one prompt are from those that have their own."""
        loaded = self._runner.loaded
        limit = loaded.checkpoint.position_limit
        sizes = _PROBED_CANDIDATES
        prompts = [
            length if limit is None else max(min(length, limit - max(sizes)), 1)
            for length in probed_lengths(loaded)[0]
        ]
        shared = random_tokens(loaded, [length + sum(sizes) for length in prompts])
        branch, alone, places = [], [], []
        end = 0
        for row, prompt in enumerate(prompts):
            ids = shared[row].tolist()
            branch.append(np.repeat(np.arange(len(sizes) + 1), [prompt, *sizes]))
            begin = prompt
            for size in sizes:
                alone.append(ids[:prompt] + ids[begin : begin + size])
                end += prompt + size
                places.append(np.arange(end - size, end))
                begin += size
        tokens = BranchedTokens(shared.values, shared.offsets, branch=np.concatenate(branch))
        given = self._runner.token_vectors(tokens)[torch.from_numpy(tokens.branch > 0)]
        expected = self._runner.token_vectors(TokenLists.of(alone))
        return difference(given, expected[torch.from_numpy(np.concatenate(places))])


def _inputs(tokens: TokenLists, targets: Targets) -> tuple[TokenLists, np.ndarray]:
    """Return what the model reads, and the place in it that predicts each target.

    The last token of a candidate predicts nothing that is asked for. Only sequences with several
    candidates are branched.
    """
    roles = roles_of(tokens)
    goes_on = np.append(roles[1:] == REST, False)
    kept = (roles == GIVEN) | goes_on
    at = np.cumsum(kept) - 1
    ends = np.searchsorted(np.flatnonzero(kept), tokens.offsets)
    trunks = np.bincount(targets.sequences, roles == GIVEN, len(tokens)).astype(np.int64)
    own = roles[targets.places] == REST
    before = np.where(own, targets.places - 1, 0)
    last_given = (tokens.offsets[:-1] + trunks - 1)[targets.sequences[targets.places]]
    sources = at[np.where(own, before, last_given)]
    values = tokens.values[kept]
    if (targets.counts <= 1).all():
        return TokenLists(values, ends), sources
    # branches are numbered anew: a candidate of one token has none
    starts = (roles == FIRST) & goes_on
    number = np.cumsum(starts)
    before_sequence = np.append(0, number)[tokens.offsets[:-1]]
    branch = np.where(roles == GIVEN, 0, number - before_sequence[targets.sequences])[kept]
    return BranchedTokens(values, ends, branch=branch), sources
