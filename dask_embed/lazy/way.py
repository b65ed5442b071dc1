"""The way of operators up a plan: all that rises above a step, in one go.

A pass of the optimizer for each step that each operator passes would be as many as there are
operators, times steps, and each pass looks at the whole plan.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from typing import Any

from dask_embed import config
from dask_embed.lazy._dask import Assign, Expr, Projection, RenameFrame
from dask_embed.lazy.conditions import replaced
from dask_embed.lazy.held import Passage, columns_of, held_by
from dask_embed.lazy.readers import readers_of
from dask_embed.lazy.steps import Rows, Step, step_of
from dask_embed.lazy.worth import is_worth_it, needs_none


@dataclasses.dataclass(frozen=True)
class _Level:
    """A step, or an operator that rises too, above another operator.

    Attributes
    ----------
    passage : Passage, optional
        Of a step.
    read : frozenset
        Columns of what is below it that others read.
    """

    passage: Passage | None
    read: frozenset[Any] = frozenset()


def is_allowed(step: Step) -> bool:
    """Return whether the configuration lets operators rise above a step of this kind."""
    allowed = config.get("operators-rise")
    return bool(allowed == "all" or (allowed == "blockwise" and step.rows.blockwise))


def risen(passage: Passage, dependents: Any) -> tuple[Any, bool] | None:
    """Return an operator, and those below it that pass as well, above a step.

    Parameters
    ----------
    passage : Passage
        Of the step, which the operator may pass.
    dependents : mapping
        Of Dask, the expressions that read each.

    Returns
    -------
    above : Expr
        With its columns in any order.
    known : bool
        Whether its columns are certainly of the types that they had; None instead of both if the
        operator has no form under their new names.
    """
    top, node = passage.sources[0], passage.sources[-1]
    others = _read_beside(top, passage.node, dependents)
    hidden = frozenset() if top is node else _read_beside(node, top, dependents)
    operators: list[Any] = []  # the highest first, as the steps
    steps: list[Passage] = []
    lowest, waiting = node, [passage]
    levels = [_Level(passage, (others or frozenset()) | (hidden or frozenset()))]
    while others is not None and hidden is not None:
        found = None
        if not operators or getattr(type(node), "one_row_each", False):
            named = _above(node, levels, dependents)
            if named is None:
                break
            operators.append(named)
            steps, waiting, lowest = steps + waiting, [], node
        elif (step := step_of(node)) is not None and is_allowed(step):
            found = Passage(step, node, [node.operands[step.place]])
            waiting.append(found)
        else:
            break
        below = node.frame if found is None else found.sources[0]
        others = _read_beside(below, node, dependents)
        levels.append(_Level(found, others or frozenset()))
        node = below
    if not operators:
        return None
    return _rebuilt(lowest.rows_in_written_parts(dependents), steps, operators)


def _read_beside(node: Expr, reader: Expr, dependents: Any) -> frozenset[Any] | None:
    """Return the columns that others than `reader` read of a node, None if they need its rows."""
    read: set[Any] = set()
    readers = list(readers_of(node, dependents))
    for each in readers:
        if isinstance(each, Projection) and each._name != reader._name:
            read.update(each.columns)
        elif getattr(each, "_name", None) != reader._name and not needs_none(each, set()):
            return None
    known = any(getattr(each, "_name", None) == reader._name for each in readers)
    return frozenset(read) if known else None


def _above(operator: Any, levels: list[_Level], dependents: Any) -> Any:
    """Return an operator under the names that its columns have above all levels, None if it stays.

    Further down it rises only if fewer rows are asked for, as it does where it is the first.
    """
    held = held_by(operator)
    names = {column: column for column in held.made | held.reads}
    first, last = len(levels) == 1, levels[0].passage
    for level in reversed(levels):
        if level.read & held.made:
            return None
        passage = level.passage
        if passage is None:
            continue
        if not first and held.hindrance(passage) is not None:
            return None
        if passage is last and not first and not _is_worth_it(held, levels, last, dependents):
            return None
        held = held.renamed(passage.step.names)
        names = {old: _new_name(new, passage.step) for old, new in names.items()}
    return operator.renamed({old: new for old, new in names.items() if old != new})


def _new_name(name: Hashable, step: Step) -> Hashable:
    return (step.names or {}).get(name, name)


def _is_worth_it(held: Any, levels: list[_Level], last: Passage, dependents: Any) -> bool:
    between = [level.passage.step for level in levels if level.passage is not None]
    return (
        levels[-1].passage is None  # right below another that rises
        or any(step.rows.fewer for step in between)
        or is_worth_it(held, last.step, last.node, dependents)
    )


def _rebuilt(frame: Expr, steps: list[Passage], operators: list[Any]) -> tuple[Any, bool]:
    """Return all steps on a frame, and then the operators; each given with the highest first."""
    waiting: list[Passage] = []  # steps that are one `assign`, which Dask would join in each pass
    for passage in reversed(steps):
        if waiting and not _can_join(waiting, passage):
            frame, waiting = _assigned(waiting, frame), []
        if type(passage.node) is Assign:
            waiting.append(passage)
        else:
            frame = _on(passage, frame)
    frame = _assigned(waiting, frame) if waiting else frame
    made = {column for operator in operators for column in operator.made}
    known = all(type(operator).appends for operator in operators) and _keep_apart(steps)
    if known:
        top = steps[0].node
        rest = [column for column in columns_of(top) if column not in made]
        vars(frame).setdefault("_meta", top._meta[rest])
    for operator in reversed(operators):
        frame = operator.on(frame)
    if known:
        vars(frame).setdefault("_meta", top._meta[list(frame.columns)])
    return frame, known


def _keep_apart(steps: list[Passage]) -> bool:
    """Return whether steps do to each column what they do, whatever others there are.

    Then what they give is known without asking them anew, which takes long in pandas.
    """
    whole = len(steps[0].sources) == 1  # no selection, which has fewer columns than what is below
    return whole and all(each.step.rows is Rows.SAME and each.step.each_row_alone for each in steps)


def _can_join(waiting: list[Passage], passage: Passage) -> bool:
    """Return whether `assign` may be one with some before it: it reads and changes none of them."""
    keys = {key for each in waiting for key in each.node.keys}
    return (
        type(passage.node) is Assign
        and keys.isdisjoint(passage.node.keys)
        and not passage.reads_all
        and keys.isdisjoint(passage.reads)
    )


def _assigned(steps: list[Passage], frame: Expr) -> Expr:
    return Assign(frame, *(operand for each in steps for operand in _operands(each, frame)[1:]))


def _on(passage: Passage, frame: Expr) -> Expr:
    """Return a step on another frame."""
    step, node = passage.step, passage.node
    if step.names is not None:
        names = {old: new for old, new in step.names.items() if old in frame.columns}
        return RenameFrame(frame, names) if names else frame
    return type(node)(*_operands(passage, frame))


def _operands(passage: Passage, frame: Expr) -> list[Any]:
    pairs = [(source, frame) for source in passage.sources]
    operands = passage.node.operands
    return [replaced(each, *pairs) if isinstance(each, Expr) else each for each in operands]
