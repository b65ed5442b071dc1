"""The shares of an array of jobs, each in a folder of its own below one."""

from __future__ import annotations

import re
from collections.abc import Iterable

_SHARE = re.compile(r"(\d+)-of-(\d+)")


def share_name(number: int, count: int) -> str:
    """Return the name of the folder that one of several jobs writes its share of the rows to."""
    return f"{number}-of-{count}"


def shares_in(folder: str, files: Iterable[str]) -> dict[int, set[int]]:
    """Return the numbers of the shares whose files are below a folder, by how many there are."""
    root, found = folder.rstrip("/") + "/", dict[int, set[int]]()
    for name in {file.removeprefix(root).partition("/")[0] for file in files}:
        if share := _SHARE.fullmatch(name):
            found.setdefault(int(share[2]), set()).add(int(share[1]))
    return found


def require_all_shares(folder: str, files: Iterable[str]) -> None:
    """Raise OSError unless all shares of an array of jobs are there, if one is."""
    found = shares_in(folder, files)
    if len(found) > 1:
        counts = " and ".join(str(count) for count in sorted(found))
        raise OSError(f"{folder!r} holds shares of {counts} jobs; read the folders of one array")
    for count, numbers in found.items():
        if missing := sorted(set(range(count)) - numbers):
            raise OSError(
                f"{folder!r} is not whole: of {count} shares {len(missing)} are missing, such as "
                f"{share_name(missing[0], count)!r}; run them, or read the folders that are there"
            )
