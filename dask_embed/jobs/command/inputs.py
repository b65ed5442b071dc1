"""Which files are read: globs and folders, their format, those that cannot be read."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from dask_embed._secrets import refuse_secrets
from dask_embed._validation import shown, shown_error

_ENDINGS = {
    "parquet": (".parquet", ".parq", ".pq"),
    "json": (".jsonl", ".ndjson", ".json"),
    "csv": (".csv",),
    "tsv": (".tsv",),
    "text": (".txt", ".text", ".md"),
}
FORMATS = tuple(_ENDINGS)
WHOLE = ("csv", "tsv")  # their files are not cut
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Files of one format.

    Attributes
    ----------
    given : tuple of str
        As they were named, for readers that expand names themselves.
    files : tuple of str
        The files, with their protocol.
    kind : str
        One of `FORMATS`.
    bad : dict
        Files that are left out to what is wrong with each.
    """

    given: tuple[str, ...]
    files: tuple[str, ...]
    kind: str
    bad: dict[str, str] = dataclasses.field(default_factory=dict)

    def without(self, bad: dict[str, str]) -> Inputs:
        """Return the inputs without some files.

        Raises
        ------
        ValueError
            If none is left.
        """
        kept = tuple(file for file in self.files if file not in bad)
        if not kept:
            first, problem = next(iter(bad.items()))
            raise ValueError(f"none of {len(bad)} files can be read; {first}: {problem}")
        return dataclasses.replace(self, given=kept, files=kept, bad=bad) if bad else self


def find_inputs(given: Sequence[str], kind: str = "auto") -> Inputs:
    """Return the files that names, globs and folders stand for.

    Raises
    ------
    FileNotFoundError
        If there are none.
    ValueError
        If their format is not told by their names, or they have several.
    """
    files: list[str] = []
    for name in given:
        refuse_secrets("input", name)
        found = _files(name)
        if not found:
            raise FileNotFoundError(f"there are no files at {name!r}")
        files += found
    files = list(dict.fromkeys(files))
    if kind == "auto":
        kind = _kind_of(files)
    return Inputs(tuple(given), tuple(files), kind)


def _files(name: str) -> list[str]:
    """Return the files of one name, in the order of their names."""
    from fsspec.core import url_to_fs

    try:
        fs, path = url_to_fs(name)
    except (ValueError, ImportError) as error:
        raise ValueError(f"there is no filesystem for {name!r}: {shown_error(error)}") from error
    if any(letter in path for letter in "*?["):
        found = [each for each in fs.glob(path) if not fs.isdir(each)]
    elif fs.isdir(path):
        found = [each for each in fs.find(path) if not _hidden(each, path)]
    else:
        found = [path] if fs.exists(path) else []
    return [_url(fs, each) for each in sorted(found)]


def _url(fs: Any, path: str) -> str:
    local = "file" in (fs.protocol if isinstance(fs.protocol, tuple) else (fs.protocol,))
    return path if local else str(fs.unstrip_protocol(path))


def _hidden(file: str, folder: str) -> bool:
    """Return whether readers of a folder skip a file, as they do marks, logs and checksums."""
    parts = PurePath(file[len(folder) :]).parts
    return any(part.startswith(("_", ".")) for part in parts)


def _kind_of(files: list[str]) -> str:
    found: dict[str, str] = {}
    for file in files:
        found.setdefault(_kind(file), file)
    if "" in found:
        raise ValueError(
            f"the format of {found['']!r} is not told by its name; say --format, which is one of "
            f"{', '.join(FORMATS)}"
        )
    if len(found) > 1:
        raise ValueError(f"all files must be of one format, got {shown(list(found.values()))}")
    return next(iter(found))


def _kind(file: str) -> str:
    name = file.lower()
    for ending in COMPRESSED:
        name = name.removesuffix(ending)
    for kind, endings in _ENDINGS.items():
        if name.endswith(endings):
            return kind
    return ""
