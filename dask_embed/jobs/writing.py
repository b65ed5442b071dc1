"""What is checked before a folder is written, and the job that writes it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Set
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from dask.tokenize import tokenize
from dask.utils import natural_sort_key

from dask_embed._validation import shown, shown_error
from dask_embed.jobs.folder import (
    METADATA_KEY,
    READERS,
    Run,
    frame_of,
    is_part,
    not_whole,
    read_mark,
    read_origin,
)
from dask_embed.jobs.identity import rows_token
from dask_embed.lazy._dask import ReadParquet

# Dask's name of an index without one, as a column of a file.
_NO_NAME = "__null_dask_index__"


def require_options(
    schema: pa.Schema | None, options: dict[str, Any], custom: dict[Any, Any] | None
) -> None:
    """Raise TypeError or ValueError for what pyarrow would refuse once the rows are computed.

    Parameters
    ----------
    schema : pyarrow.Schema, optional
        None where each partition has that of its own rows.
    options : dict
        Arguments of `pyarrow.parquet.write_table`.
    custom : dict, optional
        The user's `custom_metadata`.
    """
    for key, value in (custom or {}).items():
        if not isinstance(key, str | bytes) or not isinstance(value, str | bytes):
            raise TypeError(f"custom_metadata must map texts to texts, got {shown({key: value})}")
        if key in (METADATA_KEY, METADATA_KEY.encode()):
            raise ValueError(
                f"custom_metadata must not hold {METADATA_KEY!r}, under which files say what made "
                "their columns"
            )
    try:
        pq.write_table((schema or pa.schema([])).empty_table(), pa.BufferOutputStream(), **options)
    except (
        TypeError,
        ValueError,
        AttributeError,
        ArithmeticError,
        OSError,
        pa.ArrowException,
    ) as error:
        kind = TypeError if isinstance(error, TypeError | AttributeError) else ValueError
        raise kind(
            f"to_parquet cannot write with {shown(options)} ({shown_error(error)}); it takes "
            "overwrite, append, repeat, write_index, compute, and what "
            "dask.dataframe.to_parquet and pyarrow.parquet.write_table take"
        ) from None


def new_run(frame: Any, fs: Any, folder: str) -> Run:
    """Return a run of its own for a write of `frame`."""
    return Run(fs, folder, rows_token(frame.expr)[:8], os.urandom(4).hex())


def layout(frame: Any, write_index: bool | None, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that decide which file has which columns, as json values."""
    schema = options.get("schema", "infer")
    return {
        "partition_on": list(options.get("partition_on") or ()),
        "write_index": frame.index.name is not None if write_index is None else write_index,
        "schema": schema if isinstance(schema, str | None) else tokenize(schema),
    }


def require_room(
    run: Run, present: set[str], *, overwrite: bool, append: bool, repeat: bool
) -> str | None:
    """Return the run of the dead job whose folder is written anew, None where there is none.

    Raises
    ------
    FileExistsError, ValueError
        If the folder must not be written so.
    """
    path = run.path
    mark = read_mark(run.fs, path)
    if mark is not None and not overwrite:
        raise FileExistsError(not_whole(path, mark))
    if overwrite:
        _require_ours(run, present, (mark or {}).get("names") or ())
        return None if mark is None else mark.get("run", "")
    if present and not append:
        raise FileExistsError(
            f"{path!r} already holds {len(present)} Parquet files; old and new would be read as "
            "one dataset: choose another folder, or overwrite=True, or append=True"
        )
    if present and not repeat:
        _require_new(run, present)
    return None


def _require_ours(run: Run, present: set[str], unfinished: Iterable[str]) -> None:
    """Raise FileExistsError if the folder holds Parquet files that this library did not write."""
    named = set(unfinished)
    unknown = sorted(
        file for file in present if not is_part(file) and file.rpartition("/")[2] not in named
    )
    with ThreadPoolExecutor(READERS) as readers:
        origins = readers.map(lambda file: read_origin(run.fs, f"{run.path}/{file}"), unknown)
        foreign = [file for file, origin in zip(unknown, origins, strict=True) if not origin]
    if foreign:
        raise FileExistsError(
            f"overwrite=True replaces what dask_embed wrote, but {run.path!r} holds {len(foreign)} "
            f"other Parquet files ({foreign[0]!r}): remove them, or choose another folder"
        )


def _require_new(run: Run, present: set[str]) -> None:
    """Raise ValueError if the folder holds rows of the same frame."""
    frames = {frame_of(file) for file in present}
    frames.add(read_origin(run.fs, f"{run.path}/{last_file(present)}").get("frame"))
    if run.frame in frames:
        raise ValueError(
            f"append=True would write rows a second time: {run.path!r} holds what this very frame "
            "gave; repeat=True appends it again"
        )


def require_not_read(frame: Any, run: Run) -> None:
    """Raise ValueError if `frame` reads the files that are to be replaced."""
    for node in frame.expr.find_operations(ReadParquet):
        paths = node.path if isinstance(node.path, list) else [node.path]
        for path in paths:
            if f"{run.fs._strip_protocol(str(path))}/".startswith(f"{run.path.rstrip('/')}/"):
                raise ValueError(
                    f"overwrite=True would take away {run.path!r}, which the frame reads; write "
                    "to another folder"
                )


def require_order(frame: Any, run: Run, present: set[str]) -> None:
    """Raise ValueError if the index of a sorted frame begins before that of the files ends."""
    name = frame.index.name
    if not frame.known_divisions or name is None:
        return
    with run.fs.open(f"{run.path}/{last_file(present)}", mode="rb") as file:
        metadata = pq.read_metadata(file)
    names = metadata.schema.to_arrow_schema().names
    if name not in names:
        return
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    found = [group.column(_leaf(metadata, name)).statistics for group in groups]
    last = max((each.max for each in found if each is not None and each.has_min_max), default=None)
    if last is not None and frame.divisions[0] <= last:
        raise ValueError(
            f"append=True would leave the index {name!r} unsorted: that of the frame begins at "
            f"{frame.divisions[0]!r}, and that of the last file in {run.path!r} ends at {last!r}; "
            "ignore_divisions=True appends all the same"
        )


def _leaf(metadata: pq.FileMetaData, name: str) -> int:
    """Return the number of a plain column among all leaves, of which nested columns have more."""
    leaves = [metadata.schema.column(number).path for number in range(metadata.num_columns)]
    return leaves.index(name)


def writes_index(frame: Any, run: Run, present: Set[str]) -> bool:
    """Return whether the index goes into the files: one with a name, or as the files have it."""
    if present and _NO_NAME in last_schema(run.fs, run.path, present).names:
        return True
    return frame.index.name is not None


def file_metadata(
    run: Run, columns: dict[str, Any], custom: dict[str, str] | None, identity: Any = None
) -> Any:
    """Return what files say beside their columns, as `custom_metadata` of Dask's writer."""
    told = {**columns, "frame": run.frame, "run": run.name}
    if identity is not None:
        told["identity"] = identity.in_short
    return {METADATA_KEY: json.dumps(told), **(custom or {})}


def last_file(files: Iterable[str]) -> str:
    """Return the file that was appended last."""
    return max(files, key=lambda file: natural_sort_key(file.rpartition("/")[2]))


def last_schema(fs: Any, path: str, present: Set[str]) -> pa.Schema:
    """Return the schema of the file that was appended last."""
    with fs.open(f"{path}/{last_file(present)}", mode="rb") as file:
        return pq.read_schema(file)
