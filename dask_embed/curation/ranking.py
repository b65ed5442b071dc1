"""How rows of a corpus are known, and which of two that are alike is the better one."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from dask.base import is_dask_collection

from dask_embed._validation import column_name, integer_from_zero, meant, shown
from dask_embed.columns.frames import encoding_told, row_label
from dask_embed.curation.hashing import mixed
from dask_embed.lazy.given_text import require_utf8

PLACES = 32
"""Bits of a row's number that tell its place in the partition; those above tell the partition."""

_KEEP = ("lowest id", "random")
_NESTED = ("ListDtype", "StructDtype")  # of cuDF


def row_numbers(partition: int, rows: int) -> np.ndarray:
    """Return the numbers of a partition's rows: int64, its own number above their places."""
    return (np.int64(partition) << PLACES) + np.arange(rows, dtype=np.int64)


def places(numbers: Any) -> np.ndarray:
    """Return the places in their partitions of rows that are known by number."""
    return np.asarray(numbers, np.int64) & ((1 << PLACES) - 1)


@dataclasses.dataclass(frozen=True)
class Ranking:
    """Which row is kept of those that are alike: the first in this order.

    Attributes
    ----------
    id : str or None
        Column whose values know a row whatever partition it is in, and order rows where nothing
        else does. Without it both do the partition and the place in it.
    columns : tuple of (str, str)
        Columns of numbers that are looked at first, each with ``"max"`` or ``"min"``.
    seed : int or None
        Order rows by a hash of this number and what knows them.
    named : str or None
        An order that a step makes itself, such as ``"hard"``.
    whole : tuple of str
        Those of `columns` that the dataframe has as integers or dates.
    """

    id: Any = None
    columns: tuple[tuple[Any, str], ...] = ()
    seed: int | None = None
    named: str | None = None
    whole: tuple[Any, ...] = ()

    @property
    def reads(self) -> list[Any]:
        """The columns of the frame that are read for it."""
        ids = [] if self.id is None else [self.id]
        return list(dict.fromkeys([*ids, *(name for name, _ in self.columns)]))

    @property
    def keys(self) -> list[str]:
        """The columns of `ranked` to sort by: the best row comes first."""
        ranks = len(self.columns) + (self.seed is not None)
        return [*(f"rank{i}" for i in range(ranks)), "row" if self.id is None else "id"]

    def told(self) -> str:
        """Return which row is kept, in words."""
        first = [f"{best} {name}" for name, best in self.columns]
        if self.named is not None:
            first.append(self.named)
        if self.seed is not None:
            first.append(f"random of seed {self.seed}")
        return ", then ".join([*first, "first row" if self.id is None else f"lowest {self.id}"])

    def ranked(
        self, partition: pd.DataFrame, numbers: np.ndarray, older: bool = False
    ) -> pd.DataFrame:
        """Return for rows of a partition what orders them, as columns ``row`` and `keys`.

        Parameters
        ----------
        partition : pandas.DataFrame
            With the columns that `reads` names.
        numbers : numpy.ndarray
            Number of each of its rows, int64.
        older : bool
            Whether they are of an older corpus, whose order is that of ids.

        Raises
        ------
        ValueError
            If a row has no id.
        """
        if older:
            known = self.of_ids().ranked(partition, -1 - numbers)
            return known.assign(**dict.fromkeys(self.keys[:-1], 0))
        found: dict[str, Any] = {"row": numbers}
        if self.id is not None:
            found["id"] = self._ids(partition)
        for place, (name, best) in enumerate(self.columns):
            found[f"rank{place}"] = _ascending(partition[name], best, name in self.whole)
        if self.seed is not None:
            found[f"rank{len(self.columns)}"] = _hashed(found.get("id", numbers), self.seed)
        with encoding_told("ids cannot be compared", partition):
            return pd.DataFrame(found)

    def of_ids(self) -> Ranking:
        """Return the same without what an older corpus need not have: columns that rank."""
        return Ranking(self.id)

    def _ids(self, partition: pd.DataFrame) -> Any:
        ids = partition[self.id]
        if (missing := np.asarray(ids.isna(), bool)).any():
            label = row_label(partition.index, int(missing.argmax()))
            raise ValueError(
                f"id column {self.id!r} has {missing.sum()} rows without a value, the first at "
                f"index {shown(label)}: nothing knows them"
            )
        return ids.array


def ranking_of(
    frame: Any, keep: Any, *, id: Any = None, seed: int | None = None, named: Sequence[str] = ()
) -> Ranking:
    """Return the order that arguments ask for.

    Parameters
    ----------
    frame : dask.dataframe.DataFrame
    keep : str, (str, str) or sequence of these pairs
        ``"lowest id"``, ``"random"``, or columns, each with ``"max"`` or ``"min"``.
    id : str, optional
    seed : int, optional
        Of ``"random"``; 0 by default.
    named : sequence of str
        Further orders, which the step makes itself.

    Raises
    ------
    TypeError, ValueError
        If these do not fit each other or the frame.
    """
    require_single_values(frame, "id", id)
    integer_from_zero("seed", seed, allow_none=True)
    if seed is not None and not (isinstance(keep, str) and keep == "random"):
        raise ValueError(f"seed={seed} has no effect without keep='random'")
    if isinstance(keep, str):
        choices = [*_KEEP, *named]
        if keep not in choices:
            raise ValueError(
                f"keep must be one of {', '.join(map(repr, choices))}, or columns as in "
                f"keep=('quality', 'max'); got {shown(keep)}{meant(keep, choices)}"
            )
        random = (seed or 0) if keep == "random" else None
        return Ranking(id, seed=random, named=keep if keep in named else None)
    columns = tuple(_columns(frame, keep))
    whole = tuple(name for name, _ in columns if _is_whole(frame._meta[name].dtype))
    return Ranking(id, columns, whole=whole)


def _columns(frame: Any, keep: Any) -> Sequence[tuple[Any, str]]:
    if isinstance(keep, tuple) and len(keep) == 2 and isinstance(keep[1], str):
        keep = [keep]
    if not isinstance(keep, Sequence) or not keep:
        raise TypeError(
            f"keep must be a name or columns as in ('quality', 'max'), got {shown(keep)}"
        )
    found = []
    for each in keep:
        if not isinstance(each, tuple) or len(each) != 2 or each[1] not in ("max", "min"):
            raise ValueError(
                "keep takes columns with 'max' or 'min', as in ('quality', 'max'); got "
                f"{shown(each)}"
            )
        require_column(frame, "keep", each[0])
        dtype = frame._meta[each[0]].dtype
        if not _is_ordered(dtype):
            raise TypeError(
                f"keep takes columns of numbers or dates, column {each[0]!r} is of {dtype}"
            )
        found.append(each)
    return found


def require_column(frame: Any, argument: str, name: Any, *, allow_none: bool = False) -> None:
    """Raise unless an argument names a column of a dataframe."""
    column_name(argument, name, allow_none=allow_none)
    columns = list(frame.columns)
    if name is not None and columns.count(name) != 1:
        what = "stands more than once" if name in columns else "is not"
        raise ValueError(
            f"{argument} names column {shown(name)}, which {what} in the dataframe; its columns "
            f"are {shown(columns)}"
        )
    if name is not None and is_dask_collection(frame):
        require_utf8(frame)


def require_single_values(frame: Any, argument: str, name: Any) -> None:
    """Raise unless an argument names a column that does not hold lists, or is None."""
    require_column(frame, argument, name, allow_none=True)
    dtype = None if name is None else frame[name].dtype
    arrow = getattr(dtype, "pyarrow_dtype", None)
    if type(dtype).__name__ in _NESTED or (arrow is not None and pa.types.is_nested(arrow)):
        raise TypeError(
            f"{argument} must name a column of numbers, texts or dates; column {shown(name)} is "
            f"of {dtype}"
        )


def _is_ordered(dtype: Any) -> bool:
    return pd.api.types.is_numeric_dtype(dtype) or pd.api.types.is_datetime64_any_dtype(dtype)


def _ascending(values: pd.Series, best: str, whole: bool) -> np.ndarray:
    """Return numbers of which the least is the best; those that are null come last.

    `whole` ones stay integers: float64 has 53 bits, and would take some for equal.
    """
    if whole:
        nulls = np.asarray(values.isna(), bool)
        numbers = np.zeros(len(values), np.int64)
        numbers[~nulls] = _integers(values[~nulls])
        return np.where(nulls, np.iinfo(np.int64).max, ~numbers if best == "max" else numbers)
    given = values.to_numpy("float64", na_value=np.nan)
    signed = -given if best == "max" else given
    return np.where(np.isnan(signed), np.inf, signed)


def _is_whole(dtype: Any) -> bool:
    types = pd.api.types
    is_date = types.is_datetime64_any_dtype(dtype)
    return is_date or types.is_integer_dtype(dtype) or types.is_bool_dtype(dtype)


def _integers(values: pd.Series) -> np.ndarray:
    """Return integers and dates without nulls as int64, in their order."""
    dtype: Any = values.dtype
    if pd.api.types.is_unsigned_integer_dtype(dtype) and dtype.itemsize == 8:
        return (values.to_numpy("uint64") ^ np.uint64(1 << 63)).view(np.int64)
    if _is_whole(dtype):
        return values.astype("int64").to_numpy()
    # a partition of another type than its dataframe, as where integers are null
    return np.floor(values.to_numpy("float64")).astype(np.int64)


def _hashed(values: Any, seed: int) -> np.ndarray:
    """Return a number for each value, which it has in every process and partition."""
    plain = np.asarray(values)
    hashes = pd.util.hash_array(plain, categorize=False)
    return mixed(hashes ^ _key(seed)).view(np.int64)


@functools.lru_cache(16)
def _key(seed: int) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.blake2b(b"%d" % seed, digest_size=8).digest(), "big"))
