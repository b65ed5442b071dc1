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
import datetime
import json
import os
import re
import socket
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from dask_embed._validation import shown_error

METADATA_KEY = "dask_embed"
MARK = "_dask_embed_unfinished"
# In the hidden name of a file on a local disk that is not whole.
UNFINISHED = ".unfinished-"
EXTENSIONS = (".parquet", ".parq", ".pq")
# Footers of files that are read at a time.
READERS = 16
_SUMMARIES = ("_metadata", "_common_metadata")
_PART = re.compile(r"part\.(\d+)-([0-9a-f]{8})-[0-9a-f]{8}\.parquet")


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
        What no other write has, 8 hexadecimal digits.
    """

    fs: Any
    path: str
    frame: str
    name: str

    def part_name(self, place: int) -> str:
        """Return the name of a file, from the place of its partition."""
        return f"part.{place}-{self.frame}-{self.name}.parquet"

    def holds(self) -> bool:
        """Return whether the folder's mark is this run's."""
        mark = read_mark(self.fs, self.path)
        return mark is not None and mark.get("run") == self.name

    def require_held(self) -> None:
        """Raise RuntimeError unless the folder's mark is this run's."""
        mark = read_mark(self.fs, self.path)
        if mark is None:
            raise RuntimeError(
                f"the mark {MARK!r} of this job is not in {self.path!r}: the job has ended, the "
                "mark was removed, or this worker sees another disk than the client"
            )
        if mark.get("run") != self.name:
            raise RuntimeError(
                f"{self.path!r} was taken over by {told(mark)}; this job writes no more"
            )


@dataclasses.dataclass(frozen=True)
class Job:
    """What a run may find in the folder, and what is to be gone at its end.

    Attributes
    ----------
    run : Run
    before : frozenset of str
        Data files that were there when the job was built, relative to the folder.
    replaces : bool
        Whether they are to be gone at its end.
    names : tuple of str, optional
        Names of the job's files, if they are not those of `Run.part_name`.
    takes_over : str, optional
        The run whose mark may be replaced: a dead job's, "" where its mark does not tell.
    summarized : bool
        Whether the job writes ``_metadata``.
    """

    run: Run
    before: frozenset[str]
    replaces: bool = False
    names: tuple[str, ...] | None = None
    takes_over: str | None = None
    summarized: bool = False

    def begin(self) -> None:
        """Mark the folder as this job's; nothing where it is already.

        Raises
        ------
        FileExistsError
            If another job writes there, or the folder is no more what it was when this job was
            built.
        """
        run = self.run
        if run.holds():
            return
        self._mark()
        changed = self._changed()
        if changed:
            self._unmark()
            raise FileExistsError(
                f"{run.path!r} is not what it was when this write was built: {changed}; build it "
                "again"
            )

    def _mark(self) -> None:
        run = self.run
        content = {
            "run": run.name,
            "frame": run.frame,
            "host": socket.gethostname(),
            "process": os.getpid(),
            "began": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "names": self.names,
        }
        make_folder(run.fs, run.path)
        found = read_mark(run.fs, run.path)
        if found is None:
            create_file(run.fs, mark_path(run.path), json.dumps(content).encode())
        elif self.takes_over is not None and found.get("run", "") == self.takes_over:
            write_mark(run.fs, run.path, {**content, "after": found})
        found = read_mark(run.fs, run.path)
        if found is None or found.get("run") != run.name:
            raise FileExistsError(
                f"{run.path!r} is being written by {told(found or {})}: two jobs in one folder "
                "would lose rows"
            )

    def _unmark(self) -> None:
        """Leave the folder as it was before: with the mark of a dead job, if there was one."""
        run = self.run
        before = (read_mark(run.fs, run.path) or {}).get("after")
        if before is None:
            run.fs.rm_file(mark_path(run.path))
        else:
            write_mark(run.fs, run.path, before)

    def _changed(self) -> str:
        """Return in words how the folder differs from when the job was built, "" if it does not."""
        present = data_files(self.run.fs, self.run.path)
        others = {file for file in present if not self._wrote(file)}
        if new := sorted(others - self.before):
            return f"{new[0]!r} is new"
        # What it replaces is gone where the job is computed again.
        gone = [] if self.replaces and others != present else sorted(self.before - others)
        return f"{gone[0]!r} is gone" if gone else ""

    def _is_own(self, file: str) -> bool:
        name = file.rpartition("/")[2]
        if self.names is not None:
            return name in self.names
        return name.endswith(f"-{self.run.frame}-{self.run.name}.parquet")

    def _wrote(self, file: str) -> bool:
        """Return whether a file is of an earlier time that this job was computed."""
        if self.names is None or not self._is_own(file):
            return self._is_own(file)
        return read_origin(self.run.fs, f"{self.run.path}/{file}").get("run") == self.run.name

    def end(self, written: Iterable[str]) -> None:
        """Take away what the job replaces, then its mark.

        Parameters
        ----------
        written : iterable of str
            Names of the files that its tasks wrote.

        Raises
        ------
        RuntimeError
            If one of them is missing, or another job took the folder over.
        """
        run = self.run
        present = data_files(run.fs, run.path)
        lost = sorted(set(written) - {file.rpartition("/")[2] for file in present})
        if lost:
            raise RuntimeError(f"{len(lost)} files that this job wrote are gone: {lost[0]!r}, ...")
        mark = read_mark(run.fs, run.path)
        if mark is None:
            return  # the task that ends the job runs a second time
        run.require_held()
        if self.replaces:
            write_mark(run.fs, run.path, {**mark, "removes": True})
            self._remove(sorted(self.before & present))
        self._remove_unfinished()
        run.fs.rm_file(mark_path(run.path))

    def _remove(self, files: Sequence[str]) -> None:
        run = self.run
        for file in files:
            run.fs.rm_file(f"{run.path}/{file}")
        if not self.summarized:
            for name in _SUMMARIES:
                if run.fs.exists(f"{run.path}/{name}"):
                    run.fs.rm_file(f"{run.path}/{name}")
        remove_empty_folders(run.fs, run.path, files)

    def _remove_unfinished(self) -> None:
        """Remove what tasks left that were cut short and ran again."""
        if not isinstance(self.run.fs, LocalFileSystem):
            return
        for name in os.listdir(self.run.path):
            hidden, found, _ = name.partition(UNFINISHED)
            meant = hidden[1:]
            if found and (self._is_own(meant) or (self.replaces and is_part(meant))):
                os.remove(f"{self.run.path}/{name}")

    def give_up(self) -> None:
        """Take the mark away where nothing was written; else it stays, and tells of the failure."""
        run = self.run
        mark = read_mark(run.fs, run.path)
        if mark is None or mark.get("run") != run.name:
            return
        if any(map(self._is_own, data_files(run.fs, run.path))):
            write_mark(run.fs, run.path, {**mark, "failed": True})
        else:
            self._unmark()


def make_folder(fs: Any, path: str) -> None:
    """Make a folder unless there is one."""
    try:
        fs.mkdirs(path, exist_ok=True)
    except OSError as error:
        raise OSError(f"the folder {path!r} cannot be made: {shown_error(error)}") from error


def data_files(fs: Any, path: str) -> set[str]:
    """Return the Parquet files at any depth of a folder, relative to it."""
    fs.invalidate_cache(path)
    if not fs.exists(path):
        return set()
    root = path.rstrip("/") + "/"
    return {file[len(root) :] for file in fs.find(path) if file.endswith(EXTENSIONS)}


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
        said = json.loads(fs.cat_file(mark_path(path)))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        return {}  # it is just being written
    return said if isinstance(said, dict) else {}


def write_mark(fs: Any, path: str, mark: dict[str, Any]) -> None:
    """Write what the mark of a folder, which has one, is to say."""
    fs.pipe_file(mark_path(path), json.dumps(mark).encode())


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
    return (
        f"{path!r} is not whole: {told(mark)} is still writing it, or died; wait for it, or take "
        "back what it wrote with dask_embed.discard_unfinished(folder), or replace all that the "
        "folder holds with overwrite=True"
    )


def require_whole(fs: Any, paths: Sequence[str]) -> None:
    """Raise OSError for a mark in one of these folders or below, or beside one of these files."""
    folders = [path for path in paths if len(paths) == 1 or not _is_file(path)]
    roots = {_without_keys(path) for path in folders}
    roots |= {_without_keys(path.rpartition("/")[0]) for path in paths if _is_file(path)}
    for folder in folders:  # one of several jobs, each in a folder of its own
        fs.invalidate_cache(folder)
        found = (file.rpartition("/") for file in fs.find(folder))
        roots |= {within for within, _, name in found if name == MARK}
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


def create_file(fs: Any, path: str, content: bytes) -> None:
    """Make a file unless there is one, atomically where the filesystem can."""
    try:
        if isinstance(fs, LocalFileSystem):
            with fs.open(path, "xb") as file:
                file.write(content)
            return
        try:
            fs.pipe_file(path, content, mode="create")
        except (TypeError, ValueError, NotImplementedError):  # it does not know of this mode
            fs.pipe_file(path, content)
    except FileExistsError:
        return  # the caller reads whose it is
