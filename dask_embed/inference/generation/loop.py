"""The loop of a decoder: prompts in, tokens out, ended rows replaced by waiting ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from dask_embed.inference.attention import laid_out, laid_out_copy
from dask_embed.inference.generation.cache import Cohort, Row
from dask_embed.inference.generation.layouts import NewestTokens, Prompts
from dask_embed.inference.generation.plan import Plan
from dask_embed.inference.memory import Budget, is_out_of_memory, release
from dask_embed.inference.sequences import Sequences
from dask_embed.inference.upload import upload
from dask_embed.runtime.computations import require_wanted

# Prompt tokens of one pass: more would leave the caches of a CPU.
_PROMPT_TOKENS = {"cpu": 2048}
_PROMPT_TOKENS_OTHERWISE = 16384
# Rows that one step computes, and the share of them below which waiting prompts begin.
_ROWS = {"cpu": 64}
_ROWS_OTHERWISE = 512
_REFILL = 0.75
# Rows share their tensors while the longest prompt is at most this much longer than the shortest.
_SLACK = 16
# How a text ends for which the scores of the next token are no finite numbers.
LOST = "lost"
_RELATIVE_SLACK = 0.5


class Decoder:
    """Run the decoding loop of one model.

    Parameters
    ----------
    model : PreTrainedModel
        It is left as it is: a copy with its weights runs.
    types : bool
        Say that all tokens are of type 0.

    Notes
    -----
    May be used from several threads.
    """

    def __init__(self, model: Any, *, types: bool = False) -> None:
        self._model = laid_out_copy(model)
        self._types = types
        self._device: torch.device = model.device
        self._rows = _ROWS.get(self._device.type, _ROWS_OTHERWISE)
        self._prompt_tokens = _PROMPT_TOKENS.get(self._device.type, _PROMPT_TOKENS_OTHERWISE)

    def run(
        self, rows: Sequence[Row], plan: Plan, budget: Budget, most: int, *, hidden: bool
    ) -> None:
        """Extend every row until it ends.

        Where memory runs out, half as much is under way from then on; the others go on later
        from the tokens that they have.

        Parameters
        ----------
        rows : sequence of Row
        plan : Plan
        budget : Budget
            Says how many tokens, prompts and room for new ones, there is memory for at a time.
            One row is under way even if it takes more.
        most : int
            At most so many tokens.
        hidden : bool
            Keep the hidden states from which tokens were chosen.

        Raises
        ------
        MemoryError, RuntimeError
            If a row does not fit in memory alone.
        """
        waiting = _longest_first(rows)
        cohorts: list[Cohort] = []
        limit, highest = budget.tokens(most), 0
        while waiting or cohorts:
            require_wanted()
            begin = self._admitted(waiting, cohorts, plan, limit)
            cohorts += begin
            cost = sum(cohort.cost for cohort in cohorts)
            highest = max(highest, cost)
            back = self._attempt(begin, cohorts, plan, hidden=hidden)
            cohorts = [cohort for cohort in cohorts if cohort.rows and not back]
            if back:
                del begin  # nothing may hold states when memory is given back
                release(self._device)
                budget.did_not_fit(cost)
                limit, highest = budget.tokens(most), 0
                waiting = _longest_first([*back, *waiting])
        budget.did_fit(highest)

    def _admitted(
        self, waiting: deque[Row], cohorts: list[Cohort], plan: Plan, limit: int
    ) -> list[Cohort]:
        """Take the rows that may begin now off those that wait."""
        under_way = sum(len(cohort.rows) for cohort in cohorts)
        if under_way > self._rows * _REFILL:
            return []
        room = plan.settings.max_new_tokens
        free = limit - sum(cohort.cost for cohort in cohorts)
        taken: list[Row] = []
        while waiting and len(taken) < self._rows - under_way:
            longest = taken[0].length if taken else waiting[0].length
            free -= min(longest, _longest_beside(waiting[0])) + room
            if free < 0 and (cohorts or taken):
                break
            taken.append(waiting.popleft())
        return [
            Cohort(part, max(row.room for row in part))
            for part in similar(taken, self._prompt_tokens)
        ]

    def _attempt(
        self, begin: Sequence[Cohort], cohorts: Sequence[Cohort], plan: Plan, *, hidden: bool
    ) -> list[Row]:
        """Run the prompts of cohorts that begin, then a step of all that have rows left.

        Returns
        -------
        list of Row
            Where memory did not suffice, the rows that have to begin again from their tokens.
        """
        try:
            for cohort in begin:
                self._extend([cohort], plan, *self.prompts(cohort, hidden=hidden))
            left = [cohort for cohort in cohorts if cohort.rows]
            if left:
                self._extend(left, plan, *self.step(left, hidden=hidden))
        except Exception as error:
            back = [row for cohort in cohorts for row in cohort.rows if not row.finish]
            if not is_out_of_memory(error) or len(back) < 2:
                raise
            return back
        return []

    def _extend(
        self,
        cohorts: Sequence[Cohort],
        plan: Plan,
        logits: torch.Tensor,
        states: torch.Tensor | None,
    ) -> None:
        """Give every row of `cohorts` its next token, and let go of those that end."""
        rows = [row for cohort in cohorts for row in cohort.rows]
        known = logits.amax(-1).isfinite()
        logits = logits.masked_fill(~known[:, None], 0.0)
        for place, token in enumerate(plan.choose(logits, rows).tolist()):
            row = rows[place]
            row.append(token)
            if states is not None:
                row.hidden.append(states[place])
        plan.end(rows)
        for row, scored in zip(rows, known.tolist(), strict=True):
            row.finish = row.finish if scored else LOST
        for cohort in cohorts:
            cohort.grow()

    def prompts(
        self, cohort: Cohort, *, hidden: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Run the prompts of a cohort; logits and hidden states of the last token of each."""
        lengths = np.array([row.length for row in cohort.rows])
        ends = np.cumsum(lengths)
        ids = torch.cat([row.ids[: row.length] for row in cohort.rows]).numpy()
        positions = np.arange(len(ids)) - np.repeat(ends - lengths, lengths)
        last = upload(ends - 1, self._device)
        cohort.begin(self._model.dtype, self._device)
        with laid_out(Prompts(cohort, Sequences(lengths, self._device))):
            return self._run(ids, positions, last, hidden)

    def step(
        self, cohorts: Sequence[Cohort], *, hidden: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Run the newest token of every row of `cohorts`; logits and hidden states."""
        rows = [row for cohort in cohorts for row in cohort.rows]
        ids = np.array([row.newest for row in rows])
        positions = np.array([row.length - 1 for row in rows])
        with laid_out(NewestTokens(cohorts)):
            return self._run(ids, positions, 0, hidden)

    def _run(
        self,
        ids: np.ndarray,
        positions: np.ndarray,
        kept: torch.Tensor | int,
        hidden: bool,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        tokens = upload(ids[None], self._device)
        more = {"token_type_ids": torch.zeros_like(tokens)} if self._types else {}
        output = self._model(
            input_ids=tokens,
            position_ids=upload(positions[None], self._device),
            use_cache=False,
            logits_to_keep=kept,
            output_hidden_states=hidden,
            **more,
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
        if together and (_longest_beside(row) < together[0].length or held + row.length > tokens):
            yield together
            together, held = [], 0
        together.append(row)
        held += row.length
    if together:
        yield together


def _longest_beside(row: Row) -> int:
    """Return the length of the longest row with which `row` shares tensors."""
    return int(row.length * (1 + _RELATIVE_SLACK)) + _SLACK


def _longest_first(rows: Iterable[Row]) -> deque[Row]:
    return deque(sorted(rows, key=lambda row: -row.length))
