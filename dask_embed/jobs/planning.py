"""What a folder holds before it is written, and the job and plan that write it."""

from __future__ import annotations

import contextlib
import os
from typing import Any

import dask

from dask_embed.jobs.arguments import Asked
from dask_embed.jobs.by_rows import start_by_rows
from dask_embed.jobs.file_names import checked_names
from dask_embed.jobs.folder import data_files, next_place
from dask_embed.jobs.identity import Identity
from dask_embed.jobs.job import Job
from dask_embed.jobs.manifest import require_same_job, resuming_run, resumption
from dask_embed.jobs.origin import Origin, require_same_origin
from dask_embed.jobs.start import Start
from dask_embed.jobs.write_expr import WriteParquet
from dask_embed.jobs.writing import (
    last_schema,
    layout,
    new_run,
    require_not_read,
    require_order,
    require_room,
)


def for_pyarrow(planned: Any) -> dict[str, Any]:
    """Return what Dask's node passes on to pyarrow's writer."""
    ours = ("custom_metadata", "schema", "index_cols", "fmd", "head", "return_metadata")
    return {name: value for name, value in planned.write_kwargs.items() if name not in ours}


def start_of(
    frame: Any, made: dict[Any, Origin], fs: Any, folder: str, path: str, asked: Asked
) -> Start:
    """Return what is to be written, if it may be in the folder: partitions, or rows of them."""
    if asked.rows is not None:
        return start_by_rows(frame, made, fs, folder, asked.rows, asked)
    overwrite, append = asked.overwrite, asked.append
    identity = None
    if asked.resume:
        identity = Identity.of(frame, made, layout(frame, asked.write_index, asked.options))
    run = resuming_run(identity, fs, folder) if identity else new_run(frame, fs, folder)
    if overwrite and append:
        raise ValueError("overwrite=True replaces what append=True adds to: give one of them")
    present = data_files(run.fs, run.path)
    there = None
    if identity is not None:
        own = {file for file in present if run.wrote(file)}
        present -= own
        there = resumption(run, identity, own)
        if not (overwrite or there.finished):
            require_same_job(run, identity, present, append=append)
    begun = there is not None and (there.finished or run.holds())
    dead = None
    if not begun or overwrite:
        dead = require_room(run, present, overwrite=overwrite, append=append, repeat=asked.repeat)
    if overwrite:
        require_not_read(frame, run)
    if append and present:
        require_same_origin(path, last_schema(run.fs, run.path, present), made, frame.columns)
        if not asked.options.get("ignore_divisions", False):
            require_order(frame, run, present)
    before = frozenset(present)
    return Start(frame, run, identity, before, dead, there, overwrites=overwrite, appends=append)


def retries() -> Any:
    """Let tasks that write to a store run again when it fails, as Dask's writer does."""
    if "retries" in dask.config.get("annotations", {}):
        return contextlib.nullcontext()
    return dask.annotate(retries=5)


def job_of(planned: Any, start: Start, name_function: Any) -> tuple[Job, WriteParquet]:
    """Return the job, and the node that writes what Dask's node `planned` would."""
    run, before, decision = start.run, start.before, start.decision
    arguments = dict(zip(planned._parameters, planned.operands, strict=True))
    append = arguments["append"]
    summarized = bool(arguments["write_metadata_file"])
    if append and not summarized and run.fs.exists(f"{run.path}/_metadata"):
        raise ValueError(
            f"write_metadata_file=False would hide the rows: {run.path!r} has a _metadata file, "
            "from which readers take the list of files"
        )
    if name_function is None:
        named, empty = None, "none" if append else "first"
        arguments["offset"] = next_place(before) if append else 0
    else:
        first = arguments["offset"]
        places = range(first, first + planned.frame.npartitions)
        named, empty = checked_names(name_function, places, set(before)), "all"
        arguments["name_function"] = name_function
    job = Job(
        *(run, before, start.overwrites, named, start.dead, summarized, os.urandom(4).hex()),
        start.there,
        *(() if decision is None else (decision.rewrites, decision.replaced)),
    )
    return job, WriteParquet(*arguments.values(), job, empty)
