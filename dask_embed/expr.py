"""The lazy node and its optimizer rules: the only code that knows Dask's expressions."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from dask.dataframe.dask_expr import new_collection
from dask.dataframe.dask_expr._expr import (
    Blockwise,
    Elemwise,
    Expr,
    Filter,
    Index,
    Projection,
    _check_dependents_are_predicates,
    are_co_aligned,
    determine_column_projection,
    is_filter_pushdown_available,
)

from dask_embed.conditions import (
    all_of,
    conditions_of,
    is_rowwise,
    of_same_rows,
    reads_any,
    reads_index,
)
from dask_embed.operators.together import keeping, parts_of, together

if TYPE_CHECKING:
    from dask_embed.operators.base import ColumnOperator, FrameOperator


def append_lazily(frame: Any, operator: ColumnOperator) -> Any:
    """Return the Dask DataFrame with the operator's columns, nothing computed."""
    return new_collection(AppendColumns(frame, operator))


class OperatorRows(Blockwise):
    """What `operator` makes of each partition of `frame`, and what of a filter may run before it.

    The base of the nodes that run an operator: those keep the columns that it does not make.
    """

    _parameters = ["frame", "operator"]  # noqa: RUF012 - the form of every Dask expression

    @staticmethod
    def operation(partition: Any, operator: FrameOperator) -> Any:
        return operator.apply(partition)

    @functools.cached_property
    def _meta(self) -> Any:
        return self.operator.meta(self.frame._meta)

    @functools.cached_property
    def _name(self) -> str:
        # The prefix is what Dask's dashboard shows.
        names = dict.fromkeys(type(part).__name__.lower() for part in parts_of(self.operator))
        return "-".join([*names, self.deterministic_token])

    def _filter_passthrough_available(self, parent: Filter, dependents: Any) -> bool:
        """Let a filter through if a part of it reads no result.

        Without this, Dask pushes column selections first, and the filter stays above.
        """
        return self.can_split(parent.predicate, self) and is_filter_pushdown_available(
            self, parent, dependents
        )

    def _filter_simplification(self, parent: Filter, predicate: Expr | None = None) -> Expr | None:
        """Filter before the operator by what does not read a result, after it by the rest."""
        before, after = self.split(parent.predicate, self)
        first = all_of(before).substitute(self, self.frame)
        filtered = type(self)(Filter(self.frame, first), self.operator)
        if not after:
            return filtered
        return Filter(filtered, all_of(after).substitute(self, filtered))

    def can_split(self, predicate: Expr, *sources: Expr) -> bool:
        """Return whether part of `predicate` may run before the operator, the rest after it.

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
        results = set(self.operator.output_columns)
        before: list[Expr] = []
        after: list[Expr] = []
        for part in conditions_of(predicate):
            reads = any(reads_any(part, source, results) for source in sources)
            (after if reads else before).append(part)
        return before, after


class AppendColumns(OperatorRows, Elemwise):
    """Rows and columns of `frame`, then the columns that `operator` computes from them.

    Being element-wise already lets Dask push ``head``, ``tail``, ``partitions`` and ``len``
    below it. The rules here do the same for column selections and filters.
    """

    def _simplify_up(self, parent: Expr, dependents: Any) -> Expr | None:
        if isinstance(parent, Projection):
            return self._project(parent, dependents)
        if isinstance(parent, Index):
            return Index(self.frame)
        if isinstance(parent, Settled):
            return parent.joined(dependents)
        return super()._simplify_up(parent, dependents)

    def _lower(self) -> Expr | None:
        return None if isinstance(self, Settled) else Settled(*self.operands)

    def _project(self, parent: Projection, dependents: Any) -> Expr | None:
        """Drop the operator when no result is wanted, else its unneeded input columns."""
        wanted = wanted_columns(self, parent, dependents)
        if not wanted.intersection(self.operator.output_columns):
            return type(parent)(self.frame, *parent.operands[1:])
        return select_result(self, parent, wanted, keeping(self.operator, wanted))


class Settled(AppendColumns):
    """An operator in a plan from which all that is not wanted has been taken away.

    It is the form in which operators are lowered. Then operators on the same column become one,
    if they share tokens: not before, because a filter may pass one and not the other, and a
    result that nobody wants must not be computed beside one that somebody does.
    """

    def joined(self, dependents: Any) -> Expr | None:
        """Return the plan in which an operator further down runs this one too, if one can."""
        results = set(self.operator.output_columns)
        above: list[Expr] = []
        node, parent = self.frame, self
        while isinstance(node, Settled | SelectResult):
            if dependents_of(node, dependents) - {parent._name} or results & set(node.columns):
                return None  # what others use stays as it is
            if isinstance(node, Settled):
                if set(self.operator.input_columns) & set(node.operator.output_columns):
                    return None
                both = together(node.operator, self.operator)
                if both is not None and not results & set(node.frame.columns):
                    return self._rebuilt(Settled(node.frame, both), above)
            above.append(node)
            node, parent = node.frame, node
        return None

    def _rebuilt(self, lowest: Expr, above: list[Expr]) -> Expr:
        """Return what was `above` the operators now joined on top of them, in the old order."""
        plan = lowest
        for node in reversed(above):
            if isinstance(node, Settled):
                plan = Settled(plan, node.operator)
            else:
                plan = SelectResult(plan, [*node.columns, *self.operator.output_columns])
        same = list(plan.columns) == list(self.columns)
        return plan if same else SelectResult(plan, list(self.columns))


class SelectResult(Projection):
    """A column selection that stays above an operator, and lets filters through to it.

    It stays because the operator reads a column that the result does not keep. Dask's own
    selections end a filter's way down. A filter goes through where it can pass the operator, too:
    else Dask would bring it up again, without end.
    """

    def _simplify_up(self, parent: Expr, dependents: Any) -> Expr | None:
        if isinstance(parent, Settled):
            return parent.joined(dependents)
        return super()._simplify_up(parent, dependents)

    def _filter_passthrough_available(self, parent: Filter, dependents: Any) -> bool:
        return (
            isinstance(self.frame, OperatorRows)
            and self.frame.can_split(parent.predicate, self, self.frame)
            and is_filter_pushdown_available(self, parent, dependents)
            and self._is_all_that_reads(parent, dependents)
        )

    def _is_all_that_reads(self, parent: Filter, dependents: Any) -> bool:
        """Return whether nothing but this selection and the filter's predicate reads the frame."""
        others = dependents_of(self.frame, dependents) - {self._name}
        return not others or _check_dependents_are_predicates(
            self.frame, others, parent, dependents
        )


def wanted_columns(node: Expr, parent: Expr, dependents: Any) -> set[str]:
    """Return the columns of `node` that any expression reads."""
    wanted = determine_column_projection(node, parent, dependents)
    return set(wanted if isinstance(wanted, list) else [wanted])


def select_result(
    node: OperatorRows, parent: Projection, wanted: set[str], operator: FrameOperator
) -> Expr | None:
    """Return `parent` over `operator` on no more columns than are wanted, None if it is that."""
    narrowed = narrow(node, wanted, operator)
    if narrowed is node and isinstance(parent, SelectResult):
        return None
    return SelectResult(narrowed, *parent.operands[1:])


def narrow(node: OperatorRows, wanted: set[str], operator: FrameOperator) -> OperatorRows:
    """Return the node with `operator`, on the columns that are wanted or that it reads."""
    read = wanted.union(operator.input_columns)
    needed = [column for column in node.frame.columns if column in read]
    if needed == node.frame.columns and operator is node.operator:
        return node
    frame = node.frame if needed == node.frame.columns else Projection(node.frame, needed)
    return type(node)(frame, operator)


def settled(plan: Expr) -> Any:
    """Return a simplified plan with its operators as they will run, for `explain`."""
    return _settled(plan, {}).simplify()


def _settled(node: Expr, done: dict[str, Expr]) -> Expr:
    if node._name not in done:
        operands = [_settled(o, done) if isinstance(o, Expr) else o for o in node.operands]
        form = Settled if type(node) is AppendColumns else type(node)
        done[node._name] = form(*operands)
    return done[node._name]


def dependents_of(node: Expr, dependents: Any) -> set[str]:
    """Return the names of the expressions that read `node`."""
    found = [reference() for reference in dependents[node._name]]
    return {each._name for each in found if each is not None}
