"""What the steps of Dask do to the rows and columns of a frame, for an operator that stands below.

A step that is not in the table stops an operator, and so does one whose arguments are not those of
which the table speaks.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

from dask_embed.columns.declared import DeclaredColumns
from dask_embed.lazy._dask import (
    AddPrefix,
    AddSuffix,
    Assign,
    AsType,
    ClearDivisions,
    Clip,
    ColumnsSetter,
    DropDuplicates,
    DropnaFrame,
    Eval,
    Expr,
    Fillna,
    FilterAlign,
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
    Query,
    RearrangeByColumn,
    RenameAxis,
    RenameFrame,
    Repartition,
    Replace,
    ResetIndex,
    ResolveOverlappingDivisions,
    Round,
    Sample,
    SetIndex,
    SetIndexBlockwise,
    Shuffle,
    SortValues,
    Split,
    SplitTake,
    _DeepCopy,
    no_default,
)
from dask_embed.lazy.formulas import assigned_name, names_in
from dask_embed.lazy.kept import Between
from dask_embed.lazy.unique import is_unique

Names = frozenset[Hashable]


class Rows(enum.Enum):
    """What becomes of the rows of a frame."""

    SAME = "all, in their order and partitions"
    SOME = "some, in their order"
    MOVED = "in another order, or in other partitions"
    CHOSEN = "some, of all partitions together"

    @property
    def fewer(self) -> bool:
        return self in (Rows.SOME, Rows.CHOSEN)

    @property
    def blockwise(self) -> bool:
        return self in (Rows.SAME, Rows.SOME)


@dataclasses.dataclass(frozen=True)
class Step:
    """What a step does to its first frame.

    Attributes
    ----------
    rows : Rows
    reads : frozenset
        Columns that decide what it does. Those that its other inputs read are not named.
    changes : frozenset
        Columns that have other values behind it, or are gone.
    names : dict, optional
        New names of columns, by the old ones, of a step that gives some.
    each_row_alone : bool
        Whether it does the same to a row whatever other rows there are.
    place : int
        Which of its operands the frame is.
    adds_nulls : bool
        Whether it may add rows of another frame, in which all columns of this one are null.
    """

    rows: Rows
    reads: Names = frozenset()
    changes: Names = frozenset()
    names: Mapping[Hashable, Hashable] | None = None
    each_row_alone: bool = False
    place: int = 0
    adds_nulls: bool = False


def step_of(node: Expr, frame: Expr | None = None) -> Step | None:
    """Return what a step of Dask does to `frame`, by default its first, None if it is not known."""
    if type(node) is Merge:  # `merge_asof` is a kind of it for Dask
        return None if frame is None else merge_of(node, frame)
    found = _TABLE.get(type(node))
    return found(node) if found else None


def describe(kind: type[Expr], step: Callable[[Any], Step | None]) -> None:
    """Add a step of ours to the table."""
    _TABLE[kind] = step


def _same(node: Expr) -> Step:
    return Step(Rows.SAME, each_row_alone=True)


def _assign(node: Assign) -> Step | None:
    if any(callable(value) and not isinstance(value, Expr) for value in node.vals):
        return None
    return Step(Rows.SAME, changes=frozenset(node.keys), each_row_alone=True)


def _rename(node: Expr) -> Step | None:
    old, new = list(node.frame.columns), list(node.columns)
    if len(set(old)) != len(old) or len(set(new)) != len(new):
        return None
    names = {a: b for a, b in zip(old, new, strict=True) if a != b}
    return Step(Rows.SAME, names=names, each_row_alone=True)


def _by_column(argument: str) -> Callable[[Any], Step | None]:
    """Describe a step that takes a value for each column, or one for all of them."""

    def describe(node: Any) -> Step | None:
        value = node.operand(argument)
        if isinstance(value, Expr):
            return None
        changes = value if isinstance(value, Mapping) else node.frame.columns
        return Step(Rows.SAME, changes=frozenset(changes), each_row_alone=True)

    return describe


def _replace(node: Replace) -> Step:
    given, value = node.operand("to_replace"), node.operand("value")
    by_column = isinstance(given, Mapping) and (
        value is not no_default or all(isinstance(each, Mapping) for each in given.values())
    )
    changes = given if by_column else node.frame.columns
    return Step(Rows.SAME, changes=frozenset(changes), each_row_alone=True)


def _rename_axis(node: RenameAxis) -> Step | None:
    index_alone = node.operand("columns") is no_default and node.operand("mapper") is no_default
    return _same(node) if index_alone else None


def _reset_index(node: ResetIndex) -> Step:
    return Step(Rows.SAME, changes=frozenset(set(node.columns) - set(node.frame.columns)))


def _eval(node: Eval) -> Step | None:
    name, value = assigned_name(node.operand("_expr"))
    read = names_in(value, node.frame.columns) if name and not node.expr_kwargs else None
    if read is None:
        return None
    return Step(Rows.SAME, reads=read, changes=frozenset([name]), each_row_alone=True)


def _query(node: Query) -> Step | None:
    read = names_in(node.operand("_expr"), node.frame.columns)
    return None if read is None or node.expr_kwargs else Step(Rows.SOME, reads=read)


def _dropna(node: DropnaFrame) -> Step | None:
    if node.thresh is not no_default or node.how not in (no_default, "any"):
        return None
    subset = node.frame.columns if node.subset is None else _listed(node.subset)
    return Step(Rows.SOME, reads=frozenset(subset))


def _loc_list(node: LocList) -> Step | None:
    labels = list(node.iindexer)
    once = len(set(labels)) == len(labels)
    return _located(node) if once else None


def _located(node: Any) -> Step | None:
    return Step(Rows.SOME, each_row_alone=True) if node.cindexer is None else None


def _sample(node: Sample) -> Step | None:
    return None if node.operand("replace") else Step(Rows.SOME)


def _split(node: Split) -> Step:
    return Step(Rows.SAME, changes=frozenset(["_split"]))


def _split_take(node: SplitTake) -> Step | None:
    taken = frozenset(["_split"])
    return Step(Rows.SOME, reads=taken, changes=taken) if node.operand("ndim") == 2 else None


def _drop_duplicates(node: DropDuplicates) -> Step | None:
    return None if node.subset is None else Step(Rows.CHOSEN, reads=_listed(node.subset))


def _largest(node: NLargest) -> Step | None:
    columns = node.operand("_columns")
    return None if columns is None else Step(Rows.CHOSEN, reads=_listed(columns))


def _sort_values(node: SortValues) -> Step | None:
    if node.operand("sort_function") is not None:
        return None
    return Step(Rows.MOVED, reads=_listed(node.by))


def _set_index(argument: str) -> Callable[[Any], Step | None]:
    def describe(node: Any) -> Step | None:
        other = node.operand(argument)
        if isinstance(other, Expr):
            return Step(Rows.MOVED)
        names = _listed(other)
        return Step(Rows.MOVED, reads=names, changes=names if node.drop else frozenset())

    return describe


def _shuffle(node: Shuffle) -> Step | None:
    by = node.operand("partitioning_index")
    return Step(Rows.MOVED, reads=frozenset() if isinstance(by, Expr) else _listed(by))


def _repartition(node: Repartition) -> Step | None:
    # by size: vectors count
    return None if node.operand("partition_size") is not None else Step(Rows.MOVED)


def _declared(node: MapPartitions) -> Step | None:
    declared = node.func
    others = len(node.operands) > len(node._parameters)  # further frames, or values of tasks
    known = isinstance(declared, DeclaredColumns) and node.frame.ndim == 2
    if not known or others or node.clear_divisions:
        return None
    frame, writes = list(node.frame.columns), declared.writes
    new = [*frame, *(name for name in writes if name not in frame)]
    # A `meta` of the user's may promise others, and names of columns may stand twice.
    if list(node._meta.columns) != new or len(set(new)) != len(new):
        return None
    return Step(Rows.SAME, reads=frozenset(declared.reads), changes=frozenset(writes))


def merge_of(node: Merge, frame: Expr) -> Step | None:
    """Return what a merge does to one of its frames, None if it may repeat rows of it."""
    place = 0 if node.left._name == frame._name else 1
    keys, by_index = (node.left_on, node.left_index)
    other, its_keys, its_index = (node.right, node.right_on, node.right_index)
    if place:
        keys, by_index, other, its_keys, its_index = (
            *(node.right_on, node.right_index),
            *(node.left, node.left_on, node.left_index),
        )
    if isinstance(keys, Expr) or isinstance(its_keys, Expr) or node.left._name == node.right._name:
        return None
    semi = node.how == "leftsemi" and not place
    known = node.how in ("inner", "left", "right", "outer")
    if not semi and (not known or not is_unique(other, its_keys, its_index)):
        return None
    side = "right" if place else "left"
    names = frozenset() if by_index else _listed(keys)
    both = frozenset(frame.columns) & frozenset(other.columns)
    rows = Rows.MOVED if node.how in (side, "outer") else Rows.CHOSEN
    adds = not semi and node.how not in ("inner", side)
    return Step(rows, reads=names, changes=names | both, place=place, adds_nulls=adds)


def _listed(names: Any) -> Names:
    is_one = isinstance(names, str) or not isinstance(names, Iterable)
    return frozenset([names] if is_one else names)


_TABLE: dict[type[Expr], Callable[[Any], Step | None]] = {
    Assign: _assign,
    RenameFrame: _rename,
    ColumnsSetter: _rename,
    AddPrefix: _rename,
    AddSuffix: _rename,
    AsType: _by_column("dtypes"),
    Fillna: _by_column("value"),
    Round: _by_column("decimals"),
    Clip: _by_column("lower"),
    Replace: _replace,
    RenameAxis: _rename_axis,
    ClearDivisions: _same,
    _DeepCopy: _same,
    Between: _same,
    ResetIndex: _reset_index,
    Eval: _eval,
    MapPartitions: _declared,
    Query: _query,
    DropnaFrame: _dropna,
    Loc: _located,
    LocElement: _located,
    LocList: _loc_list,
    LocSlice: _located,
    LocUnknown: _located,
    FilterAlign: lambda node: Step(Rows.CHOSEN),
    Sample: _sample,
    Split: _split,
    SplitTake: _split_take,
    DropDuplicates: _drop_duplicates,
    NLargest: _largest,
    NSmallest: _largest,
    NFirst: _largest,
    NLast: _largest,
    SortValues: _sort_values,
    SetIndex: _set_index("_other"),
    SetIndexBlockwise: _set_index("other"),
    Shuffle: _shuffle,
    RearrangeByColumn: _shuffle,
    Repartition: _repartition,
    ResolveOverlappingDivisions: lambda node: Step(Rows.MOVED),
}
