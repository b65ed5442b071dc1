"""Functions of partitions that say what they read and write, as nodes that know it."""

from __future__ import annotations

import functools
from typing import Any

from dask_embed.columns.declared import DeclaredColumns
from dask_embed.lazy._dask import Expr, MapPartitions
from dask_embed.lazy.rewrites import rewriting
from dask_embed.lazy.same_rows import OfAllRows
from dask_embed.lazy.steps import Rows, Step, describe, step_of


class DeclaredRows(OfAllRows):
    """What a function with declared columns makes of each partition of `frame`.

    Parameters
    ----------
    frame : Expr
    declared : DeclaredColumns
    written : DataFrame
        The empty frame of the columns that it writes.
    options : dict
        Further arguments of the function.
    """

    _parameters = ["frame", "declared", "written", "options"]  # noqa: RUF012

    @staticmethod
    def operation(
        partition: Any, declared: DeclaredColumns, written: Any, options: dict[str, Any]
    ) -> Any:
        return declared(partition, **options)

    @functools.cached_property
    def _meta(self) -> Any:
        written = self.operand("written")
        return self.frame._meta.assign(**{name: written[name] for name in written.columns})

    @property
    def made(self) -> set[Any]:
        return set(self.declared.writes)

    @property
    def reads(self) -> set[Any]:
        return set(self.declared.reads)

    @property
    def labels(self) -> list[str]:
        return [self.declared.__name__.lower()]

    def _depth(self, cache: Any = None) -> int:
        return 1  # after an operator, which takes longer


describe(
    DeclaredRows,
    lambda node: Step(Rows.SAME, reads=frozenset(node.reads), changes=frozenset(node.made)),
)


@rewriting
def _declared(top: Any, node: Any, dependents: Any) -> Expr | None:
    """Return a function with declared columns as a node that leaves out what nobody wants."""
    if not isinstance(node, MapPartitions) or step_of(node) is None:
        return None
    written = node._meta[list(node.func.writes)]
    return DeclaredRows(node.frame, node.func, written, dict(node.kwargs or {}))
