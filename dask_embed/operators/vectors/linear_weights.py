"""A linear layer that was handed over as arrays, or as a classifier of scikit-learn."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import numpy as np

from dask_embed._validation import shown

# Every task carries its operator, so that more than this belongs in a file that workers read.
_MOST_BYTES = 2**20


@dataclasses.dataclass(frozen=True, repr=False)
class LinearWeights:
    """A matrix of shape (labels, dimension) and a bias, float32, as plain values.

    Attributes
    ----------
    weight, bias : bytes
    shape : tuple of int
    labels : tuple of str or None
    probabilities : bool
        Whether their softmax is what the classifier calls probabilities.
    """

    weight: bytes
    bias: bytes
    shape: tuple[int, int]
    labels: tuple[str, ...] | None = None
    probabilities: bool = True

    @classmethod
    def of(cls, given: Any) -> LinearWeights:
        """Return what a fitted classifier, a matrix, or a matrix and a bias hold.

        Raises
        ------
        TypeError, ValueError
            If it is none of these, not finite, or more than a task should carry.
        """
        if hasattr(given, "coef_") and hasattr(given, "intercept_"):
            names = getattr(given, "classes_", None)
            labels = None if names is None else tuple(str(name) for name in names)
            arrays = cls._arrays(given.coef_, given.intercept_)
            return cls._checked(*arrays, labels, _gives_softmax(given, *arrays))
        pair = given if isinstance(given, tuple) and len(given) == 2 else (given, None)
        try:
            arrays = cls._arrays(*pair)
        except (TypeError, ValueError):
            raise TypeError(
                "weights must be a safetensors file or folder, a fitted classifier with coef_ and "
                "intercept_, a matrix of shape (labels, dimension), or a tuple of it and a bias; "
                f"got {shown(given)}"
            ) from None
        return cls._checked(*arrays, None, True)

    @staticmethod
    def _arrays(weight: Any, bias: Any) -> tuple[np.ndarray, np.ndarray]:
        matrix = np.asarray(weight, np.float32)
        values = np.zeros(1) if bias is None else np.asarray(bias, np.float32).reshape(-1)
        if matrix.ndim not in (1, 2) or not matrix.size:
            raise ValueError("no matrix")
        matrix = np.atleast_2d(matrix)
        # one intercept for all, as where none was fitted
        return matrix, np.broadcast_to(values, len(matrix)).astype(np.float32)

    @classmethod
    def _checked(
        cls,
        weight: np.ndarray,
        bias: np.ndarray,
        labels: tuple[str, ...] | None,
        probabilities: bool,
    ) -> LinearWeights:
        if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
            raise ValueError("weights hold NaN or infinite numbers")
        if weight.nbytes > _MOST_BYTES:
            raise ValueError(
                f"weights of shape {weight.shape} are {weight.nbytes / 2**20:.1f} MiB, which each "
                "task would carry; write them with safetensors.numpy.save_file and give the file"
            )
        rows, dimension = weight.shape
        return cls(weight.tobytes(), bias.tobytes(), (rows, dimension), labels, probabilities)

    def parameters(self) -> tuple[np.ndarray, np.ndarray]:
        """Return matrix and bias."""
        weight = np.frombuffer(self.weight, np.float32).reshape(self.shape)
        return weight, np.frombuffer(self.bias, np.float32)

    @property
    def fingerprint(self) -> str:
        """``"local-"`` and 16 hexadecimal digits of the content."""
        digest = hashlib.blake2b(digest_size=8)
        for part in (self.weight, self.bias, repr((self.shape, self.labels)).encode()):
            digest.update(part)
        return f"local-{digest.hexdigest()}"

    def __dask_tokenize__(self) -> tuple[str, str, bool]:
        return ("dask_embed.LinearWeights", self.fingerprint, self.probabilities)

    def __repr__(self) -> str:
        rows, dimension = self.shape
        return f"LinearWeights({rows} x {dimension}, {self.fingerprint})"


def _gives_softmax(classifier: Any, weight: np.ndarray, bias: np.ndarray) -> bool:
    """Return whether probabilities of a classifier are the softmax of its logits: by trying.

    Some have none, others norm a sigmoid for each label.
    """
    probabilities = getattr(classifier, "predict_proba", None)
    if probabilities is None:
        return False
    tried = np.random.default_rng(0).normal(size=(8, weight.shape[1]))
    logits = tried @ weight.T.astype(np.float64) + bias
    if logits.shape[1] == 1:
        logits = np.hstack([np.zeros_like(logits), logits])
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.allclose(probabilities(tried), odds / odds.sum(axis=1, keepdims=True), atol=1e-4)
