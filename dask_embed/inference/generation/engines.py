"""What runs generation: the library's own loop, or one of others under the same call."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig

from dask_embed.inference.generation.plan import Plan
from dask_embed.inference.generation.probe import reads_types
from dask_embed.inference.generation.settings import GenerationSettings
from dask_embed.inference.generation.text import Generated, TextGeneration
from dask_embed.loading.copies import sharing_copy
from dask_embed.tokens.lists import TokenLists

if TYPE_CHECKING:
    from dask_embed.inference.runner import Runner


# The paged cache of transformers on a CPU: tokens of a page, pages, and tokens of a step.
_PAGE = 256
_MOST_BLOCKS = 64
_TOKENS_OF_A_STEP = 2048


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
    return runner.kept.get_or_build(("generation", name), lambda: _build(runner, name))


def _build(runner: Runner, name: str) -> Engine:
    loaded = runner.loaded
    model = loaded.model
    if name == "continuous":
        with torch.inference_mode():
            typed = reads_types(model, loaded.tokenizer)
        if typed:
            raise ValueError(
                f"engine='continuous' says no token types, which model {loaded.spec.name!r} reads "
                "and its tokenizer gives; use engine='auto'"
            )
        return ContinuousBatching(model, loaded.tokenizer)
    changes = runner.changes_itself
    packs = name == "auto" and loaded.spec.attention == "auto" and not changes
    usage = runner.budget.usage
    activations = 0.0 if usage is None else usage.per_token
    return TextGeneration(
        model, loaded.tokenizer, packs=packs, activations=activations, changes=changes
    )


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
        self._copy = sharing_copy(model)
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
        # its loop has a thread of its own, which may not change tensors of inference mode
        with self._lock, torch.inference_mode(False):
            found = self._copy.generate_batch(
                lists,
                generation_config=config,
                continuous_batching_config=self._memory(prompts, settings),
            )
        # requests are numbered in the order of the prompts
        outputs = [found[name] for name in sorted(found, key=lambda n: int(n.rpartition("_")[2]))]
        return _generated(outputs, lists, plan)

    def cost(self, prompt_length: int, settings: GenerationSettings) -> int:
        """Return the tokens of prompt and text."""
        return prompt_length + settings.max_new_tokens

    def _memory(self, prompts: TokenLists, settings: GenerationSettings) -> Any:
        """Return how large its cache is: on a CPU it would otherwise fill most of the memory."""
        if self._copy.device.type != "cpu":
            return None
        pages = -(-(prompts.lengths + settings.max_new_tokens) // _PAGE)
        blocks = min(int(pages.sum()), max(int(pages.max()), _MOST_BLOCKS)) + 1
        return ContinuousBatchingConfig(
            page_size=_PAGE, num_blocks=blocks, max_batch_tokens=_TOKENS_OF_A_STEP
        )


def _generated(outputs: Sequence[Any], prompts: list[list[int]], plan: Plan) -> Generated:
    failed = [output.error for output in outputs if output.error]
    if failed or [list(output.prompt_ids) for output in outputs] != prompts:
        reason = failed[0] if failed else f"{len(outputs)} answers to {len(prompts)} prompts"
        raise RuntimeError(f"transformers' generate_batch failed: {reason}")
    lists = [list(output.generated_tokens) for output in outputs]
    finish = ["eos" if ids and ids[-1] in plan.eos else "length" for ids in lists]
    return Generated(TokenLists.of(lists), tuple(finish))
