"""A model resolved, with all that it is made of: no worker looks its names up again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dask_embed.models.checkpoint import Checkpoint
from dask_embed.models.sources import adapter_folder, tokenizer_folder
from dask_embed.models.spec import Model

_LOCAL = "local-"  # how the revisions of folders begin


def pinned(model: Model, checkpoint: Checkpoint) -> Model:
    """Return `model` under the resolved name and revision of its checkpoint and its parts.

    Raises
    ------
    ValueError
        If there is no such adapter or tokenizer.
    """
    local = checkpoint.revision.startswith(_LOCAL)
    name = str(checkpoint.root) if local else model.name
    return replace(model, name=name, revision=checkpoint.revision, **_parts(model))


def _parts(model: Model) -> dict[str, Any]:
    """Return the options that name adapter and tokenizer, each resolved to a folder or commit."""
    resolved: dict[str, Any] = {}
    for name, find in (("adapter", adapter_folder), ("tokenizer", tokenizer_folder)):
        if getattr(model, name) is None:
            continue
        folder, revision = find(model)
        resolved[f"{name}_revision"] = revision
        if revision.startswith(_LOCAL):
            resolved[name] = str(folder)
    return resolved
