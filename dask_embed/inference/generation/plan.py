"""What `model.generate` would do to scores, and when it would stop, asked of itself."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import transformers
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StopStringCriteria,
)

from dask_embed._validation import shown, shown_error
from dask_embed.inference.generation.cache import Row
from dask_embed.inference.generation.draws import draw, draws_of
from dask_embed.inference.generation.settings import GenerationSettings

# Processors that look at the scores alone, so that rows of any lengths may share a call ...
_WARPERS = (
    "TemperatureLogitsWarper",
    "TopHLogitsWarper",
    "TopKLogitsWarper",
    "TopPLogitsWarper",
    "MinPLogitsWarper",
    "TypicalLogitsWarper",
    "EpsilonLogitsWarper",
    "EtaLogitsWarper",
)
_OF_SCORES = (
    *_WARPERS,
    "InfNanRemoveLogitsProcessor",
    "LogitNormalization",
    "SuppressTokensLogitsProcessor",
)
# ... and those that look at the tokens of one row, and remember nothing.
_OF_TOKENS = (
    "ExponentialDecayLengthPenalty",
    "ForcedBOSTokenLogitsProcessor",
    "ForcedEOSTokenLogitsProcessor",
    "MinLengthLogitsProcessor",
    "MinNewTokensLengthLogitsProcessor",
    "NoBadWordsLogitsProcessor",
    "NoRepeatNGramLogitsProcessor",
    "RepetitionPenaltyLogitsProcessor",
    "SequenceBiasLogitsProcessor",
    "SuppressTokensAtBeginLogitsProcessor",
)
_KNOWN_CRITERIA = ("EosTokenCriteria", "MaxLengthCriteria")


class Plan:
    """How one model generates with one set of settings.

    Parameters
    ----------
    model : PreTrainedModel
    tokenizer : PreTrainedTokenizerBase
        Says which tokens complete a string that ends a text.
    settings : GenerationSettings

    Raises
    ------
    ValueError
        If the checkpoint's own configuration asks for draws and beams at once.

    Notes
    -----
    May be used from several threads.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        settings: GenerationSettings,
    ) -> None:
        self._model: Any = model
        self.settings = settings
        self._lock = threading.Lock()
        self._of_length: dict[int, Any] = {}
        self.config, processors, criteria = self._prepared(1)
        self.samples = bool(self.config.do_sample)
        if self.samples and (self.config.num_beams or 1) > 1:
            raise ValueError(
                f"the checkpoint draws tokens with {self.config.num_beams} beams, which is not "
                "supported: set do_sample=False or num_beams=1"
            )
        self.eos = _ids(self.config.eos_token_id)
        stop = settings.stop or _strings(model.generation_config.stop_strings)
        self.stop = _criteria(tokenizer, stop) if stop else None
        names = [type(each).__name__ for each in processors]
        self.warpers = [each for each in processors if type(each).__name__ in _WARPERS]
        split = max((at for at, name in enumerate(names) if name not in _OF_SCORES), default=-1)
        self._row_wise = split + 1
        self._shared: Any = LogitsProcessorList(processors[split + 1 :])
        self.knows_processors = set(names) <= {*_OF_SCORES, *_OF_TOKENS}
        self.knows_criteria = all(type(each).__name__ in _KNOWN_CRITERIA for each in criteria)

    @property
    def mode(self) -> str:
        """Name of the way of generating, as transformers has it: ``"greedy_search"``."""
        return str(self.config.get_generation_mode().value)

    @property
    def reads_tokens(self) -> bool:
        """Whether scores depend on the tokens before, so that padding among them would count."""
        return self._row_wise > 0

    @property
    def is_plain(self) -> bool:
        """Whether the likeliest token is taken as it is, up to the length or the end."""
        plain = not self._row_wise and not self._shared and self.stop is None
        return plain and self.knows_criteria and self.mode == "greedy_search"

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `model.generate`, but for strings that end a text."""
        return {**self.settings.arguments(), "num_return_sequences": 1, "stop_strings": None}

    def choose(self, logits: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
        """Return the next token of every row.

        Parameters
        ----------
        logits : torch.Tensor
            Shape (rows, vocabulary).
        rows : sequence of Row

        Returns
        -------
        torch.Tensor
            int64, shape (rows,).
        """
        scores = logits.to(torch.float32, copy=True)
        if self._row_wise:
            parts = []
            for place, row in enumerate(rows):
                ids = row.ids[None, : row.length].to(scores.device)
                parts.append(self._row_processors(row.prompt)(ids, scores[place : place + 1]))
            scores = torch.cat(parts)
        # none of these looks at the tokens
        scores = self._shared(torch.empty(0, dtype=torch.int64), scores)
        if not self.samples:
            return scores.argmax(-1)
        return draw(scores, torch.stack([draws_of(row)[row.made] for row in rows]))

    def end(self, rows: Sequence[Row]) -> None:
        """Say of rows that got a token whether it was their last."""
        stopped = self._stopped(rows)
        for row, stops in zip(rows, stopped, strict=True):
            if row.newest in self.eos:
                row.finish = "eos"
            elif stops:
                row.finish = "stop"
            elif row.made >= self.settings.max_new_tokens:
                row.finish = "length"

    def _stopped(self, rows: Sequence[Row]) -> list[bool]:
        """Return which rows end in a string that ends a text; it may begin in the prompt."""
        stopped = [False] * len(rows)
        if self.stop is None:
            return stopped
        window = self.stop.maximum_token_len
        seen = [min(row.length, window) for row in rows]
        for width in set(seen):  # what is not there must not be padded: any token may match
            places = [place for place, length in enumerate(seen) if length == width]
            ends = [rows[at].ids[rows[at].length - width : rows[at].length] for at in places]
            with self._lock:
                found: Any = self.stop(torch.stack(ends), None)
            for place, each in zip(places, found.tolist(), strict=True):
                stopped[place] = each
        return stopped

    def _row_processors(self, prompt: int) -> Any:
        """Return what `generate` does to the scores of a prompt of this length alone."""
        with self._lock:
            if prompt not in self._of_length:
                processors = self._prepared(prompt)[1]
                self._of_length[prompt] = LogitsProcessorList(processors[: self._row_wise])
            return self._of_length[prompt]

    def _prepared(
        self, length: int
    ) -> tuple[GenerationConfig, list[LogitsProcessor], list[transformers.StoppingCriteria]]:
        """Return what `generate` prepares for a prompt of this length, without running it."""
        prepared: dict[str, Any] = {}

        def keep(model: Any, input_ids: torch.Tensor, **given: Any) -> torch.Tensor:
            prepared.update(given)
            return input_ids

        ids = torch.zeros(1, length, dtype=torch.int64, device=self._model.device)
        with told_of_generate():
            self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                custom_generate=keep,
                **self.arguments(),
            )
        processors, criteria = prepared["logits_processor"], prepared["stopping_criteria"]
        return prepared["generation_config"], list(processors), list(criteria)


@contextlib.contextmanager
def told_of_generate() -> Iterator[None]:
    """Say of what `model.generate` raises for its settings where these come from.

    Raises
    ------
    ValueError
    """
    try:
        yield
    except (AttributeError, ImportError, TypeError, ValueError) as error:
        raise ValueError(
            "model.generate of transformers cannot do what is asked for, here or in the "
            f"checkpoint's generation_config.json: {shown_error(error)}"
        ) from error


def length_dependent(config: Any) -> bool:
    """Return whether rotary frequencies follow the longest row of a batch."""
    rope = getattr(config, "rope_parameters", None) or {}
    layers = rope.values() if all(isinstance(v, dict) for v in rope.values()) else [rope]
    return any(layer.get("rope_type") in ("dynamic", "longrope") for layer in layers)


def greedy(settings: GenerationSettings) -> GenerationSettings:
    """Return the settings without draws and what belongs to them."""
    return dataclasses.replace(
        settings, do_sample=False, temperature=None, top_k=None, top_p=None, min_p=None
    )


def _criteria(tokenizer: PreTrainedTokenizerBase, stop: Sequence[str]) -> StopStringCriteria:
    """Return what ends a text at one of some strings.

    Raises
    ------
    ValueError
        If transformers does not find out which text each token stands for.
    """
    try:
        return StopStringCriteria(tokenizer, list(stop))
    except ValueError as error:  # "substring not found"
        raise ValueError(
            f"stop={shown(stop)} cannot be looked for in texts of {type(tokenizer).__name__}, "
            f"which does not say what its tokens stand for ({error}); leave out stop=, or "
            "stop_strings of the generation_config.json"
        ) from error


def _ids(given: Any) -> frozenset[int]:
    if given is None:
        return frozenset()
    return frozenset(given if isinstance(given, list | tuple) else [int(given)])


def _strings(given: str | list[str] | None) -> tuple[str, ...]:
    if given is None:
        return ()
    return (given,) if isinstance(given, str) else tuple(given)
