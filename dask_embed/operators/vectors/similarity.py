"""Vectors to the nearest of fixed prototypes."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from dask.tokenize import tokenize

from dask_embed._validation import non_empty_string, one_of, shown
from dask_embed.operators.vectors.base import (
    VectorOperator,
    read_header,
    read_tensors,
    require_finite,
    require_revision,
    safetensors_file,
)

MEASURES = ("cosine", "dot", "euclidean")
# torch.nn.functional.normalize, which sentence-transformers calls, divides by no less.
_SHORTEST = 1e-12


class _Shape(NamedTuple):
    """What is shown of prototypes instead of their values."""

    vectors: int
    dimension: int

    def __repr__(self) -> str:
        return f"<{self.vectors} x {self.dimension}>"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Similarity(VectorOperator):
    """Append the nearest of fixed prototypes to each vector; lazy on a Dask DataFrame.

    Parameters
    ----------
    prototypes : mapping, array, str or Path
        Name to vector, a sequence of numbers; or a safetensors file with one vector per name. Of an
        array of shape (prototypes, dimension) the names are the numbers of its rows: "0", "1".
    column : str
        The vector column.
    output : str
        The column with the name of the nearest prototype, str.
    score : str, optional
        Its similarity, float32; by default ``<output>_score``.
    scores : str, optional
        Name of a column with the similarities to all prototypes, a struct of float32.
    measure : {"cosine", "dot", "euclidean"}
        As sentence-transformers' ``util.cos_sim``, ``dot_score`` and ``euclidean_sim`` define
        them: the last is minus the distance, so that more is always nearer. The cosine of a zero
        vector is zero.
    revision : str, optional
        Fingerprint of the file; another content is then an error. Set when applied.
    on_error
        See `VectorOperator`.

    Raises
    ------
    ValueError
        Before any work, if prototypes differ in dimension among each other or from the column,
        hold NaN or infinite numbers, or are zero where the measure is cosine.

    Examples
    --------
    >>> import pandas as pd
    >>> import dask_embed as de
    >>> from dask_embed.operators.vectors.similarity import Similarity
    >>> embedder = de.Embedder(de.datasets.minilm())
    >>> known = embedder(pd.DataFrame({"text": ["a table of numbers", "the weather in May"]}))
    >>> prototypes = dict(zip(["data", "weather"], de.to_array(known["embedding"]), strict=True))
    >>> frame = embedder(pd.DataFrame({"text": ["rain and sunshine", "rows and columns"]}))
    >>> Similarity(prototypes)(frame)["nearest"].tolist()
    ['weather', 'data']
    """

    method: ClassVar[str] = "similarity"

    prototypes: Any = dataclasses.field(kw_only=False)
    output: str = "nearest"
    measure: str = "cosine"
    revision: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        non_empty_string("revision", self.revision, allow_none=True)
        one_of("measure", self.measure, MEASURES)
        object.__setattr__(self, "prototypes", _plain(self.prototypes))
        if self.measure == "cosine" and not isinstance(self.prototypes, str):
            for name, vector in self.prototypes:
                _require_direction(f"prototype {name!r}", np.array(vector))
        if self.revision is not None and not isinstance(self.prototypes, str):
            raise ValueError(f"revision is of a file of prototypes; got {shown(self.revision)}")

    def _told(self) -> list[tuple[str, Any]]:
        (name, held), *rest = super()._told()
        return [
            (name, held if isinstance(held, str) else _Shape(len(held), len(held[0][1]))),
            *rest,
        ]

    @property
    def source(self) -> str:
        where = f" {self.prototypes!r}" if isinstance(self.prototypes, str) else ""
        return f"the prototypes{where}"

    @property
    def subject(self) -> str:
        return self.prototypes if isinstance(self.prototypes, str) else ""

    def names(self) -> Sequence[str]:
        if isinstance(self.prototypes, str):
            return tuple(self._shapes())
        return tuple(name for name, _ in self.prototypes)

    def dimension(self) -> int:
        if isinstance(self.prototypes, str):
            return next(iter(self._shapes().values()))[0]
        return len(self.prototypes[0][1])

    def pinned(self) -> Similarity:
        """Return the operator with the absolute path and the fingerprint of its file, if any."""
        if not isinstance(self.prototypes, str):
            return self
        file = safetensors_file("prototypes", self.prototypes)
        revision = require_revision([file], self.revision)
        return dataclasses.replace(self, prototypes=str(file), revision=revision)

    def plan(self) -> list[str]:
        names = self.names()
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        at = f" at revision {self.revision}" if self.revision else ""
        return [f"{self.source}{at}", f"{self.measure} to {len(names)} prototypes ({shown})"]

    def resolved(self) -> dict[str, Any]:
        return {"prototypes": self._told_prototypes(), "names": list(self.names())}

    def _told_prototypes(self) -> str:
        if isinstance(self.prototypes, str):
            return self.prototypes
        return f"token-{tokenize(self.prototypes)}"

    def parameters(self) -> tuple[np.ndarray, ...]:
        if isinstance(self.prototypes, str):
            file, _ = self._file()
            tensors = read_tensors(file)
            matrix = np.stack([tensors[name] for name in self.names()])
        else:
            matrix = np.array([vector for _, vector in self.prototypes], np.float32)
        return (_normalized(matrix) if self.measure == "cosine" else matrix,)

    def scores_of(self, vectors: Any, *parameters: Any) -> Any:
        (prototypes,) = parameters
        if self.measure == "dot":
            return vectors @ prototypes.T
        if self.measure == "cosine":
            return _normalized(vectors) @ prototypes.T
        arrays = vectors.__array_namespace__()
        # not by way of products, which lose the digits of small distances
        distances = [
            arrays.sqrt(arrays.square(vectors - prototype).sum(axis=1)) for prototype in prototypes
        ]
        return -arrays.stack(distances, axis=1)

    def _file(self) -> tuple[Path, str]:
        file = safetensors_file("prototypes", self.prototypes)
        return file, require_revision([file], self.revision)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return _read_shapes(*self._file(), self.measure)


@functools.lru_cache(maxsize=64)
def _read_shapes(file: Path, revision: str, measure: str) -> dict[str, tuple[int, ...]]:
    """Return the shape of each prototype of a file; `revision` tells contents apart."""
    shapes, _ = read_header(file)
    different = set(shapes.values())
    if len(different) != 1 or len(next(iter(different))) != 1:
        raise ValueError(
            f"prototypes must be vectors of one dimension; {str(file)!r} holds {shown(shapes)}"
        )
    require_finite(file, list(shapes))
    if measure == "cosine":
        for name, vector in read_tensors(file).items():
            _require_direction(f"tensor {name!r} of {str(file)!r}", vector)
    return dict(sorted(shapes.items()))


def _require_direction(what: str, vector: np.ndarray) -> None:
    """Raise ValueError unless a prototype can be scaled to length one."""
    if np.linalg.norm(vector.astype(np.float64)) < _SHORTEST:
        raise ValueError(
            f"{what} is zero, so it has no cosine; leave it out, or choose another measure"
        )


def _normalized(vectors: Any) -> Any:
    arrays = vectors.__array_namespace__()
    lengths = arrays.sqrt(arrays.square(vectors).sum(axis=1, keepdims=True))
    return vectors / arrays.maximum(lengths, np.float32(_SHORTEST))


def _numbered(prototypes: Any) -> Any:
    """Return the rows of an array of shape (prototypes, dimension) by number, all else as it is."""
    try:
        array = np.asarray(prototypes, np.float32)
    except (TypeError, ValueError):
        return prototypes  # pairs of name and vector, as it is kept
    if array.ndim != 2:
        return prototypes
    return [(str(number), row) for number, row in enumerate(array)]


def _plain(prototypes: Any) -> str | tuple[tuple[str, tuple[float, ...]], ...]:
    """Return a path as text, or names and vectors as tuples, which hash and pickle."""
    if isinstance(prototypes, str | Path):
        return str(prototypes)
    given = prototypes.items() if isinstance(prototypes, Mapping) else _numbered(prototypes)
    try:
        pairs = [(name, np.asarray(vector, np.float32)) for name, vector in given]
        arrays = dict(pairs)
    except (TypeError, ValueError):
        pairs, arrays = [], {}
    usable = [isinstance(name, str) and array.ndim == 1 for name, array in arrays.items()]
    if not arrays or not all(usable):
        raise TypeError(
            "prototypes must map names to vectors of finite numbers, or be a safetensors file; "
            f"got {shown(prototypes)}"
        )
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(f"prototype {name!r} holds NaN or infinite numbers")
    if len(arrays) < len(pairs):
        raise ValueError(
            f"prototypes must have different names, got {shown([name for name, _ in pairs])}"
        )
    dimensions = {name: len(array) for name, array in arrays.items()}
    if len(set(dimensions.values())) != 1 or 0 in dimensions.values():
        raise ValueError(f"prototypes must be of one dimension, got {shown(dimensions)}")
    return tuple((name, tuple(array.tolist())) for name, array in arrays.items())
