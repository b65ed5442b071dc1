"""Lazy nodes with one row for each of their frame: made of that row alone, or of all rows."""

from __future__ import annotations

from typing import Any

from dask_embed.lazy._dask import (
    Count,
    Elemwise,
    Expr,
    Filter,
    Index,
    IsNa,
    Len,
    Lengths,
    NotNull,
    Projection,
    SetIndexBlockwise,
)
from dask_embed.lazy.computed import ComputedRows, only_filtered, select_result
from dask_embed.lazy.conditions import replaced
from dask_embed.lazy.kept import Kept, apart_from_filters
from dask_embed.lazy.passed import lowest_without, split
from dask_embed.lazy.readers import dependents_of, readers_of, wanted_columns
from dask_embed.lazy.rising import raised
from dask_embed.lazy.steps import step_of


class SameRows(ComputedRows, Elemwise):
    """One row for each of the frame, computed from it alone.

    Being element-wise already lets Dask push ``head``, ``tail``, ``partitions`` and ``len``
    below it. The rules here do the same for column selections, filters and the index.
    """

    one_row_each = True

    def _simplify_up(self, parent: Expr, dependents: Any) -> Expr | None:
        if (apart := self._apart(parent, dependents)) is not None:
            return apart
        if isinstance(parent, Projection):
            return self._project(parent, dependents)
        if isinstance(parent, Index):
            return Index(self._left_out(dependents))
        if isinstance(parent, SetIndexBlockwise) and self._gives_an_index(parent, dependents):
            only = Projection(self, [parent.operand("other")])
            return type(parent)(only, *parent.operands[1:])
        if isinstance(parent, ComputedRows) and step_of(parent) is None:
            return parent.joined(dependents)
        if isinstance(parent, Kept):
            return self._kept_below(parent, dependents)
        if (above := raised(self, parent, dependents)) is not None:
            return above
        if isinstance(parent, Filter) and self._filter_passthrough_available(parent, dependents):
            return self._filter_simplification(parent, None, dependents)
        return super()._simplify_up(parent, dependents)

    def _kept_below(self, parent: Kept, dependents: Any) -> Expr | None:
        """Return a filter that no other may join below the node, where it reads no result."""
        known = parent._name in dependents_of(self, dependents)  # a node of this pass is not
        if not known or split(self, parent.predicate, self)[1]:
            return None
        if not only_filtered(self, parent, dependents):
            return None
        return self.on(Kept(self.frame, replaced(parent.predicate, (self, self.frame))))

    @property
    def computing(self) -> ComputedRows | None:
        return self

    @property
    def index(self) -> Expr:
        """Read the index below: Dask computes that of a frame beside an array as it is written."""
        return apart_from_filters(self.frame).index

    def _project(self, parent: Projection, dependents: Any) -> Expr | None:
        """Drop the node when no result is wanted, else the columns that it does not need."""
        return self.selected_from(parent, wanted_columns(self, parent, dependents), dependents)

    def selected_from(self, parent: Projection, wanted: set[Any], dependents: Any) -> Expr | None:
        """Return the selection `parent` of it, of which all readers need the columns `wanted`."""
        if not wanted.intersection(self.made):
            lowest = lowest_without(self, wanted, dependents)
            return type(parent)(lowest._left_out(dependents), *parent.operands[1:])
        narrowed = self._needed(wanted, dependents)
        if narrowed is self and parent.ndim == 1 and not _is_told(parent, dependents):
            return None  # under another name, what was computed of it would be computed again
        return select_result(narrowed, self, parent)

    def _gives_an_index(self, parent: SetIndexBlockwise, dependents: Any) -> bool:
        """Return whether nothing is wanted but one column of the frame, as an index.

        Dask looks so for divisions, where a column is said to be sorted.
        """
        column = parent.operand("other")
        readers = list(readers_of(parent, dependents))
        return (
            not isinstance(column, Expr)
            and column in self.frame.columns
            and column not in self.made
            and bool(readers)
            and all(isinstance(reader, Index) for reader in readers)
        )


class OfAllRows(ComputedRows):
    """One row for each of the frame, computed from all of them: no filter may pass below.

    Not element-wise, but what needs none of the results needs no other rows.
    """

    @property
    def index(self) -> Expr:
        return apart_from_filters(self.frame).index  # as for `SameRows`

    def _filter_passthrough_available(self, parent: Filter, dependents: Any) -> bool:
        return False  # else Dask waits for it, and keeps column selections above the filter

    def _simplify_up(self, parent: Expr, dependents: Any) -> Expr | None:
        if (apart := self._apart(parent, dependents)) is not None:
            return apart
        if isinstance(parent, Index):
            return Index(self._left_out(dependents))
        if isinstance(parent, Len | Lengths):
            return type(parent)(self.frame, *parent.operands[1:])
        if not isinstance(parent, Projection):
            return None
        wanted = wanted_columns(self, parent, dependents)
        if not wanted & self.made:
            frame = self._left_out(dependents)
            return type(parent)(frame, *parent.operands[1:])
        narrowed = self._needed(wanted, dependents)
        return None if narrowed is self else type(parent)(narrowed, *parent.operands[1:])


def _is_told(selection: Projection, dependents: Any) -> bool:
    """Return whether what reads a selection may go on below it: a filter, or who asks for nulls."""
    return any(
        isinstance(reader, Count | IsNa | NotNull)
        or (isinstance(reader, Filter) and reader.frame._name == selection._name)
        for reader in readers_of(selection, dependents)
    )
