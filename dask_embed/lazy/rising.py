"""How an operator rises in a plan: above steps that do not need it, so that fewer rows reach it."""

from __future__ import annotations

from typing import Any

from dask_embed import config
from dask_embed.lazy._dask import Expr, Filter, Projection
from dask_embed.lazy.conditions import conditions_of, is_rowwise, reads_any
from dask_embed.lazy.held import Held, Passage, held_by, words
from dask_embed.lazy.readers import dependents_of, readers_of, with_meta_of
from dask_embed.lazy.rewrites import REWRITES
from dask_embed.lazy.steps import step_of
from dask_embed.lazy.surroundings import runs_anyway
from dask_embed.lazy.way import is_allowed, risen
from dask_embed.lazy.worth import is_worth_it, needs_none


def raised(top: Any, node: Any, dependents: Any) -> Expr | None:
    """Return the step `node` below an operator instead of above, None where it stays.

    A step that leaves rows by columns that are not made becomes a filter, which nodes of ours let
    through.

    Parameters
    ----------
    top : Expr
        The operator's node, or a selection of its columns.
    node : Expr
        What reads it.
    dependents : mapping
        Of Dask, the expressions that read each.
    """
    if top.computing is None or config.get("operators-rise") == "none":
        return None
    for rewrite in REWRITES:
        if (rewritten := rewrite(top, node, dependents)) is not None:
            return None if runs_anyway(top.computing, dependents) else rewritten
    passage = passage_of(top, node)
    held = held_by(top)
    if passage is None or obstacle(passage, held, dependents) is not None:
        return None
    if not is_worth_it(held, passage.step, node, dependents):
        return None
    if runs_anyway(top.computing, dependents):
        return None
    found = risen(passage, dependents)
    if found is None:
        return None
    above, known = found
    if top.ndim < 2:
        above = above.selected(top.operand("columns"))
    elif list(above.columns) != list(node.columns):
        chosen = list(node.columns)
        above = (
            above.selected(chosen) if hasattr(type(above), "made") else Projection(above, chosen)
        )
    if known:
        return with_meta_of(above, node)
    return above if same_kind(above._meta, node._meta) else None


def passage_of(top: Any, node: Any) -> Passage | None:
    """Return what a step does to an operator, None if it may do anything."""
    step = step_of(node, top)
    if step is None or getattr(node.operands[step.place], "_name", None) != top._name:
        return None
    return Passage(step, node, [top] if top is top.computing else [top, top.computing])


def obstacle(passage: Passage, held: Held, dependents: Any) -> str | None:
    """Return in words why an operator stays below a step, None if it may rise above it."""
    step, node, top = passage.step, passage.node, passage.sources[0]
    if not is_allowed(step):
        return f"stays above: embed.operators-rise is {config.get('operators-rise')!r}"
    if top.ndim < 2 and (node.ndim != top.ndim or step.names is not None):
        return "makes a frame of a column"
    if (why := held.hindrance(passage)) is not None:
        return why
    if node._name not in dependents_of(top, dependents):
        return "is read by what is not known yet"
    for each in passage.sources:
        expected = {node._name, top._name}
        for reader in readers_of(each, dependents):
            known = getattr(reader, "_name", None) in expected
            if not known and not needs_none(reader, set(held.made)):
                return f"shares its rows with {type(reader).__name__.lower()}"
    return None


def filter_obstacle(held: Held, node: Filter, sources: list[Expr]) -> str | None:
    """Return in words why an operator stays below a filter, None where nothing of it may go below.

    Conditions that read no result go below by themselves; see `ComputedRows.split`.
    """
    made = set(held.made)
    parts = conditions_of(node.predicate)
    read = [part for part in parts if any(reads_any(part, each, made) for each in sources)]
    if read:
        return f"reads {words(held.made)}"
    if not all(is_rowwise(part, sources, scalars=True) for part in parts):
        return "looks at more than one row"
    return None


def same_kind(one: Any, other: Any) -> bool:
    """Return whether two empty frames or columns are of the same types and names."""
    if type(one) is not type(other) or one.index.dtype != other.index.dtype:
        return False
    if list(one.index.names) != list(other.index.names):
        return False
    if one.ndim < 2:
        return bool(one.dtype == other.dtype and one.name == other.name)
    same_names = one.columns.equals(other.columns) and one.columns.names == other.columns.names
    return bool(same_names and list(one.dtypes) == list(other.dtypes))
