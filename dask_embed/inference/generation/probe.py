"""Which ways of generating give a model's true scores: tried at first use, never assumed."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessor

from dask_embed._validation import shown_error
from dask_embed.inference.agreement import TOLERANCE, difference
from dask_embed.inference.generation.cache import Cohort, Row
from dask_embed.inference.generation.loop import Decoder, similar
from dask_embed.inference.generation.plan import length_dependent
from dask_embed.inference.generation.reference import Reference
from dask_embed.inference.lengths import SHORT, lengths_to_try, repeating_tokens
from dask_embed.inference.memory import is_final
from dask_embed.models.sizes import position_limit
from dask_embed.tokens.lists import TokenLists

_STEPS = 4
_BEGINNINGS = ("bos_token_id", "decoder_start_token_id")


def reads_types(model: Any, tokenizer: Any) -> bool:
    """Return whether a text has other scores where its tokens are said to be of type 0.

    As the tokenizer says; GPT-2 with that of BERT adds an embedding for it. A model that `generate`
    refuses to write with when it is told (XLNet) is not told.
    """
    name = "token_type_ids"
    named = name in getattr(tokenizer, "model_input_names", ())
    if not named or name not in inspect.signature(model.forward).parameters:
        return False
    prompt = _random(model.config, [SHORT[1]])

    def scores(types: bool) -> torch.Tensor:
        reference = Reference(_plainly_set(model), types=types)
        output = reference.generate(prompt, pad=0, max_new_tokens=2, output_logits=True)
        return torch.stack(output.logits)

    try:
        return difference(scores(True), scores(False)) > 0
    except Exception as error:  # every architecture has its own way to refuse
        if is_final(error):
            raise
        return False


def judge_decoder(model: Any, *, types: bool = False) -> tuple[Decoder | None, int | None, str]:
    """Compare the decoding loop with the plain forward pass of single texts.

    Parameters
    ----------
    model : PreTrainedModel
    types : bool
        All tokens are said to be of type 0.

    Returns
    -------
    decoder : Decoder or None
        None where the loop is not right for the model.
    up_to : int or None
        Longest text, new tokens included, that the comparison vouches for; None if any.
    reason : str
        Why there is no decoder.
    """
    parameters = inspect.signature(model.forward).parameters
    missing = [name for name in ("position_ids", "logits_to_keep") if name not in parameters]
    if model.config.is_encoder_decoder:
        return None, None, "it has an encoder"
    if missing:
        return None, None, f"its forward takes no {' and no '.join(missing)}"
    if length_dependent(model.config.get_text_config()):
        return None, None, "its rotary frequencies follow the longest text of a batch"
    lengths, up_to = _lengths(model.config)
    try:
        decoder = Decoder(model, types=types)
        apart = _apart(model, decoder, lengths, types)
    except Exception as error:  # every architecture has its own way to refuse
        if is_final(error):
            raise
        return None, None, shown_error(error)
    if not apart <= TOLERANCE.get(model.dtype, 1e-5):
        return None, None, f"its scores differ from those of single texts by {apart:.1e}"
    return decoder, up_to, ""


def judge_batches(model: Any, *, types: bool = False) -> str:
    """Return which texts `generate` gives the scores of single ones: see `TextGeneration`.

    ``"padded"`` for any, ``"equal"`` for those of one length, nothing where not even they are
    right (RWKV).
    """
    prompts = _random(model.config, _lengths(model.config)[0])
    forced = _random(model.config, [_STEPS] * len(prompts)).values.reshape(-1, _STEPS)
    reference = Reference(_plainly_set(model), types=types)

    def scores(rows: Sequence[int]) -> torch.Tensor:
        chosen = prompts.take(np.asarray(rows))
        begin = 1 if model.config.is_encoder_decoder else int(chosen.lengths.max())
        forcing = _Forced(torch.from_numpy(forced[rows].astype(np.int64)), begin)
        output = reference.generate(
            chosen,
            pad=max(model.generation_config.pad_token_id or 0, 0),
            max_new_tokens=_STEPS,
            output_logits=True,
            logits_processor=[forcing],
        )
        return torch.stack(output.logits, 1)

    everything = list(range(len(prompts)))
    alone = torch.cat([scores([row]) for row in everything])
    tolerance = TOLERANCE.get(model.dtype, 1e-5)

    def agrees(rows: list[int]) -> bool:
        try:
            given = scores(rows)
        except Exception as error:  # every architecture has its own way to refuse
            if is_final(error):
                raise
            return False
        return difference(given, alone[rows]) <= tolerance

    # two of SHORT are of one length
    if not agrees(np.flatnonzero(prompts.lengths == SHORT[2])[:2].tolist()):
        return ""
    return "padded" if agrees(everything) else "equal"


def _plainly_set(model: Any) -> Any:
    """Return `model` under settings of its own, which say where texts begin and nothing else.

    `generate` fills whatever an argument leaves open from the checkpoint's generation_config.json:
    penalties, forced tokens, beams, caches. None of these is what padding is tried for, and some
    cannot be without others.
    """
    plain = copy.copy(model)  # shares its modules; the attribute set here is the copy's own
    kept = {name: getattr(model.generation_config, name, None) for name in _BEGINNINGS}
    plain.generation_config = GenerationConfig(**kept)
    return plain


class _Forced(LogitsProcessor):
    """Leave it one token to choose from at each step."""

    def __init__(self, tokens: torch.Tensor, prompt: int) -> None:
        self._tokens = tokens
        self._prompt = prompt

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        step = input_ids.shape[1] - self._prompt
        only: Any = torch.full_like(scores, -torch.inf)
        return only.scatter_(1, self._tokens[:, step : step + 1].to(scores.device), 0.0)


def _apart(model: Any, decoder: Decoder, lengths: list[int], types: bool) -> float:
    """Return how far the scores of random texts are apart, the loop's from the model's."""
    tokens = _random(model.config, [length + _STEPS for length in lengths])
    rows = [
        Row.of(at, tokens[at][:-_STEPS], _STEPS)
        for at in sorted(range(len(lengths)), key=lambda at: -lengths[at])
    ]
    cohorts = [Cohort(part, _STEPS) for part in similar(rows, 1 << 20)]
    found = [torch.cat([decoder.prompts(cohort)[0] for cohort in cohorts])]
    for _ in range(_STEPS):
        for row in rows:
            row.append(int(tokens[row.index][row.length]))
        for cohort in cohorts:
            cohort.grow()
        found.append(decoder.step(cohorts)[0])
    expected = []
    for row in rows:
        ids = row.ids[None].to(model.device)
        more = {"token_type_ids": torch.zeros_like(ids)} if types else {}
        output = model(input_ids=ids, use_cache=False, **more)
        expected.append(output.logits[0, row.prompt - 1 :])
    return difference(torch.stack(found, 1), torch.stack(expected))


def _lengths(config: Any) -> tuple[list[int], int | None]:
    """Return lengths of prompts to try, and the length of text that they vouch for."""
    text = config.get_text_config()
    limit = position_limit(text)
    return lengths_to_try(text, None if limit is None else limit - _STEPS)


def _random(config: Any, lengths: list[int]) -> TokenLists:
    """Return texts of these lengths, of any tokens but padding."""
    text = config.get_text_config()
    allowed = np.setdiff1d(np.arange(text.vocab_size), [getattr(text, "pad_token_id", None) or 0])
    return TokenLists.of([each.tolist() for each in repeating_tokens(allowed, lengths)])
