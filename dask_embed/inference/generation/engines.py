"""What runs generation: the library's own loop, or one of others under the same call."""

from __future__ import annotations

import copy
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from transformers import GenerationConfig

from dask_embed.inference.generation.plan import Plan
from dask_embed.inference.generation.settings import GenerationSettings
from dask_embed.inference.generation.text import Generated, TextGeneration
from dask_embed.models.registry import get_or_build
from dask_embed.tokenization import TokenLists

if TYPE_CHECKING:
    from dask_embed.inference.runner import Runner


class Engine(Protocol):
    """Continue prompts; see `TextGeneration`, which is one."""

    tokenizer: Any

    def __call__(
        self,
        prompts: TokenLists,
        settings: GenerationSettings,
        seeds: Sequence[int] | None = None,
        *,
        hidden: bool = False,
    ) -> Generated: ...

    def cost(self, prompt_length: int, settings: GenerationSettings) -> int: ...


def engine_of(runner: Runner, name: str) -> Engine:
    """Return this process's engine of a loaded model.

    Parameters
    ----------
    runner : Runner
    name : {"auto", "transformers", "continuous"}
    """
    return get_or_build((runner, "generation", name), lambda: _build(runner, name))


def _build(runner: Runner, name: str) -> Engine:
    loaded = runner.loaded
    if name == "continuous":
        return ContinuousBatching(loaded.model, loaded.tokenizer)
    packs = name == "auto" and loaded.spec.attention == "auto"
    return TextGeneration(loaded.model, loaded.tokenizer, packs=packs)


class ContinuousBatching:
    """Run `generate_batch` of transformers: its paged cache and its scheduler.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model. It is left as it is.
    tokenizer : PreTrainedTokenizerBase

    Notes
    -----
    May be called from several threads; calls run one after the other. Texts are greedy: what it
    draws depends on the batch.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._model = model
        # generate_batch sets the attention of the model that it runs, which others are using
        shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
        self._twin: Any = copy.deepcopy(model, shared)
        self._lock = threading.Lock()

    def __call__(
        self,
        prompts: TokenLists,
        settings: GenerationSettings,
        seeds: Sequence[int] | None = None,
        *,
        hidden: bool = False,
    ) -> Generated:
        """Generate for a batch of prompts.

        Raises
        ------
        ValueError
            If anything but greedy texts without stop strings is asked for, by the settings or by
            the checkpoint's generation_config.json.
        RuntimeError
            If transformers gives a prompt up.
        """
        with torch.inference_mode():
            plan = Plan(self._model, self.tokenizer, settings)
        if hidden or not plan.is_plain:
            raise ValueError(
                "engine='continuous' takes the likeliest token up to an end of sequence, and the "
                "settings or the checkpoint's generation_config.json ask for more; use "
                "engine='auto'"
            )
        lists = [prompts[row].tolist() for row in range(len(prompts))]
        config = GenerationConfig(
            max_new_tokens=settings.max_new_tokens,
            do_sample=False,
            eos_token_id=sorted(plan.eos) or -1,
            pad_token_id=plan.config.pad_token_id,
        )
        with self._lock:
            found = self._twin.generate_batch(lists, generation_config=config)
        # requests are numbered in the order of the prompts
        outputs = [found[name] for name in sorted(found, key=lambda n: int(n.rpartition("_")[2]))]
        return _generated(outputs, lists, plan)

    def cost(self, prompt_length: int, settings: GenerationSettings) -> int:
        """Return the tokens of prompt and text."""
        return prompt_length + settings.max_new_tokens


def _generated(outputs: Sequence[Any], prompts: list[list[int]], plan: Plan) -> Generated:
    failed = [output.error for output in outputs if output.error]
    if failed or [list(output.prompt_ids) for output in outputs] != prompts:
        reason = failed[0] if failed else f"{len(outputs)} answers to {len(prompts)} prompts"
        raise RuntimeError(f"transformers' generate_batch failed: {reason}")
    lists = [list(output.generated_tokens) for output in outputs]
    finish = ["eos" if ids and ids[-1] in plan.eos else "length" for ids in lists]
    return Generated(TokenLists.of(lists), tuple(finish))
