"""Where the rows of a command go: a folder of Parquet files, a share of one, or a table."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from dask_embed.jobs.command import ending
from dask_embed.jobs.command.ending import Ended, ends_with
from dask_embed.jobs.command.job import Job


def write(job: Job, out: Any, folder: str, client: Any) -> None:
    """Compute rows and write them; show how far it is unless the job is quiet."""
    from dask_embed.jobs.progress import showing

    with ends_with(ending.USAGE):
        _require_the_same_array(job)
    writer, options = _writer(job)
    planned = None  # what runs is known when rows were looked at
    if job.resume != "rows":
        with ends_with(ending.USAGE):
            planned = writer(out, folder, **options, compute=False)
    quiet = contextlib.nullcontext() if job.quiet else showing(planned, client=client)
    with quiet, _naming(folder):
        writer(out, folder, **options)


def _writer(job: Job) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Return the function that writes what the job writes, and its options."""
    from dask_embed.jobs.delta import to_delta
    from dask_embed.jobs.lance import to_lance
    from dask_embed.jobs.parquet import to_parquet

    if job.table:
        mode = "overwrite" if job.overwrite else "append" if job.append else "create"
        return (to_lance if job.table == "lance" else to_delta), {"mode": mode}
    options: dict[str, Any] = {
        "overwrite": job.overwrite,
        "append": job.append,
        "resume": job.resume,
    }
    if job.resume == "rows":
        options |= {"id": job.id, "changed": job.changed, "gone": job.gone}
    return to_parquet, options


def _require_the_same_array(job: Job) -> None:
    """Raise ValueError if there are shares of another number of jobs beside this one's."""
    share = job.share()
    if share is None:
        return
    from fsspec.core import url_to_fs

    from dask_embed.jobs.shares import shares_in

    fs, folder = url_to_fs(job.to)
    others = shares_in(folder, fs.find(folder)).keys() - {share[1]}
    if others and not job.overwrite:
        raise ValueError(
            f"array={job.array!r} is of {share[1]} jobs, but {job.to!r} holds shares of "
            f"{min(others)}: rows would be there twice; choose another folder"
        )


@contextlib.contextmanager
def _naming(folder: str) -> Iterator[None]:
    """Name the folder in errors of the system that name no file, such as of a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        end = ending.ended(error)
        raise Ended(f"{end.message}, while {folder!r} was written", end.exit_code) from error
