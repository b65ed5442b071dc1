"""Models in parts: on several GPUs, in memory, on disk. accelerate moves what runs."""

from __future__ import annotations

from typing import Any

import torch

from dask_embed.models.spec import Model


def placement(spec: Model, device: torch.device) -> dict[str, Any]:
    """Return the arguments of `from_pretrained` that say where weights go.

    Parameters
    ----------
    spec : Model
    device : torch.device
        For a model that a quantizer of transformers places whole.
    """
    if not spec.places_itself:
        return {}
    if spec.device_map is None:
        return {"device_map": {"": str(device)}}
    wanted = spec.device_map if isinstance(spec.device_map, str) else dict(spec.device_map)
    return {
        "device_map": wanted,
        "max_memory": dict(spec.max_memory) or None,
        "offload_folder": spec.offload_folder,
    }


def input_device(model: Any) -> torch.device:
    """Return where a model in parts takes its input, which is where its output comes."""
    embeddings = model.get_input_embeddings()
    # weights that are not in place have no device but a hook, which fetches them
    wanted = getattr(getattr(embeddings, "_hf_hook", None), "execution_device", None)
    if wanted is None:
        return embeddings.weight.device
    return torch.device("cuda", wanted) if isinstance(wanted, int) else torch.device(wanted)


def returns_to(transformer: torch.nn.Module, model: torch.nn.Module) -> None:
    """Have the transformer within a model in parts give its output where it takes its input."""
    parts = set(getattr(model, "hf_device_map", {}).values())
    if transformer is model or len(parts) < 2:
        return
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module  # noqa: PLC0415 - an extra

    add_hook_to_module(transformer, AlignDevicesHook(io_same_device=True), append=True)
