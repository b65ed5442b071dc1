"""Lazy nodes that compute columns from partitions, and selections of these columns."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from dask_embed.lazy._dask import (
    AsType,
    Blockwise,
    Expr,
    Filter,
    Index,
    Projection,
    _check_dependents_are_predicates,
    is_filter_pushdown_available,
)
from dask_embed.lazy.conditions import replaced
from dask_embed.lazy.fusion import Unfuse
from dask_embed.lazy.kept import Kept, apart_from_filters
from dask_embed.lazy.parts import in_equal_parts
from dask_embed.lazy.passed import can_split, filtered_below, is_plain, is_selected_alone, split
from dask_embed.lazy.readers import answered_once, dependents_of, with_meta_of
from dask_embed.lazy.rising import raised
from dask_embed.lazy.steps import step_of
from dask_embed.lazy.surroundings import in_written_parts, runs_anyway


class ComputedRows(Blockwise):
    """`frame` with columns that are computed from each of its partitions.

    Its first operand is the frame. Names stay as they are when the plan is lowered: Dask's arrays
    refer to the tasks of a frame by the name that it has before.
    """

    @property
    def made(self) -> set[str]:
        """The columns that are computed."""
        raise NotImplementedError

    @property
    def reads(self) -> set[str]:
        """The columns that they are computed from."""
        raise NotImplementedError

    def types(self) -> dict[Any, pa.DataType]:
        """Return the Arrow types of columns that are computed, as far as they are known."""
        return {}

    one_row_each = False
    keeps_nulls = False  # whether results are known to be null where an input is
    appends = False
    """Whether it leaves all columns of the frame as they are, and makes others behind them."""

    @property
    def computing(self) -> ComputedRows | None:
        """What rises in a plan: itself, or what a selection is made of; None if it may not."""
        return None

    @property
    def labels(self) -> list[str]:
        """What tasks are called."""
        return [type(self).__name__.lower()]

    @functools.cached_property
    def _name(self) -> str:
        # The prefix is what Dask's dashboard shows.
        return "-".join([*self.labels, self.deterministic_token])

    def __str__(self) -> str:
        """Write the node without its input, as Dask writes `map_partitions`.

        A filter is written with its input twice: texts would double with each.
        """
        read, made = sorted(map(str, self.reads)), sorted(map(str, self.made))
        return f"{'-'.join(self.labels)}({', '.join(read)} -> {', '.join(made)})"

    def _depth(self, cache: Any = None) -> int:
        """Come first in a fused group: its tasks are named after the node of least depth.

        Dask's scheduler takes tasks with one beginning to be equally long.
        """
        return 0

    ndim = 2  # known without `_meta`, which is asked for often in a plan of many nodes

    @functools.cached_property
    def _unfuse(self) -> Unfuse:
        return Unfuse(self._name)

    def dependencies(self) -> list[Expr]:
        return [*super().dependencies(), self._unfuse]

    def _tune_up(self, parent: Expr) -> Expr | None:
        return in_equal_parts(parent)

    def _divisions(self) -> Any:
        return self.frame.divisions

    def on(self, frame: Expr) -> ComputedRows:
        """Return the same node on another frame."""
        return type(self)(frame, *self.operands[1:])

    def keeping(self, wanted: set[str]) -> ComputedRows:
        """Return the node without what makes none of the columns `wanted`."""
        return self

    def narrowed(self, wanted: set[str]) -> ComputedRows:
        """Return the node without columns that are neither wanted nor read."""
        node = self.keeping(wanted)
        needed = [c for c in self.frame.columns if c in wanted or c in node.reads]
        return node if needed == self.frame.columns else node.on(Projection(self.frame, needed))

    def _needed(self, wanted: set[str], dependents: Any) -> ComputedRows:
        """Return the node without what nobody reads, as it is where its tasks run in any case."""
        narrowed = self.narrowed(wanted)
        if narrowed is self or runs_anyway(self, dependents):
            return self
        lower = narrowed.frame.frame if isinstance(narrowed.frame, Projection) else None
        if lower is not self.frame or not is_selected_alone(lower, self, dependents):
            return narrowed
        # all nodes below in one go: Dask would take a pass for each
        selected = lower.selected_from(narrowed.frame, set(narrowed.frame.columns), dependents)
        return narrowed if selected is None else narrowed.on(selected)

    def _apart(self, parent: Expr, dependents: Any) -> Expr | None:
        """Return `parent` on the node in as many partitions as it was written in."""
        frame = self.rows_in_written_parts(dependents)
        nodes = [node for node in (self, parent) if isinstance(node, ComputedRows)]
        if frame is self.frame or any(runs_anyway(node, dependents) for node in nodes):
            return None
        return replaced(parent, (self, self.on(frame)))

    def rows_in_written_parts(self, dependents: Any) -> Expr:
        """Return what the node is on, in as many partitions as it was written in."""
        return in_written_parts(self.frame, dependents, ComputedRows)

    def _left_out(self, dependents: Any) -> Expr:
        """Return what takes the place of the node where nothing of it is wanted."""
        return apart_from_filters(self.rows_in_written_parts(dependents), dependents)

    def renamed(self, names: Mapping[Any, Any]) -> ComputedRows | None:
        """Return the node for columns under other names, None if there is no such node."""
        return self if not (self.made | self.reads).intersection(names) else None

    def selected(self, columns: Any) -> Expr:
        """Return a selection of its columns that lets through what it lets through."""
        return SelectResult(self, columns)

    def joined(self, dependents: Any) -> Expr | None:
        """Return a plan in which a node further down does the work of this one, too."""
        return None

    def asked_for_nulls(self, selection: Expr, parent: Expr, dependents: Any) -> Expr | None:
        """Return `parent`, which reads a selection of it, without what its nulls do not need."""
        return None

    def _filter_passthrough_available(self, parent: Filter, dependents: Any) -> bool:
        """Let a filter through if a part of it reads no result.

        Without this, Dask pushes column selections first, and the filter stays above.
        """
        return (
            can_split(self, parent.predicate, self)
            and is_filter_pushdown_available(self, parent, dependents)
            and not runs_anyway(self, dependents)
        )

    def _filter_simplification(
        self, parent: Filter, predicate: Expr | None = None, dependents: Any = None
    ) -> Expr | None:
        """Filter before the node by what does not read a result, after it by the rest."""
        return filtered_below(self, parent.predicate, dependents)

    def _may_go_before(self, condition: Expr, sources: tuple[Expr, ...]) -> bool:
        """Return whether a condition that reads no result may run before the node."""
        return self.one_row_each or is_plain(self, condition, sources)

    @functools.cached_property
    def cast(self) -> set[Any]:
        """The columns that are cast somewhere below."""
        cast: set[Any] = set()
        for node in self.frame.find_operations(AsType):
            dtypes = node.operand("dtypes")
            cast.update(dtypes if isinstance(dtypes, Mapping) else self.frame.columns)
        return cast


class SelectResult(Projection):
    """A column selection that stays above computed columns, and lets filters through to them.

    It stays because they are computed from a column that the result does not keep. Dask's own
    selections end a filter's way down. A filter goes through where it can pass the node below,
    too: else Dask would bring it up again, without end.
    """

    @functools.cached_property
    def ndim(self) -> int:
        return self.frame.ndim if isinstance(self.operand("columns"), list) else 1

    def _simplify_up(self, parent: Expr, dependents: Any) -> Expr | None:
        if isinstance(parent, Index):
            return Index(self.frame)
        if isinstance(self.frame, ComputedRows):
            without = self.frame.asked_for_nulls(self, parent, dependents)
            if without is not None:
                return without
        if isinstance(parent, ComputedRows) and step_of(parent) is None:
            return parent.joined(dependents)
        if isinstance(parent, Kept) and self._passes_kept(parent, dependents):
            node: Any = self.frame  # in one go: right below, the selection would pass it again
            pairs = [(each, node.frame) for each in (self, node)]
            below = Kept(node.frame, replaced(parent.predicate, *pairs))
            return type(self)(node.on(below), *self.operands[1:])
        if self.computing is not None:
            above = raised(self, parent, dependents)
            if above is not None:
                return above
        if isinstance(parent, Filter) and self._passes(parent, dependents):
            rows = self.frame  # in one go, with all below that it passes
            moved = Filter(rows, replaced(parent.predicate, (self, rows)))
            filtered = rows._filter_simplification(moved, None, dependents)
            return with_meta_of(type(self)(filtered, *self.operands[1:]), self)
        return super()._simplify_up(parent, dependents)

    @property
    def computing(self) -> ComputedRows | None:
        return self.frame.computing if isinstance(self.frame, ComputedRows) else None

    def _filter_passthrough_available(self, parent: Filter, dependents: Any) -> bool:
        return answered_once(dependents, self, parent, self._lets_through)

    def _lets_through(self, parent: Filter, dependents: Any) -> bool:
        return (
            isinstance(self.frame, ComputedRows)
            and can_split(self.frame, parent.predicate, self, self.frame)
            and is_filter_pushdown_available(self, parent, dependents)
            and self._is_all_that_reads(parent, dependents)
            and not runs_anyway(self.frame, dependents)
        )

    def _passes(self, parent: Filter, dependents: Any) -> bool:
        """Return whether all of a filter on it goes below the node that computes its rows."""
        return (
            self.ndim == 2
            and parent.frame._name == self._name
            and self._has_one_row_each
            and self._filter_passthrough_available(parent, dependents)
            and not split(self.frame, parent.predicate, self, self.frame)[1]
        )

    @property
    def _has_one_row_each(self) -> bool:
        return isinstance(self.frame, ComputedRows) and self.frame.one_row_each

    def _passes_kept(self, parent: Kept, dependents: Any) -> bool:
        return (
            self._has_one_row_each
            and parent._name in dependents_of(self, dependents)
            and not split(self.frame, parent.predicate, self, self.frame)[1]
            and only_filtered(self, parent, dependents)
            and only_filtered(self.frame, parent, dependents, self._name)
        )

    def _tune_up(self, parent: Expr) -> Expr | None:
        return in_equal_parts(parent)

    def _is_all_that_reads(self, parent: Filter, dependents: Any) -> bool:
        """Return whether nothing but this selection and the filter's predicate reads the frame."""
        return only_filtered(self.frame, parent, dependents, self._name)


def only_filtered(node: Expr, parent: Expr, dependents: Any, *known: str) -> bool:
    """Return whether nothing but a filter, what it filters by, and `known` nodes read a node."""
    others = dependents_of(node, dependents) - {parent._name, *known}
    return not others or _check_dependents_are_predicates(node, others, parent, dependents)


def select_result(narrowed: ComputedRows, node: ComputedRows, parent: Projection) -> Expr | None:
    """Return the selection `parent` of the `narrowed` form of `node`, None if that is the plan."""
    if narrowed is node and isinstance(parent, SelectResult):
        return None
    return SelectResult(narrowed, *parent.operands[1:])
