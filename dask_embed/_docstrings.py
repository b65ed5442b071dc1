"""Parameters in docstrings, and those that one docstring leaves to another."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TypeVar

F = TypeVar("F", bound=Callable[..., object])

# All that is told of a parameter, or of several on one line, and names that are told elsewhere.
_BLOCK = re.compile(r"^    (\w[^:\n]*) : .*\n(?:(?:        .*)?\n)+", re.MULTILINE)
ELSEWHERE = re.compile(r"^    (\w[^\n]*)\n        See `(\w+)`\.\n", re.MULTILINE)


def blocks_of(docstring: str | None) -> Iterator[tuple[list[str], str]]:
    """Yield the names of parameters with what a docstring tells of them itself."""
    for found in _BLOCK.finditer(ELSEWHERE.sub("", docstring or "")):
        yield re.findall(r"\w+", found[1]), found[0].rstrip()


def with_parameters_of(other: Callable[..., object]) -> Callable[[F], F]:
    """Tell in the docstring of a function what it leaves to another, as "See `other`."."""
    told = {name: block for names, block in blocks_of(other.__doc__) for name in names}

    def filled(found: re.Match[str]) -> str:
        if found[2] != other.__name__:
            return found[0]
        return "".join(f"{block}\n" for block in dict.fromkeys(map(told.get, found[1].split(", "))))

    def decorate(function: F) -> F:
        function.__doc__ = ELSEWHERE.sub(filled, function.__doc__ or "")
        return function

    return decorate
