"""Filters that Dask does not join: one that stays where it is, and what stands between two."""

from __future__ import annotations

import functools
import operator
from typing import Any

from dask_embed.lazy._dask import (
    Blockwise,
    Elemwise,
    Expr,
    Filter,
    FilterAlign,
    Index,
    Projection,
    plain_column_projection,
)
from dask_embed.lazy.conditions import is_of_the_rest, of_same_rows
from dask_embed.lazy.parts import in_equal_parts
from dask_embed.lazy.readers import answered_once, plan_of


class Kept(Blockwise):
    """The rows of `frame` where `predicate` holds, which is of these rows and no others.

    Dask joins its own filters where they meet, and moves them below sorting and casts. What
    cumulates, reads the index or a column that was cast would then be of other rows or values.
    """

    _parameters = ["frame", "predicate"]  # noqa: RUF012 - the form of every Dask expression
    _preserves_partitioning_information = True
    operation = operator.getitem

    @functools.cached_property
    def _meta(self) -> Any:
        return self.frame._meta

    def _simplify_up(self, parent: Expr, dependents: Any) -> Expr | None:
        if isinstance(parent, Index):
            return Kept(Index(self.frame), self.predicate)
        if isinstance(parent, Projection):
            return plain_column_projection(self, parent, dependents)
        return None

    def _tune_down(self) -> Expr | None:
        return in_equal_parts(self)


class Between(Elemwise):
    """`frame`, on which filters of more than a row are not joined with one further down.

    It takes the place of an operator that nobody wants, between a filter and another that is of
    the rows which the first has left.
    """

    _parameters = ["frame"]  # noqa: RUF012
    _projection_passthrough = True
    _filter_passthrough = True

    @staticmethod
    def operation(partition: Any) -> Any:
        return partition

    def _filter_passthrough_available(self, parent: Filter, dependents: Any) -> bool:
        alone = not is_of_the_rest(parent)
        return alone and bool(super()._filter_passthrough_available(parent, dependents))

    def _simplify_up(self, parent: Expr, dependents: Any) -> Expr | None:
        if isinstance(parent, Index):
            return Between(Index(self.frame))
        return super()._simplify_up(parent, dependents)


def apart_from_filters(frame: Expr, dependents: Any = None) -> Expr:
    """Return `frame` in the place of an operator on it, so that Dask joins no filters wrongly.

    The whole plan is asked for such filters: who reads what a rule has just made is not known yet.
    """
    if not any(isinstance(each, Filter) for each in of_same_rows(frame)):
        return frame
    plan = None if dependents is None else plan_of(dependents)
    if plan is None or answered_once(dependents, plan, plan, _has_filters_of_the_rest):
        return Between(frame)
    return frame


def _has_filters_of_the_rest(plan: Expr, dependents: Any) -> bool:
    found: list[Any] = [*plan.find_operations(Filter), *plan.find_operations(FilterAlign)]
    return any(map(is_of_the_rest, found))
