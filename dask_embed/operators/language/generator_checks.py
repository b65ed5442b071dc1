"""What a client can tell of a generator without weights: engines and chat templates."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

from dask_embed._validation import boolean, meant, shown, usable_text
from dask_embed.models.checkpoint import Checkpoint
from dask_embed.models.spec import Model
from dask_embed.operators.language.generation_file import generation_settings

ENGINES = ("auto", "transformers", "continuous", "vllm")
# Arguments with a value that an engine knows nothing of.
_UNKNOWN_TO = {
    "vllm": ("num_beams", "no_repeat_ngram_size", "hidden"),
    "continuous": (
        *("do_sample", "num_beams", "no_repeat_ngram_size", "hidden", "min_new_tokens"),
        *("repetition_penalty", "stop"),
    ),
}
# Arguments of vllm.LLM about memory and speed. Others name code, weights or a configuration to
# load, or say what an option of ours says.
_VLLM_OPTIONS = (
    *("async_scheduling", "block_size", "calculate_kv_scales", "cpu_offload_gb"),
    *("data_parallel_size", "disable_cascade_attn", "disable_custom_all_reduce"),
    *("disable_log_stats", "enable_chunked_prefill", "enable_expert_parallel"),
    *("enable_prefix_caching", "enforce_eager", "gpu_memory_utilization", "kv_cache_dtype"),
    *("kv_cache_memory_bytes", "long_prefill_token_threshold", "max_long_partial_prefills"),
    *("max_model_len", "max_num_batched_tokens", "max_num_partial_prefills", "max_num_seqs"),
    *("max_parallel_loading_workers", "max_seq_len_to_capture", "num_gpu_blocks_override"),
    *("pipeline_parallel_size", "preemption_mode", "scheduling_policy", "swap_space"),
    *("tensor_parallel_size", "use_tqdm_on_load"),
)
# Options of a model that vLLM would leave out.
_NOT_IN_VLLM = (
    *("adapter", "autocast", "device_map", "factory", "max_memory", "model_kwargs"),
    "quantization",
)
# Arguments of `apply_chat_template` and names that it gives to the template itself.
_OF_THE_CHAT = (
    *("continue_final_message", "conversation", "documents", "max_length", "messages", "padding"),
    *("return_assistant_tokens_mask", "return_dict", "return_tensors", "sanitize_control_tokens"),
    *("tokenize", "tokenizer_kwargs", "tools", "truncation"),
)
# Values of these that ask for nothing.
_NOTHING = (None, (), False, 0)


# Values of what decides how tokens are drawn that leave the draws as they are.
_NEUTRAL = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 0}


def check_draws(fields: Mapping[str, Any], checkpoint: Checkpoint | None = None) -> None:
    """Raise ValueError for an option about draws where the likeliest tokens are taken.

    Whether tokens are drawn is the checkpoint's to say where the `fields` of a generator do not.
    """
    draws = fields["do_sample"]
    if draws is None:
        draws = True if checkpoint is None else _draws(checkpoint)
    if draws:
        return
    for name, neutral in _NEUTRAL.items():
        value = fields[name]
        if value is not None and value != neutral:
            raise ValueError(
                f"{name}={shown(value)} has no effect on texts of the likeliest tokens; add "
                f"do_sample=True to draw tokens, or leave out {name}="
            )


def _draws(checkpoint: Checkpoint) -> bool:
    """Return whether a checkpoint draws tokens unless it is told otherwise."""
    _, written = generation_settings(checkpoint)
    return bool(written.get("do_sample"))


def check_mappings(fields: Mapping[str, Any]) -> None:
    """Raise unless the mappings of a generator hold what belongs there.

    Raises
    ------
    TypeError, ValueError
        If they would change what is run, or what a rendered chat is.
    """
    for name, _ in fields["engine_options"]:
        if name not in _VLLM_OPTIONS:
            raise ValueError(
                f"engine_options must not set {name!r}{meant(name, _VLLM_OPTIONS)}: the model, its "
                "type and code are those of dask_embed.Model, and the options are about memory "
                f"and speed: {', '.join(_VLLM_OPTIONS)}"
            )
    for name, value in fields["chat_template_kwargs"]:
        if name in _OF_THE_CHAT:
            raise ValueError(
                f"chat_template_kwargs are variables of the template, and {name!r} is none of them:"
                " the chat is the prompt after system=, and it is tokenized here"
            )
        if name == "add_generation_prompt":
            boolean(name, value)
        if name == "chat_template" and value is not None:
            usable_text(name, value)


def check_engine(
    fields: Mapping[str, Any], spec: Model, checkpoint: Checkpoint | None = None
) -> None:
    """Raise unless the engine can do what is asked for, and with a checkpoint, is there.

    Raises
    ------
    ValueError
        If it cannot.
    ModuleNotFoundError
        If its package is missing.
    """
    engine, options = fields["engine"], dict(fields["engine_options"])
    if options and engine != "vllm":
        raise ValueError(
            f"engine_options={dict(fields['engine_options'])!r} are for engine='vllm', "
            f"and the engine is {engine!r}"
        )
    for name in _UNKNOWN_TO.get(engine, ()):
        value = fields[name]
        if value not in _NOTHING and not (name == "num_beams" and value == 1):
            raise ValueError(
                f"engine={engine!r} does not take {name}={shown(value)}; use engine='auto'"
            )
    unknown = [name for name in _NOT_IN_VLLM if getattr(spec, name)]
    if engine == "vllm" and unknown:
        raise ValueError(
            f"engine='vllm' loads the checkpoint as it is and does not take {unknown[0]}= of "
            "dask_embed.Model; use engine='auto'"
        )
    if checkpoint is None:
        return
    if engine in _UNKNOWN_TO and checkpoint.config.is_encoder_decoder:
        raise ValueError(
            f"engine={engine!r} runs causal language models, and model {spec.name!r} has "
            "an encoder; use engine='auto'"
        )
    if engine == "vllm" and importlib.util.find_spec("vllm") is None:
        raise ModuleNotFoundError(
            "engine='vllm' needs the package vllm here and on the workers: pip install vllm"
        )


def require_chat_template(checkpoint: Checkpoint, name: str, arguments: Mapping[str, Any]) -> None:
    """Raise ValueError unless the tokenizer's files hold a chat template, or one is given."""
    if isinstance(arguments.get("chat_template"), str):
        return
    if not checkpoint.has_chat_template:
        raise ValueError(
            f"the tokenizer of model {name!r} has no chat template; set chat=False or 'auto', or "
            "use a model that was tuned for chats"
        )
