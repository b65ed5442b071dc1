"""The corpus of a step: read where it lies, once for each use, in the same partitions."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from dask_embed.columns import to_host
from dask_embed.curation.hashing import is_text, texts_of
from dask_embed.curation.moving import moved
from dask_embed.curation.ranking import PLACES, row_numbers
from dask_embed.lazy._dask import (
    Apply,
    BlockwiseIO,
    DataNode,
    Elemwise,
    Expr,
    Filter,
    FromPandas,
    Map,
    PartitionsFiltered,
    Projection,
    ReadParquet,
    new_collection,
)
from dask_embed.lazy.computed import ComputedRows
from dask_embed.lazy.given_text import GivenText
from dask_embed.lazy.nodes import PartByPart
from dask_embed.lazy.parts import unjoined


class Source:
    """A Dask DataFrame whose rows are known by partition and place.

    Parameters
    ----------
    frame : Expr
        Simplified and not yet lowered: its partitions are those that will run.

    Notes
    -----
    Dask holds a partition until all that read it have run, which for a corpus is too much. So
    Parquet files are read again for each use, of each only the columns that it needs, where no
    more than Dask's own steps on single rows stand between. All else runs once and is held (or
    spilled): models, functions of the user's, shuffles.
    """

    def __init__(self, frame: Any) -> None:
        self._frame = frame

    @property
    def npartitions(self) -> int:
        return self._frame.npartitions

    def columns(self, names: Sequence[Any], use: str = "") -> Any:
        """Return columns of the frame, in its partitions, as a Dask DataFrame.

        Parameters
        ----------
        names : sequence of str
        use : str
            What they are for: files are read once for each.
        """
        selected = Projection(self._frame, list(names))
        narrow: Any = selected.simplify()
        cheap = all(_is_cheap(node) for node in narrow.walk())
        plan = _whole(narrow, use) if cheap else _whole(selected, "")
        return new_collection(plan)

    def each(
        self,
        function: Callable[..., pd.DataFrame],
        names: Sequence[Any],
        meta: pd.DataFrame,
        *arguments: Any,
        use: str,
    ) -> Any:
        """Return what a function makes of each partition, as a Dask DataFrame.

        Parameters
        ----------
        function : callable
            ``(partition, numbers, *arguments) -> pandas.DataFrame`` like `meta`: of columns of a
            partition, as pandas has them, and the number of each row. It is called with
            partitions of no rows, too.
        names : sequence of str
            The columns.
        meta : pandas.DataFrame
            The result for no rows.
        *arguments : object
            Of these Dask frames in the same partitions give one to each call; lazy values that
            are no frames, such as forests, are given to all.
        use : str
            See `columns`.
        """
        frame = self.columns(names, use).expr
        given = [getattr(each, "expr", each) for each in arguments]
        numbers = PartitionNumbers(self.npartitions)
        texts = [name for name, each in self.meta(names).items() if _is_of_texts(each)]
        return new_collection(EachPartition(frame, numbers, function, meta, texts, *given))

    def meta(self, names: Sequence[Any]) -> pd.DataFrame:
        """Return columns of the frame for no rows, as pandas has them."""
        return to_host(self._frame._meta[list(names)].iloc[:0])

    def back(self, frame: Any) -> Any:
        """Return rows with a column ``row`` in the partitions that these are from.

        Numbers of an older corpus, ``-1 - number``, are taken for those of this source.

        Parameters
        ----------
        frame : dask.dataframe.DataFrame
        """
        return moved(frame, self.npartitions, _partition_of, PLACES)


def _is_of_texts(column: pd.Series) -> bool:
    """Return whether a column is promised to hold texts: one of objects may hold others."""
    objects = pd.api.types.is_object_dtype(column.dtype)
    return is_text(column) and not (objects or isinstance(column.dtype, pd.CategoricalDtype))


def _partition_of(frame: pd.DataFrame, places: int) -> np.ndarray:
    rows = frame["row"].to_numpy()
    return np.where(rows < 0, -1 - rows, rows) >> places


class EachPartition(PartByPart):
    """What `function` makes of each partition of `frame` and the numbers of its rows.

    The columns `texts` hold nothing else, whatever the type of a partition is: a number is no
    duplicate of its digits.
    """

    _parameters = ["frame", "numbers", "function", "result", "texts"]  # noqa: RUF012 - as all expressions

    @staticmethod
    def operation(
        partition: Any,
        number: int,
        function: Any,
        result: pd.DataFrame,
        texts: Sequence[Any],
        *arguments: Any,
    ) -> pd.DataFrame:
        host = to_host(partition)
        for name in texts:
            if not is_text(host[name]):
                texts_of(host, name)  # raises, but for nulls alone
        made = function(host, row_numbers(number, len(host)), *arguments)
        made = made[list(result.columns)]
        other = {n: t for n, t in result.dtypes.items() if made.dtypes[n] != t}
        return made.astype(other) if other else made

    @functools.cached_property
    def _meta(self) -> pd.DataFrame:
        return self.operand("result")

    @functools.cached_property
    def _name(self) -> str:
        name = getattr(self.operand("function"), "__name__", "each").strip("_")
        return f"{name.replace('_', '-')}-{self.deterministic_token}"

    def _broadcast_dep(self, dep: Expr) -> bool:
        return dep.ndim == 0


class PartitionNumbers(PartitionsFiltered, BlockwiseIO):
    """The number of each partition, which it keeps where Dask takes some of them."""

    _parameters = ["count", "_partitions"]  # noqa: RUF012 - the form of every Dask expression
    _defaults = {"_partitions": None}  # noqa: RUF012
    ndim = 1

    @functools.cached_property
    def _meta(self) -> pd.Series:
        return pd.Series([], dtype="int64")

    def _divisions(self) -> tuple[None, ...]:
        return (None,) * (self.operand("count") + 1)

    def _filtered_task(self, name: Any, index: int) -> Any:
        return DataNode(name, int(index))


class Expanding(Expr):
    """A node that becomes other steps once it is known in which partitions its frame comes."""

    def expanded(self, use: str = "") -> Expr:
        """Return the steps; files that rows are read of are read for this use alone."""
        raise NotImplementedError

    def _tune_down(self) -> Expr | None:
        return self.expanded()

    def _lower(self) -> Expr | None:
        return self.expanded()  # of a plan that was not tuned


def _whole(plan: Expr, use: str) -> Expr:
    """Return a plan whose sources keep their partitions, and are read for this use alone."""
    return unjoined(plan, use, lambda node: _expanded_for(node, use))


def _expanded_for(node: Expr, use: str) -> Expr | None:
    return node.expanded(use) if isinstance(node, Expanding) else None


def _is_cheap(node: Expr) -> bool:
    """Return whether a node may run more than once."""
    if isinstance(node, ComputedRows | Map | Apply):
        return False
    return isinstance(node, Elemwise | Filter | GivenText | ReadParquet | FromPandas | Expanding)
