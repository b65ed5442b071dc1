"""Sequences of any lengths through torch's fused attention, where a GPU has it."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import torch

from dask_embed.inference.attention import LayerSettings

# What the flash kernels of torch take; anything else attends sequence by sequence.
_DTYPES = (torch.float16, torch.bfloat16)
_LARGEST_HEAD = 256
_HEAD_MULTIPLE = 8
_FIRST_CAPABILITY = (8, 0)


def fuses(query: torch.Tensor, value: torch.Tensor) -> bool:
    """Return whether the fused kernel takes heads like these, on this GPU."""
    size = query.shape[-1]
    return (
        query.is_cuda
        and query.dtype in _DTYPES
        and size == value.shape[-1]
        and size <= _LARGEST_HEAD
        and size % _HEAD_MULTIPLE == 0
        and _capability(query.device) >= _FIRST_CAPABILITY
    )


def fused(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    offsets: tuple[torch.Tensor, torch.Tensor],
    longest: tuple[int, int],
    settings: LayerSettings,
) -> torch.Tensor:
    """Let each sequence of queries see the sequence of keys at its place.

    Parameters
    ----------
    query, key, value : torch.Tensor
        Shape (tokens, heads, head size); key and value may have fewer heads.
    offsets : tuple of torch.Tensor
        Where the sequences of queries and of keys begin and the last ends, int32.
    longest : tuple of int
        Tokens of the longest sequence of queries and of keys.
    settings : LayerSettings
        Of causal attention the last query sees the last key, and so on to the left.

    Returns
    -------
    torch.Tensor
        Shape (tokens, heads, head size).
    """
    from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415 - on GPUs alone

    more: dict[str, Any] = {}
    if query.shape[1] != key.shape[1]:
        if _shares_keys():
            more["enable_gqa"] = True
        else:
            times = query.shape[1] // key.shape[1]
            key, value = (part.repeat_interleave(times, dim=1) for part in (key, value))
    reach = -1 if settings.window is None else settings.window - 1
    output: Any = varlen_attn(
        query,
        key,
        value,
        *offsets,
        *longest,
        scale=settings.scaling,
        window_size=(reach, 0 if settings.causal else reach),
        **more,
    )
    return output


@functools.cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


@functools.cache
def _shares_keys() -> bool:
    """Return whether heads may share keys: not yet in torch 2.11."""
    from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415 - on GPUs alone

    return "enable_gqa" in inspect.signature(varlen_attn).parameters
