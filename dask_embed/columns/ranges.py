"""Ranges of vector values, as plain values that an operator can carry."""

from __future__ import annotations

from typing import Any

import numpy as np

from dask_embed._validation import shown

CALIBRATED = ("int8", "uint8")


def checked_ranges(precision: str, ranges: Any) -> tuple[tuple[float, ...], ...] | None:
    """Return `ranges` as a tuple of lowest and highest values.

    Raises
    ------
    ValueError
        If they are not of shape (2, dimension), not finite, upside down, or of no use.
    """
    if ranges is None:
        return None
    if precision not in CALIBRATED:
        raise ValueError(
            f"ranges are for precision {' and '.join(map(repr, CALIBRATED))}, not "
            f"{shown(precision)}"
        )
    try:
        array = np.asarray(ranges, np.float32)
    except (TypeError, ValueError):
        array = np.zeros(0, np.float32)
    if array.ndim != 2 or len(array) != 2 or not np.isfinite(array).all():
        raise ValueError(
            "ranges must be finite numbers of shape (2, dimension), lowest and highest value of "
            f"each dimension; got {shown(ranges)}"
        )
    if (array[0] > array[1]).any():
        dimension = int(np.argmax(array[0] > array[1]))
        raise ValueError(
            f"ranges of dimension {dimension} begin at {array[0, dimension]} and end below it, at "
            f"{array[1, dimension]}"
        )
    if not spread(array):
        raise ValueError(
            "ranges end where they begin in every dimension, so that all vectors would become the "
            "same; take them from more vectors, or from vectors that differ"
        )
    return tuple(tuple(row) for row in array.tolist())


def spread(ranges: np.ndarray) -> bool:
    """Return whether any dimension of `ranges`, shape (2, dimension), has more than one value."""
    return bool((ranges[0] < ranges[1]).any())
