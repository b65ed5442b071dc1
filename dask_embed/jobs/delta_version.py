"""What a version of a Delta table tells: its columns, what made them, and the commits before it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from dask_embed.jobs.folder import METADATA_KEY
from dask_embed.jobs.table import Commit

RUN = "dask_embed_run"
"""Under which a commit tells the run that made it."""
# Operations of Delta that leave rows as they are.
_SAME_ROWS = ("OPTIMIZE", "VACUUM START", "VACUUM END", "FSCK", "SET TBLPROPERTIES")


@dataclasses.dataclass(frozen=True)
class Version:
    """A version of a Delta table."""

    table: Any

    @property
    def version(self) -> int:
        return int(self.table.version())

    @property
    def schema(self) -> pa.Schema:
        """The columns, with what fields say of what made them put together."""
        schema = pa.schema(self.table.schema().to_arrow())
        said: dict[str, Any] = {}
        made = {}
        for field in schema:
            own = (field.metadata or {}).get(METADATA_KEY.encode())
            if own is not None:
                said = json.loads(own)
                made[field.name] = said.pop("column")
        metadata = {METADATA_KEY: json.dumps({**said, "columns": made})} if made else {}
        plain = [pa.field(field.name, field.type, field.nullable) for field in schema]
        return pa.schema(plain, metadata)

    @property
    def by(self) -> tuple[str, ...]:
        return tuple(self.table.metadata().partition_columns)

    def ran(self, run: str) -> bool | None:
        return self.table.transaction_version(app_id(run)) is not None

    def commits(self, after: int) -> Iterator[Commit]:
        for each in self.table.history(max(self.version - after, 1)):
            if each.get("version", 0) <= after and after:
                return
            options = each.get("operationParameters") or {}
            kind, restored = each.get("operation"), str(options.get("version", ""))
            everything = options.get("predicate") in (None, "", "[]", "true")
            yield Commit(
                each.get("version", 0),
                each.get(RUN),
                replaces=options.get("mode") == "Overwrite" and everything,
                changes=kind not in _SAME_ROWS,
                restores=int(restored) if kind == "RESTORE" and restored.isdigit() else None,
            )


def app_id(run: str) -> str:
    return f"dask_embed/{run}"


def with_fields_that_tell(schema: pa.Schema) -> pa.Schema:
    """Return a schema in which each field tells what made it, which Delta's keep."""
    said = json.loads((schema.metadata or {}).get(METADATA_KEY.encode(), b"{}"))
    made = said.pop("columns", {})
    return pa.schema(
        [
            field.with_metadata({METADATA_KEY: json.dumps({**said, "column": made[field.name]})})
            if field.name in made
            else field
            for field in schema
        ]
    )
