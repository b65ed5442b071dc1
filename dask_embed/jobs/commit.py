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
    """

    sep = "/"

    def __init__(self, fs: Any) -> None:
        self._fs = fs
        self._local = isinstance(fs, LocalFileSystem)
        self._hidden: dict[str, str] = {}
        self._contents: dict[str, _Content] = {}

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
                os.replace(hidden, path)
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


class _Content(io.BytesIO):
    """A file in memory that keeps what was written when it is closed."""

    bytes: bytes = b""

    def close(self) -> None:
        if not self.closed:
            self.bytes = self.getvalue()
        super().close()
