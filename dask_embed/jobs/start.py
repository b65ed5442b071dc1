"""A job that writes Parquet files, as it begins: its rows, and what its folder holds."""

from __future__ import annotations

import dataclasses
from typing import Any

from dask_embed.jobs.folder import Run
from dask_embed.jobs.identity import Identity
from dask_embed.jobs.manifest import Resumption
from dask_embed.jobs.rows import Decision, RowChanges


@dataclasses.dataclass(frozen=True)
class Start:
    """What is to be written.

    Attributes
    ----------
    frame : dask.dataframe.DataFrame
        The rows that run, by rows with their digests.
    run : Run
    identity : Identity, optional
        Of a job that can be gone on with.
    before : frozenset of str
        Files of the folder that others wrote.
    dead : str, optional
        The run whose mark is replaced.
    there : Resumption, optional
        What is done of it.
    overwrites : bool
        Whether all that was there goes.
    appends : bool
        Whether the rows go beside what was there, if anything was.
    decision : Decision, optional
        By rows, what becomes of those that are there.
    """

    frame: Any
    run: Run
    identity: Identity | None
    before: frozenset[str]
    dead: str | None
    there: Resumption | None
    overwrites: bool
    appends: bool
    decision: Decision | None = None

    @property
    def done(self) -> bool:
        """Whether a job by rows has nothing left to do."""
        nothing = self.decision is not None and self.decision.nothing
        return nothing and bool(self.before) and self.dead is None and not self.run.holds()

    @property
    def changes(self) -> RowChanges | None:
        return None if self.decision is None else self.decision.changes
