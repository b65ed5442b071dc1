"""The device and the type of weights that a specification stands for on this worker."""

from __future__ import annotations

import torch

from dask_embed.models.checkpoint import read_checkpoint
from dask_embed.models.spec import Model

TORCH_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def resolve_device(name: str) -> torch.device:
    """Return the device that `name` stands for on this worker."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {name!r} was asked for, but this worker has no CUDA device")
    return device


def resolve_dtype(spec: Model, device: torch.device) -> torch.dtype:
    """Return the type of the weights: ``"auto"`` is float32, on a GPU bfloat16 if it can.

    A sentence-transformers folder that says its own goes before that.
    """
    saved = None if spec.dtype != "auto" else read_checkpoint(spec).sentence.dtype
    if spec.dtype != "auto" or saved is not None:
        return TORCH_DTYPES[saved or spec.dtype]
    if device.type == "cuda" and spec.autocast is None and torch.cuda.is_bf16_supported():
        return torch.bfloat16
    return torch.float32


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name under which a specification has `dtype`."""
    return next(name for name, known in TORCH_DTYPES.items() if known == dtype)
