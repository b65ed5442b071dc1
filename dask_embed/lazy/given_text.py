"""Text that Dask made of something else: told from text, before an operator reads it.

Dask makes strings of columns of objects (its option ``dataframe.convert-string``): 42 becomes "42",
and b"a" becomes "b'a'". In a column of a pandas frame an operator refuses these values.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import deque
from collections.abc import Iterable
from typing import Any

import pandas as pd
import pyarrow as pa

from dask_embed._validation import shown
from dask_embed.columns import read_text
from dask_embed.columns.frames import require_columns, row_label
from dask_embed.lazy._dask import (
    AddPrefix,
    ArrowStringConversion,
    Assign,
    AsType,
    Blockwise,
    Drop,
    DropnaFrame,
    Expr,
    Fillna,
    Filter,
    FromPandas,
    Index,
    Len,
    Lengths,
    Projection,
    RenameFrame,
    Repartition,
    ResetIndex,
    Shuffle,
    are_co_aligned,
    to_pyarrow_string,
)
from dask_embed.lazy.conditions import replaced
from dask_embed.lazy.readers import wanted_columns
from dask_embed.lazy.same_rows import SameRows

# Columns of pandas frames that were looked at and hold nothing but text.
_passed: deque[tuple[Any, Any]] = deque(maxlen=256)
_EVERY_COLUMN = object()


def as_given(frame: Expr, columns: Iterable[Any]) -> Expr:
    """Return a plan that fails where a text of `columns` was made of something else.

    A frame made of a pandas frame is looked at here, where no filter can leave such rows out.

    Raises
    ------
    ValueError
        If such a row is in the pandas frame.
    """
    for column in columns:
        source = _source(frame, column)
        if source is None:
            continue
        given = _of_pandas(source) if isinstance(source.node, FromPandas) else _converted(source)
        if given is not None:
            frame = GivenText(frame, given, column)
    return frame


def require_utf8(frame: Any) -> None:
    """Raise ValueError for a text in a pandas frame that Dask cannot make a string of.

    Dask does it with all columns, be they read or not, and its error names no row.

    Parameters
    ----------
    frame : dask.dataframe.DataFrame
    """
    for leaf in frame.expr.find_operations(FromPandas):
        data = leaf.frame._data
        key = (leaf.operand("frame")._token, _EVERY_COLUMN)
        if leaf.pyarrow_strings_enabled and isinstance(data, pd.DataFrame) and key not in _passed:
            _require_utf8("the index", data.index.to_series())
            for name, values in data.items():
                _require_utf8(f"column {name!r}", values)
            _passed.append(key)


def _require_utf8(what: str, values: pd.Series) -> None:
    bad = _not_utf8(values) if pd.api.types.is_object_dtype(values.dtype) else None
    if bad is None:
        return
    (message,) = read_text(bad.iloc[:1]).errors.values()
    raise ValueError(
        f"{what} has a text that no string can hold, the first at index "
        f"{shown(row_label(bad.index, 0))}: {message}; drop its row, or replace the character"
    )


@dataclasses.dataclass(frozen=True)
class _Source:
    """Where Dask makes strings of a column.

    Attributes
    ----------
    node : Expr
        What does it.
    column : object
        Its name there.
    filtered, moved : bool
        Whether rows were left out since, or changed their partition.
    """

    node: Expr
    column: Any
    filtered: bool
    moved: bool


# What gives the values of a column as they are.
_SAME_VALUES = (
    *(Projection, Assign, Drop, ResetIndex, Fillna),
    *(Filter, DropnaFrame),  # of fewer rows
    *(Repartition, Shuffle),  # in other partitions
)


def _leaves(node: Expr, column: Any) -> bool:
    """Return whether a node that computes columns leaves one as it is."""
    if isinstance(node, AsType):
        dtypes = node.operand("dtypes")
        return isinstance(dtypes, dict) and column not in dtypes
    return isinstance(node, GivenText) or (isinstance(node, SameRows) and column not in node.made)


def _source(node: Expr, column: Any) -> _Source | None:
    """Follow a column to where Dask makes strings of it, None where it was computed since."""
    filtered = moved = False
    while not isinstance(node, FromPandas | ArrowStringConversion):
        if isinstance(node, GivenText) and column == node.column:
            return None  # it is looked at there
        if isinstance(node, RenameFrame | AddPrefix):
            column = node.frame.columns[list(node.columns).index(column)]
        elif isinstance(node, Assign) and column in node.keys:
            value = dict(zip(node.keys, node.vals, strict=True))[column]
            if not isinstance(value, Projection):
                return None
            node, column = value, value.columns[0]
        elif not isinstance(node, _SAME_VALUES) and not _leaves(node, column):
            return None
        filtered |= isinstance(node, Filter | DropnaFrame)
        moved |= isinstance(node, Repartition | Shuffle)
        node = node.frame
        if column not in node.columns:
            return None
    return _Source(node, column, filtered, moved)


def _converted(source: _Source) -> Expr | None:
    below = source.node.frame
    if source.moved or below.ndim < 2:
        return None
    dtype = below._meta.dtypes[source.column]
    # partitions may be of objects where the frame promises strings
    maybe = pd.api.types.is_object_dtype(dtype) or isinstance(dtype, pd.StringDtype)
    return Projection(below, [source.column]) if maybe else None


def _of_pandas(source: _Source) -> Expr | None:
    """Return the column of a pandas frame as it is where a filter stands over rows without text."""
    leaf, column = source.node, source.column
    data = leaf.frame._data
    if not leaf.pyarrow_strings_enabled or not isinstance(data, pd.DataFrame):
        return None
    if not pd.api.types.is_object_dtype(data.dtypes[column]):
        return None
    key = (leaf.operand("frame")._token, column)
    if key in _passed:
        return None
    bad = _not_text(data[column])
    if bad is None:
        bad = _not_utf8(data[column])
    if bad is None:
        _passed.append(key)
        return None
    if not source.filtered:
        raise ValueError(_told(column, bad))
    if source.moved:
        return None
    changed = {"columns": [column], "pyarrow_strings_enabled": False, "_series": False}
    operands = zip(leaf._parameters, leaf.operands, strict=True)
    return type(leaf)(*(changed.get(name, operand) for name, operand in operands))


class GivenText(Blockwise):
    """The rows of `frame`, if no text of `column` was made of another value of `given`.

    Parameters
    ----------
    frame : Expr
    given : Expr
        The column in the same partitions before Dask made strings of it; it may have more rows.
    column : str
    """

    _parameters = ["frame", "given", "column"]  # noqa: RUF012 - the form of every Dask expression
    _filter_passthrough = True
    # but not element-wise: `given` has to be whole where the frame's head is taken
    keeps_rows = True

    @staticmethod
    def operation(partition: Any, given: Any, column: Any) -> Any:
        require_columns(given, getattr(given, "columns", ())[:1])
        bad = _not_text(given.iloc[:, 0])
        if bad is not None and len(partition):
            made = to_pyarrow_string(bad)
            here = bad[made.isin(partition[column]).to_numpy()]
            if len(here):
                raise ValueError(_told(column, here))
        return partition

    @functools.cached_property
    def _meta(self) -> Any:
        return self.frame._meta

    def _divisions(self) -> Any:
        return self.frame.divisions

    def _simplify_up(self, parent: Expr, dependents: Any) -> Expr | None:
        if isinstance(parent, Index | Len | Lengths):
            return type(parent)(self.frame, *parent.operands[1:])
        if isinstance(parent, Filter) and self._filter_passthrough_available(parent, dependents):
            return self._filter_simplification(parent)
        if isinstance(parent, Projection):
            return self._project(parent, dependents)
        return None

    def _project(self, parent: Projection, dependents: Any) -> Expr | None:
        """Look at the column only where it is wanted, and take the others away below."""
        wanted = wanted_columns(self, parent, dependents)
        if self.column not in wanted:
            return type(parent)(self.frame, *parent.operands[1:])
        needed = [column for column in self.frame.columns if column in wanted]
        if needed == list(self.frame.columns):
            return None
        narrowed = GivenText(Projection(self.frame, needed), *self.operands[1:])
        same = parent.ndim == 2 and list(parent.columns) == needed
        return narrowed if same else type(parent)(narrowed, *parent.operands[1:])

    def _filter_simplification(self, parent: Filter, predicate: Expr | None = None) -> Expr | None:
        predicate = replaced(parent.predicate, (self, self.frame))
        if not are_co_aligned(self.frame, predicate):
            return None
        return GivenText(Filter(self.frame, predicate), *self.operands[1:])


def _not_text(values: pd.Series) -> pd.Series | None:
    """Return the rows that hold neither text nor a null, None if there are none."""
    if not isinstance(values, pd.Series) or not pd.api.types.is_object_dtype(values.dtype):
        return None
    if pd.api.types.infer_dtype(values, skipna=True) in ("string", "empty"):
        return None
    return _unusable(values)


def _not_utf8(values: pd.Series) -> pd.Series | None:
    """Return the rows of texts that Dask cannot make strings of: those with lone surrogates."""
    try:
        pa.array(values, pa.large_string(), from_pandas=True)
    except UnicodeEncodeError:
        return _unusable(values)
    return None


def _unusable(values: pd.Series) -> pd.Series | None:
    rows = sorted(read_text(values).errors)
    return values.iloc[rows] if rows else None


def _told(column: Any, bad: pd.Series) -> str:
    (message,) = read_text(bad.iloc[:1]).errors.values()
    label = row_label(bad.index, 0)
    return (
        f"column {column!r} has {len(bad)} rows that are not text, the first at index "
        f"{shown(label)}: {message}; Dask makes strings of them: drop them, or make texts of them "
        "with .astype(str) before Dask has the frame, or build it within dask.config.set({"
        "'dataframe.convert-string': False}), where on_error='null' keeps the others"
    )
