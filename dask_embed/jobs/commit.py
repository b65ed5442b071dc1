"""The files of a partition, kept back until all of them are there."""

from __future__ import annotations

import contextlib
import io
import os
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from dask_embed.runtime.files import hidden_name, put_file, sync_file, sync_folder


class Aside:
    """What a writer of Parquet files takes for a filesystem; nothing has its name before `commit`.

    Parameters
    ----------
    fs : fsspec.AbstractFileSystem

    Attributes
    ----------
    made : dict of str to int
        What `commit` gave a name on a disk that no file had, and the numbers of these files there.
    """

    sep = "/"

    def __init__(self, fs: Any) -> None:
        self._fs = fs
        self._local = isinstance(fs, LocalFileSystem)
        self._hidden: dict[str, str] = {}
        self._contents: dict[str, _Content] = {}
        self.made: dict[str, int] = {}

    def mkdirs(self, path: str, exist_ok: bool = False) -> None:
        if self._local:  # a store has none
            self._fs.mkdirs(path, exist_ok=exist_ok)

    def open(self, path: str, mode: str) -> Any:
        if self._local:
            self._hidden[path] = hidden_name(path)
            return self._fs.open(self._hidden[path], mode)
        self._contents[path] = _Content()
        return self._contents[path]

    def commit(self) -> dict[str, int]:
        """Give all files their names, and return their sizes in bytes."""
        try:
            for hidden in self._hidden.values():
                sync_file(hidden)
            for path, hidden in self._hidden.items():
                known, number = os.path.exists(path), os.stat(hidden).st_ino
                os.replace(hidden, path)
                self.made |= {} if known else {path: number}
        except FileNotFoundError:
            # Another start of this job wrote all files, ended, and removed what was unfinished.
            if not all(map(os.path.exists, self._hidden)):
                raise
        sizes = {path: os.path.getsize(path) for path in self._hidden}
        for folder in {os.path.dirname(path) for path in self._hidden}:
            sync_folder(f"{folder}/")
        for path, content in self._contents.items():
            put_file(self._fs, path, content.bytes)
            sizes[path] = len(content.bytes)
        return sizes

    def discard(self) -> None:
        """Remove what has not got its name."""
        for hidden in self._hidden.values():
            with contextlib.suppress(FileNotFoundError):
                os.remove(hidden)


def take_back(made: dict[str, int]) -> None:
    """Remove what `Aside.commit` made, unless another task has written it since."""
    for path, number in made.items():
        with contextlib.suppress(FileNotFoundError):
            if os.stat(path).st_ino == number:
                os.remove(path)


class _Content(io.BytesIO):
    """A file in memory that keeps what was written when it is closed."""

    bytes: bytes = b""

    def close(self) -> None:
        if not self.closed:
            self.bytes = self.getvalue()
        super().close()
