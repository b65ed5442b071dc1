"""Frames side by side in equally many partitions."""

from __future__ import annotations

from typing import Any

from dask_embed.lazy._dask import Blockwise, Expr, Repartition


def in_equal_parts(node: Expr) -> Expr | None:
    """Return `node` with as few partitions of each of its frames as of the others.

    Of files that few columns are read of Dask makes fewer partitions. It does the same to what
    stands beside the file, such as an array, but not to what stands beside a node further up.
    """
    if not isinstance(node, Blockwise):
        return None
    frames = [each for each in node.dependencies() if not node._broadcast_dep(each)]
    fewest = min((each.npartitions for each in frames), default=1)
    fitted: Any = node
    for each in frames:
        if each.npartitions > fewest:
            fitted = fitted.substitute(each, Repartition(each, new_partitions=fewest))
    return fitted
