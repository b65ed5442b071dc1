"""Where a checkpoint lies: a local folder, or a snapshot of a Hub repository."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from dask_embed.models.spec import Model

METADATA_FILES = ("*.json", "*.txt", "*.model", "*.jinja", "tokenizer*")
WEIGHT_FILES = ("*.safetensors",)
PICKLED_WEIGHT_FILES = ("pytorch_model*.bin",)
_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*(/[\w.-]+)?$")
_SAMPLES, _SAMPLE_BYTES = 256, 4096


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
    folder = Path(model.name).expanduser()
    if folder.is_dir():
        return _local(model, folder.resolve(), kind)
    if not _HUB_ID.match(model.name) or folder.is_file():
        raise ValueError(
            f"{kind.word} {model.name!r} is neither an existing folder nor a Hub id ('owner/name')"
        )
    return _snapshot(model, weights, kind)


def _local(model: Model, folder: Path, kind: Kind) -> tuple[Path, str]:
    if not any((folder / name).is_file() for name in kind.files):
        raise ValueError(
            f"{kind.word} folder {str(folder)!r} holds no {' and no '.join(kind.files)}: "
            f"it is not {kind.meaning}"
        )
    revision = fingerprint(folder)
    if model.revision not in (None, revision):
        raise ValueError(
            f"{kind.word} folder {str(folder)!r} has fingerprint {revision!r} but "
            f"{model.revision!r} was asked for: this machine's copy differs from the one the job "
            "was built with"
        )
    return folder, revision


def fingerprint(folder: Path) -> str:
    """Return ``"local-"`` and 16 hexadecimal digits that tell one folder content from another.

    Small files count in full, large ones by name, size and evenly spaced samples, so that the
    price does not grow with the model.
    """
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(p for p in folder.rglob("*") if _is_model_file(p)):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder).as_posix()}:{size};".encode())
        with path.open("rb") as file:
            if size <= _SAMPLES * _SAMPLE_BYTES:
                digest.update(file.read())
                continue
            for index in range(_SAMPLES):
                file.seek(index * (size - _SAMPLE_BYTES) // (_SAMPLES - 1))
                digest.update(file.read(_SAMPLE_BYTES))
    return f"local-{digest.hexdigest()}"


def _is_model_file(path: Path) -> bool:
    patterns = METADATA_FILES + WEIGHT_FILES + PICKLED_WEIGHT_FILES + ("*.py",)
    return path.is_file() and any(path.match(pattern) for pattern in patterns)


def _snapshot(model: Model, weights: bool, kind: Kind) -> tuple[Path, str]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = [*METADATA_FILES]
    if model.trust_remote_code:
        patterns.append("*.py")
    if weights:
        patterns += WEIGHT_FILES + (PICKLED_WEIGHT_FILES if model.allow_pickle else ())
    try:
        path = snapshot_download(
            model.name,
            revision=model.revision,
            cache_dir=model.cache_dir,
            local_files_only=model.local_files_only,
            allow_patterns=patterns,
        )
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        wanted = f"{model.name!r} at {model.revision!r}" if model.revision else repr(model.name)
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"{kind.word} {wanted} was not found: there is no such folder, and the Hub or its "
            f"cache did not have it ({reason})"
        ) from None
    return Path(path), Path(path).name
