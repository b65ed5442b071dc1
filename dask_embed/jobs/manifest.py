"""What a job that can be gone on with has done: a record of each partition, beside its mark.

A record is made when all files of its partition have their names. Records go when the job ends,
since then the folder says no more than that it is whole.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from dask_embed.jobs.failures import Counts, Failures, together
from dask_embed.jobs.folder import (
    READERS,
    Run,
    listed_files,
    make_folder,
    not_whole,
    read_mark,
    read_origin,
    records_path,
)
from dask_embed.jobs.identity import Identity
from dask_embed.jobs.writing import last_file
from dask_embed.runtime.files import again, put_file

_RECORD = re.compile(r"(\d+)-of-(\d+)\.json")
_IDENTITY = "identity.json"


@dataclasses.dataclass(frozen=True)
class Resumption:
    """What is there already of a job.

    Attributes
    ----------
    identity : Identity
    done : frozenset of int
        Partitions whose rows are in the folder.
    partitions : int, optional
        How many there are in all, None where nothing was done.
    finished : bool
        Whether all were done, so that at most the end of the job is missing.
    skipped : frozenset of int, optional
        Partitions of which no row runs; None where all rows do.
    """

    identity: Identity
    done: frozenset[int] = frozenset()
    partitions: int | None = None
    finished: bool = False
    skipped: frozenset[int] | None = None

    def missing(self, partitions: int) -> list[int]:
        """Return the partitions that are to be computed.

        Raises
        ------
        ValueError
            If there were another number of them before.
        """
        if self.finished:
            return []
        if self.partitions not in (None, partitions):
            raise ValueError(
                f"resume=True needs the partitions of before: the frame has {partitions} here, and "
                f"had {self.partitions} there; Dask's settings can change how many it makes of "
                "files"
            )
        left_out = self.done | (self.skipped or frozenset())
        return [place for place in range(partitions) if place not in left_out]


@dataclasses.dataclass(frozen=True)
class Record:
    """One partition of which all files are in the folder.

    Attributes
    ----------
    files : dict of str to int
        Their sizes in bytes, relative to the folder; a partition without rows can have none.
    counts : dict
        Rows of operators that failed in it.
    """

    files: dict[str, int]
    counts: Counts

    def to_bytes(self) -> bytes:
        counts = {column: dataclasses.asdict(each) for column, each in self.counts.items()}
        return json.dumps({"files": self.files, "counts": counts}, sort_keys=True).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> Record | None:
        """Return the record, None where it is cut short."""
        try:
            said = json.loads(content)
            counts = {column: Failures(**each) for column, each in said["counts"].items()}
            return cls({str(name): int(size) for name, size in said["files"].items()}, counts)
        except (ValueError, TypeError, KeyError, AttributeError):
            return None


def record(run: Run, place: int, partitions: int, files: dict[str, int], counts: Counts) -> None:
    """Note that a partition is done."""
    root = run.path.rstrip("/") + "/"
    within = {path.removeprefix(root): size for path, size in files.items()}
    path = f"{records_path(run)}/{place}-of-{partitions}.json"
    try:
        put_file(run.fs, path, Record(within, counts).to_bytes())
    except FileNotFoundError:  # another start of this job has ended, or is removing its records
        mark = read_mark(run.fs, run.path)
        if mark is not None and not (mark.get("run") == run.name and mark.get("removes")):
            raise


def begin_records(run: Run, identity: Identity) -> None:
    """Make the folder of a run's records, with what identifies the job."""
    folder = records_path(run)
    if isinstance(run.fs, LocalFileSystem):
        make_folder(run.fs, folder)
    put_file(run.fs, f"{folder}/{_IDENTITY}", json.dumps(identity.said).encode())


def read_identity(fs: Any, path: str, mark: dict[str, Any]) -> dict[str, Any]:
    """Return what identifies the job of a mark, {} where nothing tells."""
    folder = records_path(Run(fs, path, str(mark.get("frame")), str(mark.get("run"))))
    try:
        said = json.loads(again(fs, fs.cat_file, f"{folder}/{_IDENTITY}"))
    except (FileNotFoundError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def read_records(run: Run) -> dict[tuple[int, int], Record]:
    """Return the records of a run by partition and number of partitions, those that hold."""
    sizes = listed_files(run.fs, run.path)
    folder = records_path(run)
    within = folder.rpartition("/")[2] + "/"
    paths = {}
    for name in sizes:
        if name.startswith(within) and (found := _RECORD.fullmatch(name, len(within))):
            paths[f"{folder}/{found[0]}"] = (int(found[1]), int(found[2]))
    records = {}
    for path, content in _contents(run.fs, list(paths)).items():
        said = Record.from_bytes(content)
        if said is not None and all(sizes.get(name) == size for name, size in said.files.items()):
            records[paths[path]] = said
    return records


def _contents(fs: Any, paths: list[str]) -> dict[str, bytes]:
    if isinstance(fs, LocalFileSystem):
        return {path: _content(Path.read_bytes, Path(path)) for path in paths}
    read = partial(again, fs, fs.cat_file)
    with ThreadPoolExecutor(READERS) as readers:
        contents = readers.map(partial(_content, read), paths)
        return dict(zip(paths, contents, strict=True))


def _content(read: Callable[[Any], bytes], path: Any) -> bytes:
    try:
        return read(path)
    except FileNotFoundError:  # another start of the job has ended, and removes its records
        return b""


def resuming_run(identity: Identity, fs: Any, folder: str) -> Run:
    """Return the run of a job that can be gone on with: the same whenever it is started."""
    return Run(fs, folder, identity.said["rows"][:8], identity.token[:8], resumes=True)


def require_same_job(run: Run, identity: Identity, others: set[str], *, append: bool) -> None:
    """Raise FileExistsError if the folder is another job's, with what differs.

    Parameters
    ----------
    run : Run
    identity : Identity
    others : set of str
        Data files that this job did not write.
    append : bool
        Whether it adds to them.
    """
    mark = read_mark(run.fs, run.path)
    if (mark or {}).get("identity") == identity.token:
        return
    if mark is not None:
        raise FileExistsError(
            f"{not_whole(run.path, mark)}; resume=True goes on with the same job alone, and "
            f"{how_it_differs(run, identity, mark)}"
        )
    if others and not append:
        said = read_origin(run.fs, f"{run.path}/{last_file(others)}")
        before = {"version": said.get("version"), "columns": said, **said.get("identity", {})}
        raise FileExistsError(
            f"{run.path!r} holds {len(others)} Parquet files of another job, and resume=True goes "
            f"on with the same alone: {identity.differing(before)}; choose another folder, or "
            "overwrite=True, or append=True"
        )


def how_it_differs(run: Run, identity: Identity, mark: dict[str, Any]) -> str:
    """Return in words how the job of a mark differs from this one."""
    if "identity" not in mark:
        return "this one was begun without it"
    return identity.differing(read_identity(run.fs, run.path, mark))


def resumption(run: Run, identity: Identity, own: Iterable[str]) -> Resumption:
    """Return what is there of a job: by the folder's mark, the records, the job's `own` files."""
    mark = read_mark(run.fs, run.path)
    if mark is None:
        return Resumption(identity, finished=any(True for _ in own))
    if mark.get("run") != run.name:
        return Resumption(identity)
    if mark.get("removes"):
        return Resumption(identity, finished=True)
    records = read_records(run)
    partitions = {number for _, number in records}
    if len(partitions) != 1:
        return Resumption(identity)
    return Resumption(identity, frozenset(place for place, _ in records), partitions.pop())


def require_complete(run: Run, needed: Iterable[int], partitions: int) -> Counts:
    """Return how many rows failed in the partitions that are `needed`, if all of them are done.

    Raises
    ------
    RuntimeError
        If one is missing.
    """
    records = {place: each for (place, n), each in read_records(run).items() if n == partitions}
    missing = set(needed) - records.keys()
    if missing:
        raise RuntimeError(
            f"{len(missing)} partitions that this job wrote to {run.path!r} are gone; start it "
            "again"
        )
    return together(records[place].counts for place in sorted(records))
