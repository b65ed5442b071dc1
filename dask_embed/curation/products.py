"""Products of two blocks of vectors, where they were computed: on the host, or on a GPU.

Only what is asked of them comes to the host, never the block.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from dask_embed import config

_GROUPS = 8  # of products for each neighbour that is wanted, to bound the least of them


class Products:
    """Products on the host, float32.

    Parameters
    ----------
    values : numpy.ndarray
        Shape (left, right).
    """

    def __init__(self, values: Any) -> None:
        self.values = values

    @property
    def shape(self) -> tuple[int, int]:
        return self.values.shape[0], self.values.shape[1]

    def leave_out(self, rows: np.ndarray, columns: np.ndarray) -> None:
        """Make these products lower than any other."""
        self.values[rows, columns] = -np.inf

    def at_least(self, floor: np.ndarray) -> np.ndarray:
        """Return the flat places of the products that reach the floor of their row, in order."""
        return np.flatnonzero(self.values >= _finite(floor)[:, None])

    def exceeded(self, k: int) -> np.ndarray:
        """Return for each row a number that `k` of its products reach, and few more.

        The `k`-th of the highest of some groups: two of the best seldom are in one.
        """
        groups = min(_GROUPS * k, self.values.shape[1])
        whole = self.values.shape[1] // groups * groups
        highest = self.values[:, :whole].reshape(len(self.values), -1, groups).max(axis=1)
        return np.partition(highest, groups - k, axis=1)[:, groups - k]

    def highest(self) -> tuple[np.ndarray, np.ndarray]:
        """Return of each row the place of its highest product, and the product."""
        return self.values.argmax(axis=1), self.values.max(axis=1)

    def on_host(self) -> np.ndarray:
        return self.values


class DeviceProducts(Products):
    """The same on a device of torch."""

    def leave_out(self, rows: np.ndarray, columns: np.ndarray) -> None:
        self.values[self._given(rows), self._given(columns)] = -np.inf

    def at_least(self, floor: np.ndarray) -> np.ndarray:
        reached = self.values >= self._given(_finite(floor))[:, None]
        return reached.reshape(-1).nonzero().reshape(-1).cpu().numpy()

    def exceeded(self, k: int) -> np.ndarray:
        return self.values.topk(k, dim=1).values[:, -1].cpu().numpy()

    def highest(self) -> tuple[np.ndarray, np.ndarray]:
        found = self.values.max(dim=1)
        return found.indices.cpu().numpy(), found.values.cpu().numpy()

    def on_host(self) -> np.ndarray:
        return self.values.cpu().numpy()

    def _given(self, values: np.ndarray) -> Any:
        import torch

        return torch.tensor(values, device=self.values.device)


def multiplied(
    left: np.ndarray, right: np.ndarray, less: np.ndarray | None, out: np.ndarray | None
) -> Products:
    """Return the products of all rows of `left` with all of `right`.

    Parameters
    ----------
    left, right : numpy.ndarray
        float32, shape (rows, dimension).
    less : numpy.ndarray, optional
        What is taken off the products with each row of `right`.
    out : numpy.ndarray, optional
        Memory for products on the host.
    """
    device = product_device()
    if device is None:
        found = np.matmul(left, right.T, out=out)
        if less is not None:
            found -= less
        return Products(found)
    import torch

    # TensorFloat-32 would be further off than what `Measure.error` allows for
    exact = torch.get_float32_matmul_precision() == "highest"
    kind = torch.float32 if exact else torch.float64
    first, second = (torch.tensor(each, dtype=kind, device=device) for each in (left, right))
    products = (first @ second.T).float()
    if less is not None:
        products -= torch.tensor(less, device=device)
    return DeviceProducts(products)


def product_device() -> str | None:
    """Return the device of torch that products run on, None for NumPy on the host.

    ``embed.product-device``: by default the GPU in a process that works with cuDF.

    Raises
    ------
    ValueError
        If the GPU is asked for where torch has none.
    """
    wanted = config.get("product-device")
    if wanted == "cpu" or (wanted == "auto" and "cudf" not in sys.modules):
        return None
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if wanted == "auto":
        return None
    raise ValueError("embed.product-device is 'cuda', but torch has no GPU here: give 'auto'")


def _finite(floor: np.ndarray) -> np.ndarray:
    """Return the floor in float32, so that what is left out is below it."""
    return np.maximum(floor, np.finfo(np.float32).min).astype(np.float32)
