"""Where a checkpoint lies: a local folder, or a snapshot of a Hub repository."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from dask_embed._validation import local_path, shown, shown_error, this_machine
from dask_embed.models.download import snapshot
from dask_embed.models.fingerprint import (
    METADATA_FILES,
    PICKLED_WEIGHT_FILES,
    WEIGHT_FILES,
    fingerprint,
    model_files,
)
from dask_embed.models.modules import read_json
from dask_embed.models.spec import Model
from dask_embed.runtime.remembered import looked

ADAPTER_CONFIG = "adapter_config.json"
_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*(/[\w.-]+)?$")


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
        raise _lacking(model.name, kind, "is not")
    if not _HUB_ID.match(model.name) or folder.is_file():
        raise ValueError(
            f"{kind.word} {shown(model.name)} is neither an existing folder nor a Hub id "
            "('owner/name')"
        )
    return _snapshot(model, weights, kind)


def _local(model: Model, folder: Path, kind: Kind) -> tuple[Path, str]:
    if not (model.revision or "").startswith("local-"):
        _require_kind(folder, kind, str(folder))
    elif not any((folder / name).is_file() for name in kind.files):
        # it was of the kind where the job was built
        raise _lacking(str(folder), kind, f"holds no {' and no '.join(kind.files)}")
    revision = looked((folder, kind.word), lambda: _own_fingerprint(folder, kind))
    if model.revision is not None and not model.revision.startswith("local-"):
        raise ValueError(
            f"{kind.word} {str(folder)!r} is a local folder on {this_machine()}, and those have no "
            f"revision {shown(model.revision)}, as on the Hub; leave it out"
        )
    if model.revision not in (None, revision):
        raise ValueError(
            f"{this_machine()} has another {kind.word} in folder {str(folder)!r} than the job was "
            f"built with: its fingerprint is {revision!r}, and {model.revision!r} was asked for; "
            "put the same copy there"
        )
    return folder, revision


def _lacking(folder: str, kind: Kind, how: str) -> ValueError:
    return ValueError(
        f"{kind.word} folder {folder!r}, which the job was built with, {how} on {this_machine()}; "
        "every worker needs a copy under the same path"
    )


def _own_fingerprint(folder: Path, kind: Kind) -> str:
    paths = model_files(folder)
    for path in paths:
        _require_own(path, folder, kind.word)
    return fingerprint(folder, paths)


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


def _snapshot(model: Model, weights: bool, kind: Kind) -> tuple[Path, str]:
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
