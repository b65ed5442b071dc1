"""How near two vectors are: by products of whole blocks, and digit by digit for single pairs.

Products of blocks are as fast as the machine, but their last digits depend on the size of the
block. So they only say which pairs are worth a look, within a bound of their error; what is
reported, and what decides between neighbours, is computed for each pair alone in float64. It is
the same however rows are cut into partitions.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dask_embed.curation.products import Products, multiplied

MEASURES = ("cosine", "dot", "euclidean", "hamming")
# torch.nn.functional.normalize, which sentence-transformers calls, divides by no less.
_SHORTEST = 1e-12
# Values of float64 that are gathered at a time.
_GATHERED = 1 << 21


class Measure:
    """One way to say how near vectors are; more is always nearer.

    Parameters
    ----------
    name : {"cosine", "dot", "euclidean", "hamming"}
        As sentence-transformers' ``util`` defines the first three; the third is minus the distance.
        The last is minus the number of bits that differ, of vectors of packed signs.
    centre : numpy.ndarray, optional
        Where differences are taken from for ``"euclidean"``, shape (dimension,): products of
        vectors far from zero have no digits left for small distances.
    """

    def __init__(self, name: str, centre: np.ndarray | None = None) -> None:
        self.name = name
        self._centre = centre

    def comparable(self, vectors: np.ndarray) -> np.ndarray:
        """Return vectors in float32 so that their products rank as the measure does."""
        if self.name == "hamming":
            bits = np.unpackbits(packed_signs(vectors), axis=1)
            return bits.astype(np.float32) * 2 - 1
        if self.name == "euclidean" and self._centre is not None:
            return (vectors - self._centre).astype(np.float32)
        values = vectors.astype(np.float32, copy=False)
        return unit(values) if self.name == "cosine" else values

    def products(
        self, left: np.ndarray, right: np.ndarray, out: np.ndarray | None = None
    ) -> Products:
        """Return the products of two blocks of `comparable` vectors, shape (left, right).

        Of Euclidean distances half the squared length of `right` is taken off, so that more is
        nearer for each vector of `left`.
        """
        less = _squares(right) / 2 if self.name == "euclidean" else None
        return multiplied(left, right, less, out)

    def as_products(self, similarities: np.ndarray, left: np.ndarray) -> np.ndarray:
        """Return the products that similarities to the vectors `left` would come from."""
        given = similarities.astype(np.float64)
        if self.name == "euclidean":
            return (_squares(left) - given**2) / 2
        return left.shape[1] + 2 * given if self.name == "hamming" else given

    def error(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Return by how much products with each vector of `left` may be off at most."""
        if self.name == "hamming":
            return np.full(len(left), 0.5)  # whole numbers, which float32 adds without an error
        rounding = 4.0 * (left.shape[1] + 4) * np.finfo(np.float32).eps
        if self.name == "cosine":
            return np.full(len(left), rounding)
        longest = float(np.sqrt(_squares(right).max(initial=0)))
        lengths = np.sqrt(_squares(left))
        if self.name == "euclidean":  # what was taken off is rounded, too
            return rounding * (lengths + longest) ** 2
        return rounding * lengths * longest

    def of_pairs(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Return the similarity of each row of `left` to the same row of `right`, float32.

        Both as they are stored; each value depends on its two vectors alone.
        """
        if self.name == "hamming":
            differing = np.bitwise_count(packed_signs(left) ^ packed_signs(right))
            return 0 - differing.sum(axis=1, dtype=np.int64).astype(np.float32)
        first, second = left.astype(np.float64), right.astype(np.float64)
        if self.name == "euclidean":
            first -= second
            return 0 - np.sqrt(_squares(first)).astype(np.float32)  # not -0.0
        products = np.einsum("ij,ij->i", first, second)
        if self.name == "cosine":
            for each in (first, second):
                products /= np.maximum(np.sqrt(_squares(each)), _SHORTEST)
        return products.astype(np.float32)

    def between(
        self, left: np.ndarray, rows: np.ndarray, right: np.ndarray, others: np.ndarray
    ) -> np.ndarray:
        """Return `of_pairs` for rows of `left` and of `right`, gathering few at a time."""
        found = np.empty(len(rows), np.float32)
        step = max(1, _GATHERED // max(1, left.shape[1]))
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            found[part] = self.of_pairs(left[rows[part]], right[others[part]])
        return found


def unit(vectors: np.ndarray) -> np.ndarray:
    """Return float32 vectors scaled to length one, those of zeros as they are."""
    lengths = np.sqrt(_squares(vectors))
    return vectors / np.maximum(lengths, np.float32(_SHORTEST))[:, None]


def packed_signs(vectors: np.ndarray) -> np.ndarray:
    """Return packed signs as bytes; ``"binary"`` stores each byte as a number 128 below it."""
    if vectors.dtype == np.int8:
        return np.ascontiguousarray(vectors).view(np.uint8) ^ np.uint8(128)
    return np.ascontiguousarray(vectors)


def _squares(vectors: np.ndarray) -> Any:
    return np.einsum("ij,ij->i", vectors, vectors)
