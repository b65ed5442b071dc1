"""Files of a Delta table: Parquet, of rows with the same values of some columns."""

from __future__ import annotations

import json
import os
import re
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import PyFileSystem

FILE = re.compile(r"part-\d{5,}-[0-9a-f]{32}\.parquet")
_PLACES = "dask_embed_places"


def write_file(
    uri: str,
    options: dict[str, str] | None,
    rows: pa.Table,
    values: dict[str, str | None],
    place: int,
) -> dict[str, Any]:
    """Write a file of a partition, and return what the log of the table says of it.

    Each try of a task has a name of its own; the values that rows have in common stand in the log
    alone.
    """
    name = f"part-{place:05}-{uuid.uuid4().hex}.parquet"
    if "://" in uri:
        size = _write_remote(uri, options, name, rows)
    else:
        size = _write_local(uri, name, rows)
    return {
        "path": name,
        "size": size,
        "partition_values": values,
        "modification_time": int(time.time() * 1000),
        "data_change": True,
        "stats": json.dumps({"numRecords": len(rows)}),
    }


def by_values(
    rows: pa.Table, by: tuple[str, ...]
) -> Iterator[tuple[dict[str, str | None], pa.Table]]:
    """Yield the rows of each combination of values, as texts, without their columns."""
    if not by:
        yield {}, rows
        return
    names = list(by)
    numbered = rows.select(names).append_column(_PLACES, pa.array(range(len(rows)), pa.int64()))
    groups = numbered.group_by(names, use_threads=False).aggregate([(_PLACES, "list")])
    for group in groups.to_pylist():
        part = rows.take(group.pop(f"{_PLACES}_list")).drop_columns(names)
        yield {name: _as_text(name, value) for name, value in group.items()}, part


def _as_text(name: str, value: Any) -> str | None:
    """Return a value as the log of Delta has it."""
    if value == "":
        raise ValueError(
            f"partition_on={name!r} has rows with an empty text, which Delta reads as null; give "
            "these rows another value"
        )
    if isinstance(value, bool):
        return str(value).lower()
    return None if value is None else str(value)


def _write_local(uri: str, name: str, rows: pa.Table) -> int:
    os.makedirs(uri, exist_ok=True)
    with open(os.path.join(uri, name), "wb") as file:
        pq.write_table(rows, file)
        file.flush()
        os.fsync(file.fileno())
        return file.tell()


def _write_remote(uri: str, options: dict[str, str] | None, name: str, rows: pa.Table) -> int:
    from deltalake.fs import DeltaStorageHandler

    fs = PyFileSystem(DeltaStorageHandler(uri, options))
    pq.write_table(rows, name, filesystem=fs)
    return int(fs.get_file_info(name).size)
