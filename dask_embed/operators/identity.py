"""What the results of an operator depend on, taken from its declared fields.

Every field counts unless it is named as one that cannot change a value: a setting that is added
later is part of the identity without anyone thinking of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dask.tokenize import tokenize

from dask_embed.models.spec import Model

# Of `Model`: where and how it runs, and where its files come from. What they hold is told by the
# revision, and from which of them weights are read by their content.
MODEL_INCIDENTAL = frozenset(
    {
        "device",
        "attention",
        "compile",
        "allow_pickle",
        "cache_dir",
        "local_files_only",
        "device_map",
        "offload_folder",
        "max_memory",
    }
)

# Where a name may be that of a local folder or file, and what tells its content.
_REVISIONS = {
    "model": "revision",
    "adapter": "adapter_revision",
    "tokenizer": "tokenizer_revision",
    "weights": "revision",
    "prototypes": "revision",
}


def incidental(operator: type) -> frozenset[str]:
    """Return the fields of an operator that its identity leaves out, those of its bases too."""
    named = (vars(kind).get("incidental", frozenset()) for kind in operator.__mro__)
    return frozenset().union(*named)


def told_fields(operator: Any) -> dict[str, Any]:
    """Return the fields that count as json values, the model's among them where they are set."""
    told: dict[str, Any] = {}
    left_out = incidental(type(operator))
    names = {field.name for field in dataclasses.fields(operator)}
    for name in sorted(names - left_out):
        value = getattr(operator, name)
        told |= _model_fields(value, names) if isinstance(value, Model) else {name: plain(value)}
    return told


def defaults(operator: type) -> dict[str, Any]:
    """Return the default of each field that counts, which files say nothing of if it is new."""
    left_out = incidental(operator)
    return {
        field.name: plain(field.default)
        for field in dataclasses.fields(operator)
        if field.name not in left_out and field.default is not dataclasses.MISSING
    }


def _model_fields(model: Model, taken: set[str]) -> dict[str, Any]:
    """Return the model's name and revision, and its other fields where they are not the default."""
    told: dict[str, Any] = {"model": model.name, "revision": model.revision}
    for field in dataclasses.fields(model):
        value = getattr(model, field.name)
        default = None if field.default is dataclasses.MISSING else field.default
        if field.name in ("name", "revision", *MODEL_INCIDENTAL) or value == default:
            continue
        name = f"model_{field.name}" if field.name in taken else field.name
        told[name] = private(value) if field.name == "model_kwargs" else plain(value)
    return told


def without_places(told: dict[str, Any]) -> dict[str, Any]:
    """Return settings without names of local folders and files: only their content counts."""
    return {
        name: value
        for name, value in told.items()
        if not str(told.get(_REVISIONS.get(name, ""))).startswith("local-")
    }


def plain(value: Any) -> Any:
    """Return a setting as a json value: what is none of its own by its name or its Dask token."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return [plain(each) for each in value]
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    return f"token-{tokenize(value)}"


def private(options: Any) -> dict[str, Any]:
    """Return arguments for another library, as tokens where they could hold a secret."""
    return {
        str(key): value
        if value is None or isinstance(value, bool | int | float)
        else f"token-{tokenize(value)}"
        for key, value in dict(options).items()
    }
