"""Whether a checkpoint has every weight that its model needs, in the shape that it needs."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dask_embed.models.classes import computes

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def gaps_of(
    info: dict[str, Any],
    whole: PreTrainedModel,
    part: PreTrainedModel,
    config: Any,
    unused: Collection[str],
) -> dict[str, str]:
    """Return which weights of a model transformers filled with random numbers, and what to say.

    Parameters
    ----------
    info : dict
        What `from_pretrained` tells of loading.
    whole, part : PreTrainedModel
        What was loaded, and what of it runs.
    config : PretrainedConfig
        Of the checkpoint.
    unused : collection of str
        Parts of names of weights that may be missing.
    """
    missing = (key for key in info["missing_keys"] if not any(name in key for name in unused))
    gaps = {key: key for key in missing}
    for key in info["mismatched_keys"]:
        gaps[key if isinstance(key, str) else key[0]] = str(key)
    left = _names_outside(part, whole)
    return {
        name: shown
        for name, shown in gaps.items()
        if name not in left and not computes(type(whole), config, name)
    }


def require_complete(folder: Path, gaps: dict[str, str], given: Collection[str] = ()) -> None:
    """Raise ValueError if a checkpoint has gaps, but for weights that an adapter has given."""
    gaps = {name: shown for name, shown in gaps.items() if name not in given}
    if gaps:
        missing = sorted(name for name, shown in gaps.items() if shown == name)
        mismatched = sorted(shown for name, shown in gaps.items() if shown != name)
        shown = ", ".join((missing + mismatched)[:3])
        raise ValueError(
            f"checkpoint {str(folder)!r} does not fit its config.json: "
            f"{len(missing)} weights are missing and {len(mismatched)} have another shape "
            f"({shown}); transformers would fill them with random numbers"
        )


def _names_outside(part: torch.nn.Module, whole: torch.nn.Module) -> set[str]:
    """Return the names of the weights of a model that a part of it is without."""
    held = {id(tensor) for tensor in (*part.parameters(), *part.buffers())}
    named = [
        *whole.named_parameters(remove_duplicate=False),
        *whole.named_buffers(remove_duplicate=False),
    ]
    return {name for name, tensor in named if id(tensor) not in held}
