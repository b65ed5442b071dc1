"""Whether columns have their rows in the same partitions as a frame: what Dask says, asked less."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dask_embed.lazy._dask import Assign, Elemwise, Expr, are_co_aligned
from dask_embed.lazy.conditions import walk


def are_aligned(frame: Expr, others: list[Expr], sources: Iterable[Expr]) -> bool:
    """Return what Dask's `are_co_aligned` says of a frame and of expressions.

    That looks at all nodes down to the files. What is made of the frame, or of `sources`, which
    have its rows in its partitions, comes from nowhere else.
    """
    names = [frame._name, *(source._name for source in sources)]
    if all(_is_made_of(each, names) for each in others):
        return _is_aligned(frame)
    return are_co_aligned(frame, *others)


def _is_aligned(node: Any) -> bool:
    """Return what Dask says of a node alone: of nodes on each other, what it says of the lowest."""
    if "_is_aligned" not in vars(node):
        others = [each for each in node.operands[1:] if isinstance(each, Expr)]
        on_frame = type(node) is Assign or getattr(type(node), "one_row_each", False)
        if on_frame and all(_is_made_of(each, [node.frame._name]) for each in others):
            vars(node)["_is_aligned"] = _is_aligned(node.frame)
        else:
            vars(node)["_is_aligned"] = are_co_aligned(node)
    return bool(vars(node)["_is_aligned"])


def _is_made_of(expression: Expr, names: Iterable[str]) -> bool:
    """Return whether an expression reads partitions of nodes of these names, and nothing else."""
    return all(
        isinstance(node, Elemwise) and node.dependencies() and node.ndim > 0
        for node in walk(expression, names)
    )
