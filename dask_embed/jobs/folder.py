"""A folder of Parquet files that one job at a time writes, and that tells whether it is whole.

A job begins with a mark in the folder, which it makes only where there is none, and takes the mark
away when all its files are there and what they replace is gone. So a finished folder holds
Parquet files alone, and one with a mark is being written, or was left by a job that died. Object
stores have no renames: files get their final names at once (on a local disk when they are whole, as
an upload has), and these tell the place of the rows, the frame that they are of, and the run that
wrote them.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from dask_embed._validation import shown_error
from dask_embed.jobs.shares import require_all_shares
from dask_embed.runtime.files import again, remove_file, write_file

METADATA_KEY = "dask_embed"
MARK = "_dask_embed_unfinished"
EXTENSIONS = (".parquet", ".parq", ".pq")
# Footers of files that are read at a time.
READERS = 16
# How often a folder is removed that has a file again: a fifth of a second.
_REMOVALS = 20
SUMMARIES = ("_metadata", "_common_metadata")
_PART = re.compile(r"part\.(\d+)-([0-9a-f]{8})-[0-9a-f]{8}\.parquet")


class NotHeldError(RuntimeError):
    """A folder is a job's no more: another start has ended it, or another job took it over."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One write into a folder, as its tasks know it.

    Attributes
    ----------
    fs : fsspec.AbstractFileSystem
    path : str
        The folder, without a protocol.
    frame : str
        Token of the frame, 8 hexadecimal digits.
    name : str
        What no other write has, 8 hexadecimal digits; of one that can be gone on with what its
        identity decides.
    resumes : bool
        Whether it can be gone on with: each partition that is done gets a record.
    """

    fs: Any
    path: str
    frame: str
    name: str
    resumes: bool = False

    def part_name(self, place: int) -> str:
        """Return the name of a file, from the place of its partition."""
        return f"part.{place}-{self.frame}-{self.name}.parquet"

    def wrote(self, file: str) -> bool:
        """Return whether the name of a file says that this run wrote it."""
        return file.endswith(f"-{self.frame}-{self.name}.parquet")

    def holds(self) -> bool:
        """Return whether the folder's mark is this run's."""
        mark = read_mark(self.fs, self.path)
        return mark is not None and mark.get("run") == self.name

    def require_held(self) -> None:
        """Raise NotHeldError unless the folder's mark is this run's."""
        mark = read_mark(self.fs, self.path)
        if mark is None:
            raise NotHeldError(
                f"the mark {MARK!r} of this job is not in {self.path!r}: the job has ended, the "
                "mark was removed, or this worker sees another disk than the client"
            )
        if mark.get("run") != self.name:
            raise NotHeldError(
                f"{self.path!r} was taken over by {told(mark)}; this job writes no more"
            )


def make_folder(fs: Any, path: str) -> None:
    """Make a folder unless there is one."""
    try:
        fs.mkdirs(path, exist_ok=True)
    except OSError as error:
        raise OSError(f"the folder {path!r} cannot be made: {shown_error(error)}") from error


def listed_files(fs: Any, path: str) -> dict[str, int]:
    """Return the files at any depth of a folder, relative to it, with their sizes in bytes.

    A folder that is not there has none; one that cannot be looked at is an error.
    """
    fs.invalidate_cache(path)
    try:
        found = again(fs, fs.find, path, detail=True, on_error=_unless_gone)
    except TypeError:  # a store that lists all at once, and raises by itself
        found = again(fs, fs.find, path, detail=True)
    root = path.rstrip("/") + "/"
    return {
        file[len(root) :]: told["size"] for file, told in found.items() if file.startswith(root)
    }


def _unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def data_files(fs: Any, path: str) -> set[str]:
    """Return the Parquet files at any depth of a folder, relative to it."""
    return {file for file in listed_files(fs, path) if file.endswith(EXTENSIONS)}


def records_path(run: Run) -> str:
    """Return the folder of the records of a run; readers skip it by its name."""
    return f"{run.path.rstrip('/')}/{MARK}.{run.frame}-{run.name}"


def remove_folder(fs: Any, path: str) -> None:
    """Remove the files right in a folder, and on a disk the folder."""
    if isinstance(fs, LocalFileSystem):
        tries = 0
        while Path(path).is_dir():
            try:
                shutil.rmtree(path)
            except FileNotFoundError:  # another start removes them as well
                continue
            except OSError as error:
                tries += 1
                # or has just made another one; what is open on a disk of the network stays
                if error.errno != errno.ENOTEMPTY or tries >= _REMOVALS:
                    raise
                time.sleep(0.01)
        return
    paths = [f"{path}/{name}" for name in listed_files(fs, path)]
    if paths:
        try:
            again(fs, fs.rm, paths)
        except FileNotFoundError:  # some are gone already
            for each in paths:
                remove_file(fs, each)


def next_place(files: Iterable[str]) -> int:
    """Return the place after the last of the files that `Run.part_name` or Dask named."""
    names = (file.rpartition("/")[2] for file in files)
    places = [int(found[1]) for name in names if (found := re.match(r"part\.(\d+)\b", name))]
    return max(places, default=-1) + 1


def is_part(file: str) -> bool:
    """Return whether the name of a file says that a `Run` wrote it."""
    return _PART.fullmatch(file.rpartition("/")[2]) is not None


def frame_of(file: str) -> str | None:
    """Return the token of the frame whose rows a file holds, None where its name tells none."""
    found = _PART.fullmatch(file.rpartition("/")[2])
    return found[2] if found else None


def run_of(file: str) -> str:
    """Return what is equal for files that one run wrote: its name, else the folder of the dataset.

    What is in a folder was appended to what was there, so both say the same about their columns.
    """
    name = file.rpartition("/")[2]
    if _PART.fullmatch(name):
        return name.partition("-")[2]
    return _without_keys(file.rpartition("/")[0])


def read_mark(fs: Any, path: str) -> dict[str, Any] | None:
    """Return what the mark of a folder says, None where there is none."""
    try:
        said = json.loads(again(fs, fs.cat_file, mark_path(path)))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        return {}  # it is just being written
    return said if isinstance(said, dict) else {}


def write_mark(fs: Any, path: str, mark: dict[str, Any]) -> None:
    """Write what the mark of a folder, which has one, is to say."""
    write_file(fs, mark_path(path), json.dumps(mark).encode())


def remove_empty_folders(fs: Any, path: str, files: Iterable[str]) -> None:
    """Remove the folders below a folder on a disk that held nothing but files which are gone."""
    if isinstance(fs, LocalFileSystem):
        folders = {file.rpartition("/")[0] for file in files} - {""}
        for folder in sorted(folders, key=len, reverse=True):
            if not os.listdir(f"{path}/{folder}"):
                os.rmdir(f"{path}/{folder}")


def read_origin(fs: Any, file: str) -> dict[str, Any]:
    """Return what the metadata of a Parquet file says of its run and columns, {} if nothing."""
    try:
        with fs.open(file, mode="rb") as opened:
            metadata = pq.read_schema(opened).metadata or {}
    except pa.ArrowInvalid:  # cut short, or no Parquet file
        return {}
    return json.loads(metadata.get(METADATA_KEY.encode(), b"{}"))


def told(mark: dict[str, Any]) -> str:
    """Return in words whose mark it is."""
    where = "".join(f", {name} {mark[name]}" for name in ("host", "process") if name in mark)
    return f"a job that began {mark.get('began', 'just now')}{where}"


def not_whole(path: str, mark: dict[str, Any]) -> str:
    """Return in words that a folder has a mark, and what to do that keeps what was there before."""
    again = "start it again with resume=True, " if mark.get("identity") else ""
    return (
        f"{path!r} is not whole: {told(mark)} is still writing it, or died; wait for it, {again}"
        "or take back what it wrote with dask_embed.discard_unfinished(folder), or replace all "
        "that the folder holds with overwrite=True"
    )


def require_whole(fs: Any, paths: Sequence[str]) -> None:
    """Raise OSError for a mark in one of these folders or below, or beside one of these files."""
    folders = [path for path in paths if len(paths) == 1 or not _is_file(path)]
    roots = {_without_keys(path) for path in folders}
    roots |= {_without_keys(path.rpartition("/")[0]) for path in paths if _is_file(path)}
    for folder in folders:  # one of several jobs, each in a folder of its own
        fs.invalidate_cache(folder)
        files = fs.find(folder)
        found = (file.rpartition("/") for file in files)
        roots |= {within for within, _, name in found if name == MARK}
        require_all_shares(folder, files)
    for root in sorted(roots):
        fs.invalidate_cache(root)
        # A store that may only be read can refuse to say whether there is a mark: exists is False.
        mark = read_mark(fs, root) if fs.exists(mark_path(root)) else None
        if mark is not None:
            raise OSError(f"{not_whole(root, mark)} (dd.read_parquet reads what is there)")


def _is_file(path: str) -> bool:
    return path.endswith(EXTENSIONS)


def _without_keys(path: str) -> str:
    """Return the folder of a dataset whose files lie in folders like ``language=en``."""
    path = path.rstrip("/")
    while "=" in path.rpartition("/")[2]:
        path = path.rpartition("/")[0]
    return path


def mark_path(path: str) -> str:
    return f"{path.rstrip('/')}/{MARK}"
