"""Kinds of nodes that plans of several steps are made of, and Dask has not."""

from __future__ import annotations

from typing import Any, ClassVar

from dask_embed.lazy._dask import Blockwise, Expr, TreeReduce


class OneTask(Expr):
    """One partition that is no rows: what one task gives."""

    _meta = None

    def _divisions(self) -> tuple[None, None]:
        return (None, None)


class LoweredFirst:
    """A write, of which Dask would go on with any one task, such as that which begins it."""

    def _layer(self) -> dict[Any, Any]:
        raise NotImplementedError(
            "dask.optimize makes graphs of plans as they are, and a write has none before it is "
            "lowered: compute or persist it as it is, or take its own .optimize()"
        )


class PartByPart(Blockwise):
    """A frame of its own for each partition of the first operand, by which no index is sorted."""

    def _divisions(self) -> tuple[None, ...]:
        return (None,) * (self.operands[0].npartitions + 1)


class Tree(TreeReduce):
    """One value of all partitions, joined by eights.

    Not one of Dask's reductions, which get another name when the plan is lowered.
    """

    _parameters = ["frame"]  # noqa: RUF012 - the form of every Dask expression
    _defaults = {}  # noqa: RUF012
    ndim = 0  # Dask broadcasts what has no dimension: frames that share it stay aligned
    split_every = 8
    combine_kwargs: ClassVar[dict[str, Any]] = {}
    aggregate_kwargs: ClassVar[dict[str, Any]] = {}

    @property
    def kind(self) -> str:
        return self._funcname

    @property
    def _name(self) -> str:
        return f"{self._funcname}-{self.deterministic_token}"

    @property
    def _meta(self) -> Any:
        return self.frame._meta
