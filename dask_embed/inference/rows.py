"""What `forward` gave for the rows of a partition, as columns in row order."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from dask_embed.inference.sink import Sink
from dask_embed.tokens.encoded import Encoded, Row
from dask_embed.tokens.lists import TokenLists


@dataclass
class Chunk:
    """Some rows, what they were for the model, and what it gave.

    Attributes
    ----------
    rows : list of tuple of str
        The input texts of each row.
    owners : numpy.ndarray
        For each sequence the place in `rows` of its row, ascending.
    tokens : TokenLists
        One list per sequence.
    context : list or None
        What `encode` gave beside each sequence.
    results : list
        What `forward` gave for each sequence.
    """

    rows: list[Row]
    owners: np.ndarray
    tokens: TokenLists
    context: Sequence[Any] | None
    results: list[Any]

    def by_row(self) -> list[range]:
        """Return for each row the numbers of its sequences."""
        ends = np.searchsorted(self.owners, np.arange(len(self.rows) + 1)).tolist()
        return [range(start, stop) for start, stop in itertools.pairwise(ends)]


class Rows(Sink):
    """Keep results for a chunk, and the columns that are made of them.

    Parameters
    ----------
    distinct : list of tuple of str
        Their places are the rows of the stream.
    postprocess : callable
        ``(Chunk) -> {column: values}``, one value per row.
    types : dict
        Column to Arrow type.
    """

    def __init__(
        self,
        distinct: Sequence[Row],
        postprocess: Callable[[Chunk], Mapping[str, Any]],
        types: dict[str, pa.DataType],
    ) -> None:
        self._distinct = distinct
        self._postprocess = postprocess
        self._types = types
        self._results: dict[int, Any] = {}
        self._places: list[np.ndarray] = []
        self._parts: list[dict[str, pa.Array]] = []

    def put(self, names: np.ndarray, results: Any, lengths: np.ndarray) -> None:
        if isinstance(results, torch.Tensor):
            results = results.float().cpu().numpy()
        if len(results) != len(names):
            raise ValueError(
                f"forward must give one result per sequence: {len(names)} sequences, "
                f"{len(results)} results"
            )
        self._results.update(zip(names.tolist(), results, strict=True))

    def copy(self, names: np.ndarray, sources: np.ndarray) -> None:
        for name, source in zip(names.tolist(), sources.tolist(), strict=True):
            self._results[name] = copy.deepcopy(self._results.get(source))

    def end(self, encoded: Encoded, names: np.ndarray, failures: dict[int, str]) -> None:
        results = [self._results.pop(name, None) for name in names.tolist()]
        kept = np.flatnonzero(~np.isin(encoded.rows, list(failures)))
        rows, owners = np.unique(encoded.rows[kept], return_inverse=True)
        if not len(rows):
            return
        places = kept.tolist()
        context = encoded.context
        chunk = Chunk(
            rows=[self._distinct[row] for row in rows],
            owners=owners,
            tokens=encoded.samples.take(kept),
            context=None if context is None else [context[place] for place in places],
            results=[results[place] for place in places],
        )
        columns = self._postprocess(chunk)
        self._places.append(rows)
        self._parts.append(self._to_arrow(columns, len(rows)))

    def add(self, found: Iterable[tuple[np.ndarray, list[pa.Array]]]) -> set[int]:
        """Take places and columns of rows that need not run, and return which these are."""
        known: set[int] = set()
        for places, columns in found:
            known.update(places.tolist())
            self._places.append(places)
            self._parts.append(dict(zip(self._types, columns, strict=True)))
        return known

    def columns(self) -> dict[str, pa.Array]:
        """Return the result columns of the distinct rows; null where a row failed."""
        count = len(self._distinct)
        if not self._parts:
            return {name: pa.nulls(count, dtype) for name, dtype in self._types.items()}
        places = np.concatenate(self._places)
        back = np.full(count, -1)
        back[places] = np.arange(len(places))
        taken = pa.array(back, mask=back < 0)
        return {
            name: pa.concat_arrays([part[name] for part in self._parts]).take(taken)
            for name in self._types
        }

    def _to_arrow(self, columns: Mapping[str, Any], count: int) -> dict[str, pa.Array]:
        if columns.keys() != self._types.keys():
            raise ValueError(
                f"postprocess must give the columns {list(self._types)}, it gave {list(columns)}"
            )
        arrays = {name: to_column(columns[name], dtype) for name, dtype in self._types.items()}
        for name, array in arrays.items():
            if len(array) != count:
                raise ValueError(
                    f"postprocess must give one value per row: {count} rows, but {len(array)} "
                    f"values of {name!r}"
                )
        return arrays


def to_column(values: Any, dtype: pa.DataType) -> pa.Array:
    """Return values, an array or a list, as an Arrow array of `dtype`."""
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if isinstance(values, pa.Array):
        return values.cast(dtype)
    if isinstance(values, torch.Tensor):
        values = values.cpu().numpy()
    if pa.types.is_fixed_size_list(dtype):
        matrix = np.ascontiguousarray(values)
        if matrix.ndim != 2 or matrix.shape[1] != dtype.list_size:
            raise ValueError(f"vectors of {dtype.list_size} values are due, got {matrix.shape}")
        flat = pa.array(matrix.reshape(-1)).cast(dtype.value_type)
        return pa.FixedSizeListArray.from_arrays(flat, dtype.list_size)
    return pa.array(values, dtype)
