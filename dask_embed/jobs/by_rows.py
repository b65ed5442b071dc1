"""A job that runs only rows that its folder does not have: what it finds there, and its plan."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from dask.tokenize import tokenize

from dask_embed._version import __version__
from dask_embed.columns.frames import row_label
from dask_embed.jobs.arguments import Asked
from dask_embed.jobs.folder import (
    Run,
    data_files,
    not_whole,
    read_mark,
    read_origin,
)
from dask_embed.jobs.identity import Identity, plan_steps, steps_token
from dask_embed.jobs.job import Job
from dask_embed.jobs.manifest import Resumption, how_it_differs, resuming_run, resumption
from dask_embed.jobs.origin import Origin, provenance
from dask_embed.jobs.row_expr import Keyed, Keys, NewRows, WithDigests
from dask_embed.jobs.row_source import columns_read, id_in_source, kind_of, row_source
from dask_embed.jobs.rows import Decision, Known, RowOptions, decide, keys_of
from dask_embed.jobs.start import Start
from dask_embed.jobs.writing import last_file, layout, require_not_read, require_room
from dask_embed.lazy._dask import Expr, Projection, new_collection
from dask_embed.lazy.conditions import replaced
from dask_embed.lazy.parts import InParts


class _Rows:
    """The rows of a frame, and what they become, apart from any folder."""

    def __init__(self, frame: Any, options: RowOptions, layout: Mapping[str, Any]) -> None:
        self._layout = layout
        plan = frame.expr
        source = row_source(plan)
        id = id_in_source(plan, source, options.id)
        self.options = options
        self.kind = kind_of(source._meta[id])
        self._simple, self._cut, read = columns_read(plan, source)
        needed = [name for name in source.columns if name in read or name == id]
        content = sorted((name for name in needed if name != id), key=str)
        self.keyed = Keyed(id, tuple(content), bool(layout["write_index"]))
        # In the same partitions whatever stands above: of files that few columns are read of Dask
        # makes fewer, and rows are told by their places in partitions.
        self.source: Expr = InParts(
            source if needed == list(source.columns) else Projection(source, needed)
        )
        self.steps = steps_token(plan, source, content)
        self.plan = plan_steps(plan, source)

    def said(self, made: dict[Any, Origin]) -> dict[str, Any]:
        """Return what tells a job by these rows from others, but for what is in its folder."""
        return {
            "version": __version__,
            "layout": {**self._layout, "id": self.options.id},
            "columns": provenance(made),
            "sources": {},
            "steps": self.steps,
            "plan": self.plan,
        }

    def id_at(self, place: int) -> Any:
        """Return the id of a row by its place in all partitions."""
        return row_label(new_collection(self.source)[self.keyed.id].compute().array, place)

    def of(self, decision: Decision) -> Any:
        """Return the rows that run with what becomes of them, as a Dask DataFrame."""
        rows = NewRows(self.source, self.keyed, decision.wanted)
        results = replaced(self._simple, (self._cut, rows))
        return new_collection(WithDigests(results, rows, self.options.id, self.keyed))


def start_by_rows(
    frame: Any, made: dict[Any, Origin], fs: Any, folder: str, rows: RowOptions, asked: Asked
) -> Start:
    """Return what is to be written so that a folder has the rows of a frame.

    This computes the rows that operators read, to look which of them are new.

    Raises
    ------
    FileExistsError
        If the folder is of another job, and nothing says that it may be replaced.
    ValueError
        If ids are missing or repeat, or rows have changed.
    """
    finish_removal(fs, folder)
    of_frame = _Rows(frame, rows, layout(frame, asked.write_index, asked.options))
    said = of_frame.said(made)
    require_not_read(frame, Run(fs, folder, "", ""))
    parts = keys_of(of_frame.source, of_frame.keyed, asked.compute_kwargs)
    mark = read_mark(fs, folder)
    present = data_files(fs, folder)
    if mark is None or mark.get("by_rows"):
        before = {file for file in present if mark is None or not _of(mark, file)}
        differs = _other_rows(fs, folder, before, Identity(said))
        if differs and not asked.overwrite:
            raise FileExistsError(differs)
        start = _start(fs, folder, of_frame, parts, said, before, replaces=bool(differs))
        identity = start.identity
        assert identity is not None  # by rows there is one
        if mark is None or mark.get("identity") == identity.token:
            if differs:
                require_room(start.run, before, overwrite=True, append=False, repeat=False)
            return start
        told = how_it_differs(start.run, identity, mark)
    else:
        told = "this one was begun by another way of writing"
    if not asked.overwrite:
        raise FileExistsError(
            f"{not_whole(folder, mark)}; resume='rows' goes on with the same job alone, and {told}"
        )
    start = _start(fs, folder, of_frame, parts, said, present, replaces=True)
    dead = require_room(start.run, present, overwrite=True, append=False, repeat=False)
    return dataclasses.replace(start, dead=dead)


def _of(mark: Mapping[str, Any], file: str) -> bool:
    return file.endswith(f"-{mark.get('frame')}-{mark.get('run')}.parquet")


def _start(
    fs: Any,
    folder: str,
    rows: _Rows,
    parts: list[Keys],
    said: dict[str, Any],
    before: set[str],
    *,
    replaces: bool,
) -> Start:
    given = rows.options
    known = Known({})
    if not replaces:
        known = Known.read(fs, folder, sorted(before), given.id, rows.kind)
    decision = decide(parts, known, given, rows.steps, rows.id_at)
    token = tokenize(decision.token, sorted(before), replaces)
    identity = Identity({**said, "rows": token})
    run = resuming_run(identity, fs, folder)
    skipped = {n for n, part in enumerate(decision.wanted.parts) if not part.wanted}
    if replaces or not before:
        skipped -= {0}  # so that there is a file, be it without rows
    there = resumption(run, identity, ())
    there = dataclasses.replace(there, skipped=frozenset(skipped))
    frame = rows.of(decision)
    return Start(
        *(frame, run, identity, frozenset(before), None, there),
        overwrites=replaces,
        appends=not replaces,
        decision=decision,
    )


def _other_rows(fs: Any, folder: str, before: set[str], identity: Identity) -> str:
    """Return in words why the rows of a folder are not of this frame, "" if they are."""
    if not before:
        return ""
    said = read_origin(fs, f"{folder}/{last_file(before)}")
    was = said.get("identity", {})
    differs = "they were not written with resume='rows'"
    if "steps" in was:
        differs = identity.differences(
            {"version": identity.said["version"], "columns": said, "layout": was["layout"]}
        )
        if not differs and was["steps"] != identity.said["steps"]:
            differs = identity.other_steps(was) or (
                "other functions or selections make them of the rows that operators read"
            )
    if not differs:
        return ""
    return (
        f"{folder!r} holds {len(before)} Parquet files of another job, and resume='rows' adds to "
        f"what the same one wrote: {differs}; choose another folder, or overwrite=True, which "
        "replaces all rows"
    )


def finish_removal(fs: Any, folder: str) -> None:
    """End a job by rows that died while it removed what it had replaced: all else was done."""
    mark = read_mark(fs, folder)
    if mark is None or not isinstance(mark.get("removes"), list):
        return
    run = Run(fs, folder, mark["frame"], mark["run"], resumes=True)
    there = Resumption(Identity({}), skipped=frozenset())
    Job(run, frozenset(), there=there, drops=frozenset(mark["removes"])).end(())
