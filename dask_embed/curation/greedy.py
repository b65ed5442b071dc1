"""Which rows of a group are duplicates: the kernel, free of Dask."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from dask_embed.columns.types import one_array

RULES = ("greedy", "semdedup")

BEST = "best of its group"
UNLIKE = "not like a kept row"
DUPLICATE = "duplicate"
OLDER = "duplicate of an older row"


def in_order(frame: pd.DataFrame, first: list[str], keys: list[str]) -> pd.DataFrame:
    """Return rows sorted by some columns, then the best first.

    Rows that share an id come in the order of their numbers, however they arrived.
    """
    return frame.sort_values([*first, *dict.fromkeys([*keys, "row"])], ignore_index=True)


def later_and_earlier(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs of ranks with the worse one first, in the order of that one."""
    later, earlier = np.maximum(left, right), np.minimum(left, right)
    order = np.lexsort((earlier, later))
    return later[order], earlier[order]


def kept_rows(count: int, later: np.ndarray, earlier: np.ndarray, rule: str) -> np.ndarray:
    """Return which of the ranks 0 to `count` are kept, given the pairs that are alike.

    Parameters
    ----------
    count : int
    later, earlier : numpy.ndarray
        Ranks of the pairs, in the order of `later`, which is the worse one.
    rule : {"greedy", "semdedup"}
        ``"greedy"``: a row goes if a row that is kept and comes before it is like it.
        ``"semdedup"``: if any row that comes before it is like it, kept or not, as SemDeDup
        (Abbas et al., 2023) and NeMo Curator have it.
    """
    if rule == "semdedup":
        kept = np.ones(count, bool)
        kept[later] = False
        return kept
    keeps = bytearray(b"\x01") * count
    # all pairs of a better row have been seen before it decides about another
    for row, better in zip(later.tolist(), earlier.tolist(), strict=True):
        if keeps[better]:
            keeps[row] = 0
    return np.frombuffer(bytes(keeps), bool)


def decide(
    members: pd.DataFrame, pairs: pd.DataFrame, keys: list[str], rule: str = "greedy"
) -> pd.DataFrame:
    """Decide which rows of whole groups are duplicates, and of what.

    Parameters
    ----------
    members : pandas.DataFrame
        ``row``, ``group`` (a number that the rows of a group share) and `keys`. Rows with a
        negative number are of an older corpus: they come before all others, and are kept.
    pairs : pandas.DataFrame
        ``row``, ``other`` and ``similarity`` of the pairs that are alike; any order, any number
        of times.
    keys : list of str
        What orders the members, the best first.
    rule : {"greedy", "semdedup"}
        See `kept_rows`.

    Returns
    -------
    pandas.DataFrame
        Of each member that is not of the older corpus ``row``; ``group``, what knows the best
        row of its group; ``duplicate_of``, what knows the row it is most like among those that
        it is a duplicate of, null if it is kept; ``similarity`` to that; ``kept``; ``reason``.
    """
    old = (members["row"] < 0).rename("old")
    ordered = in_order(members.assign(old=~old), ["old"], keys)
    rows = ordered["row"].to_numpy()
    by_number = np.argsort(rows)
    left, right = (
        by_number[np.searchsorted(rows, pairs[name].to_numpy(), sorter=by_number)]
        for name in ("row", "other")
    )
    first_new = int(old.sum())
    judged = np.maximum(left, right) >= first_new
    left, right = left[judged], right[judged]
    similarity = pairs["similarity"].to_numpy(np.float64)[judged]
    later, earlier = later_and_earlier(left, right)
    kept = kept_rows(len(rows), later, earlier, rule)
    best, likeness = _most_alike(len(rows), left, right, similarity, kept, rule)
    return _decisions(ordered, keys[-1], kept, best, likeness, first_new)


def _most_alike(
    count: int,
    left: np.ndarray,
    right: np.ndarray,
    similarity: np.ndarray,
    kept: np.ndarray,
    rule: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Return for each rank the one that it is a duplicate of, -1 if of none, and how alike."""
    later, earlier = np.maximum(left, right), np.minimum(left, right)
    takes = ~kept[later] & (kept[earlier] | (rule == "semdedup"))
    later, earlier, similarity = later[takes], earlier[takes], similarity[takes]
    order = np.lexsort((-earlier, similarity, later))  # the last of a row is the one
    best, likeness = np.full(count, -1), np.full(count, np.nan)
    best[later[order]] = earlier[order]
    likeness[later[order]] = similarity[order]
    return best, likeness


def _decisions(
    ordered: pd.DataFrame,
    known_by: str,
    kept: np.ndarray,
    best: np.ndarray,
    likeness: np.ndarray,
    first_new: int,
) -> pd.DataFrame:
    ranks = np.arange(len(ordered))
    groups = ordered["group"].to_numpy()
    leader = pd.Series(ranks).groupby(groups).transform("min").to_numpy()
    reason = np.select(
        [kept & (leader == ranks), kept, best < first_new], [BEST, UNLIKE, OLDER], DUPLICATE
    )
    known = one_array(ordered[known_by].array)
    dropped = pa.array(np.where(kept, 0, best), mask=kept)
    columns = {
        "group": known.take(pa.array(leader)),
        "duplicate_of": known.take(dropped),
        "similarity": pa.array(likeness, mask=kept),
        "kept": pa.array(kept),
        "reason": pa.array(reason.tolist(), pa.string()),
    }
    frame = pd.DataFrame({"row": ordered["row"]})
    for name, values in columns.items():
        frame[name] = as_column(values)
    return frame.iloc[first_new:].reset_index(drop=True)


def as_column(values: pa.Array) -> Any:
    """Return an Arrow array as a column that shuffles and files carry."""
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        return pd.array(values.to_pylist(), dtype=pd.StringDtype(na_value=np.nan))
    return pd.arrays.ArrowExtensionArray(values)
