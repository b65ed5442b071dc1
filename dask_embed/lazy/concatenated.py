"""Frames behind each other: what leaves out rows does so in each of them, below its operator."""

from __future__ import annotations

from typing import Any

from dask_embed.lazy._dask import (
    Concat,
    Expr,
    Filter,
    Head,
    Projection,
    is_filter_pushdown_available,
)
from dask_embed.lazy.computed import SelectResult
from dask_embed.lazy.conditions import is_rowwise, replaced, walk
from dask_embed.lazy.rewrites import rewriting
from dask_embed.lazy.rising import same_kind


class Concatenated(Concat):
    """Dask's `Concat`, which a filter passes, and a head of the first partition."""

    def _simplify_up(self, parent: Expr, dependents: Any) -> Expr | None:
        if isinstance(parent, Filter) and self._filter_passthrough_available(parent, dependents):
            predicate = parent.predicate
            return self.of(
                [Filter(each, replaced(predicate, (self, each))) for each in self._frames]
            )
        if isinstance(parent, Head) and type(parent) is Head and parent.n >= 0:
            first = self._frames[0]
            if parent.operand("npartitions") == 1 and same_kind(first._meta, self._meta):
                return Head(first, *parent.operands[1:])
        narrower = super()._simplify_up(parent, dependents)
        if narrower is None and type(parent) is Projection and parent.ndim == 2:
            return Selected(self, *parent.operands[1:])
        return narrower

    def _filter_passthrough_available(self, parent: Filter, dependents: Any) -> bool:
        alone = is_filter_pushdown_available(self, parent, dependents, allow_reduction=False)
        return alone and self.passes(parent.predicate, self)

    def passes(self, predicate: Expr, *sources: Expr) -> bool:
        """Return whether a predicate looks at one row each, and at columns that all frames have."""
        if not is_rowwise(predicate, sources):
            return False
        names = {each._name for each in sources}
        read: set[Any] = set()
        for node in walk(predicate, names):
            if names.intersection(each._name for each in node.dependencies()):
                if not isinstance(node, Projection):
                    return False
                read.update(node.columns)
        types = self._meta.dtypes[list(read)]
        return all(
            read <= set(each.columns) and each._meta.dtypes[list(read)].equals(types)
            for each in self._frames
        )

    def of(self, frames: list[Expr]) -> Concatenated:
        """Return other frames behind each other in the same way."""
        return type(self)(*self.operands[: len(self._parameters)], *frames)


class Selected(SelectResult):
    """Columns of frames behind each other, which let filters through to them."""

    def _lets_through(self, parent: Filter, dependents: Any) -> bool:
        return (
            isinstance(self.frame, Concatenated)
            and self.frame.passes(parent.predicate, self, self.frame)
            and is_filter_pushdown_available(self, parent, dependents, allow_reduction=False)
            and self._is_all_that_reads(parent, dependents)
        )


@rewriting
def _passed_by_filters(top: Any, node: Any, dependents: Any) -> Expr | None:
    """Return frames behind each other as a step that filters pass."""
    if type(node) is not Concat or node.axis != 0 or node.interleave_partitions:
        return None
    frames = node._frames
    unique = all(len(set(each.columns)) == len(each.columns) for each in frames)
    if not unique or any(each.ndim < 2 for each in frames):
        return None
    # As Dask does below selections of the result, those of a condition among them.
    kept = [[column for column in each.columns if column in node.columns] for each in frames]
    narrow = [
        each if columns == list(each.columns) else Projection(each, columns)
        for each, columns in zip(frames, kept, strict=True)
        if columns
    ]
    if len(narrow) < len(frames):
        return None
    return Concatenated(*node.operands[: len(node._parameters)], *narrow)
