"""What a client can tell of a generator without weights: engines and chat templates."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dask_embed._validation import shown
from dask_embed.models.checkpoint import Checkpoint
from dask_embed.models.modules import read_json

if TYPE_CHECKING:
    from dask_embed.operators.generator import Generator

ENGINES = ("auto", "transformers", "continuous", "vllm")
# Arguments with a value that an engine knows nothing of.
_UNKNOWN_TO = {
    "vllm": ("num_beams", "no_repeat_ngram_size", "hidden"),
    "continuous": (
        *("do_sample", "num_beams", "no_repeat_ngram_size", "hidden", "min_new_tokens"),
        *("repetition_penalty", "stop"),
    ),
}
# Values of these that ask for nothing.
_NOTHING = (None, (), False, 0)


def check_engine(generator: Generator, checkpoint: Checkpoint | None = None) -> None:
    """Raise unless the engine can do what is asked for, and with a checkpoint, is there.

    Raises
    ------
    ValueError
        If it cannot.
    ModuleNotFoundError
        If its package is missing.
    """
    engine = generator.engine
    if generator.engine_options and engine != "vllm":
        raise ValueError(
            f"engine_options={dict(generator.engine_options)!r} are for engine='vllm', "
            f"and the engine is {engine!r}"
        )
    for name in _UNKNOWN_TO.get(engine, ()):
        value = getattr(generator, name)
        if value not in _NOTHING and not (name == "num_beams" and value == 1):
            raise ValueError(
                f"engine={engine!r} does not take {name}={shown(value)}; use engine='auto'"
            )
    if checkpoint is None:
        return
    if engine in _UNKNOWN_TO and checkpoint.config.is_encoder_decoder:
        raise ValueError(
            f"engine={engine!r} runs causal language models, and model {generator.spec.name!r} has "
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
    folder = checkpoint.tokenizer_folder
    written = folder / "tokenizer_config.json"
    settings = read_json(written) if written.is_file() else {}
    files = [folder / "chat_template.jinja", *folder.glob("additional_chat_templates/*.jinja")]
    if not settings.get("chat_template") and not any(file.is_file() for file in files):
        raise ValueError(
            f"the tokenizer of model {name!r} has no chat template; set chat=False or 'auto', or "
            "use a model that was tuned for chats"
        )
