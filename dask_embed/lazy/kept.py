"""A filter that stays where it is."""

from __future__ import annotations

import functools
import operator
from typing import Any

from dask_embed.lazy._dask import Blockwise, Expr, Index, Projection, plain_column_projection
from dask_embed.lazy.parts import in_equal_parts


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
