"""When files were in use last, and which go first where a folder has too many bytes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

_USED = ".used"


def note_use(fs: Any, path: str) -> None:
    """Note that a file is in use now, in a file beside it: not all stores know."""
    with contextlib.suppress(OSError):
        fs.pipe_file(f"{path}{_USED}", b"")


def trim(fs: Any, root: str, most_bytes: int) -> None:
    """Remove the least recently used files of rows below a folder that has more bytes than that."""
    found = fs.find(root, detail=True)
    files = {path: told for path, told in found.items() if path.endswith(".parquet")}
    size = sum(told["size"] for told in files.values())
    if size <= most_bytes:
        return
    for path in sorted(files, key=lambda path: _last_used(fs, path, found)):
        for each in (path, f"{path}{_USED}"):
            with contextlib.suppress(OSError):
                fs.rm_file(each)
        size -= files[path]["size"]
        if size <= most_bytes:
            return


def _last_used(fs: Any, path: str, found: Iterable[str]) -> float:
    noted = f"{path}{_USED}"
    try:
        moment = fs.modified(noted if noted in found else path)
    except (NotImplementedError, OSError):  # of a store that knows no times, or gone meanwhile
        return 0.0
    return float(moment.timestamp())
