"""The job that writes a folder: it begins with a mark there, and ends when all is in its place."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import socket
from collections.abc import Iterable, Sequence
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from dask_embed.jobs.folder import (
    SUMMARIES,
    Run,
    data_files,
    is_part,
    make_folder,
    mark_path,
    read_mark,
    read_origin,
    records_path,
    remove_empty_folders,
    remove_folder,
    told,
    write_mark,
)
from dask_embed.jobs.manifest import Resumption, begin_records
from dask_embed.jobs.rows import Rewrite
from dask_embed.jobs.unfinished import is_alive, process_start
from dask_embed.runtime.files import create_file, hidden_files, remove_file


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
    session : str
        What no other start of the same job has.
    there : Resumption, optional
        What is there of a job that can be gone on with.
    rewrites : tuple of Rewrite
        Files of before that some rows of stay, in files of the job's.
    drops : frozenset of str
        Files of before that are gone at its end, where not all are.
    """

    run: Run
    before: frozenset[str]
    replaces: bool = False
    names: tuple[str, ...] | None = None
    takes_over: str | None = None
    summarized: bool = False
    session: str = ""
    there: Resumption | None = None
    rewrites: tuple[Rewrite, ...] = ()
    drops: frozenset[str] = frozenset()

    @property
    def _by_rows(self) -> bool:
        return self.there is not None and self.there.skipped is not None

    @property
    def finished(self) -> bool:
        """Whether the job has ended before, and nothing is left to do."""
        ended = self.there is not None and self.there.finished
        return ended and not (self.replaces and self.before) and not self.run.holds()

    def begin(self) -> None:
        """Mark the folder as this job's; nothing where it is already.

        Raises
        ------
        FileExistsError
            If another job writes there, or the folder is no more what it was when this job was
            built.
        """
        run = self.run
        found = read_mark(run.fs, run.path) or {}
        if found.get("run") == run.name:
            if self.there is not None and found.get("session") != self.session:
                self._go_on(found)
            return
        self._mark()
        if self.there is not None:
            begin_records(run, self.there.identity)
        changed = self._changed()
        if changed:
            self._unmark()
            raise FileExistsError(
                f"{run.path!r} is not what it was when this write was built: {changed}; build it "
                "again"
            )

    def _go_on(self, mark: dict[str, Any]) -> None:
        """Take over the mark of a dead start of this job; one that lives keeps its own."""
        if self.there is None:
            return
        if not is_alive(mark):
            kept: dict[str, Any] = {k: mark[k] for k in ("after", "removes") if k in mark}
            write_mark(self.run.fs, self.run.path, {**self._content(), **kept})
        begin_records(self.run, self.there.identity)

    def _content(self) -> dict[str, Any]:
        told = {
            "run": self.run.name,
            "frame": self.run.frame,
            "host": socket.gethostname(),
            "process": os.getpid(),
            "started": process_start(os.getpid()),
            "began": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "names": self.names,
        }
        if self.there is not None:
            told |= {"identity": self.there.identity.token, "session": self.session}
            told |= {"removes": True} if self.there.finished else {}
            told |= {"by_rows": True} if self._by_rows else {}
        return told

    def _mark(self) -> None:
        run, content = self.run, self._content()
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
            remove_file(run.fs, mark_path(run.path))
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
        return self.run.wrote(name)

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
        goes = sorted((self.before if self.replaces else self.drops) & present)
        if self.replaces or run.resumes:
            # what is to go cannot be found out again once some is gone
            removes: Any = goes if self._by_rows else True
            write_mark(run.fs, run.path, {**mark, "removes": removes})
        if self.replaces or goes:
            self._remove(goes)
        self._remove_unfinished()
        if run.resumes:
            remove_folder(run.fs, records_path(run))
        remove_file(run.fs, mark_path(run.path))

    def _remove(self, files: Sequence[str]) -> None:
        run = self.run
        for file in files:
            remove_file(run.fs, f"{run.path}/{file}")
        if not self.summarized:
            for name in SUMMARIES:
                if run.fs.exists(f"{run.path}/{name}"):
                    remove_file(run.fs, f"{run.path}/{name}")
        remove_empty_folders(run.fs, run.path, files)

    def _remove_unfinished(self) -> None:
        """Remove what tasks left that were cut short and ran again."""
        if not isinstance(self.run.fs, LocalFileSystem):
            return
        for path, meant in list(hidden_files(self.run.path)):
            if self._is_own(meant) or (self.replaces and is_part(meant)):
                with contextlib.suppress(FileNotFoundError):
                    os.remove(path)

    def give_up(self, *, interrupted: bool = False) -> None:
        """Take the mark away where nothing was written; else it stays, and tells of the failure.

        It stays, too, if a job that can be gone on with was interrupted: tasks of other threads may
        give files their names until the process ends, and without a mark these would be all.
        """
        run = self.run
        mark = read_mark(run.fs, run.path)
        if mark is None or mark.get("run") != run.name:
            return
        if mark.get("session", self.session) != self.session:
            return  # of another start of this job, which goes on
        left = interrupted and run.resumes
        if left or any(map(self._is_own, data_files(run.fs, run.path))):
            write_mark(run.fs, run.path, {**mark, "failed": True})
            return
        if run.resumes:
            remove_folder(run.fs, records_path(run))
        self._unmark()
        # a task may have given a file its name meanwhile; from here on it finds that it may not
        if any(map(self._is_own, data_files(run.fs, run.path))):
            write_mark(run.fs, run.path, {**mark, "failed": True})
