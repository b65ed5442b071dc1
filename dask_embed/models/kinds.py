"""Whether what the small files of a checkpoint say is of its kind, and goes together."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from dask_embed._validation import require_size, shown, strings, text_or_none, usable_text
from dask_embed.models.modules import first_json


def require_kinds(checkpoint: Any) -> None:
    """Raise TypeError or ValueError unless the settings are values of their kind."""
    sentence = checkpoint.sentence
    text_or_none("default_prompt_name", sentence.default_prompt_name)
    for name, prompt in sentence.prompts.items():
        usable_text(f"prompt {name!r}", prompt)
    for module in checkpoint.modules:
        for each in dataclasses.fields(module):
            if each.type == "int":
                name = f"{each.name} of {type(module).__name__}"
                require_size(name, getattr(module, each.name))
    _require_limit(checkpoint.tokenizer_folder)
    _require_one_stack(checkpoint)
    strings("architectures", getattr(checkpoint.config, "architectures", None) or [])
    hidden = getattr(checkpoint.text_config, "hidden_size", None)
    if hidden is not None:
        require_size("hidden_size", hidden)


def _require_limit(folder: Path) -> None:
    """Raise ValueError unless a tokenizer's longest sequence is a number, or not given."""
    limit = first_json(folder, ("tokenizer_config.json",)).get("model_max_length")
    number = isinstance(limit, int | float) and not isinstance(limit, bool)
    if limit is not None and not (number and limit >= 1):
        raise ValueError(
            f"the tokenizer_config.json of {str(folder)!r} has model_max_length={shown(limit)}, "
            "which must be a positive number of tokens; mend it or leave it out"
        )


def _require_one_stack(checkpoint: Any) -> None:
    """Raise ValueError for a configuration with parts that models of its type do not have."""
    from transformers import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_MASKED_LM_MAPPING,
        PretrainedConfig,
    )

    config, kind = checkpoint.config, type(checkpoint.config)
    source = f"the config.json of {str(checkpoint.folder)!r}"
    if not isinstance(checkpoint.text_config, PretrainedConfig):
        raise ValueError(
            f"{source} has a part for texts, {shown(checkpoint.text_config)}, which models of "
            f"type {config.model_type!r} do not have; take it out, or mend model_type"
        )
    alone = kind in MODEL_FOR_MASKED_LM_MAPPING or kind in MODEL_FOR_CAUSAL_LM_MAPPING
    if config.is_encoder_decoder and alone and not (kind.is_encoder_decoder or kind.sub_configs):
        raise ValueError(
            f"{source} has is_encoder_decoder=True, and models of type {config.model_type!r} have "
            "no encoder with a decoder; take it out, or mend model_type"
        )
