"""How likely an encoder with a decoder takes texts to be the answer to others."""

from __future__ import annotations

import contextlib
import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers.modeling_outputs import BaseModelOutput

from dask_embed.inference.runner import Runner
from dask_embed.inference.samples import random_tokens
from dask_embed.inference.scoring.base import (
    FIRST,
    GIVEN,
    REST,
    LoadedScoring,
    Targets,
    roles_of,
)
from dask_embed.inference.scoring.vocabulary import (
    MOST_LOGITS,
    LogitsAt,
    likeliest,
    log_probabilities,
)
from dask_embed.tokens.lists import TokenLists

_PROBED_PROMPTS = (11, 3, 7, 7, 1)
_PROBED_CANDIDATES = (3, 1, 4, 2, 3)
# Values of cross attention that candidates of a group hold besides each other's.
_MOST_STATES = 2**26


@dataclass(frozen=True)
class _Begun:
    """A batch of prompts after the decoder's first token: its logits, and all that is kept."""

    logits: torch.Tensor
    states: torch.Tensor
    mask: torch.Tensor
    cache: Any


class Seq2SeqScoring(LoadedScoring):
    """Score with an encoder and a decoder; see `dask_embed.inference.scoring.Scoring`.

    Prompts are encoded once, in a padded batch, and so are the keys and values that the decoder
    makes of them; candidates go on from the decoder's first token. Tried with random tokens:
    where the scores are not those of the model called with labels, each candidate runs alone.
    """

    def __init__(self, runner: Runner) -> None:
        super().__init__(runner)
        self._model = runner.loaded.model
        self._device = runner.loaded.device
        with runner.session():
            if runner.changes_itself:
                self.reason = "a text changes the model for those after it"
            else:
                self.reason = self._differing("scores differ from those of single candidates")
        self.shares = not self.reason

    def room(self, prompt: int) -> int | None:
        return None

    def log_likelihoods(self, tokens: TokenLists) -> list[np.ndarray]:
        targets = Targets.of(tokens)
        if not len(targets.places):
            return [np.zeros(0)] * len(tokens)
        with self._runner.session():
            prompts, candidates = _parted(tokens)
            if self.shares:
                values = self._together(prompts, candidates, targets.counts)
            else:
                values = np.concatenate(
                    [
                        self._alone(prompts[row], candidates[row])
                        for row in range(len(prompts))
                        if len(candidates[row])
                    ]
                )
        return targets.sums(values)

    def next_tokens(self, tokens: TokenLists, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
        with self._runner.session():
            rows = np.arange(len(tokens))
            results: list[tuple[np.ndarray, np.ndarray]] = []
            for part in [rows] if self.shares else np.split(rows, len(rows)):
                begun = self._begin(tokens.take(part), use_cache=False)
                results += likeliest(_at(begun.logits), np.arange(len(part)), count)
        return results

    def _together(
        self, prompts: TokenLists, candidates: TokenLists, counts: np.ndarray
    ) -> np.ndarray:
        """Return the log-probability of every token of the candidates, in their order."""
        begun = self._begin(prompts, use_cache=True)
        rows = np.repeat(np.arange(len(prompts)), counts)
        ids = torch.from_numpy(candidates.values.astype(np.int64))
        result = np.empty(len(candidates.values))
        first = candidates.offsets[:-1]
        result[first] = log_probabilities(_at(begun.logits), rows, ids[first])
        longer = np.flatnonzero(candidates.lengths > 1)
        longer = longer[np.argsort(-candidates.lengths[longer], kind="stable")]
        for group in self._groups(longer, candidates.lengths, begun):
            logits = self._continued(begun, rows[group], candidates.take(group))
            width = logits.shape[1]
            within = [np.arange(candidates.lengths[row] - 1) for row in group]
            sources = np.concatenate([n * width + step for n, step in enumerate(within)])
            targets = np.concatenate(
                [first[row] + 1 + step for row, step in zip(group, within, strict=True)]
            )
            result[targets] = log_probabilities(_at(logits.flatten(0, 1)), sources, ids[targets])
        return result

    def _groups(self, longer: np.ndarray, lengths: np.ndarray, begun: _Begun) -> list[np.ndarray]:
        """Cut candidates, longest first, into groups that bound logits and copied states."""
        states = begun.states[0].numel() * 2 * self._layers
        groups, start = [], 0
        while start < len(longer):
            logits = int(lengths[longer[start]] - 1) * begun.logits.shape[-1]
            size = max(min(MOST_LOGITS // logits, _MOST_STATES // states), 1)
            groups.append(longer[start : start + size])
            start += size
        return groups

    def _begin(self, prompts: TokenLists, *, use_cache: bool) -> _Begun:
        """Encode prompts and run the decoder on its first token."""
        ids, mask = (part.to(self._device) for part in _padded(prompts, self._padding_id))
        some_label = torch.full((1, 1), 1 - min(self._padding_id, 1), device=self._device)
        start = self._shifted(some_label).expand(len(prompts), 1)
        with self._one_text():
            output = self._model(
                input_ids=ids, attention_mask=mask, decoder_input_ids=start, use_cache=use_cache
            )
        states = output.encoder_last_hidden_state
        return _Begun(output.logits[:, -1], states, mask, output.get("past_key_values"))

    def _continued(self, begun: _Begun, rows: np.ndarray, candidates: TokenLists) -> torch.Tensor:
        """Return the logits behind every token of candidates but their last, padded."""
        inputs = TokenLists.of([candidates[row][:-1].tolist() for row in range(len(candidates))])
        ids, _ = _padded(inputs, self._padding_id)
        chosen = torch.from_numpy(rows).to(self._device)
        output = self._model(
            encoder_outputs=BaseModelOutput(begun.states[chosen]),
            attention_mask=begun.mask[chosen],
            decoder_input_ids=ids.to(self._device),
            past_key_values=_taken(begun.cache, chosen),
            use_cache=True,
        )
        return output.logits

    def _alone(self, prompt: np.ndarray, candidate: np.ndarray) -> np.ndarray:
        """Return the log-probability of each token of one candidate: the model with labels."""
        labels, ids = (
            torch.from_numpy(part.astype(np.int64))[None].to(self._device)
            for part in (candidate, prompt)
        )
        with self._one_text():
            output = self._model(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                decoder_input_ids=self._shifted(labels),
            )
        return log_probabilities(_at(output.logits[0]), np.arange(len(candidate)), labels[0].cpu())

    def _one_text(self) -> contextlib.AbstractContextManager[None]:
        """Give the context to run a text in: the model as it was, where texts change it."""
        changes = self._runner.changes_itself
        return self._runner.by_itself() if changes else contextlib.nullcontext()

    def _shifted(self, labels: torch.Tensor) -> torch.Tensor:
        """Return what the decoder reads to predict `labels`, as the model makes it of them."""
        shift = getattr(self._model, "prepare_decoder_input_ids_from_labels", None)
        if shift is not None:
            return shift(labels)
        start = torch.full_like(labels[:, :1], self._model.config.decoder_start_token_id)
        return torch.cat([start, labels[:, :-1]], dim=1)

    @property
    def _layers(self) -> int:
        config = self._model.config
        layers = getattr(config, "decoder_layers", None) or getattr(
            config, "num_decoder_layers", None
        )
        return int(layers or config.num_hidden_layers)

    @property
    def _padding_id(self) -> int:
        return self._runner.loaded.checkpoint.padding_id or 0

    def _apart(self) -> float:
        sizes = _PROBED_CANDIDATES
        roles = [GIVEN, *(role for size in sizes for role in (FIRST, *[REST] * (size - 1)))]
        tokens = random_tokens(
            self._runner.loaded, [length + sum(sizes) for length in _PROBED_PROMPTS]
        )
        types = [[GIVEN] * (length - 1) + roles for length in _PROBED_PROMPTS]
        marked = TokenLists.of([tokens[row].tolist() for row in range(len(tokens))], types)
        prompts, candidates = _parted(marked)
        counts = np.full(len(prompts), len(sizes))
        given = self._together(prompts, candidates, counts)
        expected = [
            self._alone(prompts[place // len(sizes)], candidates[place])
            for place in range(len(candidates))
        ]
        wanted = np.concatenate(expected)
        return float(np.linalg.norm(given - wanted) / np.linalg.norm(wanted))


def _parted(tokens: TokenLists) -> tuple[TokenLists, TokenLists]:
    """Return the prompts, and all candidates one after the other."""
    roles = roles_of(tokens)
    given = roles == GIVEN
    ends = np.append(0, np.cumsum(given))[tokens.offsets]
    starts = np.flatnonzero(roles[~given] == FIRST)
    candidates = tokens.values[~given]
    return (
        TokenLists(tokens.values[given], ends),
        TokenLists(candidates, np.append(starts, len(candidates))),
    )


def _padded(tokens: TokenLists, padding: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids filled up on the right and the mask of real ones, shape (texts, longest)."""
    mask = tokens.mask()
    ids = tokens.in_rows(mask, padding)
    return torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64))


def _taken(cache: Any, rows: torch.Tensor) -> Any:
    """Return a copy of an `EncoderDecoderCache` with some of its rows, in that order."""
    parts = []
    for part in (cache.self_attention_cache, cache.cross_attention_cache):
        own = copy.copy(part)
        own.layers = [copy.copy(layer) for layer in part.layers]
        own.batch_select_indices(rows)
        parts.append(own)
    return type(cache)(*parts)


def _at(logits: torch.Tensor) -> LogitsAt:
    return lambda places: logits[torch.from_numpy(places).to(logits.device)]
