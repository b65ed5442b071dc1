"""What decides the rows of a job and the files that they go into, so that it can be gone on with.

What cannot change a value, such as the size of batches or the device, does not count: a job that
ran out of memory goes on with smaller batches.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from dask.tokenize import tokenize
from dask.utils import funcname

from dask_embed._validation import shown
from dask_embed._version import __version__
from dask_embed.jobs.origin import UNKNOWN, Origin, differences_of, origins_in_file, provenance
from dask_embed.lazy._dask import Expr, ReadParquet
from dask_embed.lazy.append import OperatorRows
from dask_embed.lazy.fusion import Unfuse
from dask_embed.operators.frame import FrameOperator
from dask_embed.operators.fused import Together

_COUNTING = ("version", "rows", "layout")
# Of what reads Parquet files: how a store is opened, and what Dask keeps of files it looked at.
_NOT_OF_ROWS = ("filesystem", "storage_options", "_dataset_info_cache", "_pq_length_stats")
# Names of files or steps in a message.
_MOST_NAMED = 3
_MOST_STEPS = 100  # each file keeps them


@dataclasses.dataclass(frozen=True)
class Identity:
    """What a job is known by when it is started again.

    Attributes
    ----------
    said : dict
        As json: `version` of this library, `rows` (a token of the plan and its input files),
        `layout` (options that decide which file has which columns), and to tell what differs the
        `columns` with what made them, `sources` with the files that are read, and `plan` with its
        steps.
    """

    said: dict[str, Any]

    @classmethod
    def of(cls, frame: Any, made: dict[Any, Origin], layout: dict[str, Any]) -> Identity:
        return cls(
            {
                "version": __version__,
                "rows": rows_token(frame.expr),
                "layout": layout,
                "columns": provenance(made),
                "sources": dict(_sources(frame.expr)),
                "plan": plan_steps(frame.expr),
            }
        )

    @property
    def token(self) -> str:
        """32 hexadecimal digits."""
        text = json.dumps([self.said[name] for name in _COUNTING], sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    @property
    def in_short(self) -> dict[str, Any]:
        """What the metadata of each file says of it, beside the columns."""
        told = {
            name: self.said[name] for name in (*_COUNTING, "steps", "plan") if name in self.said
        }
        return {**told, "token": self.token}

    def differences(self, before: dict[str, Any]) -> str:
        """Return in words what in a folder is told to be another, "" where nothing is."""
        return "; ".join(_differences(before, self.said))

    def differing(self, before: dict[str, Any]) -> str:
        """Return in words how what a folder says differs from this."""
        return (
            self.differences(before)
            or self.other_steps(before)
            or "the frame is made of other rows or by other functions"
        )

    def other_steps(self, before: dict[str, Any]) -> str:
        """Return in words which steps of the plan are others than a folder says, "" without any."""
        there, here = (_steps_of(each) for each in (before, self.said))
        if not there or not here:
            return ""
        new = dict.fromkeys(label for (label, _), _ in (here - there).items())
        gone = dict.fromkeys(label for (label, _), _ in (there - here).items())
        told = {
            "is another": [label for label in new if label in gone],
            "is new": [label for label in new if label not in gone],
            "is gone": [label for label in gone if label not in new],
        }
        said = [f"the step {_some(labels)} {what}" for what, labels in told.items() if labels]
        if not said:
            return "the steps of the plan are put together in another way"
        if new:
            said.append("rows and functions are the same if their Dask tokens are, in each process")
        return "; ".join(said)


def _steps_of(said: Mapping[str, Any]) -> Counter[tuple[str, str]]:
    """Return the steps that are told, each as often as it is there."""
    given = said.get("plan")
    pairs = given if isinstance(given, list) else []
    return Counter((str(label), str(token)) for label, token in pairs)


def plan_steps(plan: Expr, source: Expr | None = None) -> list[list[str]]:
    """Return what each step of a plan is called, and a token of it without what it reads.

    No value is in it, since files keep it. Of more steps than `_MOST_STEPS` none is told, and
    none below `source`.
    """
    found: dict[str, list[str]] = {}
    left = [plan]
    while left and len(found) <= _MOST_STEPS:
        node = left.pop()
        if node._name in found or (source is not None and node._name == source._name):
            continue
        below = node.dependencies()
        if isinstance(node, Unfuse):  # of Dask's optimizer alone
            continue
        token = tokenize(_alone(node))[:8] if below else _token(node, {})
        found[node._name] = [_step_name(node), token]
        left += below
    return [] if len(found) > _MOST_STEPS else list(found.values())


def _alone(node: Expr) -> list[Any]:
    """Return what a step does, whatever it does it to."""
    operands = [None if isinstance(each, Expr) else _operand(each, {}) for each in node.operands]
    return [type(node).__name__, operands]


def _step_name(node: Expr) -> str:
    """Return what a step is called: its type, with the name of its function or its columns."""
    name = type(node).__name__
    for parameter in ("func", "operator", "columns"):
        if parameter not in node._parameters:
            continue
        given = node.operand(parameter)
        if isinstance(given, FrameOperator):
            return f"{name}({type(given).__name__})"
        said = funcname(given) if callable(given) else shown(given)
        return name if given is None else f"{name}({said})"
    return name


def steps_token(plan: Expr, source: Expr, columns: list[Any]) -> str:
    """Return 32 hexadecimal digits that tell what a plan makes of the `columns` of `source`."""
    return tokenize(_token(plan, {source._name: "rows"}), columns)


def rows_token(plan: Expr) -> str:
    """Return 32 hexadecimal digits that tell the rows of a plan, and how they are partitioned."""
    return tokenize(_token(plan, {}))


def _token(node: Expr, found: dict[str, Any]) -> Any:
    if node._name not in found:
        found[node._name] = _token_of_files(node) or _token_of_step(node, found)
    return found[node._name]


def _token_of_files(node: Expr) -> str | None:
    """Return a token of the files that a node reads and how, None where it reads none so.

    Dask's own is another in each process: it is of the filesystem, too, whose token holds the
    number of the process. How a store is opened does not decide rows, and passwords change.
    """
    if not isinstance(node, ReadParquet):
        return None
    how = dict(zip(node._parameters, node.operands, strict=True))
    for name in _NOT_OF_ROWS:
        how.pop(name, None)
    return str(tokenize(type(node).__name__, node.checksum, how))


def _token_of_step(node: Expr, found: dict[str, Any]) -> str:
    operands = [_operand(operand, found) for operand in node.operands]
    inner = any(isinstance(operand, Expr) for operand in node.operands)
    # a source has more to its name than its arguments: the size and time of files
    return str(tokenize(type(node).__name__, operands) if inner else node._name)


def _operand(operand: Any, found: dict[str, Any]) -> Any:
    if isinstance(operand, Expr):
        return _token(operand, found)
    if isinstance(operand, FrameOperator):
        return [
            (
                sorted(Origin(part.provenance()).settings().items()),
                part.input_columns,
                part.output_columns,
            )
            for part in (operand.parts if isinstance(operand, Together) else (operand,))
        ]
    if isinstance(inner := getattr(operand, "expr", None), Expr):
        return _token(inner, found)
    if dataclasses.is_dataclass(operand) and not hasattr(operand, "__dask_tokenize__"):
        # a step over a corpus holds what it reads beside its own rows
        names = [field.name for field in dataclasses.fields(operand)]
        return type(operand), [(name, _operand(getattr(operand, name), found)) for name in names]
    return operand


def _sources(plan: Expr) -> Iterator[tuple[str, Any]]:
    """Yield what a plan reads: the size and time of each file as a token, or a token alone."""
    for node in {each._name: each for each in plan.walk()}.values():
        if isinstance(node, ReadParquet):
            yield node._name, _files(node)
        elif not node.dependencies() and not isinstance(node, OperatorRows):
            yield type(node).__name__, node._name


def _files(node: ReadParquet) -> dict[str, str]:
    info = node._dataset_info
    if "ds" not in info:  # of Arrow's filesystems
        return {fragment.fragment.path: info["checksum"] for fragment in info["fragments"]}
    return {file: str(info["fs"].checksum(file)) for file in info["ds"].files}


def _differences(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    if before.get("version") != after["version"]:
        yield (
            f"dask_embed is {after['version']} here, and was {before.get('version', 'older')} there"
        )
    for name, was in (before.get("layout") or {}).items():
        if (value := after["layout"].get(name)) != was:
            yield f"{name} is {shown(value)} here, and was {shown(was)} there"
    there, here = (origins_in_file(each.get("columns", {})) for each in (before, after))
    for name in sorted({*there, *here}, key=str):
        parts = (there.get(name, UNKNOWN), here.get(name, UNKNOWN))
        if said := differences_of(*parts):
            yield f"column {name!r} is made by {said[1]} here, and was by {said[0]} there"
    if "sources" in before:
        yield from _other_files(_flat(before["sources"]), _flat(after["sources"]))


def _flat(sources: dict[str, Any]) -> dict[str, str]:
    """Return the token of each file that is read."""
    files: dict[str, str] = {}
    for each in sources.values():
        files |= each if isinstance(each, dict) else {}
    return files


def _other_files(before: dict[str, str], after: dict[str, str]) -> Iterator[str]:
    changed = {
        "is new": sorted(after.keys() - before.keys()),
        "is gone": sorted(before.keys() - after.keys()),
        "has another size or time": sorted(
            name for name in before.keys() & after.keys() if before[name] != after[name]
        ),
    }
    for what, names in changed.items():
        if names:
            yield f"the input file {_some(list(map(repr, names)))} {what}"


def _some(names: list[str]) -> str:
    more = f" (and {len(names) - _MOST_NAMED} more)" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more
