"""Who reads a node of a plan, from what Dask tells of its dependents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dask_embed.lazy._dask import Expr, Fused, determine_column_projection


def plan_of(dependents: Any) -> Any:
    """Return the whole plan, of which Dask collects the dependents from above to below.

    Not by going up from a node: what a rule has made since has no way to the whole yet.
    """
    first: Any = next(iter(dependents.values()), [])
    return first[0]() if first else None


def readers_of(node: Expr, dependents: Any) -> Iterator[Any]:
    """Yield the expressions that read `node`."""
    for reference in dependents[node._name]:
        reader = reference()
        if reader is not None:
            yield reader


def dependents_of(node: Expr, dependents: Any) -> set[str]:
    """Return the names of the expressions that read `node`."""
    return {reader._name for reader in readers_of(node, dependents)}


def wanted_columns(node: Expr, parent: Expr, dependents: Any) -> set[str]:
    """Return the columns of `node` that any expression reads."""
    for reader in readers_of(node, dependents):
        # Results that are computed together, and what a fused group hides: Dask counts neither.
        if not isinstance(reader, Expr) or isinstance(reader, Fused):
            return set(node.columns)
    wanted = determine_column_projection(node, parent, dependents)
    return set(wanted if isinstance(wanted, list) else [wanted])
