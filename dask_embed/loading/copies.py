"""Copies of a model that share its weights."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch

M = TypeVar("M", bound=torch.nn.Module)
# What accelerate keeps in the hooks of a model in parts: weights that are elsewhere.
_ELSEWHERE = ("weights_map", "tied_params_map")


def sharing_copy(model: M) -> M:
    """Return a model with modules and configuration of its own, and the tensors of `model`.

    Other threads may run `model` meanwhile, and whatever is set on the copy is not set on it.
    """
    kept: list[Any] = [*model.parameters(), *model.buffers()]
    for module in model.modules():
        kept += _beside_tensors(module)
    return copy.deepcopy(model, {id(each): each for each in kept})


def _beside_tensors(module: torch.nn.Module) -> list[Any]:
    """Return what else a layer has that is as large as weights.

    bitsandbytes keeps scales and, once a layer ran, the only reference by which it finds its
    weights; accelerate keeps weights that are fetched when they are needed.
    """
    found = []
    if type(module).__module__.startswith("bitsandbytes."):
        found += [vars(module)[name] for name in ("state", "quant_state") if name in vars(module)]
    hook = vars(module).get("_hf_hook")
    for each in getattr(hook, "hooks", (hook,)):
        found += [vars(each)[name] for name in _ELSEWHERE if name in getattr(each, "__dict__", ())]
    return found
