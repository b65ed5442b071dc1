"""The attention that each part of a model has, read and given back.

Models of several parts may have several: transformers sets another one on the parts that take it,
and leaves the others, the whole among them, as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch


def attention_of(model: torch.nn.Module) -> list[str]:
    """Return the implementation of every part, in the order of the model's modules."""
    return [config._attn_implementation for config in _configurations(model)]


def give_attention(model: torch.nn.Module, implementations: Sequence[str]) -> None:
    """Give the parts of a model, or of a copy of it, what `attention_of` returned."""
    for config, name in zip(_configurations(model), implementations, strict=True):
        if config._attn_implementation != name:
            # the parts had it before, so that nothing is to be checked
            config._attn_implementation_internal = name


def _configurations(model: torch.nn.Module) -> Iterator[Any]:
    seen: set[int] = set()
    pending: list[Any] = [module.__dict__.get("config") for module in model.modules()]
    while pending:
        config = pending.pop(0)
        if not hasattr(config, "_attn_implementation_internal") or id(config) in seen:
            continue
        seen.add(id(config))
        yield config
        pending += [getattr(config, name, None) for name in config.sub_configs]
