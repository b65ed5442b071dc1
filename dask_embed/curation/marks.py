"""Decisions as columns of the data: a lazy node for each kind of duplicate, and its filter."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from dask_embed._options import known_options
from dask_embed._validation import shown, usable_text
from dask_embed.columns import append_columns, empty_columns
from dask_embed.columns.frames import require_frame
from dask_embed.curation.ranking import Ranking, places, row_numbers
from dask_embed.curation.source import Expanding, PartitionNumbers, Source
from dask_embed.lazy._dask import Blockwise, Expr, Index, Len, Lengths, Projection, new_collection
from dask_embed.lazy.computed import wanted_columns

_MADE = ("group", "duplicate_of", "similarity", "kept", "reason")
DROPPED = "dropped by "
"""What the names of marks begin with that nobody sees."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """What finds the duplicates of one kind: a base of the settings of each.

    Attributes
    ----------
    ranking : Ranking
    prefix : str
        What the names of its columns begin with.
    older : dask.dataframe.DataFrame or None
        An older corpus, all rows of which are kept.
    """

    ranking: Ranking
    prefix: str
    older: Any

    @property
    def reads(self) -> list[Any]:
        """The columns of the frame that are read, those of the ranking left out."""
        raise NotImplementedError

    def decisions(self, source: Source) -> Any:
        """Return the lazy decisions, in the partitions of `source`, without singular rows.

        As `dask_embed.curation.greedy.decide` makes them.
        """
        raise NotImplementedError

    def told(self) -> str:
        """Return what the step does, for `dask_embed.explain`."""
        raise NotImplementedError

    @property
    def made(self) -> list[str]:
        """The columns that are appended."""
        own = ["row"] if self.ranking.id is None else []
        return [f"{self.prefix}{name}" for name in [*own, *_MADE]]

    def types(self, meta: Any) -> dict[str, pa.DataType]:
        """Return the Arrow type of each column that is made, for a frame like `meta`."""
        known: pa.DataType = pa.int64()
        if self.ranking.id is not None:
            known = pa.array(meta[self.ranking.id].iloc[:0].array, from_pandas=True).type
            if pa.types.is_large_string(known) or pa.types.is_null(known):
                known = pa.string()
        kinds = [known, known, pa.float64(), pa.bool_(), pa.string()]
        if self.ranking.id is None:
            kinds = [pa.int64(), *kinds]
        return dict(zip(self.made, kinds, strict=True))


def marked(frame: Any, finding: Finding) -> Any:
    """Return a Dask DataFrame with the decisions about its rows, nothing computed."""
    _require_new(frame, finding)
    return new_collection(MarkDuplicates(frame.expr, finding, None))


def dropping(mark: Callable[..., Any], documentation: str) -> Callable[..., Any]:
    """Return the function that leaves out what `mark` says is a duplicate, with its parameters."""
    signature = inspect.signature(mark)
    allowed = {name: each for name, each in signature.parameters.items() if name != "prefix"}
    name = mark.__name__.replace("mark_", "drop_")

    def drop(frame: Any, *args: Any, **options: Any) -> Any:
        known_options(name, options, [*allowed])
        marks = mark(frame, *args, **options, prefix=DROPPED)
        return marks[marks[f"{DROPPED}kept"]][list(frame.columns)]

    drop.__name__ = drop.__qualname__ = name
    drop.__doc__, drop.__module__ = documentation, mark.__module__
    drop.__signature__ = signature.replace(parameters=[*allowed.values()])  # type: ignore[attr-defined]
    return drop


def older_frame(frame: Any, against: Any, columns: Sequence[Any], ranking: Ranking) -> Any:
    """Return an older corpus if it has what is read of it: the columns and the ids, of their types.

    Raises
    ------
    TypeError, ValueError
        If not.
    """
    if against is None:
        return None
    require_frame("against", against, lazy=True)
    for name in [*columns, *ranking.of_ids().reads]:
        if name not in against.columns:
            raise ValueError(
                f"against has no column {name!r}; its columns are {shown(list(against.columns))}"
            )
        new, old = frame._meta[name].dtype, against._meta[name].dtype
        if new != old:
            raise TypeError(f"column {name!r} is of {new} in the dataframe, of {old} in against")
    return against


def _require_new(frame: Any, finding: Finding) -> None:
    usable_text("prefix", finding.prefix)
    if taken := [name for name in finding.made if name in frame.columns]:
        raise ValueError(
            f"column {taken[0]!r} is in the dataframe already; give another beginning of the names "
            f"with prefix=, here {shown(finding.prefix)}"
        )


class MarkDuplicates(Expanding):
    """`frame` with the columns of a `Finding`; of the frame's own only `columns`, if any are named.

    For the optimizer it is one node, through which no filter may pass. When the plan is tuned or
    lowered it becomes the steps that it stands for: only then it is known in which partitions the
    frame comes.
    """

    _parameters = ["frame", "finding", "kept_columns"]  # noqa: RUF012 - the form of expressions

    @functools.cached_property
    def _meta(self) -> Any:
        meta = self.frame._meta
        return empty_columns(meta[self._own], self.finding.types(meta))

    @property
    def _own(self) -> list[Any]:
        named = self.operand("kept_columns")
        return list(self.frame.columns) if named is None else list(named)

    @functools.cached_property
    def _name(self) -> str:
        return f"mark-{type(self.finding).__name__.lower()}-{self.deterministic_token}"

    def __str__(self) -> str:
        return f"mark({self.finding.told()})"

    def _divisions(self) -> Any:
        return self.frame.divisions

    def _simplify_up(self, parent: Expr, dependents: Any) -> Expr | None:
        if isinstance(parent, Index | Len | Lengths):
            return type(parent)(self.frame, *parent.operands[1:])
        if not isinstance(parent, Projection):
            return None
        wanted = wanted_columns(self, parent, dependents)
        if not wanted.intersection(self.finding.made):
            return type(parent)(self.frame, *parent.operands[1:])
        own = [name for name in self._own if name in wanted]
        read = {*own, *self.finding.reads, *self.finding.ranking.reads}
        needed = [name for name in self.frame.columns if name in read]
        if own == self._own and needed == list(self.frame.columns):
            return None
        narrowed = MarkDuplicates(Projection(self.frame, needed), self.finding, own)
        return type(parent)(narrowed, *parent.operands[1:])

    def expanded(self, use: str = "") -> Expr:
        source = Source(self.frame)
        rows = source.columns(self._own, use)
        decisions = self.finding.decisions(source)
        numbers = PartitionNumbers(source.npartitions)
        return Mark(rows.expr, decisions.expr, numbers, self.finding.types(self.frame._meta))


class Mark(Blockwise):
    """The rows of each partition with the decisions about them; where there is none a row is kept.

    Parameters
    ----------
    frame, decisions : Expr
        In the same partitions.
    numbers : Expr
        The number of each.
    types : dict
        Names and Arrow types of the new columns, of which the number of the row may be the first.
    """

    _parameters = ["frame", "decisions", "numbers", "types"]  # noqa: RUF012 - as all expressions

    @staticmethod
    def operation(partition: Any, decisions: Any, number: int, types: dict[str, Any]) -> Any:
        own, names = len(types) - len(_MADE), list(types)
        made: dict[str, Any] = {}
        if own:
            made[names[0]] = pa.array(row_numbers(number, len(partition)))
        columns = whole_columns(len(partition), decisions, list(types.values())[own:])
        return append_columns(partition, {**made, **dict(zip(names[own:], columns, strict=True))})

    @functools.cached_property
    def _meta(self) -> Any:
        return empty_columns(self.frame._meta, self.operand("types"))

    def _divisions(self) -> Any:
        return self.frame.divisions

    def _broadcast_dep(self, dep: Expr) -> bool:
        return False


def whole_columns(rows: int, decisions: pd.DataFrame, types: list[pa.DataType]) -> list[pa.Array]:
    """Return the columns of decisions for all rows of a partition, of which most have none."""
    where = np.full(rows, -1)
    where[places(decisions["row"])] = np.arange(len(decisions))
    decided = pa.array(where, mask=where < 0)
    columns = []
    for name, dtype in zip(_MADE, types, strict=True):
        array = pa.array(decisions[name].array, from_pandas=True).cast(dtype)
        if isinstance(array, pa.ChunkedArray):
            array = array.combine_chunks()
        columns.append(array.take(decided))
    columns[_MADE.index("kept")] = columns[_MADE.index("kept")].fill_null(True)
    return columns
