"""Memory that runs out: how it is recognised, and how large a batch may be."""

from __future__ import annotations

import gc
import threading
from dataclasses import dataclass

import numpy as np
import torch

# Allocators that torch does not own (RMM, cuBLAS workspaces, the C++ runtime) raise errors of
# other types; only their text tells.
_MESSAGES = (
    "out of memory",
    "out_of_memory",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "unable to allocate",
    "failed to allocate",
    "alloc_failed",
    "bad_alloc",
    "maximum pool size exceeded",
)
_ONEDNN = "could not create a primitive"  # "... descriptor" is about shapes, not memory
# After so many batches that fit, one twice as large is tried: what filled the memory may be gone.
_FITS_BEFORE_GROWING = 64
# Part of the free memory that batches are planned to fill; the rest is for fragmentation.
_MARGIN = 0.8


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether `error` says that memory ran out, by its type or by its message."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if not isinstance(error, RuntimeError) and type(error).__name__ != "OutOfMemoryError":
        return False
    message = str(error).lower()
    return any(part in message for part in _MESSAGES) or message == _ONEDNN


def is_final(error: BaseException) -> bool:
    """Return whether nothing else is to be tried after `error`: no memory, or no GPU any more.

    A kernel that fails takes the GPU from its process, whatever runs next.
    """
    return is_out_of_memory(error) or isinstance(error, torch.AcceleratorError)


def release(device: torch.device) -> None:
    """Give back what a failed batch left behind."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


@dataclass(frozen=True)
class Usage:
    """Bytes that a batch takes while it runs: per token, and per squared length of a text."""

    per_token: float
    per_square: float = 0.0

    @classmethod
    def fit(cls, tokens: int, squares: tuple[int, int], peaks: tuple[int, int]) -> Usage:
        """Solve for two passes of so many tokens whose texts have other lengths.

        Parameters
        ----------
        tokens : int
            Tokens of either pass.
        squares : tuple of int
            Sum of squared lengths of each pass.
        peaks : tuple of int
            Bytes that each pass took.
        """
        per_square = max(0.0, (peaks[1] - peaks[0]) / (squares[1] - squares[0]))
        return cls(max(1.0, (peaks[0] - per_square * squares[0]) / tokens), per_square)

    @property
    def quadratic(self) -> float:
        """Cost of a squared length, in tokens."""
        return self.per_square / self.per_token


class Budget:
    """Cost of a batch that one model may run, learned from batches that did not fit.

    Notes
    -----
    May be used from several threads.
    """

    def __init__(self, device: torch.device, usage: Usage | None = None) -> None:
        self._device = device
        self._lock = threading.Lock()
        self.usage = usage
        self.learned: float | None = None
        self._fits = 0

    def tokens(self, wanted: int) -> int:
        """Return how many tokens to plan for: `wanted`, or fewer where memory has less."""
        limits: list[float] = [wanted]
        if self.usage is not None:
            limits.append(free_bytes(self._device) * _MARGIN / self.usage.per_token)
        if self.learned is not None:
            limits.append(self.learned)
        return max(1, int(min(limits)))

    @property
    def quadratic(self) -> float:
        return 0.0 if self.usage is None else self.usage.quadratic

    def did_not_fit(self, cost: float) -> None:
        """Remember that a batch of this cost was too large."""
        with self._lock:
            self.learned = cost / 2 if self.learned is None else min(self.learned, cost / 2)
            self._fits = 0

    def did_fit(self, cost: float) -> None:
        """Remember that a batch of this cost ran; many of them let the plan grow again."""
        if self.learned is None or cost < self.learned / 2:
            return
        with self._lock:
            self._fits += 1
            if self._fits == _FITS_BEFORE_GROWING:
                self.learned *= 2
                self._fits = 0

    def allows(self, cost: float) -> bool:
        """Return whether nothing learned since it was planned says that a batch is too large."""
        return self.learned is None or cost <= self.learned


def batch_cost(lengths: np.ndarray, *, padded: bool, quadratic: float) -> float:
    """Return what a batch costs in tokens; a padded one has rows as long as its longest."""
    if padded:
        lengths = np.full(len(lengths), lengths.max())
    return float(lengths.sum() + quadratic * (lengths.astype(np.float64) ** 2).sum())


def free_bytes(device: torch.device) -> int:
    """Return the bytes of GPU memory that torch may still fill in this process."""
    free, total = torch.cuda.mem_get_info(device)
    try:
        held = torch.cuda.memory_allocated(device)
        free += torch.cuda.memory_reserved(device) - held  # without being used
    except RuntimeError:  # another allocator, such as RMM's, keeps no such books
        return free
    share = torch.cuda.get_per_process_memory_fraction(device.index)
    return max(0, min(free, int(share * total) - held))
