"""Names that a user's function gives files."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from dask_embed._validation import shown, shown_error, usable_text
from dask_embed.jobs.folder import EXTENSIONS

_LONGEST_NAME = 255  # bytes of the name of a file


def checked_names(
    name_function: Callable[[int], Any], places: Iterable[int], present: set[str]
) -> tuple[str, ...]:
    """Return the names of a user's function.

    Raises
    ------
    TypeError, ValueError
        If it fails, gives a name twice or that of a file which is there, or one that would not be
        read as a Parquet file.
    """
    taken = {file.rpartition("/")[2] for file in present}
    names: dict[str, int] = {}
    for place in places:
        name = _file_name(name_function, place)
        if name in taken:
            raise ValueError(f"name_function gives {name!r}, a file that the folder holds")
        if name in names:
            raise ValueError(
                f"name_function must give each partition a name of its own, but gives {name!r} for "
                f"the partitions {names[name]} and {place}"
            )
        names[name] = place
    return tuple(names)


def _file_name(name_function: Callable[[int], Any], place: int) -> str:
    try:
        name = name_function(place)
    except Exception as error:
        raise ValueError(
            f"name_function failed for partition {place}: {shown_error(error)}"
        ) from error
    if not isinstance(name, str):
        raise TypeError(
            f"name_function must give the name of a file, such as 'part-{place}.parquet'; got "
            f"{shown(name)} for partition {place}"
        )
    usable_text("what name_function gives", name)
    if len(name.encode()) > _LONGEST_NAME:
        raise ValueError(
            f"name_function must give names of at most {_LONGEST_NAME} bytes, got {shown(name)}"
        )
    if not name.endswith(EXTENSIONS) or set(name) & {"/", "\0"} or name[0] in "._":
        raise ValueError(
            f"name_function must give names of files that end in one of {EXTENSIONS} and do "
            f"not begin with '.' or '_', which readers skip; got {name!r}"
        )
    return name
