"""Going through what a JSON file or a configuration has written, whatever hangs below what."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any


def entries(
    written: Any, name: str = "", without: Collection[str] = ()
) -> Iterator[tuple[str, Any]]:
    """Yield every entry with the name that it stands under; items of a list have that of the list.

    Entries that `without` names are left out with all that is below them.
    """
    pending = [(name, written)]
    while pending:
        name, value = pending.pop()
        yield name, value
        if isinstance(value, dict):
            pending += [(str(key), each) for key, each in value.items() if key not in without]
        elif isinstance(value, list | tuple):
            pending += [(name, each) for each in value]
