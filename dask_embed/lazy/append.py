"""The lazy node of operators, and its optimizer rules."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from dask_embed.columns import empty_columns
from dask_embed.lazy._dask import Expr, new_collection
from dask_embed.lazy.computed import ComputedRows, SameRows, SelectResult, dependents_of
from dask_embed.lazy.given_text import as_given
from dask_embed.lazy.nulls import inputs_by_result, null_pattern
from dask_embed.operators.base import ColumnOperator
from dask_embed.operators.dispatch import lazily
from dask_embed.operators.frame import FrameOperator
from dask_embed.operators.fused import keeping, parts_of, together
from dask_embed.operators.renamed import all_types, plain, renamed
from dask_embed.runtime import planned


@lazily.register(ColumnOperator)
def append_lazily(operator: ColumnOperator, frame: Any) -> Any:
    """Return the Dask DataFrame with the operator's columns, nothing computed."""
    return new_collection(AppendColumns(as_given(frame.expr, operator.input_columns), operator))


class OperatorRows(ComputedRows):
    """What `operator` makes of each partition of `frame`."""

    _parameters = ["frame", "operator"]  # noqa: RUF012 - the form of every Dask expression

    @staticmethod
    def operation(partition: Any, operator: FrameOperator) -> Any:
        return operator.apply(partition)

    @functools.cached_property
    def _meta(self) -> Any:
        return self.operator.meta(self.frame._meta)

    def _tune_down(self) -> Expr | None:
        planned.tell(self)
        return None

    @functools.cached_property
    def made(self) -> set[str]:
        return set(self.operator.output_columns)

    @functools.cached_property
    def reads(self) -> set[str]:
        return set(self.operator.input_columns)

    @property
    def labels(self) -> list[str]:
        return list(
            dict.fromkeys(type(p).__name__.lower() for p in map(plain, parts_of(self.operator)))
        )


class AppendColumns(OperatorRows, SameRows):
    """Rows and columns of `frame`, then the columns that `operator` computes from them."""

    _pickle_functools_cache = False  # nothing that travels needs the empty frame of each node

    @functools.cached_property
    def _meta(self) -> Any:
        if type(self.operator).meta is not ColumnOperator.meta:
            return super()._meta
        return empty_columns(self.frame._meta, all_types(self.operator))

    @functools.cached_property
    def _named(self) -> tuple[Any, ...]:
        return (*self.frame.columns, *self.operator.output_columns)

    @property
    def columns(self) -> list[Any]:
        return list(self._named)

    @functools.cached_property
    def keeps_nulls(self) -> bool:  # type: ignore[override]
        return self.made <= set(inputs_by_result(self.operator))

    def _simplify_up(self, parent: Expr, dependents: Any) -> Expr | None:
        if (without := null_pattern(self, self, parent, dependents)) is not None:
            return without
        return super()._simplify_up(parent, dependents)

    def asked_for_nulls(self, selection: Expr, parent: Expr, dependents: Any) -> Expr | None:
        return null_pattern(self, selection, parent, dependents)

    def keeping(self, wanted: set[str]) -> ComputedRows:
        operator = keeping(self.operator, wanted)
        return self if operator is self.operator else type(self)(self.frame, operator)

    def renamed(self, names: Mapping[Any, Any]) -> ComputedRows | None:
        operator = renamed(self.operator, names)
        return None if operator is None else type(self)(self.frame, operator)

    def _tune_down(self) -> Expr | None:
        super()._tune_down()
        return Settled(*self.operands) if self.way_to_partner() else None

    def way_to_partner(self) -> list[Expr]:
        """Return what is below, down to an operator that could run this one too; [] if none."""
        results, inputs = set(self.operator.output_columns), set(self.operator.input_columns)
        way: list[Expr] = []
        node = self.frame
        while isinstance(node, AppendColumns | SelectResult) and not results & set(node.columns):
            way.append(node)
            if isinstance(node, AppendColumns):
                if inputs & set(node.operator.output_columns):
                    return []
                fits = not results & set(node.frame.columns)
                if fits and together(node.operator, self.operator) is not None:
                    return way
            node = node.frame
        return []


class Settled(AppendColumns):
    """An operator in a plan from which all that is not wanted has been taken away.

    It takes this form, before the plan is lowered, if another operator below reads the same
    column and may share its tokens. Then both become one: not before, because a filter may pass
    one and not the other, and a result that nobody wants must not be computed beside one that
    somebody does.
    """

    def _tune_down(self) -> Expr | None:
        return None

    def joined(self, dependents: Any) -> Expr | None:
        """Return the plan in which an operator further down runs this one too, if one can."""
        way = self.way_to_partner()
        for node, parent in zip(way, [self, *way], strict=False):
            if dependents_of(node, dependents) - {parent._name}:
                return None  # what others use stays as it is
        if not way:
            return None
        *above, partner = way
        both = together(partner.operator, self.operator)
        return self._rebuilt(Settled(partner.frame, both), above)

    def _rebuilt(self, lowest: Expr, above: list[Expr]) -> Expr:
        """Return what was `above` the operators now joined on top of them, in the old order."""
        plan = lowest
        for node in reversed(above):
            if isinstance(node, AppendColumns):
                plan = node.on(plan)
            else:
                plan = SelectResult(plan, [*node.columns, *self.operator.output_columns])
        same = list(plan.columns) == list(self.columns)
        return plan if same else SelectResult(plan, list(self.columns))


def settled(plan: Expr) -> Any:
    """Return a simplified plan with its operators as they will run, for `explain`."""
    return _settled(plan, {}).simplify()


def _settled(node: Expr, done: dict[str, Expr]) -> Expr:
    if node._name not in done:
        operands = [_settled(o, done) if isinstance(o, Expr) else o for o in node.operands]
        form = Settled if type(node) is AppendColumns else type(node)
        done[node._name] = form(*operands)
    return done[node._name]
