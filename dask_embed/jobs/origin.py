"""What made the columns of a file, and whether a frame's may stand beside them."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from dask_embed.expr import OperatorRows
from dask_embed.jobs.engine import nested_types, plainly_named
from dask_embed.jobs.folder import METADATA_KEY
from dask_embed.operators.together import parts_of
from dask_embed.quantize_expr import Quantize

# Where a name may be that of a local folder or file, and what tells its content.
_REVISIONS = {
    "model": "revision",
    "adapter": "adapter_revision",
    "tokenizer": "tokenizer_revision",
    "weights": "revision",
    "prototypes": "revision",
}


def provenance(frame: Any) -> dict[str, Any]:
    """Describe each result column of `frame` that an operator of its expression made."""
    from dask_embed import __version__

    columns: dict[str, dict[str, Any]] = {}
    for node in frame.expr.find_operations(OperatorRows):
        for operator in parts_of(node.operator):
            made = [name for name in operator.result_columns if name in frame.columns]
            # The last to make a column comes first; an earlier one had its name and was cut away.
            columns = {name: operator.provenance() for name in made} | columns
    for node in frame.expr.find_operations(Quantize):
        if node.column in columns:
            columns[node.column]["precision"] = node.precision
    return {"version": __version__, "columns": columns}


def require_same_types(path: str, written: pa.Schema, frame: Any) -> None:
    for name, given in nested_types(frame).items():
        if name not in written.names:
            continue  # Dask names all columns that differ
        present = written.field(name).type
        if plainly_named(present) != plainly_named(given):
            raise ValueError(
                f"append=True needs the types of the files in {path!r}: column {name!r} is "
                f"{present} there, but {given} in the frame"
            )


def require_same_origin(
    path: str,
    names: list[str],
    written: dict[bytes, bytes] | None,
    metadata: dict[str, str] | None,
) -> None:
    """Raise ValueError unless files and frame say the same about what made their columns."""
    before = json.loads((written or {}).get(METADATA_KEY.encode(), b"{}"))
    now = json.loads((metadata or {}).get(METADATA_KEY, "{}"))
    for name in names:
        there, here = (told.get("columns", {}).get(name, {}) for told in (before, now))
        differing = _without_local_names(there).items() ^ _without_local_names(here).items()
        if not differing:
            continue
        always = ["operator", "model", "revision"]
        shown = dict.fromkeys([*always, *sorted(dict(differing))] if there and here else always)
        told = [
            ", ".join(f"{key}={made[key]!r}" for key in shown if key in made) or "nothing"
            for made in (there, here)
        ]
        raise ValueError(
            f"append=True would mix values of different origin in column {name!r} of {path!r}: "
            f"what made it is {told[0]} in the files, but {told[1]} in the frame"
        )


def _without_local_names(made: dict[str, Any]) -> dict[str, str]:
    """Return json of each setting; where a local folder lies does not count, its content does."""
    return {
        key: json.dumps(value, sort_keys=True)
        for key, value in made.items()
        if not str(made.get(_REVISIONS.get(key, ""))).startswith("local-")
    }
