"""`model.generate`, for what the decoding loop does not do: beams, encoders, other caches."""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from transformers import LogitsProcessor, PreTrainedModel

from dask_embed.inference.generation.cache import Row
from dask_embed.inference.generation.draws import SeededDraw, draws_of
from dask_embed.inference.generation.plan import Plan, greedy, told_of_generate
from dask_embed.inference.state import ModelState
from dask_embed.tokens.lists import TokenLists


class Reference:
    """Run `generate` of one model on batches.

    Parameters
    ----------
    model : PreTrainedModel
        Left as it is.
    changes : bool
        A text changes the model for those after it, so one call runs at a time and the model is
        put back then.
    types : bool
        Say that all tokens are of type 0.
    """

    def __init__(
        self, model: PreTrainedModel, *, changes: bool = False, types: bool = False
    ) -> None:
        self._model: Any = model
        self._changes = changes
        self._types = types
        self._turn = threading.Lock()
        self._encodes = bool(model.config.is_encoder_decoder)

    def run(self, prompts: TokenLists, rows: Sequence[Row], plan: Plan, *, hidden: bool) -> None:
        """Extend every row to its end; shorter prompts are padded where `generate` expects it."""
        arguments = plan.arguments()
        processors: list[LogitsProcessor] = []
        if plan.samples:
            draws = torch.stack([draws_of(row) for row in rows]).to(self._model.device)
            arguments |= greedy(plan.settings).arguments()
            begin = 1 if self._encodes else int(prompts.lengths.max())
            processors = [*plan.warpers, SeededDraw(draws, begin)]
        output = self.generate(
            prompts,
            pad=_padding_id(plan),
            logits_processor=processors,
            # a criterion moves its tensors to the device on which it is called
            stopping_criteria=[copy.copy(plan.stop)] if plan.stop is not None else [],
            output_hidden_states=hidden,
            **arguments,
        )
        new = self.new_tokens(output, prompts)
        if (beams := getattr(output, "beam_indices", None)) is not None:
            _take_beams(rows, new, (beams >= 0).sum(-1).tolist(), plan)
        else:
            _take(rows, new, self._hidden(output) if hidden else None, plan)

    def generate(self, prompts: TokenLists, *, pad: int, **arguments: Any) -> Any:
        """Call `generate` with padded prompts; everything it can return."""
        mask = prompts.mask("right" if self._encodes else "left")
        ids = prompts.in_rows(mask, pad)
        if self._types:
            arguments["token_type_ids"] = torch.zeros(ids.shape, dtype=torch.int64).to(
                self._model.device
            )
        with self._put_back(), told_of_generate():
            return self._model.generate(
                torch.from_numpy(ids).to(self._model.device),
                attention_mask=torch.from_numpy(mask.astype(np.int64)).to(self._model.device),
                return_dict_in_generate=True,
                pad_token_id=pad,  # rows that ended are filled with it and run on
                **arguments,
            )

    @contextlib.contextmanager
    def _put_back(self) -> Iterator[None]:
        if not self._changes:
            yield
            return
        with self._turn:
            state = ModelState(self._model)
            try:
                yield
            finally:
                state.restore()

    def new_tokens(self, output: Any, prompts: TokenLists) -> list[list[int]]:
        """Return what follows the prompts, or the token that a decoder starts with."""
        begin = 1 if self._encodes else int(prompts.lengths.max())
        tokens: list[list[int]] = output.sequences[:, begin:].tolist()
        return tokens

    def _hidden(self, output: Any) -> list[torch.Tensor]:
        steps = output.decoder_hidden_states if self._encodes else output.hidden_states
        return [layers[-1][:, -1] for layers in steps]


def _take(
    rows: Sequence[Row], new: list[list[int]], hidden: list[torch.Tensor] | None, plan: Plan
) -> None:
    """Append tokens up to where each row ends alone: others may have gone on."""
    for place, row in enumerate(rows):
        for step, token in enumerate(new[place]):
            row.append(token)
            if hidden is not None:
                row.hidden.append(hidden[step][place])
            plan.end([row])
            if row.finish:
                break
        row.finish = row.finish or "length"


def _take_beams(rows: Sequence[Row], new: list[list[int]], lengths: list[int], plan: Plan) -> None:
    for row, tokens, length in zip(rows, new, lengths, strict=True):
        for token in tokens[:length]:
            row.append(token)
        plan.end([row])
        row.finish = row.finish or "length"


def _padding_id(plan: Plan) -> int:
    """Any id does where there is none: the mask hides it."""
    pad = plan.config.pad_token_id
    return int(pad) if isinstance(pad, int) and pad >= 0 else min(plan.eos, default=0)
