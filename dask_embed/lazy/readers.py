"""Who reads a node of a plan, from what Dask tells of its dependents."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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


def answered_once(
    dependents: Any, node: Expr, parent: Expr, ask: Callable[[Any, Any], bool]
) -> bool:
    """Return what a node answers to its parent, the same throughout a pass of the optimizer.

    Dask asks whether a filter may pass once for each reader of the filter, and what rules make
    meanwhile counts as dependents, too. Of two answers two forms of one filter would come, and a
    filter of which one half stands on each of them is joined with one of these: its other half
    would be of rows that are gone.
    """
    answers = dependents.setdefault(_ANSWERS, {})  # Dask makes new dependents for each pass
    key = (node._name, parent._name)
    if key not in answers:
        answers[key] = ask(parent, dependents)
    return bool(answers[key])


_ANSWERS = "answers of one pass"  # as no expression is called


def with_meta_of(new: Any, old: Expr) -> Any:
    """Return `new`, which gives what `old` does, with the empty frame of that, if it is known.

    To make it anew takes as long as all else that is done to a plan of many operators.
    """
    if "_meta" in vars(old):
        vars(new).setdefault("_meta", vars(old)["_meta"])
    return new
