"""Conditions on rows as they are written on a command line: ``lang == 'en' and score > 0.5``."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from typing import Any

from dask_embed._validation import meant, shown

_COMPARED: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_COMPUTED: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
}
_QUOTED = re.compile(r"`([^`]+)`")
_ALLOWED = (
    "columns (`in backticks` where they are no Python names), numbers, texts and lists of them, "
    "len(column), comparisons, in, is None, + - * / %, and, or, not"
)


def condition(text: str, frame: Any) -> Any:
    """Return a condition on the rows of a dataframe, lazy as the frame is.

    Parameters
    ----------
    text : str
        An expression of Python in which names are columns. Nothing is called but ``len`` of a
        column, and no attribute is read, so that it can do nothing else.
    frame : pandas.DataFrame or dask.dataframe.DataFrame

    Raises
    ------
    ValueError
        If it is anything else, or not true or false of each row; it says where.
    """
    quoted: list[str] = []

    def hide(match: re.Match[str]) -> str:
        quoted.append(match[1])
        return f"_quoted_{len(quoted) - 1}"

    try:
        tree = ast.parse(_QUOTED.sub(hide, text.strip()), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        at = getattr(error, "offset", None)
        where = f" at character {at}" if at else ""
        raise ValueError(f"where is no expression{where}: {shown(text)}") from None
    names = {f"_quoted_{number}": name for number, name in enumerate(quoted)}
    found = _Reader(frame, names).read(tree.body)
    if str(getattr(found, "dtype", "")) not in ("bool", "boolean", "bool[pyarrow]"):
        raise ValueError(f"where must be true or false of each row, got {shown(text)}")
    return found


class _Reader:
    """Makes of each node of an expression what it is of a frame."""

    def __init__(self, frame: Any, names: dict[str, str]) -> None:
        self._frame = frame
        self._names = names

    def read(self, node: ast.expr) -> Any:
        reader = getattr(self, f"_{type(node).__name__.lower()}", None)
        return self._refuse(node) if reader is None else reader(node)

    def _refuse(self, node: ast.expr) -> Any:
        raise ValueError(
            f"where cannot hold {shown(ast.unparse(node))} (character {node.col_offset + 1}); it "
            f"takes {_ALLOWED}"
        )

    def _name(self, node: ast.Name) -> Any:
        name, columns = self._names.get(node.id, node.id), list(self._frame.columns)
        if name not in columns:
            raise ValueError(
                f"where names the column {name!r}, which the rows have not{meant(name, columns)}; "
                f"their columns are {shown(columns)}"
            )
        return self._frame[name]

    def _constant(self, node: ast.Constant) -> Any:
        if not isinstance(node.value, str | int | float | bool | None):
            self._refuse(node)
        return node.value

    def _list(self, node: ast.List | ast.Tuple) -> list[Any]:
        return [
            each.value if isinstance(each, ast.Constant) else self._refuse(each)
            for each in node.elts
        ]

    _tuple = _list

    def _boolop(self, node: ast.BoolOp) -> Any:
        both = operator.and_ if isinstance(node.op, ast.And) else operator.or_
        found = self.read(node.values[0])
        for each in node.values[1:]:
            found = both(found, self.read(each))
        return found

    def _unaryop(self, node: ast.UnaryOp) -> Any:
        value = self.read(node.operand)
        if isinstance(node.op, ast.Not):
            return ~value
        return -value if isinstance(node.op, ast.USub) else self._refuse(node)

    def _binop(self, node: ast.BinOp) -> Any:
        compute = _COMPUTED.get(type(node.op))
        if compute is None:
            return self._refuse(node)
        return compute(self.read(node.left), self.read(node.right))

    def _call(self, node: ast.Call) -> Any:
        called = node.func.id if isinstance(node.func, ast.Name) else ""
        if called != "len" or node.keywords or len(node.args) != 1:
            return self._refuse(node)
        column = self.read(node.args[0])
        return column.str.len() if hasattr(column, "str") else self._refuse(node)

    def _compare(self, node: ast.Compare) -> Any:
        found, left = None, node.left
        for kind, right in zip(node.ops, node.comparators, strict=True):
            part = self._compared(kind, self.read(left), self.read(right), node)
            found = part if found is None else found & part
            left = right
        return found

    def _compared(self, kind: ast.cmpop, left: Any, right: Any, node: ast.Compare) -> Any:
        if isinstance(kind, ast.Is | ast.IsNot) and right is None and hasattr(left, "isna"):
            return left.isna() if isinstance(kind, ast.Is) else ~left.isna()
        if isinstance(kind, ast.In | ast.NotIn) and isinstance(right, list):
            inside = left.isin(right) if hasattr(left, "isin") else self._refuse(node)
            return inside if isinstance(kind, ast.In) else ~inside
        compare = _COMPARED.get(type(kind))
        return self._refuse(node) if compare is None else compare(left, right)
