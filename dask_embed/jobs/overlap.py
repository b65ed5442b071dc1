"""Whether folders lie in each other, before a job mixes what is in them."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable
from typing import Any

from fsspec import get_filesystem_class
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import get_protocol, glob_translate

from dask_embed._validation import shown
from dask_embed.jobs.lineage import operators_of
from dask_embed.operators.renamed import plain

_MAGIC = re.compile(r"[*?\[]")


@dataclasses.dataclass(frozen=True)
class Folder:
    """Where files are, on a kind of filesystem; neither need be there."""

    kind: type
    path: str

    @classmethod
    def of(cls, url: str) -> Folder | None:
        """Return where a path or URL is, None if this environment has no such filesystem."""
        try:
            kind = get_filesystem_class(get_protocol(url))
        except (ValueError, ImportError):  # told where it is read or written
            return None
        return cls.on(kind, kind._strip_protocol(url))

    @classmethod
    def on(cls, kind: type, path: str) -> Folder:
        """Return where a path without a protocol is, without links and a slash at its end."""
        local = issubclass(kind, LocalFileSystem)
        return cls(kind, os.path.realpath(path) if local else path.rstrip("/"))

    def holds(self, other: Folder) -> bool:
        return self.kind is other.kind and _lies_in(other.path, self.path)


def require_apart_from_caches(frame: Any, folder: Folder | None) -> None:
    """Raise ValueError if a folder holds the cache of an operator of a frame, or lies in one."""
    if folder is None:
        return
    parts = [plain(each) for node in frame.expr.walk() for each in operators_of(node)]
    for given in {str(part.cache) for part in parts if getattr(part, "cache", None) is not None}:
        cache = Folder.of(given)
        if cache is not None and (cache.holds(folder) or folder.holds(cache)):
            raise ValueError(
                f"cache={shown(given)} and the folder {shown(folder.path)} that is written must "
                "not be one, nor one in the other: readers would take the files of both for rows; "
                "choose another folder for one of them"
            )


def require_not_read_again(inputs: Iterable[str], to: str, file: str) -> None:
    """Raise ValueError if a job that is started again would read what it wrote.

    Parameters
    ----------
    inputs : iterable of str
        Files, globs and folders.
    to : str
        The folder that is written.
    file : str
        The name that a file there has.
    """
    folder = Folder.of(to)
    if folder is None:
        return
    for name in inputs:
        read = Folder.of(name)
        if read is None or read.kind is not folder.kind:
            continue
        if any(_reads(read.path, each) for each in (folder.path, f"{folder.path}/{file}")):
            raise ValueError(
                f"to={shown(to)} would be read with the input {shown(name)} when the command is "
                "started again: write to a folder that the input does not hold"
            )


def _reads(pattern: str, file: str) -> bool:
    if _MAGIC.search(pattern):
        return re.match(glob_translate(pattern), file) is not None
    return _lies_in(file, pattern)


def _lies_in(path: str, folder: str) -> bool:
    return f"{path}/".startswith(f"{folder.rstrip('/')}/")
