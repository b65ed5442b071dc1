"""MinHash signatures, and which rows they make candidates: the kernels, free of Dask."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np

from dask_embed.curation.hashing import mixed
from dask_embed.curation.ngrams import Lists

_ROWS = 4096  # signed at a time: Python's integers of these are held
_RECALL = 0.99
_STEPS = 1000  # of the integrals over similarities


def signatures(sets: Lists, num_perm: int, seed: int) -> np.ndarray:
    """Return the MinHash signature of each set: uint32, shape (sets, `num_perm`).

    Raises
    ------
    ModuleNotFoundError
        Without the extra ``curation``.
    """
    sign = _signer().digest_matrix_from_flat_token_hashes
    found = np.zeros((len(sets), num_perm), np.uint32)
    for start in range(0, len(sets), _ROWS):
        offsets = sets.offsets[start : start + _ROWS + 1]
        values = sets.values[offsets[0] : offsets[-1]]
        matrix = sign(values, (offsets - offsets[0]).astype(np.uint64), num_perm, seed)
        found[start : start + len(offsets) - 1] = matrix.to_rows()
    return found


def algorithm() -> str:
    """Return what makes signatures, and in which version: others are not comparable."""
    return f"rensa R-MinHash {_signer().ALGORITHM_VERSION}"


def _signer() -> Any:
    try:
        import rensa
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "fuzzy duplicates need the package rensa: pip install 'dask-embed[curation]'"
        ) from None
    return rensa.RMinHash


def band_hashes(signed: np.ndarray, bands: int, rows: int) -> np.ndarray:
    """Return a hash of each band of each signature: int64, shape (signatures, `bands`)."""
    found = np.empty((len(signed), bands), np.uint64)
    for band in range(bands):
        hashes = np.full(len(signed), band + 1, np.uint64)
        for place in range(band * rows, (band + 1) * rows):
            hashes = mixed(hashes ^ signed[:, place]) + np.uint64(place)
        found[:, band] = hashes
    return found.view(np.int64)


@dataclasses.dataclass(frozen=True)
class Banding:
    """How signatures are cut into bands; rows with one equal band are candidates.

    Attributes
    ----------
    bands, rows : int
        Bands of a signature, and values of a band.
    """

    bands: int
    rows: int

    def chance(self, similarity: Any) -> Any:
        """Return how likely a pair of this Jaccard similarity becomes a candidate."""
        return 1 - (1 - np.asarray(similarity, float) ** self.rows) ** self.bands

    def false_share(self, threshold: float) -> float:
        """Return the share of candidates below a threshold, were all similarities as frequent."""
        below = _area(self.chance, 0, threshold)
        return below / (below + _area(self.chance, threshold, 1))

    def misses(self, threshold: float) -> tuple[float, float]:
        """Return the area of pairs that are wrongly candidates, and of those that wrongly are not.

        The weights by which datasketch chooses bands.
        """
        missing = _area(lambda s: 1 - self.chance(s), threshold, 1)
        return _area(self.chance, 0, threshold), missing


def _area(function: Any, start: float, stop: float) -> float:
    middles = start + (np.arange(_STEPS) + 0.5) * (stop - start) / _STEPS
    return float(function(middles).mean() * (stop - start))


@functools.lru_cache(64)
def banding(threshold: float, num_perm: int, verify: bool) -> Banding:
    """Return the bands for a threshold.

    Parameters
    ----------
    threshold : float
    num_perm : int
    verify : bool
        If candidates are compared, as few are wanted as find a pair at the threshold in 99 of
        100 cases, for those that are false cost time alone. If not, as datasketch has it:
        those that are false and those that are missed count alike.
    """
    choices = [
        Banding(bands, rows)
        for rows in range(1, num_perm + 1)
        for bands in ([num_perm // rows] if verify else range(1, num_perm // rows + 1))
    ]
    if not verify:
        return min(choices, key=lambda each: sum(each.misses(threshold)))
    enough = [each for each in choices if each.chance(threshold) >= _RECALL]
    return max(enough, key=lambda each: each.rows, default=choices[0])
