"""Options of a model in their one canonical, hashable form, and which of them go together."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dask_embed._validation import one_of, shown

if TYPE_CHECKING:
    from dask_embed.models.spec import Model

WEIGHT_BITS = ("int8", "int4")
STRATEGIES = ("auto", "balanced", "balanced_low_0", "sequential")
# Arguments of `from_pretrained` that would carry a secret into every graph.
_SECRETS = ("token", "use_auth_token")


def hashable_items(name: str, given: Any) -> tuple[tuple[Any, Any], ...]:
    """Return a mapping as its sorted items.

    Raises
    ------
    TypeError
        If it is no mapping, or its values are not hashable.
    ValueError
        If it holds an access token.
    """
    try:
        items = given.items() if isinstance(given, Mapping) else tuple(given or ())
        named = {key if isinstance(key, int) else str(key): value for key, value in items}
        pairs = tuple(sorted(named.items(), key=lambda item: str(item[0])))
        hash(pairs)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{name} must map names to hashable values, got {shown(given)} ({error})"
        ) from None
    if any(secret in named for secret in _SECRETS):
        raise ValueError(
            f"{name} must not hold an access token, which would reach graphs and logs; "
            "set HF_TOKEN in the environment of the workers"
        )
    return pairs


def quantization_text(given: Any) -> str | None:
    """Return ``"int8"``, ``"int4"``, or a quantization configuration of transformers as json.

    Raises
    ------
    TypeError, ValueError
        If it is neither, names no method, or has values that json does not know.
    """
    if isinstance(given, str) and given.startswith("{"):
        given = json.loads(given)
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
    if not isinstance(settings.get("quant_method"), str):
        raise ValueError(f"quantization must name its 'quant_method', got {shown(given)}")
    return text


def label_names(given: Any) -> tuple[str, ...] | None:
    """Return names of labels as a tuple; raise unless they are distinct texts."""
    if given is None:
        return None
    names = tuple(given) if not isinstance(given, str) else ()
    if not names or not all(isinstance(name, str) for name in names):
        raise TypeError(f"labels must be a sequence of names, got {shown(given)}")
    if len(set(names)) != len(names):
        raise ValueError(f"labels must differ, got {shown(given)}")
    return names


def location(name: str, given: Any) -> str | None:
    """Return a folder or Hub id as text."""
    if given is None:
        return None
    if not isinstance(given, str | Path) or not str(given).strip():
        raise TypeError(f"{name} must be a folder or a Hub id, got {shown(given)}")
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


def check_combinations(model: Model) -> None:
    """Raise ValueError for options of a model that have no effect or do not go together."""
    for option, needed in (
        ("adapter_revision", "adapter"),
        ("merge_adapter", "adapter"),
        ("tokenizer_revision", "tokenizer"),
        ("offload_folder", "device_map"),
        ("max_memory", "device_map"),
    ):
        if getattr(model, option) and getattr(model, needed) is None:
            raise ValueError(f"{option}={shown(getattr(model, option))} needs {needed}")
    if isinstance(model.device_map, str):
        one_of("device_map", model.device_map, STRATEGIES)
    for option, others in (
        ("device_map", ("adapter", "compile")),
        ("factory", ("adapter", "compile", "device_map", "model_kwargs")),
    ):
        for other in others:
            if getattr(model, option) is not None and getattr(model, other):
                raise ValueError(f"{option} and {other} do not go together, got both")
    configured = model.quantization is not None and model.quantization not in WEIGHT_BITS
    if configured and (model.merge_adapter or model.factory is not None):
        other = "merge_adapter" if model.merge_adapter else "factory"
        raise ValueError(
            f"with {other} quantization must be one of {', '.join(map(repr, WEIGHT_BITS))}, "
            f"got {shown(model.quantization)}"
        )
    if model.factory is not None and model.attention not in ("auto", "padded"):
        raise ValueError(
            f"the factory's module chooses its attention itself; got {shown(model.attention)}"
        )
