"""Rows of a partition through any operator: encode, forward, postprocess, in row order."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from dask_embed.inference.execution import Execution
from dask_embed.inference.stream import CHUNKS_UNDER_WAY, Stream, wait_for
from dask_embed.runtime.lanes import Jobs
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


@dataclass
class Rows:
    """Run the distinct rows of a partition.

    Attributes
    ----------
    stream : Stream
        Its `encode` takes places in `distinct`.
    distinct : list of tuple of str
    forward : callable
        ``(TokenLists) -> results``, one per sequence.
    postprocess : callable
        ``(Chunk) -> {column: values}``, one value per row.
    types : dict
        Column to Arrow type.
    """

    stream: Stream
    distinct: Sequence[Row]
    forward: Callable[[TokenLists], Any]
    postprocess: Callable[[Chunk], Mapping[str, Any]]
    types: dict[str, pa.DataType]
    _places: list[np.ndarray] = field(default_factory=list)
    _parts: list[dict[str, pa.Array]] = field(default_factory=list)

    def run(self) -> dict[str, pa.Array]:
        """Return the result columns of the distinct rows; null where a row failed."""
        under_way: deque[tuple[Encoded, list[Any], Execution, list[Future[None]]]] = deque()
        with self.stream.jobs() as jobs:
            for encoded in self.stream.chunks(jobs):
                under_way.append(self._begin(jobs, encoded))
                if len(under_way) == CHUNKS_UNDER_WAY:
                    self._end(*under_way.popleft())
            while under_way:
                self._end(*under_way.popleft())
        return self._assembled()

    def _begin(
        self, jobs: Jobs, encoded: Encoded
    ) -> tuple[Encoded, list[Any], Execution, list[Future[None]]]:
        count = len(encoded.tokens)
        sink = _Places(count)
        execution = Execution(self.stream.runner, self.forward, sink, self.stream.meter)
        everything = np.arange(count)
        busy = np.flatnonzero(encoded.tokens.lengths)
        futures = self.stream.submit(jobs, execution, encoded, busy, everything)
        return encoded, sink.results, execution, futures

    def _end(
        self,
        encoded: Encoded,
        results: list[Any],
        execution: Execution,
        futures: list[Future[None]],
    ) -> None:
        """Wait for a chunk and keep its columns."""
        wait_for(futures)
        for place, message in execution.failures.items():
            self.stream.failures[int(encoded.rows[place])] = message
        lost = list(self.stream.failures)
        kept = np.flatnonzero(~np.isin(encoded.rows, lost))
        places = kept.tolist()
        rows, owners = np.unique(encoded.rows[kept], return_inverse=True)
        self.stream.meter.count(rows=len(np.unique(encoded.rows)))
        if not len(rows):
            return
        context = encoded.context
        chunk = Chunk(
            rows=[self.distinct[row] for row in rows],
            owners=owners,
            tokens=encoded.tokens.take(kept),
            context=None if context is None else [context[place] for place in places],
            results=[results[place] for place in places],
        )
        with self.stream.meter.seconds("convert"):
            columns = self.postprocess(chunk)
            self._places.append(rows)
            self._parts.append(self._to_arrow(columns, len(rows)))

    def _to_arrow(self, columns: Mapping[str, Any], count: int) -> dict[str, pa.Array]:
        if columns.keys() != self.types.keys():
            raise ValueError(
                f"postprocess must give the columns {list(self.types)}, it gave {list(columns)}"
            )
        arrays = {name: to_column(columns[name], dtype) for name, dtype in self.types.items()}
        for name, array in arrays.items():
            if len(array) != count:
                raise ValueError(
                    f"postprocess must give one value per row: {count} rows, but {len(array)} "
                    f"values of {name!r}"
                )
        return arrays

    def _assembled(self) -> dict[str, pa.Array]:
        if not self._parts:
            return {name: pa.nulls(len(self.distinct), dtype) for name, dtype in self.types.items()}
        places = np.concatenate(self._places)
        back = np.full(len(self.distinct), -1)
        back[places] = np.arange(len(places))
        taken = pa.array(back, mask=back < 0)
        return {
            name: pa.concat_arrays([part[name] for part in self._parts]).take(taken)
            for name in self.types
        }


class _Places:
    """Keep the result of every sequence by its place in the chunk."""

    def __init__(self, count: int) -> None:
        self.results: list[Any] = [None] * count

    def put(self, places: np.ndarray, results: Any, lengths: np.ndarray) -> None:
        if isinstance(results, torch.Tensor):
            results = results.float().cpu().numpy()
        if len(results) != len(places):
            raise ValueError(
                f"forward must give one result per sequence: {len(places)} sequences, "
                f"{len(results)} results"
            )
        for place, result in zip(places.tolist(), results, strict=True):
            self.results[place] = result


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
