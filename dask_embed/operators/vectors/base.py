"""Operators on vector columns: what they share."""

from __future__ import annotations

import abc
import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
import pyarrow as pa

from dask_embed._validation import local_path, shown, this_machine
from dask_embed.columns import Result, VectorColumn, read_vectors, stored_vectors
from dask_embed.columns.arrays import blocks
from dask_embed.operators.base import ColumnOperator
from dask_embed.runtime.registry import parts
from dask_embed.runtime.remembered import once

if TYPE_CHECKING:
    from dask_embed.runtime.stats import Meter

Operator = TypeVar("Operator", bound="VectorOperator")

# Rows that are computed at a time: float32 copies of stored integers stay small.
_BLOCK_ROWS = 16_384


@dataclasses.dataclass(frozen=True, kw_only=True)
class VectorOperator(ColumnOperator):
    """Scores of each vector of a column, the best of them first; no transformer runs.

    A subclass gives `names`, `dimension`, `parameters` and `scores_of`.

    Parameters
    ----------
    column : str
        The vector column: an Arrow list of numbers, of fixed size as operators make it.
    output : str
        The column with the best name, str; its score goes into ``<output>_score``.
    score : str, optional
        Another name for the score column, float32.
    scores : str, optional
        Name of a column with all scores, a struct of float32 with one field a name.
    on_error : {"raise", "null"}
        See `ColumnOperator`. A vector of another dimension, or whose scores are not finite,
        cannot be used.

    Notes
    -----
    Scores are computed in float32, on the GPU where the column is there. Vectors stored as
    float16, int8 or uint8 are taken as the numbers that they are stored as. Signs packed as
    ``"binary"`` or ``"ubinary"`` are no numbers: they are of another dimension, which is an error.
    """

    column: str = "embedding"
    output: str = "label"
    score: str | None = None
    scores: str | None = None

    incidental: ClassVar[frozenset[str]] = frozenset({"column", "output", "score", "scores"})

    nulls_follow_inputs: ClassVar[bool] = True

    @abc.abstractmethod
    def names(self) -> Sequence[str]:
        """Return what the scores are of, from small files alone."""

    @abc.abstractmethod
    def dimension(self) -> int:
        """Return how many values a vector must have."""

    @abc.abstractmethod
    def parameters(self) -> tuple[np.ndarray, ...]:
        """Return the float32 arrays that `scores_of` takes; held once per process."""

    @abc.abstractmethod
    def scores_of(self, vectors: Any, *parameters: Any) -> Any:
        """Return scores of shape (rows, names) for float32 vectors of shape (rows, dimension).

        All arrays are NumPy's, or all are CuPy's.
        """

    @property
    def result_columns(self) -> tuple[str, ...]:
        score = f"{self.output}_score" if self.score is None else self.score
        names = (self.output, score)
        return names if self.scores is None else (*names, self.scores)

    def types(self) -> dict[str, pa.DataType]:
        types = [pa.string(), pa.float32()]
        if self.scores is not None:
            names = list(self.names())
            if len(set(names)) < len(names):
                raise ValueError(
                    f"scores={shown(self.scores)} has one field a name, but of "
                    f"{shown(names)} two are "
                    "equal; leave it out, or give other names"
                )
            types.append(pa.struct([(name, pa.float32()) for name in names]))
        return dict(zip(self.result_columns, types, strict=True))

    def check_column(self, series: Any) -> None:
        stored, given = stored_vectors(series)
        needed = self.dimension()
        if given is None or given == needed:
            return
        packed = stored in (pa.int8(), pa.uint8()) and given * 8 == needed
        hint = "; packed signs (precision 'binary', 'ubinary') cannot be used" if packed else ""
        raise ValueError(
            f"column {series.name!r} holds vectors of dimension {given}; for {self.source} they "
            f"must be of dimension {needed}{hint}"
        )

    def read(self, series: Any) -> VectorColumn:
        return read_vectors(series, self.dimension())

    @property
    def source(self) -> str:
        """What the scores come from, for messages."""
        return type(self).__name__

    @property
    def subject(self) -> str:
        return self.source

    def run(
        self, columns: list[VectorColumn], *, on_device: bool, meter: Meter
    ) -> tuple[dict[str, Result], dict[int, str]]:
        column = columns[0]
        valid = column.valid.copy()
        meter.record.rows = int(valid.sum())  # not in the totals: no text runs through a model
        with meter.seconds("forward"):
            scores = self._scores(column.values)
        finite = np.isfinite(scores).all(axis=1)
        failures = {
            int(row): "its vector gives scores that are not finite numbers"
            for row in np.flatnonzero(valid & ~finite)
        }
        return self._columns(scores, valid & finite), failures

    def _scores(self, vectors: Any) -> np.ndarray:
        """Return the scores of all rows on the host, shape (rows, names)."""
        arrays = vectors.__array_namespace__()
        parameters = [arrays.asarray(each) for each in self._loaded()]
        scores = np.empty((len(vectors), len(self.names())), np.float32)
        with np.errstate(all="ignore"):  # rows that are null hold anything
            for rows in blocks(len(vectors), _BLOCK_ROWS):
                block = vectors[rows].astype(np.float32, copy=False)
                found = self.scores_of(block, *parameters)
                scores[rows] = found.get() if hasattr(found, "get") else found
        return scores

    def _loaded(self) -> tuple[np.ndarray, ...]:
        return parts.get_or_build(self, self.parameters)

    def _columns(self, scores: np.ndarray, valid: np.ndarray) -> dict[str, Result]:
        names = list(self.names())
        best = np.argmax(np.where(valid[:, None], scores, 0), axis=1)
        highest = np.take_along_axis(scores, best[:, None], axis=1)[:, 0]
        columns: list[Result] = [
            pa.array(names, pa.string()).take(pa.array(best, mask=~valid)),
            pa.array(highest, pa.float32(), mask=~valid),
        ]
        if self.scores is not None:
            fields = [pa.array(column) for column in np.ascontiguousarray(scores.T)]
            mask = pa.array(~valid)
            columns.append(pa.StructArray.from_arrays(fields, names=names, mask=mask))
        return dict(zip(self.result_columns, columns, strict=True))


def file_fingerprint(files: Sequence[Path]) -> str:
    """Return ``"local-"`` and 16 hexadecimal digits that tell one content of files from another.

    Files count in full: heads and prototypes are small.
    """
    digest = hashlib.blake2b(digest_size=8)
    for path in files:
        digest.update(f"{path.name}:{path.stat().st_size};".encode())
        digest.update(_digest(path))
    return f"local-{digest.hexdigest()}"


@once
def _digest(path: Path) -> bytes:
    return hashlib.blake2b(path.read_bytes(), digest_size=16).digest()


def require_revision(files: Sequence[Path], revision: str | None) -> str:
    """Return the fingerprint of `files`.

    Raises
    ------
    ValueError
        If it is not what `revision` promises.
    """
    found = file_fingerprint(files)
    if revision not in (None, found):
        raise ValueError(
            f"{this_machine()} has another file {str(files[0])!r} than the job was built with: its "
            f"fingerprint is {found!r}, and revision={shown(revision)} was asked for; put the same "
            "copy there"
        )
    return found


def safetensors_file(name: str, path: str | Path) -> Path:
    """Return the safetensors file at `path`, or the only one in that folder.

    Raises
    ------
    ValueError
        If there is none, or more than one; `name` is the argument.
    """
    place = local_path(name, path).resolve()
    if place.is_file():
        if place.suffix != ".safetensors":
            raise ValueError(f"{name} must be a .safetensors file, got {shown(str(path))}")
        return place
    found = sorted(place.glob("*.safetensors")) if place.is_dir() else []
    if len(found) != 1:
        what = f"a folder with {len(found)} of them" if place.is_dir() else "no file or folder"
        raise ValueError(
            f"{name} must be a .safetensors file or a folder with one; on {this_machine()} "
            f"{shown(str(path))} is {what}"
        )
    return found[0]


def read_tensors(file: Path) -> dict[str, np.ndarray]:
    """Return all tensors of a safetensors file in float32, whatever they are stored in."""
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        return {key: opened.get_tensor(key).float().numpy() for key in opened.keys()}  # noqa: SIM118


def require_finite(file: Path, names: Sequence[str]) -> None:
    """Raise ValueError unless these tensors of a safetensors file hold finite numbers only."""
    tensors = read_tensors(file)
    for name in names:
        if not np.isfinite(tensors[name]).all():
            raise ValueError(f"tensor {name!r} of {str(file)!r} holds NaN or infinite numbers")


def read_header(file: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Return the shapes of the tensors of a safetensors file, and its metadata.

    Raises
    ------
    ValueError
        If it is no such file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as opened:
            keys = list(opened.keys())
            shapes = {key: tuple(opened.get_slice(key).get_shape()) for key in keys}
            return shapes, dict(opened.metadata() or {})
    except SafetensorError as error:
        raise ValueError(f"{str(file)!r} is not a safetensors file: {error}") from None
