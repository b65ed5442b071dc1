"""Steps of Dask in words, for `explain`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from dask.utils import funcname

from dask_embed.lazy._dask import (
    Assign,
    Concat,
    DropDuplicates,
    ExplodeFrame,
    Expr,
    Head,
    Loc,
    LocElement,
    LocList,
    LocSlice,
    LocUnknown,
    MapPartitions,
    Merge,
    NFirst,
    NLargest,
    NLast,
    NSmallest,
    Partitions,
    RenameAxis,
    RenameFrame,
    Repartition,
    SetIndex,
    Shuffle,
    SortValues,
    Tail,
)

# How Dask does something is no part of what it does.
_HOW = {
    *("axis", "broadcast", "ignore_order", "nargs", "npartitions_input", "partition_size"),
    *("shuffle_method", "split_every", "split_out", "suffixes", "upsample"),
}


def in_words(node: Any) -> str:
    """Return what a step of Dask does."""
    told = next((_WORDS[kind] for kind in type(node).__mro__ if kind in _WORDS), _by_its_name)
    return told(node)


def _by_its_name(node: Any) -> str:
    scalars = [
        f"{name.strip('_')}={value!r}"
        for name, value in zip(type(node)._parameters, node.operands, strict=False)
        if isinstance(value, str | int | float | list | tuple)
        and not isinstance(value, bool)
        and name not in _HOW
    ]
    return f"{type(node).__name__.lower()} {' '.join(scalars)}".rstrip()


def _names(columns: Any) -> str:
    one = isinstance(columns, str) or not isinstance(columns, Iterable)
    return str(columns) if one else ", ".join(map(str, columns))


def _end(which: str) -> Callable[[Any], str]:
    def told(node: Any) -> str:
        several = node.operand("npartitions") if which == "first" else 1
        of = "partition" if several == 1 else f"{several} partitions"
        of = "all partitions" if several == -1 else f"the {which} {of}"
        return f"keep the {which} {node.n} rows of {of}"

    return told


def _chosen(which: str) -> Callable[[Any], str]:
    return lambda node: f"keep the {node.n} {which} {_names(node.operand('_columns'))}"


def _unique(node: Any) -> str:
    subset = node.operand("subset")
    of = "each value" if subset is None else f"each {_names(subset)}"
    return f"keep the {node.operand('keep') or 'only'} row of {of}"


def _merge(node: Any) -> str:
    keys = node.left_on
    by = "a computed column" if isinstance(keys, Expr) else _names(keys)
    return f"{node.how} merge by {'the index' if node.left_index else by}"


def _concat(node: Any) -> str:
    place = "behind" if node.axis == 0 else "beside"
    return f"put {len(node._frames)} frames {place} each other"


def _repartition(node: Any) -> str:
    count = node.operand("new_partitions")
    return f"repartition into {count}" if isinstance(count, int) else "repartition"


def _set_index(node: Any) -> str:
    other = node.operand("_other")
    by = "a computed column" if isinstance(other, Expr) else _names(other)
    return f"sort rows by {by}, as the index"


def _renamed(node: Any) -> str:
    before, after = node.frame.columns, node.columns
    pairs = [f"{a} to {b}" for a, b in zip(before, after, strict=True) if a != b]
    return f"rename {', '.join(pairs)}"


_WORDS: dict[type[Expr], Callable[[Any], str]] = {
    Concat: _concat,
    Assign: lambda node: f"assign {_names(node.keys)}",
    DropDuplicates: _unique,
    ExplodeFrame: lambda node: f"explode {_names(node.operand('column'))}",
    Head: _end("first"),
    Tail: _end("last"),
    **dict.fromkeys((Loc, LocElement, LocList, LocSlice, LocUnknown), lambda node: "keep labels"),
    MapPartitions: lambda node: f"map {funcname(node.func)} over partitions",
    Merge: _merge,
    NFirst: _chosen("first rows by"),
    NLast: _chosen("last rows by"),
    NLargest: _chosen("rows with the largest"),
    NSmallest: _chosen("rows with the smallest"),
    Partitions: lambda node: f"keep partitions {_names(node.partitions)}",
    RenameAxis: lambda node: "rename the index",
    RenameFrame: _renamed,
    Repartition: _repartition,
    SetIndex: _set_index,
    Shuffle: lambda node: "shuffle rows",
    SortValues: lambda node: f"sort rows by {_names(node.operand('by'))}",
}
