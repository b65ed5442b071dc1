"""Vectors in the number types that are stored, as sentence-transformers defines them.

Source: ``sentence_transformers.quantize_embeddings``. Where values lie outside the calibrated
ranges, integers are clipped here and wrap around there.
"""

from __future__ import annotations

import torch

DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "int8": torch.int8,
    "uint8": torch.uint8,
    "binary": torch.int8,
    "ubinary": torch.uint8,
}
_STEPS = 255


def to_precision(
    vectors: torch.Tensor, precision: str, ranges: torch.Tensor | None = None
) -> torch.Tensor:
    """Return `vectors` as they are stored.

    Parameters
    ----------
    vectors : torch.Tensor
        float32, shape (rows, dimension).
    precision : str
        A key of `DTYPES`.
    ranges : torch.Tensor, optional
        Lowest and highest value of each dimension, shape (2, dimension); for int8 and uint8.

    Returns
    -------
    torch.Tensor
        Shape (rows, dimension), for ``"binary"`` and ``"ubinary"`` (rows, dimension / 8).
    """
    if precision in ("binary", "ubinary"):
        return _pack_signs(vectors, signed=precision == "binary")
    if precision in ("int8", "uint8"):
        assert ranges is not None
        return _to_steps(vectors, ranges.to(vectors), signed=precision == "int8")
    return vectors.to(DTYPES[precision])


def _to_steps(vectors: torch.Tensor, ranges: torch.Tensor, *, signed: bool) -> torch.Tensor:
    lowest, highest = ranges
    steps = (highest - lowest) / _STEPS
    steps = torch.where(steps > 0, steps, 1)
    places = ((vectors - lowest) / steps).floor().clamp(0, _STEPS)
    return (places - 128).to(torch.int8) if signed else places.to(torch.uint8)


def _pack_signs(vectors: torch.Tensor, *, signed: bool) -> torch.Tensor:
    weights = torch.tensor([128, 64, 32, 16, 8, 4, 2, 1], device=vectors.device)
    bits = (vectors > 0).unflatten(1, (-1, 8))
    packed = (bits * weights).sum(dim=2)
    return (packed - 128).to(torch.int8) if signed else packed.to(torch.uint8)
