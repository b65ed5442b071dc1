"""The plan that a node is part of, and what stands in it that the optimizer cannot look into.

Dask makes an array of the tasks of a frame, and a frame of the array's: neither knows of the other.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import Any

from dask_embed.lazy._dask import (
    IO,
    Blockwise,
    Expr,
    FromGraph,
    MapPartitions,
    MaybeAlignPartitions,
    ReadParquet,
    SetIndex,
    SortValues,
    _ExprSequence,
)
from dask_embed.lazy.parts import InParts
from dask_embed.lazy.readers import plan_of


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """What is beside the nodes of a plan.

    Attributes
    ----------
    tasks : frozenset of str
        Names of the tasks that run whatever becomes of the plan: those of arrays.
    counted : bool
        Whether something takes the partitions as they were when it was written.
    """

    tasks: frozenset[str]
    counted: bool


def runs_anyway(node: Expr, dependents: Any) -> bool:
    """Return whether an array has the tasks of a node, as it is written, among its own.

    Of a frame beside an array Dask takes the index as it is written, filters and all. Under the
    same name those tasks run once; with fewer rows or columns they would run, too. Files that Dask
    joins have another name in any case.
    """
    tasks = _surroundings(dependents).tasks
    kind = node._name.rpartition("-")[0]
    if not any(name.rpartition("-")[0] == kind for name in tasks):
        return False
    if node._name not in tasks and node.lower_completely()._name not in tasks:
        return False
    files = (each for each in node.walk() if isinstance(each, ReadParquet))
    return all(each._fusion_compression_factor >= 1 for each in files)


def in_written_parts(frame: Expr, dependents: Any, other: type[Expr]) -> Expr:
    """Return a frame so that it stays in its partitions, if somebody counts on these.

    Nodes of a kind `other` take care of what is below them.
    """
    files = any(isinstance(each, ReadParquet) for each in _down_to(frame, InParts, other))
    return InParts(frame) if files and _surroundings(dependents).counted else frame


# What takes equally many partitions of two frames, and what is a function of a whole partition.
_COUNTING = (MaybeAlignPartitions, MapPartitions)
_ALONE = Surroundings(frozenset(), False)
_FOUND: OrderedDict[str, Surroundings] = OrderedDict()
_MOST = 64


def _surroundings(dependents: Any) -> Surroundings:
    plan = plan_of(dependents)
    if plan is None:
        return _ALONE
    found = _FOUND.get(plan._name)
    if found is None:
        found = _FOUND[plan._name] = _of_plan(plan)
        if len(_FOUND) > _MOST:
            _FOUND.popitem(last=False)
    return found


def _of_plan(plan: Expr) -> Surroundings:
    nodes: list[Any] = list(plan.walk())
    opaque = [node for node in nodes if isinstance(node, FromGraph)]
    tasks = {_name_of(key) for node in opaque for key in node.operand("layer")}
    counted = (
        _stays_apart(plan)
        or any(isinstance(node, _COUNTING) or _looks_for_divisions(node) for node in nodes)
        or bool(opaque and any(map(_is_beside_an_array, nodes)))
    )
    return Surroundings(frozenset(tasks), counted)


def _looks_for_divisions(node: Any) -> bool:
    """Return whether Dask reads a column to find where the partitions of a frame are to begin.

    It reads the column alone, of joined files, and takes rows that are sorted in these for sorted
    in the partitions of the frame, which has more of them: then rows are on the wrong side of a
    division, where `loc`, joins and `repartition` do not find them.
    """
    by_values = isinstance(node, SetIndex | SortValues)
    return by_values and ("user_divisions" not in node._parameters or node.user_divisions is None)


def _stays_apart(plan: Expr) -> bool:
    """Return whether partitions are what is wanted: `persist`, `optimize`, `iterrows`, arrays.

    What is computed becomes one partition before anything else happens. Of what is sorted, how many
    there are would be computed.
    """
    frames = plan.operands if isinstance(plan, _ExprSequence) else [plan]
    return any(
        getattr(each, "npartitions", 1) > 1
        for each in frames
        if not any(isinstance(node, SetIndex | SortValues) for node in each.walk())
    )


def _is_beside_an_array(node: Expr) -> bool:
    """Return whether a node takes each partition of a frame with one of an array, or the like."""
    frames = [each for each in node.dependencies() if getattr(each, "ndim", 0)]
    if not isinstance(node, Blockwise) or len(frames) < 2:
        return False
    return any(isinstance(each, FromGraph) for frame in frames for each in _down_to(frame, IO))


def _down_to(node: Expr, *stop: type[Expr]) -> Iterator[Expr]:
    """Yield what a node takes partition by partition, and itself; nothing below nodes of a kind."""
    stack, seen = [node], {node._name}
    while stack:
        found = stack.pop()
        yield found
        if isinstance(found, stop) or not isinstance(found, Blockwise):
            continue
        for each in found.dependencies():
            if each._name not in seen:
                seen.add(each._name)
                stack.append(each)


def _name_of(key: Hashable) -> str:
    return str(key[0] if isinstance(key, tuple) else key)
