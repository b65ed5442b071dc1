"""What is a dataframe that operators take, and how other things become one."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from dask.utils import is_dataframe_like, is_series_like

from dask_embed._validation import shown
from dask_embed.runtime.within import set_within

# How what other libraries have becomes a dataframe, by the package of its type.
_CONVERSIONS = {
    "polars": "convert it with .to_pandas()",
    "pyarrow": "convert it with .to_pandas()",
    "datasets": "convert it with .to_pandas(), a DatasetDict one of its splits",
    "duckdb": "convert it with .df()",
    "pyspark": "convert it with .toPandas()",
}
# The places in their partition of the rows that are at hand, None where all are.
_places: contextvars.ContextVar[np.ndarray | None] = contextvars.ContextVar("places", default=None)
_TEXTS = "make a frame of texts with pandas.DataFrame({'text': texts})"


def is_dask_frame(value: Any) -> bool:
    """Return whether `value` is a lazy Dask DataFrame."""
    return hasattr(value, "_meta") and hasattr(value, "expr") and is_dataframe_like(value._meta)


def require_frame(taker: str, value: Any, *, lazy: bool = False) -> None:
    """Raise TypeError unless `value` is a dataframe, with how it becomes one.

    Parameters
    ----------
    taker : str
        What takes the frame, for the message.
    value : object
    lazy : bool
        Whether only a Dask DataFrame will do.
    """
    if is_dask_frame(value) or (not lazy and _is_in_memory(value)):
        return
    kinds = "a Dask DataFrame" if lazy else "a pandas, cuDF or Dask DataFrame"
    hint = conversion(value)
    if lazy and _is_in_memory(value):
        hint = "dask.dataframe.from_pandas(frame, npartitions=...) makes one"
    raise TypeError(f"{taker} takes {kinds}, got {_kind(value)}{hint and '; '}{hint}")


def require_series(taker: str, value: Any) -> None:
    """Raise TypeError unless `value` is a column of a dataframe, in memory or lazy."""
    if not is_series_like(getattr(value, "_meta", value)):
        raise TypeError(f"{taker} takes one column of a dataframe, got {_kind(value)}")


def require_columns(partition: Any, names: Iterable[str]) -> None:
    """Raise unless a partition is a frame with the columns that its dataframe promises, once each.

    Raises
    ------
    TypeError
        If it is no frame.
    ValueError
        If a column is missing, or there are several of its name.
    """
    if not _is_in_memory(partition):
        raise TypeError(
            f"a partition is {_kind(partition)}, and the dataframe promises (its meta) that it is "
            "a dataframe; mend what makes the partitions"
        )
    for name in names:
        count = list(partition.columns).count(name)
        if count > 1:
            raise ValueError(
                f"a partition has {count} columns {name!r}, and the dataframe promises (its meta) "
                f"one; its columns are {shown(list(partition.columns))}"
            )
        if not count:
            raise ValueError(
                f"a partition has no column {name!r}, which the dataframe promises (its meta); its "
                f"columns are {shown(list(partition.columns))}"
            )


def conversion(value: Any) -> str:
    """Return how `value` becomes a dataframe, empty where there is no telling."""
    package = type(value).__module__.partition(".")[0]
    if package in _CONVERSIONS:
        return _CONVERSIONS[package]
    if is_series_like(getattr(value, "_meta", value)):
        return "convert it with .to_frame()"
    if hasattr(value, "to_dataframe"):  # bags
        return "convert it with .to_dataframe()"
    if isinstance(value, str | list | tuple | dict | set) or package == "numpy":
        return _TEXTS
    return ""


def _is_in_memory(value: Any) -> bool:
    # Polars has frames that look alike, but not their index
    return is_dataframe_like(value) and hasattr(value, "iloc") and not hasattr(value, "expr")


def _kind(value: Any) -> str:
    kind = type(value)
    if kind.__module__ == "builtins":
        return shown(value) if isinstance(value, str | int | float | type(None)) else kind.__name__
    return f"{kind.__module__.partition('.')[0]}.{kind.__name__}"


def numbered(places: np.ndarray) -> contextlib.AbstractContextManager[None]:
    """Say within the block of rows that are taken from a partition what places they have there."""
    return set_within(_places, places)


def row_number(row: int) -> int:
    """Return the place of a row in its partition, of which only some rows may be at hand."""
    places = _places.get()
    return row if places is None else int(places[row])


def row_label(index: Any, row: int) -> Any:
    """Return the label of a row as it is written: 3, not np.int64(3)."""
    label = index[row]
    return getattr(label, "item", lambda: label)()


@contextlib.contextmanager
def encoding_told(where: str, partition: Any = None) -> Iterator[None]:
    """Raise ValueError, with the text, where another library cannot encode a text of a frame.

    Parameters
    ----------
    where : str
        What was being done, for the message.
    partition : pandas.DataFrame, optional
        Of which the text is, to say in which row and column.
    """
    try:
        yield
    except UnicodeEncodeError as error:
        place = "" if partition is None else f"{place_of(error.object, partition)}: "
        raise ValueError(
            f"{where}: {place}the text {shown(error.object)} cannot be encoded as UTF-8 "
            f"({error.reason} at position {error.start}); drop its row, or replace the character"
        ) from None


def place_of(text: str, partition: Any) -> str:
    """Return in words in which row and column of a partition a text stands."""
    for name, values in partition.items():
        if values.dtype.kind == "O":
            for place, value in enumerate(values):
                if isinstance(value, str) and value == text:
                    return f"row {place} of the partition, column {name!r}"
    return "within its rows"
