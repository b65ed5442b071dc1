"""What another threshold would drop: a count of the similarities that are stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from dask_embed._options import named_options
from dask_embed._validation import number_or_none, shown, usable_text
from dask_embed.columns.frames import is_dask_frame, require_frame

_DEFAULT = tuple(np.round(np.arange(50, 101) / 100, 2).tolist())


@named_options
def duplicates_by_threshold(
    frame: Any, thresholds: Sequence[float] | None = None, *, prefix: str | None = None
) -> pd.DataFrame:
    """Return how many rows each threshold would drop; computes for Dask, no model and no pairs.

    Parameters
    ----------
    frame : pandas.DataFrame or dask.dataframe.DataFrame
        Rows with the marks of a step, such as `mark_fuzzy_duplicates` appends.
    thresholds : sequence of float, optional
        By default 0.5 to 1 in steps of 0.01.
    prefix : str, optional
        What the names of the marks begin with, as in ``"fuzzy_"``; needed only if `frame` has
        those of several steps.

    Returns
    -------
    pandas.DataFrame
        ``threshold``, ascending, and the rows that are ``dropped`` and ``kept`` and the ``share``
        that is dropped, if rows were kept that are less like the row which they are a duplicate
        of: those of ``frame[frame.fuzzy_kept | (frame.fuzzy_similarity < threshold)]``. Below the
        threshold that the marks were made with nothing is known: there counts stay as they are.

    Raises
    ------
    TypeError, ValueError
        If `frame` has no marks, or those of several steps, or a threshold is no number.

    Notes
    -----
    Each row that such a filter drops is a duplicate of one that is kept, at that threshold. A run
    with it can drop some more: those that are like a row which only the higher threshold keeps.

    Examples
    --------
    >>> import pandas as pd
    >>> import dask_embed as de
    >>> marks = pd.DataFrame({"kept": [True, False, False], "similarity": [None, 0.8, 0.95]})
    >>> de.duplicates_by_threshold(marks.add_prefix("fuzzy_"), [0.8, 0.9]).dropped.tolist()
    [2, 1]
    """
    require_frame("duplicates_by_threshold", frame)
    prefix = prefix_of(frame, prefix)
    wanted = _thresholds(thresholds)
    kept, similarity = f"{prefix}kept", f"{prefix}similarity"
    marks = frame[[kept, similarity]]
    if is_dask_frame(frame):
        meta = pd.DataFrame({"dropped": [0], "rows": [0]}).iloc[:0]
        parts = marks.map_partitions(_counts, kept, similarity, wanted, meta=meta)
        counts = parts.compute().groupby(level=0).sum()
    else:
        counts = _counts(marks, kept, similarity, wanted)
    rows, dropped = counts["rows"].to_numpy(), counts["dropped"].to_numpy()
    columns = {"threshold": wanted, "dropped": dropped, "kept": rows - dropped}
    return pd.DataFrame({**columns, "share": dropped / np.maximum(rows, 1)})


def _counts(marks: Any, kept: str, similarity: str, thresholds: np.ndarray) -> pd.DataFrame:
    dropped = ~marks[kept].to_numpy(bool)
    values = np.sort(marks[similarity].to_numpy("float64", na_value=np.nan)[dropped])
    below = np.searchsorted(values, thresholds, side="left")
    return pd.DataFrame({"dropped": len(values) - below, "rows": len(marks)})


def prefix_of(frame: Any, prefix: str | None) -> str:
    """Return what the names of the marks begin with that are asked for, or all that there are."""
    names = [str(name) for name in frame.columns]
    there = [
        name.removesuffix("kept")
        for name in names
        if name.endswith("kept") and f"{name.removesuffix('kept')}similarity" in names
    ]
    if prefix is not None:
        usable_text("prefix", prefix)
        if prefix in there:
            return prefix
    if prefix is None and len(there) == 1:
        return there[0]
    if not there:
        raise ValueError(
            f"the dataframe has no marks of duplicates, as mark_fuzzy_duplicates appends; its "
            f"columns are {shown(names)}"
        )
    raise ValueError(f"prefix must be one of {', '.join(map(repr, there))}; got {shown(prefix)}")


def _thresholds(thresholds: Any) -> np.ndarray:
    if thresholds is None:
        return np.array(_DEFAULT)
    if isinstance(thresholds, str) or not np.iterable(thresholds):
        raise TypeError(f"thresholds must be a sequence of numbers, got {shown(thresholds)}")
    found = list(thresholds)
    for each in found:
        number_or_none("thresholds", getattr(each, "item", lambda each=each: each)())
        if each is None:
            raise TypeError("thresholds must be a sequence of numbers, got None in it")
    return np.unique(np.array(found, float))


def require_threshold(threshold: Any) -> None:
    """Raise TypeError or ValueError unless a similarity may be the least of two duplicates."""
    if isinstance(threshold, bool) or not isinstance(threshold, int | float):
        raise TypeError(f"threshold must be a number above 0, at most 1; got {shown(threshold)}")
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be above 0, at most 1; got {shown(threshold)}")
