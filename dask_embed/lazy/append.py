"""The lazy node of operators, and its optimizer rules."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from dask_embed.columns import empty_columns
from dask_embed.lazy._dask import Expr, new_collection, tokenize_deterministic
from dask_embed.lazy.computed import ComputedRows, SelectResult
from dask_embed.lazy.conditions import rebuilt
from dask_embed.lazy.given_text import as_given
from dask_embed.lazy.held import columns_of
from dask_embed.lazy.nulls import inputs_by_result, null_pattern
from dask_embed.lazy.readers import dependents_of, with_meta_of
from dask_embed.lazy.same_rows import SameRows
from dask_embed.operators.base import ColumnOperator
from dask_embed.operators.dispatch import lazily
from dask_embed.operators.frame import FrameOperator
from dask_embed.operators.fused import can_be_together, keeping, names_agree, parts_of, together
from dask_embed.operators.renamed import all_types, plain, renamed
from dask_embed.runtime import planned
from dask_embed.runtime.remembered import looking_once, remembered


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

    def __dask_tokenize__(self) -> str:
        """Return the token, of the names of both operands: Dask's own pickles the class each time.

        Optimizing a plan of many operators makes each node several times.
        """
        if not self._determ_token:
            said = f"{type(self).__qualname__} {self.frame._name} {_token(self.operator)}"
            self._determ_token = hashlib.md5(said.encode(), usedforsecurity=False).hexdigest()
        return self._determ_token

    def types(self) -> dict[Any, pa.DataType]:
        types: dict[Any, pa.DataType] = self.operator.types()
        return types

    @property
    def labels(self) -> list[str]:
        return _labels(self.operator)


@remembered
def _token(operator: FrameOperator) -> str:
    return tokenize_deterministic(operator)


@remembered
def _labels(operator: Any) -> list[str]:
    parts = map(plain, parts_of(operator))
    return list(dict.fromkeys(type(part).__name__.lower() for part in parts))


class AppendColumns(OperatorRows, SameRows):
    """Rows and columns of `frame`, then the columns that `operator` computes from them."""

    _pickle_functools_cache = False  # nothing that travels needs the empty frame of each node
    appends = True

    @functools.cached_property
    def _meta(self) -> Any:
        if type(self.operator).meta is not ColumnOperator.meta:
            return super()._meta
        return empty_columns(self.frame._meta, all_types(self.operator))

    @functools.cached_property
    def _named(self) -> tuple[Any, ...]:
        return (*columns_of(self.frame), *self.operator.output_columns)

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
        if not names:
            return self
        operator = renamed(self.operator, names)
        return None if operator is None else type(self)(self.frame, operator)

    def _tune_down(self) -> Expr | None:
        """Return the form that can be joined with an operator below, of all below it at once.

        Dask would build what is above anew for each of them.
        """
        chain: list[AppendColumns | SelectResult] = []
        node: Any = self
        with looking_once():  # at the files of a model, which operators further down have, too
            while isinstance(node, SelectResult) or (
                type(node) is AppendColumns and node.way_to_partner()
            ):
                chain.append(node)
                node = node.frame
        if not chain:
            planned.tell(self)
            return None
        for each in reversed(chain):
            if isinstance(each, AppendColumns):
                planned.tell(each)
                node = with_meta_of(Settled(node, each.operator), each)
            elif each.frame is not node:
                node = with_meta_of(type(each)(node, *each.operands[1:]), each)
            else:
                node = each
        return node

    def way_to_partner(self) -> list[Expr]:
        """Return what is below, down to an operator that could run this one too; [] if none."""
        operator = self.operator
        results, inputs = set(operator.output_columns), set(operator.input_columns)
        return _way_to_partner(self.frame, operator, results, inputs)


def _way_to_partner(
    frame: Any, operator: ColumnOperator, results: set[str], inputs: set[str]
) -> list[Expr]:
    """Return what is from `frame` down to an operator that could run `operator`, too.

    With it go others, of which `results` and `inputs` are as well.
    """
    way: list[Expr] = []
    node = frame
    while isinstance(node, AppendColumns | SelectResult) and results.isdisjoint(node.columns):
        way.append(node)
        if isinstance(node, AppendColumns):
            if not inputs.isdisjoint(node.operator.output_columns):
                return []
            if can_be_together(node.operator, operator):
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
        """Return the plan in which an operator further down runs this one too, if one can.

        And it those between: one pass of the optimizer joins all that can be.
        """
        operators: list[ColumnOperator] = [self.operator]
        results, inputs = set(self.operator.output_columns), set(self.operator.input_columns)
        above: list[tuple[Expr, list[str]]] = []
        reader: Expr = self
        frame = self.frame
        while way := _way_to_partner(frame, self.operator, results, inputs):
            shared = (
                dependents_of(node, dependents) - {parent._name}
                for node, parent in zip(way, [reader, *way], strict=False)
            )
            *between, partner = way
            if any(shared) or not names_agree(partner.operator, *operators):
                break  # what others use stays as it is
            wanted = [name for each in operators for name in each.output_columns]
            above += [(node, wanted) for node in between]
            operators.insert(0, partner.operator)
            results |= set(partner.operator.output_columns)
            inputs |= set(partner.operator.input_columns)
            reader, frame = partner, partner.frame
            if not isinstance(partner, Settled):
                break
        if len(operators) == 1:
            return None
        return with_meta_of(self._rebuilt(Settled(frame, together(*operators)), above), self)

    def _rebuilt(self, lowest: Expr, above: list[tuple[Expr, list[str]]]) -> Expr:
        """Return what was `above` the operators now joined on top of them, in the old order.

        Given with the columns of those that stood still further up.
        """
        plan = lowest
        for node, wanted in reversed(above):
            if isinstance(node, AppendColumns):
                plan = node.on(plan)
            else:
                plan = SelectResult(plan, [*node.columns, *wanted])
        same = list(plan.columns) == list(self.columns)
        return plan if same else SelectResult(plan, list(self.columns))


def settled(plan: Expr) -> Any:
    """Return a simplified plan with its operators as they will run, for `explain`."""
    return rebuilt(plan, {}, as_settled).simplify()


def as_settled(node: Expr) -> Expr:
    """Return the operator that has been tuned in the place of one that has not."""
    return Settled(*node.operands) if type(node) is AppendColumns else node
