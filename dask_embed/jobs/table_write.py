"""What writing a table takes, checked before anything runs, and the job that writes it."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
from dask.dataframe.dispatch import pyarrow_schema_dispatch

from dask_embed._secrets import HIDDEN, Unshown, refuse_secrets, texts_in
from dask_embed._validation import (
    boolean,
    local_path,
    one_of,
    require_url,
    shown,
    shown_error,
    usable_text,
)
from dask_embed.columns import to_host
from dask_embed.columns.transfer import readable_files
from dask_embed.jobs.failures import Counts, warn_of_failures
from dask_embed.jobs.folder import METADATA_KEY
from dask_embed.jobs.identity import Identity
from dask_embed.jobs.origin import Origin, provenance
from dask_embed.jobs.overlap import Folder
from dask_embed.jobs.table import MODES, Table
from dask_embed.jobs.table_expr import WriteTable
from dask_embed.jobs.writable import on_host, origins_of_writable
from dask_embed.lazy._dask import new_collection

_LONGEST_RUN = 200


def require_extra(module: str, method: str, extra: str) -> None:
    """Raise ImportError unless the library of a format is there."""
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{method} needs {module}, which is not installed ({shown_error(error)}): "
            f"pip install 'dask-embed[{extra}]'"
        ) from error


@dataclasses.dataclass(frozen=True)
class Given:
    """Arguments that all tables take, checked.

    Attributes
    ----------
    uri, mode, options
        As in `Table`.
    run : str, optional
    index : bool
    """

    uri: str
    mode: str
    run: str | None
    index: bool
    options: dict[str, str] | None

    @classmethod
    def of(
        cls,
        frame: Any,
        schemes: tuple[str, ...],
        *,
        uri: Any,
        mode: Any,
        run_id: Any,
        write_index: Any,
        storage_options: Any,
    ) -> Given:
        """Return them.

        Raises
        ------
        TypeError, ValueError
            If one of them cannot be used. No value of `storage_options` is told.
        """
        one_of("mode", mode, MODES)
        if run_id is not None:
            _require_run(run_id)
        if write_index is not None:
            boolean("write_index", write_index)
        named = frame.index.name is not None
        if write_index and not named:
            raise ValueError(
                "write_index=True needs a name for the column: give the index one, as in "
                "frame.rename_axis('id')"
            )
        index = named if write_index is None else write_index
        return cls(_place(uri, schemes), mode, run_id, index, _options(storage_options))


def _require_run(run: Any) -> None:
    if not isinstance(run, str):
        raise TypeError(f"run_id must be a text, or None; got {shown(run)}")
    usable_text("run_id", run)
    refuse_secrets("run_id", run)
    if not run.strip() or len(run) > _LONGEST_RUN:
        raise ValueError(f"run_id must have 1 to {_LONGEST_RUN} characters, got {shown(run)}")


def _place(given: Any, schemes: tuple[str, ...]) -> str:
    """Return where a table is, as a URL or an absolute path."""
    uri = os.fspath(given) if isinstance(given, os.PathLike) else given
    if not isinstance(uri, str):
        raise TypeError(f"uri must be the path or URL of a table, got {shown(given)}")
    require_url("uri", uri)
    if not uri.strip() or "*" in uri or "\0" in uri:
        raise ValueError(f"uri must name one table, and hold no '*'; got {shown(uri)}")
    parts = urlsplit(uri)
    if "://" in uri and parts.scheme != "file":
        if parts.scheme not in schemes or not parts.netloc:
            allowed = ", ".join(f"{each}://" for each in schemes)
            raise ValueError(
                f"uri must be a path, or a URL with a bucket that begins with one of {allowed}; "
                f"got {shown(uri)}"
            )
        return uri.rstrip("/")
    path = os.path.abspath(os.path.expanduser(parts.path if "://" in uri else uri))
    for each in (path, *map(str, Path(path).parents)):
        if local_path("uri", each).is_file():
            raise NotADirectoryError(
                f"uri must be a folder, new or not, but {each!r} is a file; choose another"
            )
    return path


def _options(given: Any) -> dict[str, str] | None:
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise TypeError(f"storage_options must be a dictionary, got one {type(given).__name__}")
    for name, value in given.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(
                "storage_options must map texts to texts, as the library of the table takes them; "
                f"got one {type(value).__name__} under {shown(name)}"
            )
    return Unshown(given)


def _require_own_files(table: Table) -> None:
    """Raise FileExistsError if a local folder that holds no table holds anything but its files."""
    if "://" in table.uri or not os.path.isdir(table.uri):
        return
    foreign = sorted(name for name in os.listdir(table.uri) if not table.owns(name))
    if foreign:
        raise FileExistsError(
            f"{table.uri!r} is no {table.kind} table, and holds other files ({foreign[0]!r}): "
            "choose another place"
        )


def columns(
    frame: Any, given: Given, kind: str, change: Callable[[pa.DataType], pa.DataType]
) -> tuple[pa.Schema, pa.Schema]:
    """Return the columns of partitions, and those of the table.

    Raises
    ------
    TypeError, ValueError
        If a name or type cannot be one of the table, by what `change` raises.
    """
    meta = to_host(frame._meta_nonempty)
    names = [*([meta.index.name] if given.index else []), *meta.columns]
    for place, name in enumerate(names):
        if not isinstance(name, str):
            raise TypeError(f"a column must have a text as its name, got {shown(name)}")
        if name in names[:place]:
            raise ValueError(
                f"column {name!r} is there twice: rename one, or give write_index=False"
            )
    meta = meta.reset_index() if given.index else meta
    with readable_files():
        schema = pyarrow_schema_dispatch(meta, preserve_index=False).remove_metadata()
    fields = []
    for field in schema:
        try:
            fields.append(pa.field(field.name, change(field.type)))
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"column {field.name!r} is {field.type}, which {kind} tables do not hold "
                f"({shown_error(error)}): cast or drop it"
            ) from None
    return schema, pa.schema(fields)


def told(made: dict[Any, Origin]) -> dict[bytes, bytes]:
    """Return what the metadata of a table says of what made its columns."""
    return {METADATA_KEY.encode(): json.dumps(provenance(made)).encode()}


def opened(given: Given, look: Callable[[], Any]) -> Any:
    """Return what `look` finds; what a library says is told without what opens the store."""
    try:
        return look()
    except Exception as error:  # of the library, which has errors of its own
        said = str(error)
        for value in filter(None, texts_in(given.options)):
            said = said.replace(value, HIDDEN)
        cause = error if said == str(error) else None
        raise ValueError(
            f"{shown(given.uri)} cannot be looked at: {shown_error(OSError(said))}"
        ) from cause


def write(
    frame: Any, given: Given, make: Callable[[Any, str, dict[Any, Origin]], Table], compute: Any
) -> Any:
    """Write a frame to the table that `make` gives for it, its run, and what made its columns."""
    boolean("compute", compute)
    made = origins_of_writable(frame, Folder.of(given.uri))
    run = given.run or Identity.of(frame, made, {"write_index": given.index}).token
    table = make(frame, run, made)
    found = opened(given, table.look)
    if found is None:
        _require_own_files(table)
    done = table.has_run(found)
    if not done:
        table = dataclasses.replace(
            table.fitting(found), seen=None if found is None else found.version
        )
    written = new_collection(WriteTable(on_host(frame).expr, table, done))
    if not compute:
        return written
    if not done:
        counts: Counts = written.compute()
        warn_of_failures(counts, given.uri, stacklevel=5)
    return None
