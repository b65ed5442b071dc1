"""Decisions as columns of the data: a lazy node for each kind of duplicate, and its filter."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa

from dask_embed._docstrings import blocks_of
from dask_embed._options import known_options
from dask_embed._validation import shown, usable_text
from dask_embed.columns import to_host
from dask_embed.columns.frames import require_frame
from dask_embed.columns.types import number_type
from dask_embed.curation.outcomes import DECIDED, Keep, Mark, with_types
from dask_embed.curation.ranking import Ranking
from dask_embed.curation.source import Expanding, PartitionNumbers, Source
from dask_embed.lazy._dask import Expr, Index, Len, Lengths, Projection, new_collection
from dask_embed.lazy.parts import InParts
from dask_embed.lazy.readers import wanted_columns

_UNSEEN = "of dropped rows: "


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
        """Return what it finds, in words."""
        raise NotImplementedError

    @property
    def made(self) -> list[str]:
        """The columns that are appended."""
        own = ["row"] if self.ranking.id is None else []
        return [f"{self.prefix}{name}" for name in [*own, *DECIDED]]

    def types(self, meta: Any) -> dict[str, pa.DataType]:
        """Return the Arrow type of each column that is made, for a frame like `meta`."""
        known: pa.DataType = pa.int64()
        if self.ranking.id is not None:
            ids = to_host(meta[[self.ranking.id]].iloc[:0])[self.ranking.id]
            known = pa.array(ids.array, from_pandas=True).type
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


_DROPS = """{what}; lazy.

    The rows that `{mark}` says are kept; asking for both runs it once.

    Parameters
    ----------
{parameters}

    Returns
    -------
    dask.dataframe.DataFrame
        Some rows of `frame`, in their partitions.
    {example}"""


def dropping(mark: Callable[..., Any], what: str, example: str = "") -> Callable[..., Any]:
    """Return the function that leaves out what `mark` says is a duplicate, with its parameters."""
    signature = inspect.signature(mark)
    allowed = {name: each for name, each in signature.parameters.items() if name != "prefix"}
    signature = signature.replace(parameters=[*allowed.values()])
    blocks = [block for names, block in blocks_of(mark.__doc__) if names != ["prefix"]]
    name = mark.__name__.replace("mark_", "drop_")

    def drop(frame: Any, *args: Any, **options: Any) -> Any:
        known_options(name, options, [*allowed])
        try:
            signature.bind(frame, *args, **options)
        except TypeError as error:
            raise TypeError(f"{name}() {error}") from None
        marks = mark(frame, *args, **options, prefix=_UNSEEN)
        return new_collection(DropDuplicates(*marks.expr.operands))

    drop.__name__ = drop.__qualname__ = name
    drop.__doc__ = _DROPS.format(
        what=what, mark=mark.__name__, parameters="\n".join(blocks), example=example
    )
    drop.__module__ = mark.__module__
    drop.__signature__ = signature  # type: ignore[attr-defined]
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
        if new != old and (number_type(new) is None or number_type(new) != number_type(old)):
            raise TypeError(f"column {name!r} is of {new} in the dataframe, of {old} in against")
    return against


def _require_new(frame: Any, finding: Finding) -> None:
    usable_text("prefix", finding.prefix)
    if taken := [name for name in finding.made if name in frame.columns]:
        raise ValueError(
            f"column {taken[0]!r} is in the dataframe already; give another beginning of the names "
            f"with prefix=, here {shown(finding.prefix)}"
        )


class Duplicates(Expanding):
    """What a `Finding` makes of a frame; of its columns only `kept_columns`, if any are named.

    For the optimizer it is one node, through which no filter may pass. When the plan is tuned or
    lowered it becomes the steps that it stands for: only then it is known in which partitions the
    frame comes.
    """

    _parameters = ["frame", "finding", "kept_columns"]  # noqa: RUF012 - the form of expressions

    @property
    def own(self) -> list[Any]:
        """The columns of the frame that are kept."""
        named = self.operand("kept_columns")
        return list(self.frame.columns) if named is None else list(named)

    @property
    def marks(self) -> MarkDuplicates:
        """The node that marks what this one finds."""
        return MarkDuplicates(self.frame, self.finding, None)

    def __str__(self) -> str:
        return self.told

    @property
    def told(self) -> str:
        """What the step does, for `dask_embed.explain`."""
        way = type(self).__name__.removesuffix("Duplicates").lower()
        return f"{way} {self.finding.told()}, keep {self.finding.ranking.told()}"

    @functools.cached_property
    def _name(self) -> str:
        way = type(self).__name__.removesuffix("Duplicates").lower()
        return f"{way}-{type(self.finding).__name__.lower()}-{self.deterministic_token}"

    def _divisions(self) -> Any:
        return self.frame.divisions

    def narrowed(self, parent: Expr, wanted: set[Any]) -> Expr | None:
        """Return a selection of columns of the same node on no more columns than are needed."""
        own = [name for name in self.own if name in wanted] or self._least()
        read = {*own, *self.finding.reads, *self.finding.ranking.reads}
        needed = [name for name in self.frame.columns if name in read]
        if own == self.own and needed == list(self.frame.columns):
            return None
        narrowed = type(self)(Projection(self.frame, needed), self.finding, own)
        return type(parent)(narrowed, *parent.operands[1:])

    def _least(self) -> list[Any]:
        """Return a column to have rows by: of none, Dask cannot put frames together."""
        types = self.frame._meta.dtypes
        small = [name for name in self.own if pd.api.types.is_numeric_dtype(types[name])]
        return (small or self.own)[:1]

    def decided(self, use: str) -> tuple[Expr, Expr]:
        """Return the rows and the decisions about them, in the same partitions."""
        source = Source(self.frame)
        return source.columns(self.own, use).expr, self.finding.decisions(source).expr


class MarkDuplicates(Duplicates):
    """All rows, with the columns of the finding."""

    @functools.cached_property
    def _meta(self) -> Any:
        meta = self.frame._meta
        return with_types(meta[self.own], self.finding.types(meta))

    def _simplify_up(self, parent: Expr, dependents: Any) -> Expr | None:
        if isinstance(parent, Len | Lengths):
            return type(parent)(self.frame, *parent.operands[1:])
        # what goes by stands beside the marks in filters: in their partitions, of which Dask
        # makes fewer where few columns are read
        if isinstance(parent, Index):
            return InParts(Index(self.frame))
        if not isinstance(parent, Projection):
            return None
        wanted = wanted_columns(self, parent, dependents)
        if not wanted.intersection(self.finding.made):
            return InParts(type(parent)(self.frame, *parent.operands[1:]))
        return self.narrowed(parent, wanted)

    def expanded(self, use: str = "") -> Expr:
        rows, decisions = self.decided(use)
        numbers = PartitionNumbers(self.frame.npartitions)
        return Mark(rows, decisions, numbers, self.finding.types(self.frame._meta))


class DropDuplicates(Duplicates):
    """The rows that are kept.

    No filter of Dask's: where two meet that it cannot push down it joins them, and the second may
    be of rows that the first has left.
    """

    @functools.cached_property
    def _meta(self) -> Any:
        return self.frame._meta[self.own]

    def _simplify_up(self, parent: Expr, dependents: Any) -> Expr | None:
        if not isinstance(parent, Projection):
            return None
        return self.narrowed(parent, wanted_columns(self, parent, dependents))

    def expanded(self, use: str = "") -> Expr:
        return Keep(*self.decided(use))
