"""The lazy node of operators that make one row or more of each row, and its optimizer rules."""

from __future__ import annotations

import functools
from typing import Any

from dask_embed.lazy._dask import (
    Blockwise,
    Expr,
    Filter,
    Head,
    Index,
    Projection,
    Tail,
    new_collection,
)
from dask_embed.lazy.append import OperatorRows
from dask_embed.lazy.computed import ComputedRows, select_result
from dask_embed.lazy.conditions import is_rowwise
from dask_embed.lazy.given_text import as_given
from dask_embed.lazy.passed import can_split
from dask_embed.lazy.readers import dependents_of, readers_of, wanted_columns
from dask_embed.lazy.rising import raised
from dask_embed.lazy.same_rows import SameRows
from dask_embed.operators.dispatch import lazily
from dask_embed.operators.tokens.chunker import Chunker


@lazily.register(Chunker)
def chunk_lazily(operator: Chunker, frame: Any) -> Any:
    """Return the Dask DataFrame with a row for each chunk, nothing computed."""
    return new_collection(ChunkRows(as_given(frame.expr, operator.input_columns), operator))


class ChunkRows(OperatorRows):
    """The rows of `frame` cut by `operator`: one row or more for each, in order, in its partition.

    Not element-wise, because the number of rows changes: ``len`` has to cut, and a mean over
    chunks weighs a text by its number of chunks. So only conditions on one row each may run
    before it.
    """

    def _simplify_up(self, parent: Expr, dependents: Any) -> Expr | None:
        if isinstance(parent, Filter) and self._filter_passthrough_available(parent, dependents):
            return self._filter_simplification(parent)
        if isinstance(parent, Projection):
            wanted = wanted_columns(self, parent, dependents)
            return select_result(self.narrowed(wanted), self, parent)
        if isinstance(parent, Index):
            return self._index(parent, dependents)
        if isinstance(parent, Head | Tail | End):
            return self._end(parent, dependents)
        return raised(self, parent, dependents)

    @property
    def computing(self) -> ComputedRows | None:
        return self

    def keeping(self, wanted: set[str]) -> ComputedRows:
        operator = self.operator.keeping(wanted)
        return self if operator is self.operator else type(self)(self.frame, operator)

    def _may_go_before(self, condition: Expr, sources: tuple[Expr, ...]) -> bool:
        return super()._may_go_before(condition, sources) and is_rowwise(condition, sources)

    def _index(self, parent: Index, dependents: Any) -> Expr | None:
        """Make nothing but the index, which needs the rows all the same."""
        narrowed = self.narrowed(wanted_columns(self, parent, dependents))
        if narrowed is self and isinstance(parent, ChunkIndex):
            return None
        return ChunkIndex(narrowed)

    def _end(self, parent: Expr, dependents: Any) -> Expr | None:
        """Cut no more rows of a partition than are asked for: each gives one chunk at least."""
        if parent.n < 0 or dependents_of(self, dependents) != {parent._name}:
            return None
        narrowed = self.narrowed(_wanted_above(parent, dependents))
        last = isinstance(parent, Tail) or (isinstance(parent, End) and parent.last)
        if not is_cut(narrowed.frame, parent.n, last):
            narrowed = ChunkRows(End(narrowed.frame, parent.n, last), narrowed.operator)
        return None if narrowed is self else type(parent)(narrowed, *parent.operands[1:])


class ChunkIndex(Index):
    """The index of chunks, which lets filters through to them.

    Dask takes the index of what is filtered, to count rows say, as the filtered index.
    """

    def _simplify_up(self, parent: Expr, dependents: Any) -> Expr | None:
        if not isinstance(parent, Filter) or not self._filters_alone(parent, dependents):
            return None
        rows = self.frame._filter_simplification(Filter(self.frame, parent.predicate))
        if isinstance(rows, Filter):
            return Filter(ChunkIndex(rows.frame), rows.predicate)
        return None if rows is None else ChunkIndex(rows)

    def _filter_passthrough_available(self, parent: Filter, dependents: Any) -> bool:
        """Say so always: Dask joins two filters where neither goes further.

        The second may be of rows that the first has left, and labels repeat: they would not fit.
        """
        return True

    def _filters_alone(self, parent: Filter, dependents: Any) -> bool:
        """Return whether a part of the filter can go below, and nothing else reads the chunks."""
        readers = {self._name, *(node._name for node in parent.predicate.walk())}
        return (
            isinstance(self.frame, ChunkRows)
            and can_split(self.frame, parent.predicate, self.frame)
            and dependents_of(self.frame, dependents) <= readers
        )


class End(Blockwise):
    """The first `n` rows of every partition, or the last."""

    _parameters = ["frame", "n", "last"]  # noqa: RUF012
    _projection_passthrough = True
    leaves_some = True

    @staticmethod
    def operation(partition: Any, n: int, last: bool) -> Any:
        return partition.tail(n) if last else partition.head(n)

    @functools.cached_property
    def _meta(self) -> Any:
        return self.frame._meta

    def _simplify_down(self) -> Expr | None:
        return self._below(self.frame)

    def _below(self, node: Expr) -> Expr | None:
        """Return `node` on the rows of its own input, if it gives a row for each of them."""
        if isinstance(node, SameRows):
            return node.on(End(node.frame, self.n, self.last))
        if isinstance(node, Projection) and (lower := self._below(node.frame)) is not None:
            return type(node)(lower, *node.operands[1:])
        return None


def is_cut(node: Expr, n: int, last: bool) -> bool:
    """Return whether `node` has no other rows of each partition than these."""
    while isinstance(node, SameRows | Projection):
        node = node.frame
    return isinstance(node, End) and (node.n, node.last) == (n, last)


def _wanted_above(node: Expr, dependents: Any) -> set[str]:
    """Return the columns that are selected from `node`, all if it is not only selected from."""
    parents = list(readers_of(node, dependents))
    if not parents or not all(isinstance(parent, Projection) for parent in parents):
        return set(node.columns)
    return {column for parent in parents for column in parent.columns}
