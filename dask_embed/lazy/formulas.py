"""Formulas of pandas' `query` and `eval` that read columns of one row alone."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Hashable, Iterable

# No calls, no attributes: a method might look at other rows.
_OF_A_ROW = (
    *(ast.Expression, ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.Invert, ast.USub),
    *(ast.BinOp, ast.operator, ast.Compare, ast.cmpop, ast.Name, ast.Load, ast.Constant),
    *(ast.List, ast.Tuple),
)


def names_in(formula: str, columns: Iterable[Hashable]) -> frozenset[Hashable] | None:
    """Return the columns that a formula reads of a row, None if it may read anything else."""
    tree = _parsed(formula)
    if tree is None or not all(isinstance(node, _OF_A_ROW) for node in ast.walk(tree)):
        return None
    names = frozenset(node.id for node in ast.walk(tree) if isinstance(node, ast.Name))
    return names if names and names <= set(columns) else None


def conditions_in(formula: str) -> list[str]:
    """Return the conditions that all have to hold, of a formula that reads one row."""
    tree = _parsed(formula)
    body = tree.body if tree else None
    if isinstance(body, ast.BoolOp) and isinstance(body.op, ast.And):
        return [part for value in body.values for part in conditions_in(ast.unparse(value))]
    return [ast.unparse(body)] if body else [formula]


def is_condition(formula: str) -> bool:
    """Return whether a formula gives a truth value for each row."""
    tree = _parsed(formula)
    return tree is not None and _is_condition(tree.body)


def assigned_name(formula: str) -> tuple[str | None, str]:
    """Return the column that a formula assigns, None if it is not one assignment; and its value."""
    try:
        (statement,) = ast.parse(formula.strip()).body
    except (SyntaxError, ValueError, AttributeError):
        return None, ""
    if not isinstance(statement, ast.Assign) or not isinstance(statement.targets[0], ast.Name):
        return None, ""
    return statement.targets[0].id, ast.unparse(statement.value)


def _is_condition(node: ast.expr) -> bool:
    if isinstance(node, ast.BoolOp):
        return all(map(_is_condition, node.values))
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, ast.Not | ast.Invert) and _is_condition(node.operand)
    return isinstance(node, ast.Compare)


def _parsed(formula: object) -> ast.Expression | None:
    if not isinstance(formula, str):
        return None
    try:
        return ast.parse(_with_words(formula.strip()), mode="eval")
    except (SyntaxError, ValueError, tokenize.TokenError):
        return None


def _with_words(formula: str) -> str:
    """Write `and` for `&`, `or` for `|`, as pandas does: they bind less than comparisons."""
    words = {"&": "and", "|": "or"}
    tokens = tokenize.generate_tokens(io.StringIO(formula).readline)
    return " ".join(words.get(each.string, each.string) for each in tokens).strip()
