"""Folders that hold of a checkpoint what is to be read, and no more, for transformers to load.

transformers looks for many files by their names: an adapter beside a model, other weights, other
configurations. It finds here links to the files that were judged, and configurations without the
entries by which a checkpoint would have more read.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dask_embed.models.fingerprint import METADATA_FILES
from dask_embed.models.hub import ADAPTER_CONFIG
from dask_embed.models.modules import read_json
from dask_embed.models.settings import model_settings, special_tokens, tokenizer_settings
from dask_embed.models.weights import INDEX, Weights

_TEMPLATES = "additional_chat_templates"
# Endings of what is no configuration and no vocabulary, whatever it is called.
_OTHERS = (".bin", ".ckpt", ".gguf", ".h5", ".pkl", ".pt", ".pth", ".py", ".safetensors", ".so")


def prepared(folder: Path, *, code: bool, weights: Weights | None = None) -> Path:
    """Return a folder of this process's own with what is read of `folder`.

    Parameters
    ----------
    folder : Path
        With config.json, a tokenizer, or both.
    code : bool
        Have the checkpoint's Python code too.
    weights : Weights, optional
        The weight files; by default none.

    Returns
    -------
    Path
        It lasts as long as the process: weights on disk and some tokenizers are read again later.
    """
    target = _own_folder() / (folder.name or "checkpoint")
    target.mkdir()
    rewrite: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
        "config.json": lambda written: model_settings(written, folder, code=code),
        "tokenizer_config.json": lambda written: tokenizer_settings(written, folder, code=code),
        "special_tokens_map.json": special_tokens,
    }
    for path in _settings(folder):
        if path.name in rewrite:
            _write(target / path.name, rewrite[path.name](read_json(path)))
        else:
            _link(path, target / path.relative_to(folder))
    for path in sorted(folder.rglob("*.py")) if code else ():
        _link(path, target / path.relative_to(folder))
    for name, file in weights.names.items() if weights else ():
        if name.endswith(INDEX):
            _write(target / name, {"metadata": {}} | read_json(file))
        else:
            _link(file, target / name)
    return target


def _settings(folder: Path) -> Iterator[Path]:
    """Yield configurations and vocabularies."""
    for path in sorted(folder.iterdir()):
        if path.name == ADAPTER_CONFIG or path.name.endswith((INDEX, *_OTHERS)):
            continue
        if path.is_file() and any(path.match(pattern) for pattern in METADATA_FILES):
            yield path
    templates = folder / _TEMPLATES
    if templates.is_symlink():
        raise ValueError(f"folder {str(templates)!r} is a link; put a copy in its place")
    yield from sorted(templates.glob("*.jinja"))


def _write(target: Path, content: dict[str, Any]) -> None:
    target.write_text(json.dumps(content), "utf8")


def _link(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.symlink_to(path.absolute())


def _own_folder() -> Path:
    process = os.getpid()
    if not _root(process).is_dir():  # machines take away what lies among temporary files for days
        _root.cache_clear()
    return Path(tempfile.mkdtemp(dir=_root(process)))


@functools.cache
def _root(process: int) -> Path:
    root = Path(tempfile.mkdtemp(prefix="dask_embed-"))

    def remove() -> None:
        if os.getpid() == process:  # a forked process inherits what is to be done at the end
            shutil.rmtree(root, ignore_errors=True)

    atexit.register(remove)
    return root
