"""Take back what a job wrote that did not finish."""

from __future__ import annotations

import contextlib
import datetime
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # distributed needs it, too
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from dask_embed._options import named_options
from dask_embed.jobs.folder import (
    MARK,
    Run,
    data_files,
    mark_path,
    read_mark,
    read_origin,
    records_path,
    remove_empty_folders,
    remove_folder,
    told,
)
from dask_embed.jobs.places import folder_path, place
from dask_embed.runtime.files import hidden_files

_SUMMARY = "_metadata"
# Names of the runs that this process computes.
_under_way: set[str] = set()


@contextlib.contextmanager
def under_way(run: str) -> Iterator[None]:
    """Note that this process computes a run within the block."""
    _under_way.add(run)
    try:
        yield
    finally:
        _under_way.discard(run)


@named_options
def discard_unfinished(
    path: Any, *, storage_options: dict[str, Any] | None = None, filesystem: Any = None
) -> list[str]:
    """Remove the files of a job that died while it wrote a folder, and its mark.

    The folder is then what it was before that job. A folder without a mark is left as it is.

    Parameters
    ----------
    path : str or Path
        The folder, as `to_parquet` was given it.
    storage_options : dict, optional
        As in `to_parquet`.
    filesystem : object, optional
        As in `to_parquet`.

    Returns
    -------
    list of str
        The Parquet files that were removed, relative to the folder; [] if no job is unfinished.

    Raises
    ------
    RuntimeError
        If the job still runs, in this process or another one of this machine.
    OSError
        If the job had written all its files and was removing what they replace, or its mark cannot
        be read.

    Notes
    -----
    Files tell by their names, or by what the mark and their metadata say, which run wrote them;
    no other file is removed. Whether a job of another machine still runs cannot be known. One that
    does fails then, as its mark is gone.

    Examples
    --------
    >>> import dask_embed as de
    >>> de.discard_unfinished("vectors/")  # doctest: +SKIP
    ['part.3-2f6d1c0a-9b1d5e77.parquet']
    """
    fs, folder = place(folder_path(path), filesystem, storage_options)
    mark = read_mark(fs, folder)
    if mark is None:
        return []
    jobs = list(_jobs(mark))
    for job in jobs:
        _require_dead(folder, job)
    files = sorted(
        file
        for file in data_files(fs, folder)
        if any(_wrote(fs, folder, job, file) for job in jobs)
    )
    _remove_summary(fs, folder, files)
    for file in files:
        fs.rm_file(f"{folder}/{file}")
    hidden = _hidden(fs, folder, jobs)
    for file in hidden:
        os.remove(f"{folder}/{file}")
    remove_empty_folders(fs, folder, [*files, *hidden])
    for job in jobs:
        remove_folder(fs, records_path(Run(fs, folder, job["frame"], job["run"])))
    fs.rm_file(mark_path(folder))
    fs.invalidate_cache(folder)
    return files


def _jobs(mark: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """Yield what a mark says of its job, and of those before that did not finish either."""
    while mark is not None:
        yield mark
        mark = mark.get("after")


def _require_dead(folder: str, job: dict[str, Any]) -> None:
    """Raise unless what a job wrote can be taken back."""
    if not isinstance(job.get("run"), str) or not isinstance(job.get("frame"), str):
        raise OSError(
            f"the mark {MARK!r} of {folder!r} does not tell which job it is of: a job has just "
            "begun, or the mark is damaged; remove it by hand, or write with overwrite=True"
        )
    if job.get("removes"):
        raise OSError(
            f"{told(job)} had written all its rows to {folder!r}, and was removing the old ones: "
            "some of these are gone; write with overwrite=True"
        )
    if is_alive(job):
        raise RuntimeError(
            f"{told(job)} still runs and may be writing {folder!r}: wait for it, or end it first"
        )


def is_alive(job: dict[str, Any]) -> bool:
    """Return whether a job is known to run: its process is there, and it has not failed."""
    if job.get("failed") or job.get("host") != socket.gethostname():
        return False
    number = job.get("process")
    if number == os.getpid():
        return job["run"] in _under_way
    if job.get("started") is not None and isinstance(number, int):
        return process_start(number) == job["started"]
    try:
        process = psutil.Process(number)
        began = datetime.datetime.fromisoformat(str(job.get("began"))).timestamp()
        # another one can have got its number since; the mark tells whole seconds
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= began + 1
    except (psutil.NoSuchProcess, ValueError, TypeError):
        return False


def process_start(number: int) -> str | None:
    """Return what another process with this number has not, whatever happens to the clock.

    None where there is no such process, it has ended, or the system does not tell.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        told = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    state, ticks = told[0], told[19]  # since the machine was started
    return None if state == "Z" else f"{boot}-{ticks}"


def _wrote(fs: Any, folder: str, job: dict[str, Any], file: str) -> bool:
    """Return whether a job wrote a file."""
    name = file.rpartition("/")[2]
    if not job.get("names"):
        return name.endswith(f"-{job['frame']}-{job['run']}.parquet")
    # What was cut short tells nothing; there was no file of its name when the job began.
    return name in job["names"] and read_origin(fs, f"{folder}/{file}").get("run") in (
        job["run"],
        None,
    )


def _hidden(fs: Any, folder: str, jobs: list[dict[str, Any]]) -> list[str]:
    """Return the files on a disk that tasks left unfinished."""
    if not isinstance(fs, LocalFileSystem):
        return []
    return [
        os.path.relpath(path, folder)
        for path, meant in hidden_files(folder)
        if any(_names(job, meant) for job in jobs)
    ]


def _names(job: dict[str, Any], name: str) -> bool:
    if job.get("names"):
        return name in job["names"]
    return name.endswith(f"-{job['frame']}-{job['run']}.parquet")


def _remove_summary(fs: Any, folder: str, files: list[str]) -> None:
    """Remove a ``_metadata`` that lists files which go: readers then look for themselves."""
    summary = f"{folder}/{_SUMMARY}"
    if not files or not fs.exists(summary):
        return
    try:
        with fs.open(summary, mode="rb") as opened:
            metadata = pq.read_metadata(opened)
    except pa.ArrowInvalid:  # cut short
        listed = set(files)
    else:
        groups = (metadata.row_group(number) for number in range(metadata.num_row_groups))
        listed = {group.column(0).file_path for group in groups}
    if listed.intersection(files):
        fs.rm_file(summary)
