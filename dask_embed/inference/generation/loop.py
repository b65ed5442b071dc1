"""The loop of a decoder: prompts in, tokens out, ended rows replaced by waiting ones."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from dask_embed.inference.generation.cache import Cohort, Row, decoding_pass, prompt_pass
from dask_embed.inference.generation.plan import Plan

# Prompt tokens of one pass: more would leave the caches of a CPU.
_PROMPT_TOKENS = {"cpu": 2048}
_PROMPT_TOKENS_OTHERWISE = 16384
# Rows that one step computes, and the share of them below which waiting prompts begin.
_ROWS = {"cpu": 64}
_ROWS_OTHERWISE = 512
_REFILL = 0.75
# Rows share their tensors while the longest prompt is at most this much longer than the shortest.
_SLACK = 16
_RELATIVE_SLACK = 0.5


class Decoder:
    """Run the decoding loop of one model.

    Parameters
    ----------
    twin : PreTrainedModel
        A model that attends with `decoding_attention`.

    Notes
    -----
    May be used from several threads.
    """

    def __init__(self, twin: Any) -> None:
        self._twin = twin
        self._device: torch.device = twin.device
        self._rows = _ROWS.get(self._device.type, _ROWS_OTHERWISE)
        self._prompt_tokens = _PROMPT_TOKENS.get(self._device.type, _PROMPT_TOKENS_OTHERWISE)

    def run(self, rows: Sequence[Row], plan: Plan, budget: int | None, *, hidden: bool) -> None:
        """Extend every row until it ends.

        Parameters
        ----------
        rows : sequence of Row
        plan : Plan
        budget : int or None
            Tokens, prompts and room for new ones, for which there may be memory at a time. One
            row is under way even if it takes more.
        hidden : bool
            Keep the hidden states from which tokens were chosen.
        """
        waiting = deque(sorted(rows, key=lambda row: -row.length))
        cohorts: list[Cohort] = []
        while waiting or cohorts:
            under_way = sum(len(cohort.rows) for cohort in cohorts)
            begin: list[Cohort] = []
            if waiting and under_way <= self._rows * _REFILL:
                begin = self._admitted(waiting, cohorts, plan, budget)
            for cohort in begin:
                self._extend([cohort], plan, *self.prompts(cohort, hidden=hidden))
            cohorts = [cohort for cohort in cohorts + begin if cohort.rows]
            if cohorts:
                self._extend(cohorts, plan, *self.step(cohorts, hidden=hidden))
                cohorts = [cohort for cohort in cohorts if cohort.rows]

    def _admitted(
        self, waiting: deque[Row], cohorts: list[Cohort], plan: Plan, budget: int | None
    ) -> list[Cohort]:
        """Take the rows that may begin now off those that wait."""
        room = plan.settings.max_new_tokens
        free = math.inf if budget is None else budget - sum(cohort.cost for cohort in cohorts)
        rows = self._rows - sum(len(cohort.rows) for cohort in cohorts)
        taken: list[Row] = []
        while waiting and len(taken) < rows:
            free -= waiting[0].length + room
            if free < 0 and (cohorts or taken):
                break
            taken.append(waiting.popleft())
        return [Cohort(part, room) for part in similar(taken, self._prompt_tokens)]

    def _extend(
        self,
        cohorts: Sequence[Cohort],
        plan: Plan,
        logits: torch.Tensor,
        states: torch.Tensor | None,
    ) -> None:
        """Give every row of `cohorts` its next token, and let go of those that end."""
        rows = [row for cohort in cohorts for row in cohort.rows]
        for place, token in enumerate(plan.choose(logits, rows).tolist()):
            row = rows[place]
            row.append(token)
            if states is not None:
                row.hidden.append(states[place])
        plan.end(rows)
        for cohort in cohorts:
            cohort.grow()

    def prompts(
        self, cohort: Cohort, *, hidden: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Run the prompts of a cohort; logits and hidden states of the last token of each."""
        lengths = torch.tensor([row.length for row in cohort.rows])
        ends = lengths.cumsum(0)
        ids = torch.cat([row.ids[: row.length] for row in cohort.rows])
        positions = torch.arange(len(ids)) - torch.repeat_interleave(ends - lengths, lengths)
        offsets = torch.nn.functional.pad(ends, (1, 0)).to(torch.int32).to(self._device)
        last = (ends - 1).to(self._device)
        cohort.begin(self._twin.dtype, self._device)
        with prompt_pass(cohort, offsets, int(lengths.max())):
            return self._run(ids, positions, last, hidden)

    def step(
        self, cohorts: Sequence[Cohort], *, hidden: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Run the newest token of every row of `cohorts`; logits and hidden states."""
        rows = [row for cohort in cohorts for row in cohort.rows]
        ids = torch.tensor([row.newest for row in rows])
        positions = torch.tensor([row.length - 1 for row in rows])
        with decoding_pass(cohorts):
            return self._run(ids, positions, 0, hidden)

    def _run(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        kept: torch.Tensor | int,
        hidden: bool,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        output = self._twin(
            input_ids=ids[None].to(self._device),
            position_ids=positions[None].to(self._device),
            use_cache=False,
            logits_to_keep=kept,
            output_hidden_states=hidden,
        )
        if not hidden:
            return output.logits[0], None
        states = output.hidden_states[-1][0]
        return output.logits[0], states if isinstance(kept, int) else states[kept]


def similar(rows: Sequence[Row], tokens: int) -> Iterator[list[Row]]:
    """Split rows, longest first, where they would share too much empty memory.

    No part has more prompt tokens than `tokens` unless it is one row.
    """
    together: list[Row] = []
    held = 0
    for row in rows:
        if together and (
            row.length * (1 + _RELATIVE_SLACK) + _SLACK < together[0].length
            or held + row.length > tokens
        ):
            yield together
            together, held = [], 0
        together.append(row)
        held += row.length
    if together:
        yield together
