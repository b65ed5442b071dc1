"""Headers of safetensors files: where each tensor lies, and whether the file is whole."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dask_embed.runtime.remembered import once

# Size of the types of safetensors; of others its library tells.
_BITS = {
    **dict.fromkeys(("F64", "I64", "U64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "I8", "U8", "BOOL"), 8),
}
_LARGEST_HEADER = 100_000_000  # that the safetensors library reads
_NO_INDEX = "has a header that is no index of tensors"


def require_whole(files: Iterable[Path], folder: Path, word: str = "model") -> None:
    """Raise ValueError if a safetensors file of a model's `folder` is missing or cut short."""
    for path in files:
        fault = tensors_fault(path) if path.is_file() else "is missing"
        if fault is not None:
            name = path.relative_to(folder).as_posix()
            raise ValueError(f"file {name!r} of {word} {str(folder)!r} {fault}; fetch it again")


@once
def tensors_fault(path: Path) -> str | None:
    """Return what is wrong with the length of a safetensors file, None if nothing is."""
    try:
        start, tensors = tensor_places(path)
    except ValueError as error:
        return str(error)
    size, wanted = path.stat().st_size, max([start, *(end for _, end in tensors)])
    if size == wanted:
        return None
    return f"is {'cut short' if size < wanted else 'too long'}: {size} bytes of {wanted}"


def tensor_places(path: Path) -> tuple[int, list[tuple[int, int]]]:
    """Return where the header of a safetensors file ends and where each tensor lies.

    Raises
    ------
    ValueError
        If the header is not whole, with what is wrong with the file.
    """
    start, tensors = read_header(path)
    try:
        offsets = sorted(_offsets(entry) for entry in tensors.values())
        # without holes, as safetensors wants them
        ends = [0, *(last for _, last in offsets)]
        if [first for first, _ in offsets] != ends[:-1]:
            raise ValueError("data_offsets")
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ValueError(_NO_INDEX) from None
    return start, [(start + first, start + last) for first, last in offsets]


@once
def tensor_types(path: Path) -> frozenset[str]:
    """Return the types of the tensors in a whole safetensors file, by its names for them."""
    return frozenset(entry["dtype"] for entry in read_header(path)[1].values())


def read_header(path: Path) -> tuple[int, dict[str, dict[str, Any]]]:
    """Return where the header of a safetensors file ends, and what it says of each tensor.

    Raises
    ------
    ValueError
        If there is none, with what is wrong with the file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > _LARGEST_HEADER:
            raise ValueError("is no safetensors file, maybe a pointer of Git LFS")
        start = 8 + length
        if size < start:
            raise ValueError(f"is cut short: {size} bytes of at least {start}")
        content = file.read(length)
    try:
        tensors: dict[str, dict[str, Any]] = json.loads(content)
        tensors.pop("__metadata__", None)
    except (AttributeError, RecursionError, TypeError, ValueError):
        raise ValueError(_NO_INDEX) from None
    return start, tensors


def _offsets(entry: dict[str, Any]) -> tuple[int, int]:
    """Return where a tensor lies; raise ValueError or TypeError if that is not its size."""
    first, last = entry["data_offsets"]
    shape, bits = entry["shape"], _BITS.get(entry["dtype"])
    if any(type(number) is not int or number < 0 for number in (first, last, *shape)):
        raise ValueError("data_offsets")
    if first > last or (bits is not None and math.prod(shape) * bits != (last - first) * 8):
        raise ValueError("data_offsets")
    return first, last
