"""Where the results of a partition go, each under the name of its sample."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from dask_embed.tokens.encoded import Encoded

if TYPE_CHECKING:
    import torch


class Sink(abc.ABC):
    """What a `Driver` gives results to. `put` is called from any thread, the rest from one."""

    keeps: ClassVar[bool] = False
    """Results stay until the partition has run, by the number of their row, of which each has one
    sample; else they are used up with their chunk."""

    failures: Mapping[int, str] = MappingProxyType({})
    """Name to message, where a result says that a sample cannot be used."""

    _begun = 0

    def begin(self, encoded: Encoded) -> np.ndarray:
        """Return the name of each sample of a chunk, distinct within the partition, int64."""
        if self.keeps:
            return encoded.rows
        start, self._begun = self._begun, self._begun + len(encoded.rows)
        return np.arange(start, self._begun)

    @abc.abstractmethod
    def put(self, names: np.ndarray, results: Any, lengths: np.ndarray) -> torch.Tensor | None:
        """Take the results of a batch of samples that have these `names`.

        Returns
        -------
        torch.Tensor or None
            Which of what is made of them are finite numbers, where that can differ.
        """

    def copy(self, names: np.ndarray, sources: np.ndarray) -> None:
        """Give the samples of these `names` the results of `sources`, which are complete."""
        raise TypeError(f"equal samples need not have equal results in {type(self).__name__}")

    def flush(self) -> None:  # noqa: B027 - most have nothing under way
        """Wait for results that are on their way from the device."""

    def end(  # noqa: B027 - those that keep results use none up
        self, encoded: Encoded, names: np.ndarray, failures: dict[int, str]
    ) -> None:
        """Use the results of a chunk, without those of rows that failed."""
