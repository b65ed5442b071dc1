"""Where a checkpoint lies, a local folder or a snapshot of a Hub repository, and what it holds."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from dask_embed._validation import local_path, shown, shown_error, this_machine
from dask_embed.models.modules import read_json
from dask_embed.models.spec import Model
from dask_embed.runtime.remembered import looked

T = TypeVar("T")

METADATA_FILES = (
    *("*.json", "*.txt", "*.model", "*.jinja", "tokenizer*"),
    *("*.tiktoken", "*.spm", "*.tokenizer", "*.codes"),
)
WEIGHT_FILES = ("*.safetensors",)
PICKLED_WEIGHT_FILES = ("pytorch_model*.bin",)
ADAPTER_CONFIG = "adapter_config.json"
_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*(/[\w.-]+)?$")
# What a fingerprint reads of the weights of a folder: whole tensors, and blocks of the others.
_WHOLE_BYTES = 64 << 20
_BLOCKS, _BLOCK_BYTES = 4096, 4096
_LEAST_BLOCKS, _MOST_BLOCKS = 3, 1025
_TAIL_BYTES = 1 << 20
# Size of the types of safetensors; of others its library tells.
_BITS = {
    **dict.fromkeys(("F64", "I64", "U64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "I8", "U8", "BOOL"), 8),
}
_LARGEST_HEADER = 100_000_000  # that the safetensors library reads
# Clocks of file systems are coarse: a file may change twice within one tick.
_TICK_NANOSECONDS = 2_000_000_000


@dataclass(frozen=True)
class Kind:
    """What is looked for: how messages call it, and the files by which a folder is known."""

    word: str
    files: tuple[str, ...]
    meaning: str


MODEL = Kind(
    "model",
    ("config.json", "modules.json"),
    "a transformers or sentence-transformers checkpoint",
)


def locate(model: Model, *, weights: bool, kind: Kind = MODEL) -> tuple[Path, str]:
    """Return the folder of `model` and its revision, fetching from the Hub what is missing.

    Parameters
    ----------
    model : Model
        The specification.
    weights : bool
        Fetch the weights too. Without it only configuration and tokenizer files are fetched,
        which is all that a client needs.
    kind : Kind
        A whole model, or a part of one under the name and revision of `model`.

    Returns
    -------
    folder : Path
    revision : str
        Commit sha on the Hub, or ``"local-<fingerprint>"`` of a local folder.

    Raises
    ------
    ValueError
        If there is no such folder or repository, or a local folder does not hold what
        `model.revision` promises.
    """
    folder = local_path(kind.word, model.name)
    if folder.is_dir():
        return _local(model, folder.resolve(), kind)
    if (model.revision or "").startswith("local-"):
        raise ValueError(
            f"{kind.word} folder {model.name!r}, which the job was built with, is not on "
            f"{this_machine()}; every worker needs a copy under the same path"
        )
    if not _HUB_ID.match(model.name) or folder.is_file():
        raise ValueError(
            f"{kind.word} {shown(model.name)} is neither an existing folder nor a Hub id "
            "('owner/name')"
        )
    return _snapshot(model, weights, kind)


def _local(model: Model, folder: Path, kind: Kind) -> tuple[Path, str]:
    if not (model.revision or "").startswith("local-"):
        # else it was of the kind where the job was built: here a copy differs
        _require_kind(folder, kind, str(folder))
    revision = looked((folder, kind.word), lambda: _own_fingerprint(folder, kind))
    if model.revision is not None and not model.revision.startswith("local-"):
        raise ValueError(
            f"{kind.word} {str(folder)!r} is a local folder on {this_machine()}, and those have no "
            f"revision {shown(model.revision)}, as on the Hub; leave it out"
        )
    if model.revision not in (None, revision):
        raise ValueError(
            f"{kind.word} folder {str(folder)!r} has fingerprint {revision!r} but "
            f"{model.revision!r} was asked for: the copy on {this_machine()} differs from the one "
            "the job was built with"
        )
    return folder, revision


def _own_fingerprint(folder: Path, kind: Kind) -> str:
    paths = model_files(folder)
    for path in paths:
        _require_own(path, folder, kind.word)
    return _fingerprint(folder, paths)


def _require_kind(folder: Path, kind: Kind, name: str) -> None:
    """Raise ValueError unless `folder`, which was asked for by `name`, is of a kind."""
    if any((folder / name).is_file() for name in kind.files):
        return
    if kind is MODEL and (folder / ADAPTER_CONFIG).is_file():
        base = read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
        base = shown(base) if isinstance(base, str) and base else "'the model below it'"
        raise ValueError(
            f"model {name!r} is a PEFT adapter of {base} and no model; name both: "
            f"dask_embed.Model({base}, adapter={name!r})"
        )
    raise ValueError(
        f"{kind.word} folder {str(folder)!r} holds no {' and no '.join(kind.files)}: "
        f"it is not {kind.meaning}"
    )


def _require_own(path: Path, folder: Path, word: str) -> None:
    """Raise ValueError for a link by which other files of this machine would be read.

    Weights may lie elsewhere, they are nothing but numbers, and all may lie in a cache of the Hub.
    """
    if not path.is_symlink() or path.suffix in (".safetensors", ".bin"):
        return
    target = path.resolve()
    cached = target.parent.name == "blobs" and target.parent.parent.name.startswith("models--")
    if not cached and folder not in target.parents:
        name = path.relative_to(folder).as_posix()
        raise ValueError(
            f"file {name!r} of {word} {str(folder)!r} is a link that leaves the folder, to "
            f"{shown(str(target))}; put a copy in its place"
        )


def fingerprint(folder: Path) -> str:
    """Return ``"local-"`` and 16 hexadecimal digits that tell one folder content from another.

    Notes
    -----
    Any change of a file's name or size, of configuration, tokenizer (files to 64 MiB) and header
    of a safetensors file shows. So does any change of the smallest tensors, to 64 MiB in a folder,
    of which each weight file has an equal share; of larger tensors the first, middle and last
    4 KiB, and blocks between as far as a folder's 4,096 go. Of large pickled weights that is the
    last MiB, with the checksums that torch writes there by default, and blocks.

    A file is read again only once it has changed.
    """
    return _fingerprint(folder, model_files(folder))


def _fingerprint(folder: Path, paths: list[Path]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    share = max(1, sum(map(_holds_weights, paths)))
    for path in paths:
        digest.update(f"{path.relative_to(folder).as_posix()}:{path.stat().st_size};".encode())
        digest.update(_digest(path, share if _holds_weights(path) else 1))
    return f"local-{digest.hexdigest()}"


def model_files(folder: Path) -> list[Path]:
    """Return all files below `folder` that a model may be made of; its fingerprint is of these."""
    return sorted(path for path in folder.rglob("*") if _is_model_file(path))


def once(read: Callable[..., T]) -> Callable[..., T]:
    """Return `read`, a function of a file, so that it reads a file again only once it changed."""

    @functools.lru_cache(maxsize=4096)
    def known(path: Path, state: tuple[int, ...], *arguments: Any) -> T:
        return read(path, *arguments)

    @functools.wraps(read)
    def look(path: Path, *arguments: Any) -> T:
        state = path.stat()
        if time.time_ns() - state.st_mtime_ns < _TICK_NANOSECONDS:
            return read(path, *arguments)
        changed = (state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
        return known(path, changed, *arguments)

    return look


@once
def _digest(path: Path, share: int) -> bytes:
    """Return a digest of a file that is one of `share` files with weights."""
    size = path.stat().st_size
    if path.suffix == ".safetensors" and tensors_fault(path) is None:
        start, parts = _tensors(path)
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


def require_whole(files: Iterable[Path], folder: Path, word: str = MODEL.word) -> None:
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
        start, tensors = _tensors(path)
    except ValueError as error:
        return str(error)
    size, wanted = path.stat().st_size, max([start, *(end for _, end in tensors)])
    if size == wanted:
        return None
    return f"is {'cut short' if size < wanted else 'too long'}: {size} bytes of {wanted}"


def _tensors(path: Path) -> tuple[int, list[tuple[int, int]]]:
    """Return where the header of a safetensors file ends and where each tensor lies.

    Raises
    ------
    ValueError
        If the header is not whole, with what is wrong with the file.
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
        header = json.loads(content)
        header.pop("__metadata__", None)
        offsets = sorted(_offsets(entry) for entry in header.values())
        # without holes, as safetensors wants them
        ends = [0, *(last for _, last in offsets)]
        if [first for first, _ in offsets] != ends[:-1]:
            raise ValueError("data_offsets")
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
        raise ValueError("has a header that is no index of tensors") from None
    return start, [(start + first, start + last) for first, last in offsets]


def _offsets(entry: dict[str, Any]) -> tuple[int, int]:
    """Return where a tensor lies; raise ValueError or TypeError if that is not its size."""
    first, last = entry["data_offsets"]
    shape, bits = entry["shape"], _BITS.get(entry["dtype"])
    if any(type(number) is not int or number < 0 for number in (first, last, *shape)):
        raise ValueError("data_offsets")
    if first > last or (bits is not None and math.prod(shape) * bits != (last - first) * 8):
        raise ValueError("data_offsets")
    return first, last


def _holds_weights(path: Path) -> bool:
    return path.suffix in (".safetensors", ".bin")


def _is_model_file(path: Path) -> bool:
    patterns = METADATA_FILES + WEIGHT_FILES + PICKLED_WEIGHT_FILES + ("*.py",)
    return path.is_file() and any(path.match(pattern) for pattern in patterns)


def _snapshot(model: Model, weights: bool, kind: Kind) -> tuple[Path, str]:
    from dask_embed.models.download import snapshot

    patterns = [*METADATA_FILES]
    if model.trust_remote_code:
        patterns.append("*.py")
    if weights:
        patterns += WEIGHT_FILES + (PICKLED_WEIGHT_FILES if model.allow_pickle else ())
    try:
        path = snapshot(model, patterns)
    except Exception as error:  # huggingface_hub hands on what its transport raises
        wanted = f"{model.name!r} at {model.revision!r}" if model.revision else repr(model.name)
        reason = shown_error(error)
        owner = ""
        if "/" not in model.name:
            owner = f"; Hub ids are 'owner/name', such as 'sentence-transformers/{model.name}'"
        raise ValueError(
            f"{kind.word} {wanted} was not found: there is no such folder, and the Hub or its "
            f"cache did not have it ({reason}){owner}"
        ) from None
    _require_kind(path, kind, model.name)
    return path, path.name
