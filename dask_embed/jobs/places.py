"""Where a folder lies: its path, its filesystem, and whether there can be one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from glob import has_magic
from pathlib import PurePath
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from dask_embed._secrets import refuse_password, texts_in
from dask_embed._validation import local_path, require_url, shown, shown_error
from dask_embed.jobs.engine import VectorEngine


def folder_path(path: Any) -> str:
    """Return a path as a text, if it can be that of one folder.

    Raises
    ------
    TypeError, ValueError
        If it cannot.
    """
    folder = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(folder, str):
        raise TypeError(f"path must be the path of one folder, got {shown(path)}")
    require_url("path", folder)
    if not folder.strip() or has_magic(folder) or "\0" in folder:
        raise ValueError(
            "path must name one folder, and hold none of *, ? and [, which readers take for a "
            f"pattern; got {shown(folder)}"
        )
    return folder


def place(path: str, filesystem: Any, storage_options: Any) -> tuple[Any, str]:
    """Return the filesystem of a path, and the path there."""
    fs, folders = places(path, filesystem, storage_options)
    return fs, folders[0]


def places(paths: str | list[str], filesystem: Any, storage_options: Any) -> tuple[Any, list[str]]:
    """Return the filesystem of a path, or of those of a list, and the paths there.

    Raises
    ------
    TypeError
        If `storage_options` are no dictionary.
    ValueError, ImportError
        If a path holds a password, or there is no such filesystem. No value of `storage_options`
        is told.
    """
    for path in [paths] if isinstance(paths, str) else paths:
        refuse_password("path", path)
    if storage_options is not None and not isinstance(storage_options, Mapping):
        raise TypeError(
            f"storage_options must be a dictionary, got one {type(storage_options).__name__}"
        )
    try:
        fs, found, _, _ = VectorEngine.extract_filesystem(
            paths, filesystem, {}, {}, storage_options
        )
    except Exception as error:  # whatever the library of a store raises
        kind = ImportError if isinstance(error, ImportError) else ValueError
        # what opens a store may stand in the error of a library, which is then not shown
        kept = [*texts_in(storage_options), *texts_in([filesystem])]
        quoted = any(value in str(error) for value in kept if value)
        said = type(error).__name__ if quoted else shown_error(error)
        told = "" if filesystem is None else f" and one {type(filesystem).__name__} as filesystem="
        raise kind(
            f"there is no filesystem for {shown({'path': paths})}{told}: {said}; give "
            "storage_options=, or filesystem='fsspec', 'arrow' or a filesystem of their libraries"
        ) from (None if quoted else error)
    if isinstance(fs, LocalFileSystem):
        for path in found:
            local_path("path", path)
    return fs, found


def require_folder(fs: Any, folder: str) -> None:
    """Raise unless there can be the folder: NotADirectoryError for a file there or on the way.

    Parameters
    ----------
    fs : fsspec.AbstractFileSystem
    folder : str
        Without a protocol.
    """
    above = PurePath(folder).parents if isinstance(fs, LocalFileSystem) else ()
    for each in (folder, *map(str, above)):
        if fs.isfile(each):
            raise NotADirectoryError(
                f"path must be a folder, new or not, but {each!r} is a file; choose another"
            )
