"""What made the columns of a file, and whether a frame's may stand beside them."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pyarrow as pa
from dask.dataframe.dask_expr._expr import AddPrefix, Assign, Expr, Projection, RenameFrame

from dask_embed._validation import shown
from dask_embed._version import __version__
from dask_embed.expr import OperatorRows
from dask_embed.jobs.engine import nested_types, plainly_named
from dask_embed.jobs.folder import METADATA_KEY
from dask_embed.operators.identity import defaults
from dask_embed.operators.together import parts_of
from dask_embed.quantize_expr import Quantize

# What files say of a column: from 2 on, every setting that can change a value.
FORMAT = 2
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
    columns = {name: made.told for name, made in _origins(frame).items()}
    return {"version": __version__, "format": FORMAT, "columns": columns}


@dataclasses.dataclass(frozen=True)
class _Origin:
    """What made a column, and what files mean that do not name one of its settings."""

    told: dict[str, Any]
    defaults: dict[str, Any] = dataclasses.field(default_factory=dict)


def _origins(frame: Any) -> dict[str, _Origin]:
    found = {name: _origin(frame.expr, name) for name in frame.columns}
    return {name: origin for name, origin in found.items() if origin is not None}


def _origin(node: Expr, column: Any) -> _Origin | None:
    """Return what made a column of an expression, followed through its other names below."""
    sources: dict[str, _Origin] = {}
    pending, seen = [(node, column)], set()
    while pending:
        node, column = pending.pop()
        if (node._name, column) in seen:
            continue
        seen.add((node._name, column))
        if (origin := _made_by(node, column)) is not None:
            sources[json.dumps(origin.told, sort_keys=True)] = origin
        else:
            pending += _below(node, column)
    if len(sources) > 1:  # of rows that were put together
        return _Origin({"operator": "several", "of": sorted(sources)})
    return next(iter(sources.values()), None)


def _made_by(node: Expr, column: Any) -> _Origin | None:
    if isinstance(node, OperatorRows):
        for operator in parts_of(node.operator):
            if column in operator.result_columns:
                return _Origin(operator.provenance(), defaults(operator))
    if isinstance(node, Quantize) and column == node.column:
        origin = _origin(node.frame, column) or _Origin({"operator": "quantize"})
        told = {**origin.told, "precision": node.precision, "ranges": _ranges(node)}
        return dataclasses.replace(origin, told=told)
    return None


def _below(node: Expr, column: Any) -> list[tuple[Expr, Any]]:
    """Return the expressions that a column comes from, and its name in each."""
    if isinstance(node, RenameFrame | AddPrefix):  # the order stays
        return [(node.frame, node.frame.columns[list(node.columns).index(column)])]
    if isinstance(node, Assign) and column in node.keys:
        value = dict(zip(node.keys, node.vals, strict=True))[column]
        # What was computed from a column is another.
        return [(value, value.columns[0])] if isinstance(value, Projection) else []
    frames = node.dependencies()
    if "frame" in node._parameters:  # what else it reads, such as conditions, gives no values
        frames = frames[:1]
    return [(frame, column) for frame in frames if column in frame.columns]


def _ranges(node: Quantize) -> Any:
    """Return the ranges of integers, or what says over which rows they are calibrated."""
    ranges = node.operand("ranges")
    if isinstance(ranges, Expr):
        return f"calibrated-{ranges._name.rpartition('-')[2]}"
    return None if ranges is None else np.asarray(ranges, float).tolist()


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


def require_same_origin(path: str, written: pa.Schema, frame: Any) -> None:
    """Raise ValueError unless files and frame say the same about what made their columns."""
    said = json.loads((written.metadata or {}).get(METADATA_KEY.encode(), b"{}"))
    here = _origins(frame)
    for name in written.names:
        if name not in frame.columns:
            continue
        there, now = said.get("columns", {}).get(name, {}), here.get(name, _Origin({}))
        differing = _differing(there, now, said.get("format", 1))
        if not differing:
            continue
        always = ["operator", "model", "revision"]
        named = dict.fromkeys([*always, *differing] if there and now.told else always)
        told = [
            ", ".join(f"{key}={shown(made[key])}" for key in named if key in made) or "nothing"
            for made in (there, now.told)
        ]
        raise ValueError(
            f"append=True would mix values of different origin in column {name!r} of {path!r}: "
            f"what made it is {told[0]} in the files, but {told[1]} in the frame"
        )


def _differing(there: dict[str, Any], now: _Origin, written_as: int) -> list[str]:
    """Return the settings in which files and frame differ."""
    before, after = _without_local_names(there), _without_local_names(now.told)
    if written_as < FORMAT and there and now.told:
        # Files of the first format name some of the settings.
        return sorted(key for key in before.keys() & after.keys() if before[key] != after[key])
    if there and now.told:
        for key in now.defaults.keys() & after.keys():  # a setting that is newer than the files
            before.setdefault(key, json.dumps(now.defaults[key], sort_keys=True))
    return sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))


def _without_local_names(made: dict[str, Any]) -> dict[str, str]:
    """Return json of each setting; where a local folder lies does not count, its content does."""
    return {
        key: json.dumps(value, sort_keys=True)
        for key, value in made.items()
        if not str(made.get(_REVISIONS.get(key, ""))).startswith("local-")
    }
