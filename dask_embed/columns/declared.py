"""Functions of partitions with the columns that they read and write."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from dask.dataframe.utils import meta_nonempty
from dask.utils import funcname, is_dataframe_like
from pandas.api.types import pandas_dtype

from dask_embed._options import named_options
from dask_embed._validation import shown, shown_error, strings
from dask_embed.columns import to_host
from dask_embed.columns.digests import value_bytes
from dask_embed.columns.frames import is_dask_frame, require_frame


@named_options
def declare_columns(function: Callable[..., Any], *, reads: Any, writes: Any) -> DeclaredColumns:
    """Return `function` with the columns that it reads and writes, for `map_partitions`.

    Of a function of partitions nobody knows what it does with them, so an operator below it gets
    all rows. Where its columns are declared, and an operator makes none of those that it reads and
    reads none of those that it writes, the operator runs behind it, and behind the filters that
    follow.

    Parameters
    ----------
    function : callable
        Takes a dataframe and returns one with the same rows in the same order and with the same
        index. It gets the columns `reads` alone, in that order, and returns those of `writes`.
        Columns that it reads may be returned as they are.
    reads : sequence of str
        Columns that the function gets.
    writes : sequence of str, or mapping of str to dtype
        Columns that it adds or replaces. Of a mapping, types are checked; without one they are
        found by running the function on two made-up rows, as Dask does.

    Returns
    -------
    DeclaredColumns
        For `ddf.map_partitions`, with further arguments of the function; or to be called with a
        Dask DataFrame, which checks it before anything runs, or with one in memory.

    Raises
    ------
    TypeError
        If `function` cannot be called, or `reads` or `writes` are no names of columns.
    ValueError
        If `writes` names nothing, or one of them names a column twice; when called, if the frame
        lacks a column, or the function returns others than it declares, or other rows.

    Notes
    -----
    Rows are not taken from the function: it may look at all rows of a partition, so a filter behind
    it does not go below it. The function must not depend on which columns it was not given.

    Examples
    --------
    >>> import dask.dataframe as dd
    >>> import pandas as pd
    >>> import dask_embed as de
    >>> measured = de.declare_columns(
    ...     lambda part: part.assign(long=part["title"].str.len() > 3),
    ...     reads=["title"],
    ...     writes={"long": bool},
    ... )
    >>> ddf = dd.from_pandas(pd.DataFrame({"title": ["a dog", "cat"]}), npartitions=1)
    >>> ddf.map_partitions(measured).long.compute().tolist()
    [True, False]
    """
    if not callable(function):
        raise TypeError(f"function must be callable, got {shown(function)}")
    types = dict(writes) if isinstance(writes, Mapping) else {}
    names = strings("writes", list(writes) if isinstance(writes, Mapping) else writes)
    for name, columns in (("reads", strings("reads", reads)), ("writes", names)):
        if len(set(columns)) != len(columns):
            raise ValueError(f"{name} names a column twice, got {shown(list(columns))}")
    if not names:
        raise ValueError("writes must name a column, got none; what it writes is all that is kept")
    return DeclaredColumns(
        function, strings("reads", reads), names, tuple((n, _dtype(n, t)) for n, t in types.items())
    )


def _dtype(name: str, given: Any) -> Any:
    try:
        return pandas_dtype(given)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"writes must give a dtype for {shown(name)}, got {shown(given)}: {shown_error(error)}"
        ) from None


@dataclasses.dataclass(frozen=True)
class DeclaredColumns:
    """A function of partitions that says which columns it reads and writes.

    Made by `declare_columns`.

    Attributes
    ----------
    function : callable
    reads, writes : tuple of str
    types : tuple of (str, dtype)
        Of columns of `writes`; of all or of none.
    """

    function: Callable[..., Any]
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    types: tuple[tuple[str, Any], ...] = ()

    @property
    def __name__(self) -> str:  # what Dask calls its tasks
        return funcname(self.function)

    def __call__(self, frame: Any, *args: Any, **options: Any) -> Any:
        """Return a frame with the columns that the function writes; lazy for Dask."""
        require_frame(self.__name__, frame)
        self.require_columns(frame)
        if is_dask_frame(frame):
            meta = self.meta(frame._meta, *args, **options)
            return frame.map_partitions(self, *args, meta=meta, **options)
        written = self.written(frame, *args, **options)
        return frame.assign(**{name: written[name] for name in self.writes})

    def meta(self, meta: Any, *args: Any, **options: Any) -> Any:
        """Return the empty result of an empty frame."""
        if self.types:
            new = meta._constructor_sliced
            return meta.assign(**{n: new([], index=meta.index, dtype=t) for n, t in self.types})
        return self(meta_nonempty(meta), *args, **options).iloc[:0]

    def require_columns(self, frame: Any) -> None:
        """Raise ValueError unless a frame has the columns that are read, once each."""
        columns = list(frame.columns)
        if missing := [name for name in self.reads if columns.count(name) != 1]:
            raise ValueError(
                f"{self.__name__} reads {shown(missing)}, and each must be one column of the "
                f"dataframe; its columns are {shown(columns)}"
            )

    def written(self, partition: Any, *args: Any, **options: Any) -> Any:
        """Return the columns that the function makes of a partition, and check them."""
        given = partition[list(self.reads)]
        try:
            result = self.function(given, *args, **options)
        except (AttributeError, KeyError) as error:
            unsaid = [name for name in partition.columns if name not in self.reads]
            if not (asked := [name for name in unsaid if repr(name) in str(error)]):
                raise
            raise ValueError(
                f"{self.__name__} reads {shown(asked)}, which its reads "
                f"{shown(list(self.reads))} do not have; name all columns that it reads there"
            ) from error
        if not is_dataframe_like(result):
            raise TypeError(
                f"{self.__name__} must return a dataframe of the columns that it writes, got "
                f"{shown(result)}"
            )
        self._require_rows(result, partition)
        self._require_written(result, given)
        return result

    def _require_rows(self, result: Any, partition: Any) -> None:
        if len(result) != len(partition):
            raise ValueError(
                f"{self.__name__} returned {len(result)} rows of {len(partition)}; a function with "
                "declared columns keeps all rows in their order"
            )
        if not result.index.equals(partition.index):
            raise ValueError(
                f"{self.__name__} returned another index; a function with declared columns keeps "
                "all rows, with their index, in their order"
            )

    def _require_written(self, result: Any, given: Any) -> None:
        columns = list(result.columns)
        known = {*self.reads, *self.writes}
        others = [name for name in columns if name not in known or columns.count(name) > 1]
        missing = [name for name in self.writes if name not in columns]
        unsaid = [
            name
            for name in set(columns) & set(self.reads) - set(self.writes)
            if not _is_same(result[name], given[name])
        ]
        for what, names in (
            ("returned columns that are not in its writes, or twice", others),
            ("did not return columns of its writes", missing),
            ("changed columns that it says it only reads", unsaid),
        ):
            if names:
                raise ValueError(
                    f"{self.__name__} {what}: {shown(names)}; it declares writes "
                    f"{shown(list(self.writes))}"
                )
        for name, dtype in self.types:
            if result[name].dtype != dtype:
                raise ValueError(
                    f"{self.__name__} returned column {shown(name)} as {result[name].dtype}, and "
                    f"its writes say {dtype}"
                )


def _is_same(one: Any, other: Any) -> bool:
    """Return whether two columns have the same values, nulls at the same places."""
    if one.dtype != other.dtype:
        return False
    try:
        return bool(one.equals(other))
    except (NotImplementedError, TypeError, ValueError):  # pyarrow compares no lists
        first, second = (to_host(each.to_frame("of one")) for each in (one, other))
        return value_bytes(first["of one"]) == value_bytes(second["of one"])
