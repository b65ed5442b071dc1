"""Partitions as they are written, and frames side by side in equally many of them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from dask_embed.lazy._dask import (
    Blockwise,
    Elemwise,
    Expr,
    FusedIO,
    Index,
    ReadParquet,
    Repartition,
)


def in_equal_parts(node: Expr) -> Expr | None:
    """Return `node` with as few partitions of each of its frames as of the others.

    Of files that few columns are read of Dask makes fewer partitions. It does the same to what
    stands beside the file, such as an array, but not to what stands beside a node further up.
    """
    if not isinstance(node, Blockwise) or sum(isinstance(o, Expr) for o in node.operands) < 2:
        return None
    frames = [each for each in node.dependencies() if not node._broadcast_dep(each)]
    fewest = min((each.npartitions for each in frames), default=1)
    fitted: Any = node
    for each in frames:
        if each.npartitions > fewest:
            fitted = fitted.substitute(each, Repartition(each, new_partitions=fewest))
    return fitted


class InParts(Elemwise):
    """`frame` in the partitions that it is written in.

    Of files that few columns are read of Dask makes fewer. An array that it makes of a column
    would have fewer chunks than the frame has partitions, a frame fewer than the array beside it.
    """

    _parameters = ["frame"]  # noqa: RUF012 - the form of every Dask expression
    _projection_passthrough = True
    _filter_passthrough = True

    @staticmethod
    def operation(partition: Any) -> Any:
        return partition

    def _simplify_up(self, parent: Expr, dependents: Any) -> Expr | None:
        if isinstance(parent, Index):
            return InParts(Index(self.frame))
        return super()._simplify_up(parent, dependents)

    def _tune_down(self) -> Expr | None:
        return InParts(unjoined(self.frame))

    def _tune_up(self, parent: Expr) -> Expr | None:
        return in_equal_parts(parent)


class Reading(FusedIO):
    """The partitions of a source as they are, under a name for each use of them.

    Of files that few columns are read of Dask makes fewer partitions, in which rows would have
    other places.
    """

    _parameters = ["_expr", "use"]  # noqa: RUF012 - the form of every Dask expression

    @functools.cached_property
    def _name(self) -> str:
        return f"{self.operand('_expr')._funcname}-{self.deterministic_token}"

    @property
    def _fusion_buckets(self) -> list[list[int]]:
        return [[each] for each in self.operand("_expr")._partitions]


def unjoined(plan: Expr, use: str = "", other: Callable[[Expr], Expr | None] | None = None) -> Expr:
    """Return a plan whose files keep their partitions.

    Parameters
    ----------
    plan : Expr
    use : str
        Files are read once for each.
    other : callable, optional
        What to put in the place of a node; None to leave it.
    """
    return _unjoined(plan, use, other, {})


def _unjoined(
    node: Expr, use: str, other: Callable[[Expr], Expr | None] | None, done: dict[str, Expr]
) -> Expr:
    if node._name not in done:
        changed = other(node) if other is not None else None
        if isinstance(node, ReadParquet):
            changed = Reading(node, use)
        elif changed is None and not isinstance(node, Reading):
            operands = [
                _unjoined(o, use, other, done) if isinstance(o, Expr) else o for o in node.operands
            ]
            same = all(new is old for new, old in zip(operands, node.operands, strict=True))
            changed = node if same else type(node)(*operands)
        done[node._name] = node if changed is None else changed
    return done[node._name]
