"""What a folder holds before it is written, and the job and plan that write it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from typing import Any

import dask

from dask_embed.jobs.by_rows import RowPlan
from dask_embed.jobs.file_names import checked_names
from dask_embed.jobs.folder import Run, data_files, next_place
from dask_embed.jobs.identity import Identity
from dask_embed.jobs.job import Job
from dask_embed.jobs.manifest import Resumption, require_same_job, resumption
from dask_embed.jobs.origin import Origin, require_same_origin
from dask_embed.jobs.rows import Rewrite
from dask_embed.jobs.write_expr import WriteParquet
from dask_embed.jobs.writing import last_schema, require_not_read, require_order, require_room


def for_pyarrow(planned: Any) -> dict[str, Any]:
    """Return what Dask's node passes on to pyarrow's writer."""
    ours = ("custom_metadata", "schema", "index_cols", "fmd", "head", "return_metadata")
    return {name: value for name, value in planned.write_kwargs.items() if name not in ours}


@dataclasses.dataclass(frozen=True)
class Found:
    """What is in a folder before a job: its files, the dead run to take over, what is done.

    Then what becomes of it: whether all goes, or some rows of some files, and files that do.
    """

    before: set[str] | frozenset[str]
    dead: str | None
    there: Resumption | None
    overwrites: bool = False
    rewrites: tuple[Rewrite, ...] = ()
    drops: frozenset[str] = frozenset()

    @classmethod
    def by_rows(cls, plan: RowPlan) -> Found:
        decision = plan.decision
        return cls(
            plan.before,
            plan.dead,
            plan.there,
            plan.overwrites,
            decision.rewrites,
            decision.replaced,
        )


def checked(
    frame: Any,
    made: dict[Any, Origin],
    path: str,
    run: Run,
    identity: Identity | None,
    switches: dict[str, bool],
    options: dict[str, Any],
) -> Found:
    """Return what is in the folder, if the job may be written there."""
    overwrite, append, repeat = (switches[name] for name in ("overwrite", "append", "repeat"))
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
        dead = require_room(run, present, overwrite=overwrite, append=append, repeat=repeat)
    if overwrite:
        require_not_read(frame, run)
    if append and present:
        require_same_origin(path, last_schema(run.fs, run.path, present), made, frame.columns)
        if not options.get("ignore_divisions", False):
            require_order(frame, run, present)
    return Found(present, dead, there, overwrite)


def retries() -> Any:
    """Let tasks that write to a store run again when it fails, as Dask's writer does."""
    if "retries" in dask.config.get("annotations", {}):
        return contextlib.nullcontext()
    return dask.annotate(retries=5)


def job_of(
    planned: Any,
    run: Run,
    found: Found,
    name_function: Any,
) -> tuple[Job, WriteParquet]:
    """Return the job, and the node that writes what Dask's node `planned` would."""
    before = frozenset(found.before)
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
    session = os.urandom(4).hex()
    job = Job(
        run,
        before,
        found.overwrites,
        named,
        found.dead,
        summarized,
        session,
        found.there,
        found.rewrites,
        found.drops,
    )
    return job, WriteParquet(*arguments.values(), job, empty)
