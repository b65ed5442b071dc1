"""Results of which only the nulls are asked for: told from the input, the operator does not run."""

from __future__ import annotations

import functools
from typing import Any

from dask_embed.lazy._dask import Count, Expr, IsNa, NotNull, Projection
from dask_embed.lazy.computed import ComputedRows, SelectResult
from dask_embed.lazy.readers import readers_of
from dask_embed.lazy.same_rows import SameRows
from dask_embed.operators.fused import parts_of
from dask_embed.operators.renamed import plain

Inputs = dict[Any, tuple[Any, ...]]


class NullPattern(SameRows):
    """Columns that are null where results would be, in place of the results.

    Parameters
    ----------
    frame : Expr
    inputs : dict of object to tuple
        Column to the columns of `frame`: it is null where one of them is.
    """

    _parameters = ["frame", "inputs"]  # noqa: RUF012 - the form of every Dask expression

    @staticmethod
    def operation(partition: Any, inputs: Inputs) -> Any:
        result = partition.copy(deep=False)
        for column, (first, *others) in inputs.items():
            pattern = partition[first]
            for other in others:
                pattern = pattern.where(partition[other].notnull())
            result[column] = pattern
        return result

    @functools.cached_property
    def _meta(self) -> Any:
        return self.operation(self.frame._meta, self.inputs)

    @property
    def made(self) -> set[Any]:
        return set(self.inputs)

    @property
    def reads(self) -> set[Any]:
        return _read(self.inputs)

    @property
    def computing(self) -> ComputedRows | None:
        return None

    def narrowed(self, wanted: set[Any]) -> ComputedRows:
        """Return the node without the results below that it stands for."""
        node = self.keeping(wanted)
        needed = [
            column
            for column in self.frame.columns
            if column in node.reads or (column in wanted and column not in node.made)
        ]
        return node if needed == self.frame.columns else node.on(Projection(self.frame, needed))

    def _simplify_down(self) -> Expr | None:
        """Tell it from what the inputs are made from, where these are results, too."""
        inputs, node = self.inputs, self.frame
        while isinstance(node, SameRows | SelectResult):
            if isinstance(node, SameRows):
                known = inputs_by_result(node.operator) if hasattr(node, "operator") else {}
                if node.made & _read(inputs) - set(known):
                    break
                inputs = _through(inputs, known)
            node = node.frame
        same = inputs == self.inputs or not _read(inputs) <= set(self.frame.columns)
        return None if same else type(self)(self.frame, inputs)

    def keeping(self, wanted: set[Any]) -> ComputedRows:
        kept = {column: inputs for column, inputs in self.inputs.items() if column in wanted}
        return type(self)(self.frame, kept) if kept and kept != self.inputs else self


def inputs_by_result(operator: Any) -> Inputs:
    """Return the results that are null where one of some inputs is, and nowhere else."""
    found: Inputs = {}
    for part in parts_of(operator):
        inner = plain(part)
        if inner.on_error == "raise" and inner.nulls_follow_inputs:
            found |= dict.fromkeys(part.result_columns, part.input_columns)
    return found


def _read(inputs: Inputs) -> set[Any]:
    return {column for columns in inputs.values() for column in columns}


def _through(inputs: Inputs, known: Inputs) -> Inputs:
    """Return what decides the nulls where some of `inputs` are made of the inputs of others."""
    return {
        column: tuple(dict.fromkeys(each for name in names for each in known.get(name, (name,))))
        for column, names in inputs.items()
    }


def null_pattern(node: Any, source: Any, parent: Any, dependents: Any) -> Expr | None:
    """Return `parent`, which asks for nulls alone, without the operator of `node`.

    `parent` reads `source`, the node or a selection of it, and nothing else is taken into account:
    what Dask knows of other readers is of the plan as it was before the pass, in which a condition
    on values may have come to read the same selection.
    """
    if not isinstance(parent, NullPattern) and not asks_for_nulls(parent):
        return None
    # Others may be filtered by it: then it is of the same frame.
    alone = all(reads_nulls_alone(each, dependents) for each in readers_of(node, dependents))
    if isinstance(parent, NullPattern):
        if source is node and alone and node.made <= parent.made - parent.reads:
            return parent.on(node.frame)
        checked = parent.reads | (set(source.columns) - parent.made)
    else:
        checked = set(source.columns)
    wanted = node.made.intersection(checked)
    known = inputs_by_result(node.operator) if wanted else {}
    if not wanted or not wanted <= set(known):
        return None
    pattern = {column: known[column] for column in node.columns if column in wanted}
    made: Any = NullPattern(node.frame if alone and wanted == node.made else node, pattern)
    if source is not node:
        made = SelectResult(made, *source.operands[1:])
    return type(parent)(made, *parent.operands[1:])


def reads_nulls_alone(reader: Any, dependents: Any) -> bool:
    """Return whether nothing but where nulls are seems to be asked of what `reader` reads.

    Enough to choose the form of a plan, not to change what it gives: see `null_pattern`.
    """
    if not isinstance(reader, Projection | NullPattern):
        return asks_for_nulls(reader)
    above = list(readers_of(reader, dependents))
    return bool(above) and all(reads_nulls_alone(each, dependents) for each in above)


def asks_for_nulls(reader: Any) -> bool:
    """Return whether a node reads nothing but where nulls are."""
    if isinstance(reader, Count):
        return not reader.operand("numeric_only")
    return isinstance(reader, IsNa | NotNull)
