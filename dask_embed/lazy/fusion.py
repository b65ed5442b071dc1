"""A way to optimize a plan again that Dask has fused."""

from __future__ import annotations

import functools
from typing import Any

from dask_embed.lazy._dask import Expr, Fused, Projection
from dask_embed.lazy.conditions import rebuilt
from dask_embed.lazy.readers import readers_of


class Unfuse(Expr):
    """What every node of ours depends on: it takes the group apart that the node was fused into.

    Dask's `Fused` refers to tasks by the names that they had, and hides which columns it reads.
    When it is optimized again, as ``persist`` does, a column selection beside it reads fewer
    columns, gets another name, and the group waits for tasks that do not exist. As a node without
    tasks stays outside of the group, Dask asks it first.

    Parameters
    ----------
    node : str
        Name of the node that depends on it. Dask's search for the readers of a node would find
        those of others if they shared one.
    """

    _parameters = ["node"]  # noqa: RUF012 - the form of every Dask expression
    ndim = 0  # Dask broadcasts what has no dimension: frames that share it stay aligned
    _meta = None

    @functools.cached_property
    def _name(self) -> str:
        return f"unfuse-{self.operand('node')}"  # as unlike others as the node: no hash is needed

    def _divisions(self) -> tuple[None, None]:
        return (None, None)

    def _layer(self) -> dict[Any, Any]:
        return {}

    def _simplify_up(self, parent: Expr, dependents: Any) -> Expr | None:
        if isinstance(parent, Fused) and any(isinstance(n, Projection) for n in parent.walk()):
            return _taken_apart(parent, dependents)
        return None


class UnfuseAbove(Expr):
    """What passes for `frame` until all groups above it are taken apart, too.

    Behind a shuffle there may be another group. It refers to the shuffle by the name that that
    had, and does not depend on an `Unfuse`. So this node rises to it, step by step: Dask asks
    each node for a form of what reads it, and goes from above to below.
    """

    _parameters = ["frame"]  # noqa: RUF012 - the form of every Dask expression

    @property
    def _meta(self) -> Any:
        return self.frame._meta

    def _divisions(self) -> Any:
        return self.frame.divisions

    def _simplify_up(self, parent: Expr, dependents: Any) -> Expr | None:
        if isinstance(parent, UnfuseAbove):
            return self
        if isinstance(parent, Fused):
            return _taken_apart(parent, dependents)
        if not _in_a_group(parent, dependents):
            return None
        operands = [o.frame if isinstance(o, UnfuseAbove) else o for o in parent.operands]
        return UnfuseAbove(type(parent)(*operands))

    def _lower(self) -> Expr:
        return self.frame


def _taken_apart(group: Fused, dependents: Any) -> Expr:
    plain = rebuilt(group, {}, _first_of_group)  # as it was before Dask fused it
    return UnfuseAbove(plain) if _in_a_group(group, dependents) else plain


def _in_a_group(node: Expr, dependents: Any) -> bool:
    """Return whether a group reads what `node` gives, through whatever other nodes."""
    nodes, seen = [node], set()
    while nodes:
        for reader in readers_of(nodes.pop(), dependents):
            if isinstance(reader, Fused):
                return True
            if reader._name not in seen:
                seen.add(reader._name)
                nodes.append(reader)
    return False


def _first_of_group(node: Expr) -> Expr:
    while isinstance(node, Fused):  # a group may begin with another
        node = node.exprs[0]
    return node
