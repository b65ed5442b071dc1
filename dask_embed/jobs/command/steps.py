"""Functions of a whole dataframe as commands: duplicates, neighbours, clusters."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any

# Of these functions: what is a dataframe, and on a command line the files that it is read from.
_FRAMES = ("against",)


@dataclasses.dataclass(frozen=True)
class Step:
    """A function of a Dask DataFrame, to be used as an operator is.

    Parameters
    ----------
    home, name : str
        Its module and its name there.
    documented : str
        The function beside it whose docstring tells of the arguments.
    """

    home: str
    name: str
    documented: str

    @property
    def function(self) -> Callable[..., Any]:
        """The function itself."""
        found: Callable[..., Any] = getattr(importlib.import_module(self.home), self.name)
        return found

    def told(self) -> list[Any]:
        """Return what documents the function and its arguments."""
        return [self.function, getattr(importlib.import_module(self.home), self.documented)]

    def __call__(self, **given: Any) -> Bound:
        return Bound(self.function, given)


@dataclasses.dataclass(frozen=True)
class Bound:
    """A function with its arguments, which the rows are still missing to."""

    function: Callable[..., Any]
    given: dict[str, Any]

    def pinned(self) -> Bound:
        """Return itself: what it reads is in the rows."""
        return self

    def types(self) -> None:
        """Say nothing: the function tells its columns with the rows."""

    def check(self, meta: Any) -> None:
        """Leave the checks to the function."""

    def __call__(self, rows: Any) -> Any:
        from dask_embed.jobs.command.inputs import find_inputs
        from dask_embed.jobs.command.reading import open_inputs

        given = dict(self.given)
        for name in _FRAMES:
            if name in given:
                given[name] = open_inputs(find_inputs([given[name]]), None, None)
        return self.function(rows, **given)
