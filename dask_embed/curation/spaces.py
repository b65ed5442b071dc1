"""Vectors of different models are not compared: what made a column says which space it is in."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from dask_embed._validation import boolean, shown
from dask_embed.columns import stored_vectors
from dask_embed.columns.frames import is_dask_frame
from dask_embed.curation.vectors import token_dimension
from dask_embed.jobs.lineage import origins
from dask_embed.jobs.origin import UNKNOWN, Origin, differences_of, differing

# What texts a model was given and how they were cut, and columns: vectors of documents and of
# questions differ in these, and are there to be compared.
_OF_TEXTS = frozenset(
    {
        *("operator", "input", "prompt", "prompt_name", "chat", "chats", "side"),
        *("max_length", "max_chars", "max_tokens", "on_long", "boundaries", "overlap", "context"),
    }
)
_ALIKE = {"float16": "float32"}  # the same numbers, but for their last digits
PACKED = ("binary", "ubinary")


def origin_of(frame: Any, column: Any) -> Origin:
    """Return what made a column of a Dask DataFrame."""
    return origins(frame[[column]]).get(column, UNKNOWN)


def require_vector_column(
    frame: Any, column: Any, argument: str = "column", *, tokens: bool = False
) -> None:
    """Raise unless `frame` has this column once, and it holds vectors, or those of `tokens`."""
    names = list(frame.columns)
    if names.count(column) != 1:
        what = "stands more than once in" if column in names else "is not in"
        raise ValueError(
            f"{argument} {shown(column)} {what} the dataframe; its columns are {shown(names)}"
        )
    series = frame._meta[column] if is_dask_frame(frame) else frame[column]
    if not (tokens and token_dimension(series)):
        stored_vectors(series)


def require_one_space(frame: Any, column: Any, check: bool) -> Origin:
    """Return what made a vector column, all of whose rows have to be in one space.

    Raises
    ------
    ValueError
        If rows of different models were put together, unless `check` is False.
    """
    boolean("check", check)
    found = origin_of(frame, column)
    if check:
        first, *others = [part for part in _parts(found) if part.told] or [UNKNOWN]
        for other in others:
            _require_same(column, first, "its other rows are", other)
    return found


def require_same_space(column: Any, made: Origin, other: str, by: Origin, check: bool) -> None:
    """Raise ValueError if both origins are known, and of different spaces, unless not `check`.

    Parameters
    ----------
    column : str
        What `made` is of.
    made : Origin
    other : str
        What `by` is of, with its verb: "the queries are".
    by : Origin
    check : bool
    """
    if check:
        for first in _parts(made):
            for second in _parts(by):
                _require_same(column, first, other, second)


def ways_apart(first: Origin, second: Origin) -> list[tuple[str, ...]]:
    """Return the settings that put two origins into different spaces, none if one is unknown."""
    return differing(_of_space(first), _of_space(second)) if first.told and second.told else []


def _require_same(column: Any, first: Origin, other: str, second: Origin) -> None:
    if ways_apart(first, second):
        made, by = differences_of(_of_space(first), _of_space(second)) or ("", "")
        raise ValueError(
            f"column {column!r} holds vectors of {made}, but {other} of {by}: these are different "
            "spaces; check=False compares them anyway"
        )


def _parts(origin: Origin) -> Iterator[Origin]:
    """Yield the origins of rows that were put together."""
    if origin.told.get("operator") == "several":
        for each in origin.inputs.values():
            yield from _parts(each)
    else:
        yield origin


def _of_space(origin: Origin) -> Origin:
    told = {name: value for name, value in origin.told.items() if name not in _OF_TEXTS}
    precision = str(told.get("precision", "float32"))
    told["precision"] = _ALIKE.get(precision, precision)
    defaults = {name: value for name, value in origin.defaults.items() if name in told}
    return dataclasses.replace(origin, told=told, inputs={}, defaults=defaults)
