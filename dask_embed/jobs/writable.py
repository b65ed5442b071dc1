"""A frame that is to be written, in whatever format: what is checked of it, and what made it."""

from __future__ import annotations

from typing import Any

from dask_embed.columns import to_host
from dask_embed.jobs.lineage import origins
from dask_embed.jobs.origin import Origin
from dask_embed.jobs.overlap import Folder, require_apart_from_caches
from dask_embed.lazy.given_text import require_utf8


def origins_of_writable(frame: Any, folder: Folder | None) -> dict[Any, Origin]:
    """Return what made the columns of a frame that may be written to a folder.

    Raises
    ------
    ValueError
        If a text cannot be written, or the folder is a cache that operators of the frame use.
    """
    require_utf8(frame)
    require_apart_from_caches(frame, folder)
    return origins(frame)


def on_host(frame: Any) -> Any:
    """Return a frame whose partitions are pandas frames."""
    if type(frame._meta).__module__.split(".")[0] == "cudf":
        return frame.map_partitions(to_host, meta=to_host(frame._meta))
    return frame
