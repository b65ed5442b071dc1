"""The types of ``.ml`` for type checkers: ``python tests/accessor_stub.py`` writes the stub.

Methods are made from operators when the accessor is imported, which no type checker sees.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import dask_embed
from dask_embed.accessor import DaskAccessor, FrameAccessor

STUB = Path(dask_embed.__file__).with_name("accessor.pyi")
HEAD = """\
# Written by `python tests/accessor_stub.py`, from the signatures of the operators.
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from dask_embed.models.spec import Model
from dask_embed.operators import ColumnOperator

Operator = TypeVar("Operator", bound=type[ColumnOperator])

def register_operator(name: str, operator: Operator) -> Operator: ...

class ColumnAccessor:
    def __init__(self, column: Any) -> None: ...
"""


def parameter(given: inspect.Parameter) -> str:
    """Return how a stub writes a parameter: a default is there or not, whatever it is."""
    if given.name == "self":
        return "self"
    kind = str(given.annotation)
    kind = "Any" if given.annotation is given.empty or kind == repr(Any) else kind
    return f"{given.name}: {kind}{'' if given.default is given.empty else ' = ...'}"


def method(name: str, function: Any) -> str:
    parts, before = [], None
    for each in inspect.signature(function).parameters.values():
        if each.kind is each.KEYWORD_ONLY != before:
            parts.append("*")
        before = each.kind
        parts.append(parameter(each))
    return "\n".join(
        [f"    def {name}(", *(f"        {part}," for part in parts), "    ) -> Any: ..."]
    )


def text() -> str:
    lines = [HEAD]
    for accessor, base in ((FrameAccessor, ""), (DaskAccessor, "(FrameAccessor)")):
        names = sorted(name for name in vars(accessor) if not name.startswith("_"))
        lines += [f"class {accessor.__name__}{base}:"]
        if not base:
            lines += ["    def __init__(self, frame: Any) -> None: ..."]
        lines += [method(name, getattr(accessor, name)) for name in names]
        lines += [""]
    return "\n".join(lines)


if __name__ == "__main__":
    STUB.write_text(text(), "utf8")
    print(f"wrote {STUB}")
