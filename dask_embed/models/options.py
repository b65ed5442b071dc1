"""Options of a model in their one canonical, hashable form, and which of them go together."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dask_embed._secrets import refuse_secrets
from dask_embed._validation import meant, one_of, plain_scalar, shown, strings

WEIGHT_BITS = ("int8", "int4")
STRATEGIES = ("auto", "balanced", "balanced_low_0", "sequential")
# Arguments of `from_pretrained` that say what an option of `Model` says: one way to say it.
_OWN_OPTIONS = {
    **dict.fromkeys(("adapter_kwargs", "adapter_name"), "adapter"),
    **dict.fromkeys(("from_tf", "from_flax", "use_safetensors", "weights_only"), "allow_pickle"),
    "attn_implementation": "attention",
    **dict.fromkeys(("dtype", "torch_dtype"), "dtype"),
    **dict.fromkeys(("id2label", "label2id", "num_labels"), "labels"),
    **dict.fromkeys(("load_in_4bit", "load_in_8bit", "quantization_config"), "quantization"),
    **dict.fromkeys(("code_revision", "revision"), "revision"),
    **{
        name: name
        for name in (
            *("cache_dir", "device", "device_map", "local_files_only", "max_memory"),
            *("offload_folder", "trust_remote_code"),
        )
    },
}
# Fields of a configuration that say what a checkpoint is made of, or where more of it lies.
_MADE_OF = (
    *("architectures", "auto_map", "backbone", "backbone_config", "base_model_tp_plan"),
    *("custom_pipelines", "is_encoder_decoder", "model_type", "name_or_path", "tokenizer_class"),
    *("transformers_version", "transformers_weights", "use_pretrained_backbone"),
    *("use_timm_backbone", "sub_configs"),
)
# How many tokens go through a layer at a time: no value depends on it, and transformers refuses
# texts of other lengths than its multiples.
IN_PIECES = ("chunk_size_feed_forward", "chunk_size_lm_head")
# Settings of quantization methods that name data and a tokenizer to calibrate with.
_CALIBRATION = ("dataset", "tokenizer", "processor")


def hashable_items(name: str, given: Any) -> tuple[tuple[Any, Any], ...]:
    """Return a mapping as its sorted items.

    Raises
    ------
    TypeError
        If it is no mapping, or a value is none that every process prints and hashes alike.
    ValueError
        If it holds a secret.
    """
    try:
        items = tuple(given.items() if isinstance(given, Mapping) else given or ())
        names = [plain_scalar(key) for key, _ in items]
        keys = [key if isinstance(key, int) else str(key) for key in names]
    except (TypeError, ValueError) as error:
        refuse_secrets(name, [given])  # before it is shown, as a pair too
        raise TypeError(
            f"{name} must map names to hashable values, got {shown(given)} ({error})"
        ) from None
    refuse_secrets(name, items)
    named = {key: plain_scalar(value) for key, (_, value) in zip(keys, items, strict=True)}
    for key, value in named.items():
        if not _is_plain(value):
            raise TypeError(
                f"{name} must map names to hashable values, which are numbers, texts, booleans, "
                f"None, and tuples of them; got {shown(value)} for {key!r}"
            )
    return tuple(sorted(named.items(), key=lambda item: str(item[0])))


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return value is None or type(value) in (str, int, float, bool)


def configuration_fields(given: Any) -> tuple[tuple[str, Any], ...]:
    """Return `model_kwargs`, fields of a checkpoint's configuration, as sorted items.

    Raises
    ------
    ValueError
        If one decides what an option of `Model` decides, or what the checkpoint is made of.
    """
    items = hashable_items("model_kwargs", given)
    for name, _ in items:
        if name in _OWN_OPTIONS:
            raise ValueError(
                f"model_kwargs must not set {name!r}: use {_OWN_OPTIONS[name]}= of dask_embed.Model"
            )
        if name in IN_PIECES:
            raise ValueError(
                f"model_kwargs must not set {name!r}, which changes no result: say how much runs "
                "at a time with tokens_per_batch= of an operator"
            )
        if name in _MADE_OF or not str(name).isidentifier() or str(name).startswith("_"):
            raise ValueError(
                f"model_kwargs must not set {name!r}, which decides what the checkpoint is made "
                "of; it sets sizes and switches of its configuration, such as num_hidden_layers"
            )
    return items


def require_fields(fields: Mapping[str, Any], config: Any) -> None:
    """Raise ValueError unless all `fields` are settings in a configuration of transformers.

    What else `from_pretrained` takes is no setting: weights of one's own, a folder within the
    folder, a token.
    """
    written = config.to_dict()
    known = [
        name
        for name, value in written.items()
        if name not in {*_OWN_OPTIONS, *_MADE_OF} and not isinstance(value, dict)
    ]
    for name, value in fields.items():
        if name not in known:
            raise ValueError(
                f"model_kwargs must set fields of the checkpoint's configuration, such as "
                f"num_hidden_layers; got {name}={shown(value)}{meant(name, known)}, and there is "
                "no such field to set"
            )
        if isinstance(value, str) and not isinstance(written[name], str):
            raise ValueError(
                f"model_kwargs sets {name}={shown(value)}, a text where the checkpoint's "
                f"configuration has {shown(written[name])}: give a value of that kind; a "
                "text is set only where one stands already, since it may name a file"
            )


def quantization_text(given: Any) -> str | None:
    """Return ``"int8"``, ``"int4"``, or a quantization configuration of transformers as json.

    Raises
    ------
    TypeError, ValueError
        If it is neither, names no method, or has values that json does not know.
    """
    refuse_secrets("quantization", given)
    if isinstance(given, str) and given.startswith("{"):
        try:
            given = json.loads(given)
        except (RecursionError, ValueError) as error:
            raise ValueError(
                f"quantization is no json ({type(error).__name__}), got {shown(given)}"
            ) from None
    if given is None or isinstance(given, str):
        one_of("quantization", given, (None, *WEIGHT_BITS))
        return given
    try:
        settings = given.to_dict() if hasattr(given, "to_dict") else dict(given)
        text = json.dumps(settings, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"quantization must be one of {', '.join(map(repr, WEIGHT_BITS))} or map the settings "
            "of a transformers quantization configuration to json values, got "
            f"{shown(given)} ({error})"
        ) from None
    refuse_secrets("quantization", settings)
    calibrating = [name for name in _CALIBRATION if settings.get(name) is not None]
    if calibrating:
        raise ValueError(
            f"quantization must not set {calibrating[0]!r}: calibrating reads data from elsewhere; "
            "quantize the checkpoint once, save it, and name the result as model"
        )
    if not isinstance(settings.get("quant_method"), str):
        raise ValueError(f"quantization must name its 'quant_method', got {shown(given)}")
    return text


def label_names(given: Any) -> tuple[str, ...] | None:
    """Return names of labels as a tuple; raise unless they are distinct texts."""
    if given is None:
        return None
    names = strings("labels", given)
    if not names:
        raise ValueError("labels must be at least one name, got none")
    if len(set(names)) != len(names):
        raise ValueError(f"labels must differ, got {shown(given)}")
    return names


def location(name: str, given: Any) -> str | None:
    """Return a folder or Hub id as text."""
    if given is None:
        return None
    if not isinstance(given, str | Path) or not str(given).strip():
        raise TypeError(f"{name} must be a folder or a Hub id, got {shown(given)}")
    refuse_secrets(name, str(given))
    return str(given)


def importable(factory: Callable[..., Any] | None) -> Callable[..., Any] | None:
    """Return `factory` if another process finds it by its name.

    One that is sent by value would be another object in every task, and its model loaded anew.

    Raises
    ------
    TypeError
        For lambdas, functions within functions, and what is defined in a notebook.
    """
    if factory is None:
        return None
    try:
        found = callable(factory) and pickle.loads(pickle.dumps(factory)) is factory
    except (pickle.PicklingError, AttributeError, TypeError):
        found = False
    if not found or getattr(factory, "__module__", "__main__") == "__main__":
        raise TypeError(
            "factory must be a function or class at the top of a module that workers can import, "
            f"not a lambda, a nested function or one of a notebook; got {shown(factory)}"
        )
    return factory
