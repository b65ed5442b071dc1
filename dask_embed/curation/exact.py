"""Rows with the same text, found by a hash of 128 bits."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd

from dask_embed._options import named_options
from dask_embed._validation import boolean, shown
from dask_embed.columns.frames import require_frame
from dask_embed.curation.greedy import decide, in_order
from dask_embed.curation.hashing import Normalize, hashable, hashes_of, normalizers
from dask_embed.curation.marks import Finding, dropping, marked, older_frame
from dask_embed.curation.moving import together
from dask_embed.curation.ranking import Ranking, ranking_of, require_column
from dask_embed.curation.source import Source
from dask_embed.lazy._dask import new_collection
from dask_embed.lazy.nodes import PartByPart


@named_options
def mark_exact_duplicates(
    frame: Any,
    column: Any,
    *,
    normalize: Any = None,
    nulls_equal: bool = False,
    id: Any = None,
    keep: Any = "lowest id",
    seed: int | None = None,
    against: Any = None,
    prefix: str = "exact_",
) -> Any:
    """Append which rows repeat the text of another one; lazy.

    Parameters
    ----------
    frame : dask.dataframe.DataFrame
        pandas or cuDF backed.
    column : str or list of str
        Text, or several columns that have to be equal in all: text, numbers, dates, booleans.
    normalize : {"whitespace", "casefold"}, callable, or a list of these, optional
        What is done to each text before it is compared: runs of whitespace become one space and
        none is at the ends; case is folded; or a function of a text that returns one.
    nulls_equal : bool
        Take nulls for equal. By default a row in which one of the columns is null repeats none.
    id : str, optional
        Column whose values know a row, whatever partition it is in; by default its partition and
        its place there do.
    keep : str, (str, str) or list of (str, str)
        Which of equal rows is kept: that of ``"lowest id"``, a ``"random"`` one, or the best by
        columns, as in ``("quality", "max")``, then by the lowest id.
    seed : int, optional
        Of ``keep="random"``, 0 by default.
    against : dask.dataframe.DataFrame, optional
        An older corpus with the same columns. Its rows are all kept, and only those of `frame`
        are judged.
    prefix : str
        What the names of the new columns begin with.

    Returns
    -------
    dask.dataframe.DataFrame
        `frame` with the columns, here without their prefix, ``row`` (without `id`: the number of
        the row, its partition times 2**32 plus its place), ``group`` and ``duplicate_of`` (what
        knows the best row of the group, and the row that is repeated), ``similarity`` (1),
        ``kept`` and ``reason``. All but ``row`` and ``kept`` are null of a row that is like none.

    Raises
    ------
    TypeError, ValueError
        If the arguments do not fit each other or the frame.

    Notes
    -----
    Hashes and ids are shuffled, texts never; Parquet files are read twice, once for the hashes.
    Two texts that differ have equal hashes once in 10^20 for a billion rows.

    Examples
    --------
    >>> import dask.dataframe as dd
    >>> import pandas as pd
    >>> import dask_embed
    >>> frame = pd.DataFrame({"id": [1, 2, 3], "text": ["one", "two", "one"]})
    >>> ddf = dd.from_pandas(frame, npartitions=2)
    >>> ddf.ml.mark_exact_duplicates("text", id="id").exact_kept.compute().tolist()
    [True, True, False]
    """
    require_frame("mark_exact_duplicates", frame, lazy=True)
    boolean("nulls_equal", nulls_equal)
    columns = tuple(column) if isinstance(column, list | tuple) else (column,)
    if not columns:
        raise ValueError(f"column must name a column or several, got {shown(column)}")
    for name in columns:
        require_column(frame, "column", name)
        hashable(frame._meta[name])
    ranking = ranking_of(frame, keep, id=id, seed=seed)
    older = older_frame(frame, against, columns, ranking)
    finding = Exact(ranking, prefix, older, columns, normalizers(normalize), nulls_equal)
    return marked(frame, finding)


drop_exact_duplicates = dropping(
    mark_exact_duplicates,
    "Leave out rows that repeat the text of another one",
    """
    Examples
    --------
    >>> import dask.dataframe as dd
    >>> import pandas as pd
    >>> import dask_embed
    >>> ddf = dd.from_pandas(pd.DataFrame({"text": ["one", "two", "one"]}), npartitions=2)
    >>> ddf.ml.drop_exact_duplicates("text").text.compute().tolist()
    ['one', 'two']
    """,
)


@dataclasses.dataclass(frozen=True)
class Exact(Finding):
    """Finds rows with equal hashes."""

    columns: tuple[Any, ...]
    normalize: tuple[Normalize, ...]
    nulls_equal: bool

    @property
    def reads(self) -> list[Any]:
        return list(self.columns)

    def decisions(self, source: Source) -> Any:
        keyed = self._keyed(source)
        if self.older is not None:
            older = self._keyed(Source(self.older.simplify().expr), older=True)
            keyed = dd.concat([keyed, older])
        groups = together(keyed, "high")
        return source.back(new_collection(Repeats(groups.expr, tuple(self.ranking.keys))))

    def _keyed(self, source: Source, older: bool = False) -> Any:
        ranking = self.ranking.of_ids() if older else self.ranking
        names = list(dict.fromkeys([*self.reads, *ranking.reads]))
        given = (self.columns, self.normalize, self.nulls_equal, self.ranking, older)
        meta = _keyed(source.meta(names), np.zeros(0, np.int64), *given)
        return source.each(_keyed, names, meta, *given, use="hash")

    def told(self) -> str:
        return f"exact duplicates of {', '.join(map(str, self.columns))}"


def _keyed(
    partition: pd.DataFrame,
    numbers: np.ndarray,
    columns: tuple[Any, ...],
    ways: tuple[Normalize, ...],
    nulls_equal: bool,
    ranking: Ranking,
    older: bool,
) -> pd.DataFrame:
    """Return what orders the rows of a partition, and their hashes."""
    hashes, null = hashes_of(partition, columns, ways)
    found = ranking.ranked(partition, numbers, older).assign(high=hashes[:, 0], low=hashes[:, 1])
    return found if nulls_equal else found[~null]


def decide_equal(keyed: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Return the decisions about rows of which all that have one hash are here.

    Parameters
    ----------
    keyed : pandas.DataFrame
        ``row``, ``high`` and ``low``, the halves of the hash, and `keys`.
    keys : list of str
        See `dask_embed.curation.greedy.decide`.
    """
    repeated = keyed[keyed.duplicated(["high", "low"], keep=False)]
    group = repeated.groupby(["high", "low"]).ngroup()
    members = repeated.assign(group=group.astype("int64"), new=repeated["row"] >= 0)
    members = in_order(members, ["group", "new"], keys)
    rows = members["row"].to_numpy()
    first = np.flatnonzero(~members.duplicated("group"))
    pairs = pd.DataFrame({"row": rows[first[members["group"]]], "other": rows})
    pairs = pairs[pairs["row"] != pairs["other"]].assign(similarity=1.0)
    return decide(members.drop(columns="new"), pairs, keys)


class Repeats(PartByPart):
    """The decisions about rows of which all that have one hash are in one partition."""

    _parameters = ["frame", "keys"]  # noqa: RUF012 - the form of every Dask expression

    @staticmethod
    def operation(keyed: pd.DataFrame, keys: tuple[str, ...]) -> pd.DataFrame:
        return decide_equal(keyed, list(keys))

    @functools.cached_property
    def _meta(self) -> pd.DataFrame:
        return self.operation(self.frame._meta, self.operand("keys"))
