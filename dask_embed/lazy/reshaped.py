"""Steps that repeat rows or turn columns into rows: what they read, and what passes them."""

from __future__ import annotations

from typing import Any

from dask.utils import M

from dask_embed.lazy._dask import (
    ExplodeFrame,
    Expr,
    Filter,
    Head,
    MapPartitions,
    PivotTable,
    Projection,
    is_filter_pushdown_available,
)
from dask_embed.lazy.chunks import End, is_cut
from dask_embed.lazy.conditions import is_rowwise, reads_any, replaced
from dask_embed.lazy.readers import dependents_of
from dask_embed.lazy.rewrites import rewriting


class Exploded(ExplodeFrame):
    """Dask's `explode`, which filters by other columns pass, and the end of a `head`."""

    def _simplify_up(self, parent: Expr, dependents: Any) -> Expr | None:
        if isinstance(parent, Filter) and self._filter_passthrough_available(parent, dependents):
            predicate = replaced(parent.predicate, (self, self.frame))
            return type(self)(Filter(self.frame, predicate), self.column)
        if type(parent) is Head and parent.n >= 0:  # a row becomes one at least
            alone = dependents_of(self, dependents) == {parent._name}
            if not alone or is_cut(self.frame, parent.n, False):
                return None
            return Head(
                type(self)(End(self.frame, parent.n, False), self.column), *parent.operands[1:]
            )
        return super()._simplify_up(parent, dependents)

    def _filter_passthrough_available(self, parent: Filter, dependents: Any) -> bool:
        column = self.column
        made = set(column) if isinstance(column, list) else {column}
        return (
            is_rowwise(parent.predicate, [self])
            and not reads_any(parent.predicate, self, made)
            and is_filter_pushdown_available(self, parent, dependents, allow_reduction=False)
        )


@rewriting
def _passed_by_filters(top: Any, node: Any, dependents: Any) -> Expr | None:
    """Return `explode` as a step that filters pass."""
    return Exploded(*node.operands) if type(node) is ExplodeFrame else None


@rewriting
def _of_few_columns(top: Any, node: Any, dependents: Any) -> Expr | None:
    """Return `melt` and `pivot_table` of the columns alone that they read: Dask gives them all."""
    names: list[Any] = []
    if isinstance(node, PivotTable):
        names = [node.operand(argument) for argument in ("columns", "index", "values")]
    elif isinstance(node, MapPartitions) and node.func == M.melt:
        given = dict(node.kwargs)
        names = [given.get("id_vars"), given.get("value_vars")]
    if not names or None in [each for each in names if not isinstance(each, list)]:
        return None
    read = {name for each in names for name in (each if isinstance(each, list) else [each])}
    columns = [column for column in top.columns if column in read]
    if top.ndim < 2 or len(columns) == len(top.columns):
        return None
    return type(node)(Projection(top, columns), *node.operands[1:])
