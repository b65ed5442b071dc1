"""What tells one folder of a model from another: its files, and a digest of what they hold."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from dask_embed.models.tensor_files import tensor_places, tensors_fault
from dask_embed.runtime.remembered import once

METADATA_FILES = (
    *("*.json", "*.txt", "*.model", "*.jinja", "tokenizer*"),
    *("*.tiktoken", "*.spm", "*.tokenizer", "*.codes"),
)
WEIGHT_FILES = ("*.safetensors",)
PICKLED_WEIGHT_FILES = ("pytorch_model*.bin",)
# What a fingerprint reads of the weights of a folder: whole tensors, and blocks of the others.
_WHOLE_BYTES = 64 << 20
_BLOCKS, _BLOCK_BYTES = 4096, 4096
_LEAST_BLOCKS, _MOST_BLOCKS = 3, 1025
_TAIL_BYTES = 1 << 20


def fingerprint(folder: Path, paths: Sequence[Path] | None = None) -> str:
    """Return ``"local-"`` and 16 hexadecimal digits that tell one folder content from another.

    Parameters
    ----------
    folder : Path
    paths : sequence of Path, optional
        Its `model_files`, where they are known.

    Notes
    -----
    Any change of a file's name or size, of configuration, tokenizer (files to 64 MiB) and header
    of a safetensors file shows. So does any change of the smallest tensors, to 64 MiB in a folder,
    of which each weight file has an equal share; of larger tensors the first, middle and last
    4 KiB, and blocks between as far as a folder's 4,096 go. Of large pickled weights that is the
    last MiB, with the checksums that torch writes there by default, and blocks.

    A file is read again only once it has changed.
    """
    paths = model_files(folder) if paths is None else paths
    digest = hashlib.blake2b(digest_size=8)
    share = max(1, sum(map(_holds_weights, paths)))
    for path in paths:
        name = os.fsencode(path.relative_to(folder).as_posix())  # not all are UTF-8
        digest.update(name + f":{path.stat().st_size};".encode())
        digest.update(_digest(path, share if _holds_weights(path) else 1))
    return f"local-{digest.hexdigest()}"


def model_files(folder: Path) -> list[Path]:
    """Return all files below `folder` that a model may be made of; its fingerprint is of these."""
    return sorted(path for path in folder.rglob("*") if _is_model_file(path))


@once
def _digest(path: Path, share: int) -> bytes:
    """Return a digest of a file that is one of `share` files with weights."""
    size = path.stat().st_size
    if path.suffix == ".safetensors" and tensors_fault(path) is None:
        start, parts = tensor_places(path)
        index = (0, start)
    else:
        index = (max(0, size - _TAIL_BYTES), size)
        parts = [(0, index[0])]
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for start, end in [index, *sorted(_blocks(parts, share))]:
            file.seek(start)
            digest.update(file.read(end - start))
    return digest.digest()


def _blocks(parts: list[tuple[int, int]], share: int) -> Iterator[tuple[int, int]]:
    """Yield what is read of parts of a file: the smallest whole, blocks of the others."""
    whole = _WHOLE_BYTES // share
    count = _BLOCKS // share // max(1, len(parts))
    count = min(max(count, _LEAST_BLOCKS), _MOST_BLOCKS) // 2 * 2 + 1  # one is in the middle
    for start, end in sorted(parts, key=lambda part: (part[1] - part[0], part)):
        size = end - start
        if size <= max(whole, count * _BLOCK_BYTES):
            yield start, end
            whole -= size
            continue
        for index in range(count):
            first = start + index * (size - _BLOCK_BYTES) // (count - 1)
            yield first, first + _BLOCK_BYTES


def _holds_weights(path: Path) -> bool:
    return path.suffix in (".safetensors", ".bin")


def _is_model_file(path: Path) -> bool:
    patterns = METADATA_FILES + WEIGHT_FILES + PICKLED_WEIGHT_FILES + ("*.py",)
    return path.is_file() and any(path.match(pattern) for pattern in patterns)
