"""Centres of clusters that were fitted: what they are, and the file that keeps them."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np

from dask_embed._options import NamedOptions
from dask_embed._validation import (
    boolean,
    integer_from_zero,
    local_path,
    one_of,
    shown,
    shown_error,
)
from dask_embed.curation.kmeans import METRICS, Centres
from dask_embed.curation.measures import unit
from dask_embed.operators.vectors.base import read_header, read_tensors, safetensors_file

_TENSOR = "centres"
_METADATA = "dask_embed"


@dataclasses.dataclass(frozen=True)
class FittedKMeans(NamedOptions):
    """Centres of clusters, as `KMeans.fit` returns them.

    Attributes
    ----------
    centres : numpy.ndarray
        float32, shape (clusters, dimension); of length one where `metric` is ``"cosine"``.
    metric : {"cosine", "euclidean"}
    inertia : float
        Squared distances of the rows to their centres before the last step, summed; for
        ``"cosine"`` those of vectors of length one. NaN where no step ran over all rows.
    steps : int
        Lloyd steps over all rows.
    converged : bool
        Whether the centres had all but stopped moving.
    origin : dict
        What made the vectors, as far as it is known.
    """

    centres: np.ndarray
    metric: str
    inertia: float = float("nan")
    steps: int = 0
    converged: bool = False
    origin: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        one_of("metric", self.metric, METRICS)
        boolean("converged", self.converged)
        integer_from_zero("steps", self.steps)
        if isinstance(self.inertia, bool) or not isinstance(self.inertia, int | float):
            raise TypeError(f"inertia must be a number, got {shown(self.inertia)}")
        _require_told(self.origin)
        object.__setattr__(self, _TENSOR, _array(self.centres))

    def __repr__(self) -> str:
        clusters, dimension = self.centres.shape
        return f"FittedKMeans({clusters} clusters x {dimension}, metric={self.metric!r})"

    def save(self, path: Any) -> None:
        """Write the centres to a safetensors file, with the metric and what made the vectors.

        Parameters
        ----------
        path : str or Path
            A file whose name ends with ``.safetensors``.
        """
        from safetensors.numpy import save_file

        file = local_path("path", path)
        if file.suffix != ".safetensors":
            raise ValueError(f"path must end with .safetensors, got {shown(str(path))}")
        told = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name != _TENSOR
        }
        save_file({_TENSOR: self.centres}, file, {_METADATA: json.dumps(told)})

    @classmethod
    def load(cls, path: Any) -> FittedKMeans:
        """Read what `save` wrote.

        Raises
        ------
        ValueError
            If the file is none of these.
        """
        file = safetensors_file("path", path)
        shapes, metadata = read_header(file)
        if set(shapes) != {_TENSOR} or _METADATA not in metadata:
            raise ValueError(f"{shown(str(file))} was not written by FittedKMeans.save")
        try:
            return cls(read_tensors(file)[_TENSOR], **json.loads(metadata[_METADATA]))
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(
                f"{shown(str(file))} is damaged, or of another version: {shown_error(error)}"
            ) from error

    def plain(self) -> Centres:
        """Return the centres as the kernels take them."""
        values = self.centres.astype(np.float32)
        return Centres(unit(values) if self.metric == "cosine" else values, self.metric)


def _require_told(origin: Any) -> None:
    try:
        told = json.loads(json.dumps(origin))
    except (TypeError, ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise TypeError(f"origin must be what FittedKMeans.origin was, got {shown(origin)}")


def _array(centres: Any) -> np.ndarray:
    try:
        array = np.asarray(centres, np.float32)
    except (TypeError, ValueError):
        array = np.empty(0, np.float32)
    if array.ndim != 2 or not array.size or not np.isfinite(array).all():
        raise TypeError(
            "centres must be a FittedKMeans, a file that it was saved to, or finite numbers of "
            f"shape (clusters, dimension); got {shown(centres)}"
        )
    return array
