"""Parquet files with vectors that any reader opens.

A pandas Arrow list column written by `DataFrame.to_parquet` cannot be read back, because the
name of its type in the pandas metadata is one that pandas does not understand. Here that name
is ``object``, as for any nested column, and what made each vector column is written beside it.
"""

from __future__ import annotations

import contextlib
from typing import Any

import dask.dataframe as dd
from dask.base import get_scheduler

from dask_embed.columns.frames import encoding_told
from dask_embed.columns.transfer import readable_files
from dask_embed.jobs.arguments import Asked
from dask_embed.jobs.failures import Counts, warn_of_failures
from dask_embed.jobs.folder_types import FOLDERS, folder_types
from dask_embed.jobs.job import Job
from dask_embed.jobs.origin import Origin, provenance
from dask_embed.jobs.overlap import Folder
from dask_embed.jobs.places import folder_path, place, require_folder
from dask_embed.jobs.planning import for_pyarrow, job_of, retries, start_of
from dask_embed.jobs.start import Start
from dask_embed.jobs.unfinished import under_way
from dask_embed.jobs.writable import on_host, origins_of_writable
from dask_embed.jobs.writing import file_metadata, require_options, writes_index
from dask_embed.jobs.writing_engine import (
    ResumingEngine,
    RowsEngine,
    WritingEngine,
    with_folder_names,
)
from dask_embed.lazy._dask import _is_local_fs, new_collection


def to_parquet(
    frame: Any,
    path: Any,
    *,
    overwrite: bool = False,
    append: bool = False,
    repeat: bool = False,
    resume: bool | str = False,
    id: str | None = None,
    changed: str = "error",
    gone: str = "keep",
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
    resume : bool or "rows"
        Go on with a job that died: only partitions that are missing are computed. A folder in which
        this very job has finished is left as it is, and one that another job began is an error that
        says what differs. With "rows" only rows run whose `id` and content are not in the folder
        yet, and are added, also those of a job that died; the rows that operators read are read
        before, to see which these are.
    id : str, optional
        Of ``resume="rows"``: a column of integers or texts, each of one of the rows that the
        operators read.
    changed : {"error", "keep", "replace"}
        Of ``resume="rows"``: what becomes of rows whose id is there with another content: the
        columns that their results are computed from, and those that are written beside them.
    gone : {"keep", "drop"}
        Of ``resume="rows"``: what becomes of rows in the folder whose id the frame does not have.
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
    With ``resume="rows"`` how many ids were `new`, the `same`, `changed` and `gone`.

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
        frame reads what it would overwrite; if the folder is the `cache` of an operator, or one
        lies in the other.

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
    switches = {"overwrite": overwrite, "append": append, "repeat": repeat, "compute": compute}
    by_rows = {"id": id, "changed": changed, "gone": gone}
    asked = Asked.of(frame, options, resume, write_index, switches, by_rows)
    fs, folder = place(path, options.get("filesystem"), options.get("storage_options"))
    require_folder(fs, folder)
    made = origins_of_writable(frame, Folder.on(type(fs), folder))
    start = start_of(frame, made, fs, folder, path, asked)
    if start.done:
        return start.changes
    planned = _planned(start, made, path, asked)
    job, node = job_of(planned, start, asked.name_function)
    with contextlib.nullcontext() if _is_local_fs(fs) else retries():
        written = new_collection(node)
    if not compute:
        return written
    # as at the line that called the accessor
    if not job.finished:
        warn_of_failures(_computed(written, job, asked.compute_kwargs), path, stacklevel=4)
    return start.changes


def _planned(start: Start, made: dict[Any, Origin], path: str, asked: Asked) -> Any:
    """Return the node by which Dask would write the folder, with what our files say."""
    frame, run = start.frame, start.run
    append = start.appends and bool(start.before)
    write_index = asked.write_index
    if write_index is None:
        write_index = writes_index(frame, run, start.before if append else frozenset())
    about, folders = provenance(made), folder_types(frame, asked.partition_on)
    if folders:
        about[FOLDERS] = folders
    frame = on_host(frame)
    if asked.partition_on:
        # here, and not where files are written: there rows have lost their index
        frame = frame.map_partitions(
            with_folder_names, asked.partition_on, list(folders), meta=frame._meta
        )
    with readable_files():
        planned = dd.to_parquet(
            frame,
            path,
            engine=RowsEngine if asked.rows else ResumingEngine if asked.resume else WritingEngine,
            append=append,
            compute=False,
            write_index=write_index,
            custom_metadata=file_metadata(run, about, asked.custom_metadata, start.identity),
            name_function=run.part_name,
            **asked.options,
        ).expr
    require_options(planned.write_kwargs["schema"], for_pyarrow(planned), asked.custom_metadata)
    return planned


def _computed(written: Any, job: Job, options: dict[str, Any]) -> Counts:
    with under_way(job.run.name):
        job.begin()
        try:
            with encoding_told("the rows cannot be computed"):  # Dask makes strings of columns
                return _in_one_task_each(written, **options)
        except BaseException as error:
            job.give_up(interrupted=not isinstance(error, Exception))
            raise
        finally:
            job.run.fs.invalidate_cache(job.run.path)


def _in_one_task_each(
    written: Any,
    scheduler: Any = None,
    get: Any = None,
    traverse: bool = True,
    optimize_graph: bool = True,
    **options: Any,
) -> Counts:
    """Compute what writes a folder, with the arguments of `dask.compute`.

    Reading, operators and writing of a partition are one task; ``compute`` of this Dask leaves them
    several, since its `FinalizeCompute.optimize` does not fuse. On a cluster results would wait in
    memory, and move to workers that have nothing to do but to write.
    """
    schedule = get_scheduler(scheduler=scheduler, get=get, collections=[written])
    plan = (written.optimize() if optimize_graph else written).expr
    counts: Counts
    (counts,) = schedule(plan, [*plan.__dask_keys__()], **options)
    return counts
