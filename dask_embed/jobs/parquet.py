"""Parquet files with vectors that any reader opens.

A pandas Arrow list column written by `DataFrame.to_parquet` cannot be read back, because the
name of its type in the pandas metadata is one that pandas does not understand. Here that name
is ``object``, as for any nested column, and what made each vector column is written beside it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from typing import Any

import dask
import dask.dataframe as dd

from dask_embed._secrets import refuse_secrets
from dask_embed.columns import to_host
from dask_embed.columns.transfer import readable_files
from dask_embed.jobs.arguments import (
    checked_names,
    folder_path,
    place,
    require_arguments,
    require_folder,
)
from dask_embed.jobs.failures import Counts, warn_of_failures
from dask_embed.jobs.folder import Run, data_files, next_place
from dask_embed.jobs.identity import Identity
from dask_embed.jobs.job import Job
from dask_embed.jobs.lineage import origins
from dask_embed.jobs.manifest import Resumption, require_same_job, resuming_run, resumption
from dask_embed.jobs.origin import Origin, provenance, require_same_origin
from dask_embed.jobs.unfinished import under_way
from dask_embed.jobs.write_expr import WriteParquet
from dask_embed.jobs.writing import (
    file_metadata,
    last_schema,
    layout,
    new_run,
    require_not_read,
    require_options,
    require_order,
    require_room,
    writes_index,
)
from dask_embed.jobs.writing_engine import ResumingEngine, WritingEngine, with_folder_names
from dask_embed.lazy._dask import _is_local_fs, new_collection


def to_parquet(
    frame: Any,
    path: Any,
    *,
    overwrite: bool = False,
    append: bool = False,
    repeat: bool = False,
    resume: bool = False,
    write_index: bool | None = None,
    compute: bool = True,
    **options: Any,
) -> Any:
    """Write a Dask DataFrame to a folder of Parquet files, one per partition.

    Parameters
    ----------
    frame : dask.dataframe.DataFrame
        pandas or cuDF backed; files are the same.
    path : str or Path
        Folder, also remote (``"s3://..."``).
    overwrite : bool
        Replace the Parquet files that the folder holds, once all new ones are there. By default
        a folder with Parquet files is an error, because old and new files would be read as one
        dataset. Files that this library did not write are never removed: other Parquet files
        are an error, all else stays.
    append : bool
        Add the rows to those in the folder. A partition without rows then writes no file.
    repeat : bool
        Append although the folder holds what this very frame gave, which is an error otherwise.
    resume : bool
        Go on with a job that died: only partitions that are missing are computed. A folder in which
        this very job has finished is left as it is, and one that another job began is an error that
        says what differs.
    write_index : bool, optional
        Whether the index becomes a column; by default where it has a name.
    compute : bool
        Write now. Otherwise nothing is touched before the result is computed.
    **options
        What ``dask.dataframe.to_parquet`` takes, such as ``compression``, ``partition_on``,
        ``name_function`` and ``storage_options``.

    Returns
    -------
    None, or with ``compute=False`` a Dask scalar, whose value is a dictionary: of each column of an
    operator with ``on_error="null"`` its `rows`, how many `failed`, and why the `first` did.

    Warns
    -----
    UserWarning
        If rows failed and became null, by ``on_error="null"``: how many of each column, and why the
        first did. Operators that ran before, as in a persisted frame, are not counted.

    Raises
    ------
    FileExistsError
        If the folder holds Parquet files and neither `overwrite` nor `append` is given, if it
        holds some that this library did not write, or if another job is writing there, or was
        begun that is not the one to `resume`.
    NotADirectoryError
        If there is a file where the folder is to be.
    ValueError
        If `append` is given and the last file has other columns or types, or says that another
        operator, model, revision or setting made a column or what it was computed from, or knows
        it where the frame does not; if the folder holds the rows of this frame already; if the
        frame reads what it would overwrite.

    Notes
    -----
    While it is written the folder has a file ``_dask_embed_unfinished``, and `read_parquet`
    refuses it; other readers skip that file. A job that dies leaves it there, and what it was to
    replace. Of two jobs that write one folder at a time the second fails.

    Vector columns stay Arrow fixed-size lists of float32: pandas gives arrays, DuckDB and
    Polars give their array types. The file metadata ``dask_embed`` is json: this library's
    version, and per column that an operator made what made it: the model, its revision, for
    vectors dimension and pooling, for chunks their limit and boundaries, and the same of the
    columns that the operator read.
    """
    path = folder_path(path)
    if "engine" in options:
        raise TypeError("engine is no option: vectors are written by pyarrow; leave it out")
    switches = {"overwrite": overwrite, "append": append, "repeat": repeat, "compute": compute}
    switches["resume"] = resume
    switches["write_index"] = write_index is None or write_index
    require_arguments(frame, switches, options)
    given = options.get("custom_metadata")
    refuse_secrets("custom_metadata", given)
    names, compute_kwargs = options.pop("name_function", None), options.pop("compute_kwargs", None)
    made = origins(frame)
    fs, folder = place(path, options.get("filesystem"), options.get("storage_options"))
    require_folder(fs, folder)
    if resume:
        identity = Identity.of(frame, made, layout(frame, write_index, options))
        run = resuming_run(identity, fs, folder)
    else:
        identity, run = None, new_run(frame, fs, folder)
    found = _checked(frame, made, path, run, identity, switches, options)
    append = append and bool(found.before)
    if write_index is None:
        write_index = writes_index(frame, run, found.before if append else set())
    custom = file_metadata(run, provenance(made), options.pop("custom_metadata", None), identity)
    if type(frame._meta).__module__.split(".")[0] == "cudf":
        frame = frame.map_partitions(to_host, meta=to_host(frame._meta))
    if options.get("partition_on"):
        # here, and not where files are written: there rows have lost their index
        frame = frame.map_partitions(with_folder_names, options["partition_on"], meta=frame._meta)
    with readable_files():
        planned = dd.to_parquet(
            frame,
            path,
            engine=ResumingEngine if resume else WritingEngine,
            append=append,
            compute=False,
            write_index=write_index,
            custom_metadata=custom,
            name_function=run.part_name,
            **options,
        )
    require_options(planned.expr.write_kwargs["schema"], _of_pyarrow(planned.expr), given)
    job, node = _job(planned.expr, run, found, overwrite, names)
    with contextlib.nullcontext() if _is_local_fs(run.fs) else _retries():
        written = new_collection(node)
    if not compute:
        return written
    # as at the line that called the accessor
    if not job.finished:
        warn_of_failures(_computed(written, job, compute_kwargs or {}), path, stacklevel=4)
    return None


def _of_pyarrow(planned: Any) -> dict[str, Any]:
    """Return what Dask's node passes on to pyarrow's writer."""
    ours = ("custom_metadata", "schema", "index_cols", "fmd", "head", "return_metadata")
    return {name: value for name, value in planned.write_kwargs.items() if name not in ours}


@dataclasses.dataclass(frozen=True)
class _Found:
    """What is in a folder before a job: its files, the dead run to take over, what is done."""

    before: set[str]
    dead: str | None
    there: Resumption | None


def _checked(
    frame: Any,
    made: dict[Any, Origin],
    path: str,
    run: Run,
    identity: Identity | None,
    switches: dict[str, bool],
    options: dict[str, Any],
) -> _Found:
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
        require_same_origin(path, last_schema(run.fs, run.path, present), made, frame)
        if not options.get("ignore_divisions", False):
            require_order(frame, run, present)
    return _Found(present, dead, there)


def _retries() -> Any:
    """Let tasks that write to a store run again when it fails, as Dask's writer does."""
    if "retries" in dask.config.get("annotations", {}):
        return contextlib.nullcontext()
    return dask.annotate(retries=5)


def _job(
    planned: Any,
    run: Run,
    found: _Found,
    overwrite: bool,
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
    job = Job(run, before, overwrite, named, found.dead, summarized, session, found.there)
    return job, WriteParquet(*arguments.values(), job, empty)


def _computed(written: Any, job: Job, options: dict[str, Any]) -> Counts:
    with under_way(job.run.name):
        job.begin()
        try:
            counts: Counts = written.compute(**options)
            return counts
        except BaseException:
            job.give_up()
            raise
        finally:
            job.run.fs.invalidate_cache(job.run.path)
