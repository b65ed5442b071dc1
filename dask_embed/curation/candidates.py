"""Which rows of a bucket become pairs: the kernel, free of Dask."""

from __future__ import annotations

import numpy as np
import pandas as pd

from dask_embed.curation.greedy import in_order

FIRST = 4
"""Of a bucket over the limit each row is paired with so many of the best rows of it ..."""
NEAR = 4
"""... and with so many that come before it."""


def candidate_pairs(banded: pd.DataFrame, keys: list[str], limit: int) -> pd.DataFrame:
    """Return the pairs of rows that share a bucket.

    Parameters
    ----------
    banded : pandas.DataFrame
        ``row`` and ``bucket``, of whole buckets, and `keys`.
    keys : list of str
        What orders rows, the best first.
    limit : int
        Of a bucket of at most so many rows all pairs are taken. Of a larger one, which boilerplate
        makes, only so many as grow with its size, by `FIRST` and `NEAR`: the best row of it is
        among them, and all rows are connected.

    Returns
    -------
    pandas.DataFrame
        ``row`` and ``other``, each pair once, rows of an older corpus first and never two of them.
    """
    shared = banded[banded.duplicated("bucket", keep=False)]
    shared = shared.assign(new=shared["row"] >= 0)
    shared = in_order(shared, ["bucket", "new"], keys)
    rows = shared["row"].to_numpy()
    starts = np.flatnonzero(~shared.duplicated("bucket").to_numpy())
    sizes = np.diff(np.append(starts, len(rows)))
    place = np.arange(len(rows)) - np.repeat(starts, sizes)
    large = np.repeat(sizes > limit, sizes)
    left = [_before(place, np.where(large, np.minimum(place, NEAR), place))]
    left.append(_first(place, large))
    ends = [(rows[one], rows[other]) for one, other in left]
    one, other = (np.concatenate([each[end] for each in ends]) for end in (0, 1))
    pairs = pd.DataFrame({"row": np.minimum(one, other), "other": np.maximum(one, other)})
    return pairs[pairs["other"] >= 0].drop_duplicates(ignore_index=True)


def large_buckets(banded: pd.DataFrame, keys: list[str], limit: int) -> pd.DataFrame:
    """Return the buckets over the limit: ``rows``, and an ``example``, what knows the best of them.

    Parameters
    ----------
    banded, keys, limit
        As in `candidate_pairs`.
    """
    sizes = banded.groupby("bucket")["row"].transform("size")
    over = sizes.to_numpy() > limit
    large = banded[over].assign(rows=sizes[over].to_numpy()).sort_values(["bucket", *keys])
    first = large.drop_duplicates("bucket")
    example = pd.array([str(each) for each in first[keys[-1]]], dtype="str")
    return pd.DataFrame({"rows": first["rows"].to_numpy(np.int64), "example": example})


def _before(place: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each row with so many rows that are right before it."""
    one = np.repeat(np.arange(len(place)), counts)
    ends = np.cumsum(counts)
    back = np.arange(len(one)) - np.repeat(ends - counts, counts) + 1
    return one, one - back


def _first(place: np.ndarray, large: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each row of large buckets with the first of its bucket that are not near it."""
    counts = np.where(large, np.clip(place - NEAR, 0, FIRST), 0)
    one = np.repeat(np.arange(len(place)), counts)
    ends = np.cumsum(counts)
    step = np.arange(len(one)) - np.repeat(ends - counts, counts)
    return one, one - place[one] + step
