"""Weights of linear layers in 8 or 4 bits, through torchao or as transformers is told to."""

from __future__ import annotations

import json
import logging
from typing import Any

import torch

from dask_embed.models.options import WEIGHT_BITS
from dask_embed.models.spec import Model

# Values of a row of weights that share a scale in int4; rows that are no multiple stay whole.
GROUP = 32


class _Once(logging.Filter):
    """Let each message through once: bitsandbytes repeats one at every matrix product."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        first = message not in self._seen
        self._seen.add(message)
        return first


_ONCE = _Once()


def quantize(model: torch.nn.Module, bits: str) -> None:
    """Replace the weights of linear layers in place, those that give logits of words excepted.

    Parameters
    ----------
    model : torch.nn.Module
        On its device and in its type.
    bits : {"int8", "int4"}
    """
    from torchao.quantization import quantize_  # noqa: PLC0415 - an extra

    kept = _output_embeddings(model)

    def taken(module: torch.nn.Module, name: str) -> bool:
        if not isinstance(module, torch.nn.Linear) or module is kept:
            return False
        return bits == "int8" or module.in_features % GROUP == 0

    quantize_(model, _settings(bits, _weight_type(model)), filter_fn=taken)


def quantization_config(spec: Model, dtype: torch.dtype) -> Any:
    """Return what `from_pretrained` takes to quantize while it loads, None for nothing.

    That is how accelerate, which places the weights, and other packages than torchao want it.
    """
    logging.getLogger("bitsandbytes.autograd._functions").addFilter(_ONCE)
    if spec.quantization is None:
        return None
    if spec.quantization not in WEIGHT_BITS:
        from transformers.quantizers.auto import AutoQuantizationConfig  # noqa: PLC0415 - within `importing`

        return AutoQuantizationConfig.from_dict(json.loads(spec.quantization))
    if spec.device_map is None:
        return None
    from transformers import TorchAoConfig  # noqa: PLC0415 - within `importing`

    on = "cuda" if torch.cuda.is_available() else "cpu"
    return TorchAoConfig(_settings(spec.quantization, (torch.device(on), dtype)))


def _settings(bits: str, weight_type: tuple[torch.device, torch.dtype]) -> Any:
    from torchao.quantization import (  # noqa: PLC0415 - an extra
        Int4WeightOnlyConfig,
        Int8WeightOnlyConfig,
        IntxWeightOnlyConfig,
        PerGroup,
    )
    from torchao.quantization.quant_primitives import MappingType  # noqa: PLC0415 - an extra

    if bits == "int8":
        return Int8WeightOnlyConfig()
    device, dtype = weight_type
    if device.type == "cuda" and dtype == torch.bfloat16:
        return Int4WeightOnlyConfig(
            group_size=GROUP, int4_packing_format="tile_packed_to_4d", set_inductor_config=False
        )
    # packed int4 for CPUs took minutes for a batch that takes float32 two seconds (torchao 0.18)
    return IntxWeightOnlyConfig(
        weight_dtype=torch.int4,  # type: ignore[attr-defined]
        granularity=PerGroup(GROUP),
        mapping_type=MappingType.ASYMMETRIC,
    )


def _weight_type(model: torch.nn.Module) -> tuple[torch.device, torch.dtype]:
    weights = next(weights for weights in model.parameters() if weights.is_floating_point())
    return weights.device, weights.dtype


def _output_embeddings(model: torch.nn.Module) -> Any:
    find = getattr(model, "get_output_embeddings", None)
    return None if find is None else find()
