"""Text generation: prompts to new tokens, each row as if it were alone."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dask_embed.inference.cache_size import states_budget
from dask_embed.inference.generation.cache import Row
from dask_embed.inference.generation.draws import numbers
from dask_embed.inference.generation.loop import Decoder
from dask_embed.inference.generation.plan import Plan
from dask_embed.inference.generation.probe import judge_batches, judge_decoder, reads_types
from dask_embed.inference.generation.reference import Reference
from dask_embed.inference.generation.settings import GenerationSettings
from dask_embed.inference.lengths import selected_tokens
from dask_embed.inference.memory import is_out_of_memory, release
from dask_embed.tokens.lists import TokenLists

# Ways of transformers that the decoding loop does, and those that batches may be given to.
_LOOP_MODES = ("greedy_search", "sample")
_BATCH_MODES = (*_LOOP_MODES, "beam_search")


@dataclass(frozen=True)
class Generated:
    """What a model wrote.

    Attributes
    ----------
    tokens : TokenLists
        New tokens of each row, those that ended it (end of sequence, stop string) included.
    finish : tuple of str
        Why each row ended: ``"eos"``, ``"stop"``, ``"length"``, or ``"lost"`` where scores were
        no finite numbers.
    hidden : tuple of torch.Tensor or None
        For each row the last layer's states from which its tokens were chosen, shape (new
        tokens, hidden size), where they were asked for.
    """

    tokens: TokenLists
    finish: tuple[str, ...]
    hidden: tuple[torch.Tensor, ...] | None = None


class TextGeneration:
    """Continue prompts, or answer them with a decoder, exactly as `model.generate` does alone.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model or an encoder with a decoder, on its device, in evaluation mode.
        It is never changed, and must not be changed meanwhile.
    tokenizer : PreTrainedTokenizerBase
        Asked for its vocabulary where strings end texts, and whether tokens have types.
    packs : bool
        Use the decoding loop where it is right for the model; otherwise all that runs is
        `model.generate`.
    activations : float
        Bytes that a token takes while its forward pass runs, beside its keys and values.
    changes : bool
        A text changes the model for those after it: each runs alone, and it is put back.

    Attributes
    ----------
    budget : Budget
        Of tokens under way: on a GPU as many as free memory has room for, less after some did
        not fit.

    Notes
    -----
    May be called from several threads at a time. At first use, random prompts show which way of
    running batches gives the model's true scores. Greedy results are those of each row alone
    but for ties within the precision of the matrix products.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        packs: bool = True,
        activations: float = 0.0,
        changes: bool = False,
    ) -> None:
        self._model: Any = model
        self.budget = states_budget(model, activations)
        self.tokenizer = tokenizer
        self._packs = packs
        self._changes = changes
        with torch.inference_mode():
            self._types = not changes and reads_types(model, tokenizer)
        self._reference = Reference(model, changes=changes, types=self._types)
        # beyond them attention chooses between tokens, where rounding decides: each row runs alone
        self._selected = min(selected_tokens(model.config.get_text_config()), default=None)
        self._lock = threading.RLock()
        self._plans: dict[GenerationSettings, Plan] = {}
        self._verdict: tuple[Decoder | None, int | None, str] | None = None
        self._right: str | None = None

    def __call__(
        self,
        prompts: TokenLists,
        settings: GenerationSettings,
        seeds: Sequence[int] | None = None,
        *,
        hidden: bool = False,
        budget: int | None = None,
    ) -> Generated:
        """Generate for a batch of prompts.

        Parameters
        ----------
        prompts : TokenLists
            Tokens with everything that belongs to a prompt; at least one each.
        settings : GenerationSettings
        seeds : sequence of int, optional
            One for each row, which with the prompt and the settings decides what is drawn; the
            settings' own seed for all by default.
        hidden : bool
            Return hidden states, too; not for beams.
        budget : int, optional
            Most of the summed `cost` of the rows under way at a time; others wait. Fewer where
            memory asks for it.

        Raises
        ------
        ValueError
            If a prompt has no token, seeds are too few, or hidden states of beams are asked for.
        """
        rows = len(prompts)
        seeds = [settings.seed] * rows if seeds is None else seeds
        if len(seeds) != rows:
            raise ValueError(f"there must be one seed for each of {rows} prompts; got {len(seeds)}")
        if rows and not prompts.lengths.min():
            empty = int(np.flatnonzero(prompts.lengths == 0)[0])
            raise ValueError(f"prompts must have at least one token; prompt {empty} has none")
        with torch.inference_mode():
            plan = self._plan(settings)
            if hidden and plan.mode not in _LOOP_MODES:
                raise ValueError(f"hidden states are not kept with {plan.mode}; set num_beams=1")
            texts = [self._row(row, prompts[row], plan, seeds[row]) for row in range(rows)]
            self._run(prompts, texts, plan, hidden, budget)
        return _generated(texts, hidden)

    def cost(self, prompt_length: int, settings: GenerationSettings) -> int:
        """Return the tokens that a row keeps states of: prompt and new ones, of every beam.

        Rows that share a padded batch all cost as much as the longest of them.
        """
        with torch.inference_mode():
            beams = self._plan(settings).config.num_beams or 1
        return int(beams) * (prompt_length + settings.max_new_tokens)

    def why_not_packed(self, settings: GenerationSettings) -> str:
        """Return why the model is run by `model.generate`; empty where it is not."""
        with torch.inference_mode():
            plan = self._plan(settings)
            if not self._packs:
                return "batches are to be padded"
            if plan.mode not in _LOOP_MODES:
                return f"the settings ask for {plan.mode}"
            if not (plan.knows_processors and plan.knows_criteria):
                return "its generation_config asks for what only model.generate does"
            return self._judged()[2]

    def _run(
        self,
        prompts: TokenLists,
        rows: list[Row],
        plan: Plan,
        hidden: bool,
        budget: int | None,
    ) -> None:
        most = sys.maxsize if budget is None else budget
        others = rows
        if not self.why_not_packed(plan.settings):
            decoder, up_to, _ = self._judged()
            assert decoder is not None, "there is a reason where there is no decoder"
            limits = [limit for limit in (up_to, self._selected) if limit is not None]
            fits = [len(row.ids) <= min(limits, default=len(row.ids)) for row in rows]
            decoder.run(
                [row for row, fit in zip(rows, fits, strict=True) if fit],
                plan,
                self.budget,
                most,
                hidden=hidden,
            )
            others = [row for row, fit in zip(rows, fits, strict=True) if not fit]
        self._run_reference(others, prompts, plan, most, hidden)

    def _run_reference(
        self, rows: list[Row], prompts: TokenLists, plan: Plan, most: int, hidden: bool
    ) -> None:
        """Run rows by `generate`, in smaller batches where one did not fit in memory."""
        lengths = prompts.lengths
        waiting = sorted(rows, key=lambda row: -int(lengths[row.index]))
        share = len(rows) > 1 and self._batches(plan)
        while waiting:
            longest = int(lengths[waiting[0].index])
            cost = self.cost(longest, plan.settings)
            chooses = longest + plan.settings.max_new_tokens > (self._selected or sys.maxsize)
            count = max(1, self.budget.tokens(most) // cost) if share and not chooses else 1
            together = waiting[:count]
            if share != "padded":
                first = lengths[together[0].index]
                together = [row for row in together if lengths[row.index] == first]
            cost *= len(together)
            if self._attempt(prompts, together, plan, hidden):
                self.budget.did_fit(cost)
                waiting = waiting[len(together) :]
            else:
                release(self._model.device)
                self.budget.did_not_fit(cost)

    def _attempt(self, prompts: TokenLists, rows: list[Row], plan: Plan, hidden: bool) -> bool:
        """Extend rows by `generate`; return whether memory sufficed."""
        places = np.asarray([row.index for row in rows])
        try:
            self._reference.run(prompts.take(places), rows, plan, hidden=hidden)
        except Exception as error:
            if not is_out_of_memory(error) or len(rows) < 2:
                raise
            return False
        return True

    def _batches(self, plan: Plan) -> str:
        """Return which rows `generate` may be given at a time: ``"padded"``, ``"equal"``, none."""
        known = plan.knows_processors and plan.knows_criteria
        if self._changes or not known or plan.mode not in _BATCH_MODES:
            return ""
        right = self._judged_batches()
        encodes = bool(self._model.config.is_encoder_decoder)
        return "equal" if right == "padded" and plan.reads_tokens and not encodes else right

    def _row(self, index: int, prompt: np.ndarray, plan: Plan, seed: int) -> Row:
        room = plan.settings.max_new_tokens
        if self._model.config.is_encoder_decoder:
            start = plan.config.decoder_start_token_id
            start = plan.config.bos_token_id if start is None else start
            prompt = np.asarray([start])
        row = Row.of(index, prompt, room)
        row.draws = numbers(seed, room) if plan.samples else None
        return row

    def _plan(self, settings: GenerationSettings) -> Plan:
        with self._lock:
            if settings not in self._plans:
                self._plans[settings] = Plan(self._model, self.tokenizer, settings)
            return self._plans[settings]

    def _judged(self) -> tuple[Decoder | None, int | None, str]:
        with self._lock:
            if self._verdict is None:
                self._verdict = judge_decoder(self._model, types=self._types)
            return self._verdict

    def _judged_batches(self) -> str:
        with self._lock:
            if self._right is None:
                self._right = judge_batches(self._model, types=self._types)
            return self._right


def _generated(rows: Sequence[Row], hidden: bool) -> Generated:
    tokens = TokenLists.of([row.ids[row.prompt : row.length].tolist() for row in rows])
    states = tuple(torch.stack(row.hidden) for row in rows) if hidden else None
    return Generated(tokens, tuple(row.finish for row in rows), states)
