"""Lazy nodes that compute columns from partitions: what may run before them, what not at all."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from dask_embed.lazy._dask import (
    Blockwise,
    Elemwise,
    Expr,
    Filter,
    Fused,
    Index,
    Len,
    Lengths,
    Projection,
    Repartition,
    SetIndexBlockwise,
    _check_dependents_are_predicates,
    are_co_aligned,
    determine_column_projection,
    is_filter_pushdown_available,
)
from dask_embed.lazy.conditions import (
    all_of,
    conditions_of,
    is_rowwise,
    of_same_rows,
    reads_any,
    reads_index,
)
from dask_embed.lazy.fusion import Unfuse


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
        read, made = sorted(self.reads), sorted(self.made)
        return f"{'-'.join(self.labels)}({', '.join(read)} -> {', '.join(made)})"

    def _depth(self, cache: Any = None) -> int:
        """Come first in a fused group: its tasks are named after the node of least depth.

        Dask's scheduler takes tasks with one beginning to be equally long.
        """
        return 0

    def dependencies(self) -> list[Expr]:
        return [*super().dependencies(), Unfuse(self._name)]

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

    def joined(self, dependents: Any) -> Expr | None:
        """Return a plan in which a node further down does the work of this one, too."""
        return None

    def _filter_passthrough_available(self, parent: Filter, dependents: Any) -> bool:
        """Let a filter through if a part of it reads no result.

        Without this, Dask pushes column selections first, and the filter stays above.
        """
        return self.can_split(parent.predicate, self) and is_filter_pushdown_available(
            self, parent, dependents
        )

    def _filter_simplification(self, parent: Filter, predicate: Expr | None = None) -> Expr | None:
        """Filter before the node by what does not read a result, after it by the rest."""
        before, after = self.split(parent.predicate, self)
        filtered = self.on(Filter(self.frame, all_of(before).substitute(self, self.frame)))
        if not after:
            return filtered
        return Filter(filtered, all_of(after).substitute(self, filtered))

    def can_split(self, predicate: Expr, *sources: Expr) -> bool:
        """Return whether part of `predicate` may run before the node, the rest after it.

        The rest must compute each row from results alone: a mean, say, has to see all rows.
        """
        before, after = self.split(predicate, *sources)
        aligned = bool(before) and are_co_aligned(self.frame, *before)
        return (
            aligned
            and all(is_rowwise(part, sources) for part in after)
            and all(self._may_go_before(part, sources) for part in before)
        )

    def _may_go_before(self, condition: Expr, sources: tuple[Expr, ...]) -> bool:
        """Return whether a condition that reads no result holds of the same rows further down.

        Dask joins filters that meet, and takes the index of filtered rows for a filtered index.
        What cumulates, or reads the index, would then be of rows that the lower filter takes away.
        """
        rows = list(of_same_rows(self.frame))
        if any(isinstance(node, Filter) for node in rows) and reads_index(condition, sources):
            return False
        return is_rowwise(condition, [*sources, *rows], scalars=True)

    def split(self, predicate: Expr, *sources: Expr) -> tuple[list[Expr], list[Expr]]:
        """Part the conditions of `predicate` into those that read no result and the others."""
        before: list[Expr] = []
        after: list[Expr] = []
        for part in conditions_of(predicate):
            reads = any(reads_any(part, source, self.made) for source in sources)
            (after if reads else before).append(part)
        return before, after


class SameRows(ComputedRows, Elemwise):
    """One row for each of the frame, computed from it alone.

    Being element-wise already lets Dask push ``head``, ``tail``, ``partitions`` and ``len``
    below it. The rules here do the same for column selections, filters and the index.
    """

    def _simplify_up(self, parent: Expr, dependents: Any) -> Expr | None:
        if isinstance(parent, Projection):
            return self._project(parent, dependents)
        if isinstance(parent, Index):
            return Index(self.frame)
        if isinstance(parent, SetIndexBlockwise) and self._gives_an_index(parent, dependents):
            only = Projection(self, [parent.operand("other")])
            return type(parent)(only, *parent.operands[1:])
        if isinstance(parent, ComputedRows):
            return parent.joined(dependents)
        return super()._simplify_up(parent, dependents)

    @property
    def index(self) -> Expr:
        """Read the index below: Dask computes that of a frame beside an array as it is written."""
        return self.frame.index

    def _project(self, parent: Projection, dependents: Any) -> Expr | None:
        """Drop the node when no result is wanted, else the columns that it does not need."""
        wanted = wanted_columns(self, parent, dependents)
        if not wanted.intersection(self.made):
            return type(parent)(self.frame, *parent.operands[1:])
        narrowed = self.narrowed(wanted)
        if narrowed is self and parent.ndim == 1 and not _is_filtered(parent, dependents):
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
        return self.frame.index  # as for `SameRows`

    def _filter_passthrough_available(self, parent: Filter, dependents: Any) -> bool:
        return False  # else Dask waits for it, and keeps column selections above the filter

    def _simplify_up(self, parent: Expr, dependents: Any) -> Expr | None:
        if isinstance(parent, Index):
            return Index(self.frame)
        if isinstance(parent, Len | Lengths):
            return type(parent)(self.frame, *parent.operands[1:])
        if not isinstance(parent, Projection):
            return None
        wanted = wanted_columns(self, parent, dependents)
        if not wanted & self.made:
            return type(parent)(self.frame, *parent.operands[1:])
        narrowed = self.narrowed(wanted)
        return None if narrowed is self else type(parent)(narrowed, *parent.operands[1:])


class SelectResult(Projection):
    """A column selection that stays above computed columns, and lets filters through to them.

    It stays because they are computed from a column that the result does not keep. Dask's own
    selections end a filter's way down. A filter goes through where it can pass the node below,
    too: else Dask would bring it up again, without end.
    """

    def _simplify_up(self, parent: Expr, dependents: Any) -> Expr | None:
        if isinstance(parent, Index):
            return Index(self.frame)
        if isinstance(parent, ComputedRows):
            return parent.joined(dependents)
        return super()._simplify_up(parent, dependents)

    def _filter_passthrough_available(self, parent: Filter, dependents: Any) -> bool:
        return (
            isinstance(self.frame, ComputedRows)
            and self.frame.can_split(parent.predicate, self, self.frame)
            and is_filter_pushdown_available(self, parent, dependents)
            and self._is_all_that_reads(parent, dependents)
        )

    def _tune_up(self, parent: Expr) -> Expr | None:
        return in_equal_parts(parent)

    def _is_all_that_reads(self, parent: Filter, dependents: Any) -> bool:
        """Return whether nothing but this selection and the filter's predicate reads the frame."""
        others = dependents_of(self.frame, dependents) - {self._name}
        return not others or _check_dependents_are_predicates(
            self.frame, others, parent, dependents
        )


def _is_filtered(selection: Projection, dependents: Any) -> bool:
    return any(
        isinstance(reader, Filter) and reader.frame._name == selection._name
        for reader in readers_of(selection, dependents)
    )


def in_equal_parts(node: Expr) -> Expr | None:
    """Return `node` with as few partitions of each of its frames as of the others.

    Of files that few columns are read of Dask makes fewer partitions. It does the same to what
    stands beside the file, such as an array, but not to what stands beside a node further up.
    """
    if not isinstance(node, Blockwise):
        return None
    frames = [each for each in node.dependencies() if not node._broadcast_dep(each)]
    fewest = min((each.npartitions for each in frames), default=1)
    fitted: Any = node
    for each in frames:
        if each.npartitions > fewest:
            fitted = fitted.substitute(each, Repartition(each, new_partitions=fewest))
    return fitted


def wanted_columns(node: Expr, parent: Expr, dependents: Any) -> set[str]:
    """Return the columns of `node` that any expression reads."""
    for reader in readers_of(node, dependents):
        # Results that are computed together, and what a fused group hides: Dask counts neither.
        if not isinstance(reader, Expr) or isinstance(reader, Fused):
            return set(node.columns)
    wanted = determine_column_projection(node, parent, dependents)
    return set(wanted if isinstance(wanted, list) else [wanted])


def select_result(narrowed: ComputedRows, node: ComputedRows, parent: Projection) -> Expr | None:
    """Return the selection `parent` of the `narrowed` form of `node`, None if that is the plan."""
    if narrowed is node and isinstance(parent, SelectResult):
        return None
    return SelectResult(narrowed, *parent.operands[1:])


def readers_of(node: Expr, dependents: Any) -> Iterator[Any]:
    """Yield the expressions that read `node`."""
    for reference in dependents[node._name]:
        reader = reference()
        if reader is not None:
            yield reader


def dependents_of(node: Expr, dependents: Any) -> set[str]:
    """Return the names of the expressions that read `node`."""
    return {reader._name for reader in readers_of(node, dependents)}
