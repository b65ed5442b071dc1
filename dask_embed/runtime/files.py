"""Files that are whole as soon as they have their names: on a local disk, and in a store.

On a disk a file is written aside, synced and renamed. A store puts a whole object under its name,
and makes one only where there is none if asked to.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from fsspec.implementations.local import LocalFileSystem

T = TypeVar("T")

# In the hidden name of a file on a local disk that is not whole.
UNFINISHED = ".unfinished-"
# Seconds between tries of a store.
_WAITS = (0.05, 0.1, 0.2, 0.4)
# What another try would not change.
_CERTAIN = (
    FileNotFoundError,
    FileExistsError,
    NotADirectoryError,
    IsADirectoryError,
    PermissionError,
)
# What a disk says that has no hard links.
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EACCES, errno.EMLINK, errno.ENOSYS)


def again(fs: Any, call: Callable[..., T], *args: Any, **options: Any) -> T:
    """Return what a call to a store gives, tried a few times if the store does not answer.

    It may have done what was asked before it failed: what is made can be there then, and what is
    removed can be gone.
    """
    for wait in () if isinstance(fs, LocalFileSystem) else _WAITS:
        try:
            return call(*args, **options)
        except _CERTAIN:
            raise
        except OSError:
            time.sleep(wait)
    return call(*args, **options)


def remove_file(fs: Any, path: str) -> None:
    """Remove a file; one that is not there is gone already."""
    with contextlib.suppress(FileNotFoundError):
        again(fs, fs.rm_file, path)


def create_file(fs: Any, path: str, content: bytes, *, synced: bool = True) -> bool:
    """Make a file unless there is one, atomically where the filesystem can.

    Parameters
    ----------
    fs : fsspec.AbstractFileSystem
    path : str
    content : bytes
    synced : bool
        Wait until it is on a local disk. Else it may have its name and not its content when the
        machine has lost its power.

    Returns
    -------
    bool
        Whether it was made; False where there was one.
    """
    try:
        if isinstance(fs, LocalFileSystem):
            _create_on_disk(path, content, synced=synced)
        else:
            _create_in_store(fs, path, content)
    except FileExistsError:
        return False
    return True


def _create_on_disk(path: str, content: bytes, *, synced: bool) -> None:
    hidden = _written_aside(path, content, synced=synced)
    try:
        os.link(hidden, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        with open(path, "xb") as file:
            file.write(content)
    finally:
        os.remove(hidden)
    if synced:
        sync_folder(path)


def _create_in_store(fs: Any, path: str, content: bytes) -> None:
    try:
        again(fs, fs.pipe_file, path, content, mode="create")
    except (TypeError, ValueError, NotImplementedError):  # it does not know of this mode
        again(fs, fs.pipe_file, path, content)


def write_file(fs: Any, path: str, content: bytes) -> None:
    """Write a file, new or not, of which no reader sees a part."""
    if not isinstance(fs, LocalFileSystem):
        again(fs, fs.pipe_file, path, content)
        return
    os.replace(_written_aside(path, content, synced=True), path)
    sync_folder(path)


def put_file(fs: Any, path: str, content: bytes, *, synced: bool = True) -> None:
    """Make a file whose rows its name decides: one that is there already is it, if it is whole."""
    made = create_file(fs, path, content, synced=synced)
    if not made and again(fs, fs.info, path)["size"] != len(content):
        write_file(fs, path, content)


def _written_aside(path: str, content: bytes, *, synced: bool) -> str:
    hidden = hidden_name(path)
    try:
        with open(hidden, "xb") as file:
            file.write(content)
        if synced:
            sync_file(hidden)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.remove(hidden)
        raise
    return hidden


def hidden_name(path: str) -> str:
    """Return a name beside a file for what is not whole yet, which readers skip."""
    folder, _, name = path.rpartition("/")
    return f"{folder}/.{name}{UNFINISHED}{os.urandom(4).hex()}"


def hidden_files(path: str) -> Iterator[tuple[str, str]]:
    """Yield what is not whole at any depth of a folder on a disk, and the name it was to have."""
    for within, _, names in os.walk(path):
        for name in names:
            meant, unfinished, _ = name.removeprefix(".").partition(UNFINISHED)
            if unfinished and name.startswith("."):
                yield f"{within}/{name}", meant


def sync_file(path: str) -> None:
    """Wait until a file is on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def sync_folder(path: str) -> None:
    """Wait until the name of a file is on the disk."""
    if os.name == "posix":
        sync_file(os.path.dirname(path))
