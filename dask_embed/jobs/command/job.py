"""What the command is told besides its operator."""

from __future__ import annotations

import dataclasses
import re

from dask_embed._secrets import refuse_secrets
from dask_embed._validation import shown
from dask_embed.jobs.command.inputs import WHOLE

# Ends of names, and what they are named in words.
TABLES = {"lance": "Lance", "delta": "Delta"}
_SHARE = re.compile(r"(\d+)/(\d+)")
# Of a column that both an operator and an option of the command could name.
_OUTPUT_HINT = "(--output names the column that is appended)"


@dataclasses.dataclass(frozen=True)
class Job:
    """What the command was told besides its operator; a field for each option."""

    input: tuple[str, ...] = ()
    format: str = "auto"
    where: str | None = None
    columns: tuple[str, ...] = ()
    partition_size: str | None = None
    skip_bad_files: bool = False
    to: str | None = None
    overwrite: bool = False
    append: bool = False
    resume: bool | str = True
    no_resume: bool = False
    id: str | None = None
    changed: str = "error"
    gone: str = "keep"
    array: str | None = None
    dry_run: bool = False
    cluster: str | None = None
    workers: int | None = None
    threads: int | None = None
    memory: str | None = None
    log: str | None = None
    as_json: bool = False
    quiet: bool = False

    def __post_init__(self) -> None:
        if not self.input:
            raise ValueError("INPUT is missing: files, globs or a folder to read")
        for field in dataclasses.fields(self):
            refuse_secrets(field.name, getattr(self, field.name))
        names = [name.strip() for each in self.columns for name in each.split(",")]
        object.__setattr__(self, "columns", tuple(name for name in names if name))
        if self.overwrite and self.append:
            raise ValueError("overwrite replaces what append adds to: give one of them")
        if self.no_resume:
            object.__setattr__(self, "resume", False)
        self._require_rows()
        self._require_table()
        if self.cluster is None and (self.workers or self.memory):
            raise ValueError("workers and memory are of a cluster: add --cluster local")
        self.share()
        self.size_for("")

    def _require_rows(self) -> None:
        """Raise ValueError for options of ``resume=rows`` without it, or it without them."""
        if self.resume != "rows":
            if self.id is not None or self.changed != "error" or self.gone != "keep":
                raise ValueError("id, changed and gone are of rows: add --resume rows")
            return
        if self.id is None:
            raise ValueError("id is missing: --resume rows needs the column that rows are known by")
        for name in ("append", "array"):
            if getattr(self, name):
                raise ValueError(f"{name} does not go with --resume rows, which adds what is new")

    @property
    def table(self) -> str | None:
        """The format of the table that rows go into, None for a folder of Parquet files."""
        suffix = (self.to or "").rstrip("/").rpartition(".")[2]
        return suffix if suffix in TABLES else None

    def _require_table(self) -> None:
        """Raise ValueError for options that a table has no use for."""
        if self.table is None:
            return
        for name in ("array", "id", "no_resume"):
            if getattr(self, name):
                raise ValueError(
                    f"{name} is of folders of Parquet files, and {self.to!r} names a table, which "
                    "is written in one commit: leave one of them out"
                )

    def size_for(self, kind: str) -> int | None:
        """Return how many bytes of files of some format a partition has, None if it is not said."""
        if self.partition_size is None:
            return None
        from dask.utils import parse_bytes

        try:
            size = parse_bytes(self.partition_size)
        except (OverflowError, ValueError):
            size = 0
        if size < 1:
            raise ValueError(
                f"partition_size must be a size such as '64MiB', got {shown(self.partition_size)}"
            )
        if kind in WHOLE:
            raise ValueError(
                f"partition_size is not for {kind.upper()}, whose files are read whole because "
                "a line may end within quotes; write smaller files, or lines of JSON"
            )
        return size

    def share(self) -> tuple[int, int] | None:
        """Return which share of the partitions is wanted, and of how many."""
        if self.array is None:
            return None
        found = _SHARE.fullmatch(self.array)
        number, count = (int(found[1]), int(found[2])) if found else (0, 0)
        if number >= count:
            raise ValueError(
                f"array must be I/N, as in 0/4 for the first of four shares, got {self.array!r}"
            )
        return number, count

    def folder(self) -> str:
        """Return where the rows go: a folder for each share, so that none waits for another."""
        if not self.to:
            raise ValueError(f"to is missing: the folder of the results {_OUTPUT_HINT}")
        share = self.share()
        if share is None:
            return self.to
        from dask_embed.jobs.shares import share_name

        return f"{self.to.rstrip('/')}/{share_name(*share)}"
