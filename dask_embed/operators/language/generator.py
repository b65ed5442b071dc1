"""Prompts to texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from dask_embed import config
from dask_embed._validation import one_of, shown, text_or_none
from dask_embed.columns.types import token_vectors_array
from dask_embed.inference.generation.prompts import PromptRules, PromptTokenizer
from dask_embed.inference.generation.settings import GenerationSettings, row_seed
from dask_embed.models.checkpoint import Checkpoint
from dask_embed.models.options import hashable_items
from dask_embed.operators.identity import plain, private
from dask_embed.operators.language.base import LanguageModelOperator
from dask_embed.operators.language.generation_file import require_generation_file
from dask_embed.operators.language.generator_checks import (
    ENGINES,
    check_draws,
    check_engine,
    check_mappings,
    require_chat_template,
)
from dask_embed.tokens.encoded import Encoded, Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from dask_embed.inference.footprint import Footprint
    from dask_embed.inference.generation.engines import Engine
    from dask_embed.inference.generation.prompts import PromptTokenizer
    from dask_embed.inference.rows import Chunk
    from dask_embed.inference.runner import Runner
    from dask_embed.inference.stream import Batching
    from dask_embed.tokens.lists import TokenLists

# A decoding step reads all weights for one token of each row, so that many rows pay: budgets of a
# batch, prompts and new tokens, are this many times those of other operators.
_MORE_TOKENS = {"cpu": 16}
# Engines that make batches of their own get all rows of a chunk.
_ALL = 1 << 20
_SETTINGS = tuple(field.name for field in dataclasses.fields(GenerationSettings))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generator(LanguageModelOperator):
    """Append what a language model writes after a prompt; lazy on a Dask DataFrame.

    Parameters
    ----------
    model : str, Path or Model
        A causal language model, or an encoder with a decoder (T5, BART).
    prompt : str, optional
        A template with names of text columns in braces: ``"Summarize: {text}"``. ``{{`` and
        ``}}`` stand for single braces.
    column : str
        The column of prompts where there is no template.
    chat : bool or "auto"
        Hand the prompt to the tokenizer's chat template as what a user says; ``"auto"`` if it
        has one. Models that were tuned for chats answer well only then.
    system : str, optional
        Instructions before it; with `chat`.
    chat_template_kwargs : mapping, optional
        Variables of the template: ``{"enable_thinking": False}``; with `chat`.
    add_special_tokens : bool
        Add the tokenizer's special tokens to prompts. False for a column of prompts that hold
        them already. Chat templates write their own.
    max_new_tokens : int
        Longest text, 20 tokens by default, as of `model.generate`.
    min_new_tokens, do_sample, temperature, top_k, top_p, min_p, num_beams, repetition_penalty, \
no_repeat_ngram_size
        As of `model.generate`. None is the checkpoint's own value, from its
        generation_config.json, and where that has none, the default of transformers. What says
        how tokens are drawn (`temperature`, `top_k`, `top_p`, `min_p`, `seed`) is an error where
        none are drawn.
    stop : sequence of str
        Strings that end a text; they are part of it, as in `model.generate`.
    seed : int
        With the tokens of the prompt it decides what is drawn.
    hidden : str, optional
        Name of a column for the last layer's states from which the tokens were chosen.
    engine : {"auto", "transformers", "continuous", "vllm"}
        ``"auto"``: batches without padding whose ended rows make room for others, where random
        prompts show at load that this is right for the model; `model.generate` otherwise, for
        beams, and for encoders. ``"transformers"``: always `model.generate`. ``"continuous"``:
        `model.generate_batch`, greedy texts only. ``"vllm"``: vLLM, which has to be installed.
    engine_options : mapping, optional
        More arguments of ``vllm.LLM`` about memory and speed: ``{"gpu_memory_utilization": 0.8}``.
    max_length : int, optional
        Most tokens of prompt and text together, by default what the checkpoint has positions
        for; for encoders with a decoder, of the prompt.
    on_long : {"truncate", "error"}
        Whether a prompt that leaves no room for `max_new_tokens` loses its beginning (for
        encoders with a decoder: its end), or its row cannot be used. Special tokens, and the
        chat template around a prompt, stay whole.
    output : str
        Name of the first result column; others begin with it.
    padding_side, batch_size, on_error
        See `ModelOperator`.
    tokens_per_batch : int, optional
        Token budget of a batch, prompts and new tokens, of all beams. By default that of
        ``dask.config``, on a CPU 16 times as much, less where memory asks for it.

    Returns
    -------
    DataFrame
        With the columns ``<output>`` (str, the new text without special tokens),
        ``<output>_finish`` (str: ``"eos"``, ``"stop"`` or ``"length"``), ``<output>_tokens``
        (int32, how many are new) and, if asked for, `hidden` (a list of vectors of float32).

    Raises
    ------
    TypeError, ValueError, ModuleNotFoundError
        When it is applied and before any work, if an argument, a column or the checkpoint does
        not fit: a template that names no column of the frame, no chat template, no room for a
        prompt beside `max_new_tokens`, vLLM that is not installed.

    Examples
    --------
    >>> import dask_embed as de
    >>> generator = Generator("gpt2", prompt="{title}\\n\\n{text}\\n\\nSummary:")
    >>> generator.input_columns
    ('title', 'text')
    >>> generator.result_columns
    ('generated', 'generated_finish', 'generated_tokens')

    Notes
    -----
    What is drawn depends on no other row, batch or partition; equal prompts give equal texts.
    With ``engine="vllm"`` the seeds are the same but the draws are vLLM's, and its numbers
    differ in their last digits with the batch.

    Source: transformers' ``TextGenerationPipeline`` with ``return_full_text=False``.
    """

    method: ClassVar[str] = "generate"

    output: str = "generated"
    chat: bool | str = False
    system: str | None = None
    chat_template_kwargs: Any = ()
    add_special_tokens: bool = True
    max_new_tokens: int = 20
    min_new_tokens: int | None = None
    do_sample: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    num_beams: int | None = None
    repetition_penalty: float | None = None
    no_repeat_ngram_size: int | None = None
    stop: Any = ()
    seed: int = 0
    hidden: str | None = None
    engine: str = "auto"
    engine_options: Any = ()

    incidental: ClassVar[frozenset[str]] = frozenset({"hidden"})

    def __post_init__(self) -> None:
        settings = self.settings
        for name in _SETTINGS:  # in their one canonical form
            object.__setattr__(self, name, getattr(settings, name))
        for name in ("chat_template_kwargs", "engine_options"):
            object.__setattr__(self, name, hashable_items(name, getattr(self, name)))
        super().__post_init__()
        one_of("chat", self.chat, (False, True, "auto"))
        one_of("engine", self.engine, ENGINES)
        text_or_none("system", self.system)
        for name in ("system", "chat_template_kwargs"):
            value = getattr(self, name)
            if value not in (None, ()) and self.chat is False:
                raise ValueError(f"{name}={shown(value)} is for chats; set chat=True")
        if self.hidden is not None and (settings.num_beams or 1) > 1:
            raise ValueError(f"hidden={shown(self.hidden)} is not kept of beams; set num_beams=1")
        check_engine(vars(self), self.spec)
        check_draws(vars(self))
        check_mappings(vars(self))

    @property
    def settings(self) -> GenerationSettings:
        """What is asked of the model."""
        return GenerationSettings(**{name: getattr(self, name) for name in _SETTINGS})

    @property
    def result_columns(self) -> tuple[str, ...]:
        columns = (self.output, f"{self.output}_finish", f"{self.output}_tokens")
        return columns if self.hidden is None else (*columns, self.hidden)

    def output_types(self, checkpoint: Checkpoint) -> dict[str, pa.DataType]:
        if self.chat is True:
            require_chat_template(checkpoint, self.spec.name, dict(self.chat_template_kwargs))
        self._most(checkpoint)
        check_engine(vars(self), self.spec, checkpoint)
        check_draws(vars(self), checkpoint)
        require_generation_file(checkpoint, vars(self))
        types: list[pa.DataType] = [pa.string(), pa.string(), pa.int32()]
        if self.hidden is not None:
            types.append(pa.list_(pa.list_(pa.float32(), checkpoint.hidden_size)))
        return dict(zip(self.result_columns, types, strict=True))

    def special_tokens(self, tokenizer: PreTrainedTokenizerBase) -> int:
        chat = self.chat is True or (self.chat == "auto" and bool(tokenizer.chat_template))
        return 0 if chat else super().special_tokens(tokenizer)  # a chat template writes its own

    def needed_tokens(self, checkpoint: Checkpoint) -> dict[str, int]:
        return {} if checkpoint.config.is_encoder_decoder else {"new": self.max_new_tokens}

    def describe(self, checkpoint: Checkpoint) -> str:
        what = f"column {self.column!r}" if self.prompt is None else repr(self.prompt)
        way = "draws" if self.do_sample else f"{self.num_beams or 1} beams"
        return f"up to {self.max_new_tokens} new tokens after {what}, {way}, engine {self.engine}"

    def resolved(self) -> dict[str, Any]:
        return {
            **super().resolved(),
            "chat_template_kwargs": plain(dict(self.chat_template_kwargs)),
            "engine_options": private(self.engine_options),
        }

    @property
    def batching(self) -> Batching:
        from dask_embed.inference.stream import Batching
        from dask_embed.loading.devices import resolve_device

        budget = self.tokens_per_batch
        if budget is None and self.engine in ("continuous", "vllm"):
            budget = _ALL
        elif budget is None:
            device = resolve_device(self.spec.device).type
            budget = config.get("tokens-per-batch")[device] * _MORE_TOKENS.get(device, 1)
        return Batching(budget, self.batch_size, self.padding_side)

    def longest_row(self, checkpoint: Checkpoint) -> int | None:
        return self._most(checkpoint)

    def footprint(self, threads: int, *, on_gpu: bool = False) -> Footprint | None:
        known = self.engine in ("auto", "transformers")  # the others size their memory themselves
        return super().footprint(threads, on_gpu=on_gpu) if known else None

    def runner(self) -> Runner:
        if self.engine != "vllm":
            return super().runner()
        from dask_embed.inference.generation.vllm import vllm_runner

        return vllm_runner(self.spec, dict(self.engine_options))

    def load(self, runner: Runner) -> Engine:
        engine = self._engine(runner)
        engine.cost(1, self.settings)  # a checkpoint that asks for what cannot be is told here
        return engine

    def encode(self, runner: Runner, rows: list[Row]) -> Encoded:
        tokens, failures = self._tokenizer(runner)(self.prompts(rows))
        kept = np.array([row for row in range(len(rows)) if row not in failures], np.int64)
        tokens = tokens.take(kept) if failures else tokens
        costs: list[int] = []
        if len(kept):
            engine = self._engine(runner)
            costs = [engine.cost(length, self.settings) for length in tokens.lengths.tolist()]
        return Encoded(kept, tokens, costs=np.array(costs, np.int64), failures=failures)

    def forward(self, model: Engine, tokens: TokenLists) -> Any:
        seeds = [row_seed(self.seed, tokens[row]) for row in range(len(tokens))]
        found = model(tokens, self.settings, seeds, hidden=self.hidden is not None)
        states: list[Any] = [None] * len(tokens)
        if found.hidden is not None:
            states = [each.float().cpu().numpy() for each in found.hidden]
        texts = [found.tokens[row] for row in range(len(tokens))]
        no_number = np.full(1, np.nan)  # makes it a failed row
        return [
            no_number if finish == "lost" else (text, finish, state)
            for text, finish, state in zip(texts, found.finish, states, strict=True)
        ]

    def postprocess(self, model: Engine, chunk: Chunk) -> Mapping[str, Any]:
        tokens, finish, states = zip(*chunk.results, strict=True)
        texts = model.tokenizer.batch_decode(
            [ids.tolist() for ids in tokens], skip_special_tokens=True
        )
        columns: list[Any] = [texts, list(finish), [len(ids) for ids in tokens]]
        if self.hidden is not None:
            columns.append(token_vectors_array(states, states[0].shape[1]))
        return dict(zip(self.result_columns, columns, strict=True))

    def _engine(self, runner: Any) -> Engine:
        from dask_embed.inference.generation.engines import engine_of

        return runner.engine if self.engine == "vllm" else engine_of(runner, self.engine)

    def _tokenizer(self, runner: Runner) -> PromptTokenizer:
        loaded = runner.loaded
        configs = (getattr(loaded.model, "generation_config", None), loaded.checkpoint.text_config)
        starts = [getattr(each, "bos_token_id", None) for each in configs]
        chat = self.chat is True or (self.chat == "auto" and bool(loaded.tokenizer.chat_template))
        rules = PromptRules(
            most=self._most(loaded.checkpoint),
            cuts=self.on_long == "truncate",
            side=None if loaded.checkpoint.config.is_encoder_decoder else "left",
            special=self.add_special_tokens,
            chat=chat,
            system=self.system,
            chat_arguments=self.chat_template_kwargs,
            start=next((start for start in starts if isinstance(start, int)), None),
        )
        return runner.own_tokenizer(rules, lambda own: PromptTokenizer(own, rules))

    def _most(self, checkpoint: Checkpoint) -> int | None:
        """Return the most tokens of a prompt.

        Raises
        ------
        ValueError
            If `max_new_tokens` leave no room for one.
        """
        limit = self.limit(checkpoint)
        encodes = checkpoint.config.is_encoder_decoder
        room = checkpoint.position_limit if encodes else limit
        if room is not None and self.max_new_tokens >= room:
            raise ValueError(
                f"max_new_tokens must be less than {room}, the tokens that model "
                f"{self.spec.name!r} may have under way (max_length, or its positions); got "
                f"{self.max_new_tokens}"
            )
        return limit if encodes or limit is None else limit - self.max_new_tokens
