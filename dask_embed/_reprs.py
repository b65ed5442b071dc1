"""How operators, models and their descriptions show themselves: what differs from the defaults."""

from __future__ import annotations

import dataclasses
import html
import inspect
from collections.abc import Iterable
from typing import Any


class ShortRepr:
    """Base of dataclasses that show only the fields that are not at their defaults."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__repr__" not in vars(cls):
            # in the class itself, or `dataclass` writes one that shows all fields
            cls.__repr__ = _inherited_repr(cls)  # type: ignore[method-assign]

    def __repr__(self) -> str:
        parameters = inspect.signature(type(self)).parameters.values()
        by_place = [each.name for each in parameters if each.kind is not each.KEYWORD_ONLY][:1]
        told = (
            repr(value) if name in by_place else f"{name}={value!r}" for name, value in self._told()
        )
        return f"{type(self).__name__}({', '.join(told)})"

    def _repr_html_(self) -> str:
        """Return a table of the fields that differ from the defaults, for Jupyter."""
        return table(type(self).__name__, self._told())

    def _told(self) -> list[tuple[str, Any]]:
        """Return names and values of fields that differ from their defaults, first what has none.

        A model of which only the name was given stands for its name.
        """
        needed, optional = [], []
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, ShortRepr) and len(told := value._told()) == 1:
                value = told[0][1]
            if field.default is dataclasses.MISSING:
                needed.append((field.name, value))
            elif type(value) is not type(field.default) or value != field.default:
                optional.append((field.name, value))
        return needed + optional


def table(title: str, rows: Iterable[tuple[str, Any]]) -> str:
    """Return an HTML table of names and values under a title."""
    lines = "".join(f"<tr>{_cell('th', name)}{_cell('td', value)}</tr>" for name, value in rows)
    return f"<table><caption>{html.escape(title)}</caption>{lines}</table>"


def _cell(tag: str, value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return f"<{tag} style='text-align: left'>{html.escape(text)}</{tag}>"


def _inherited_repr(cls: type) -> Any:
    return next(vars(base)["__repr__"] for base in cls.__mro__[1:] if "__repr__" in vars(base))
