"""Result columns that this process made last, for rows that repeat in another partition."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Container, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
import zict

from dask_embed import config
from dask_embed.runtime.registry import Registry

# What a row takes besides its values: digest, entry of the table, number.
_ROW_BYTES = 200
# What a block takes besides its rows, and each column of it: who asks row by row has many blocks.
_BLOCK_BYTES = 1_500
_COLUMN_BYTES = 700
_PLACE_BITS = 32
# Rows differ in size: the first may be larger than others.
_MARGIN = 0.9


@dataclass(frozen=True)
class _Block:
    """Rows that one partition made."""

    kind: Hashable
    digests: list[bytes]
    columns: list[pa.Array]

    @property
    def size(self) -> int:
        return self.beside + self.of_rows

    @property
    def beside(self) -> int:
        """Bytes that it takes however many rows it has."""
        return _BLOCK_BYTES + _COLUMN_BYTES * len(self.columns)

    @property
    def of_rows(self) -> int:
        columns = sum(column.nbytes for column in self.columns)
        return int(columns) + _ROW_BYTES * len(self.digests)


class KeptColumns:
    """Columns of rows by the digest of their texts; blocks go, the least recently used first.

    A look costs a text a fraction of a microsecond, so that tokenizers gain by it too. Nothing
    waits for what another partition makes at the same time.

    Parameters
    ----------
    most_bytes : int

    Notes
    -----
    May be used from several threads.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._lock = threading.RLock()
        self._places: dict[Hashable, dict[bytes, int]] = {}
        self._numbers = itertools.count()
        self._blocks: zict.LRU[int, _Block] = zict.LRU(
            most_bytes, {}, on_evict=[self._forget], weight=lambda _, block: block.size
        )

    @classmethod
    def of(cls, registry: Registry, operator: object = None) -> KeptColumns | None:
        """Return what is kept beside the rest of a registry, None where that is to be nothing.

        Nothing of an operator of one's own: what it calls may change while its name does not.
        """
        if operator is not None and not type(operator).__module__.startswith("dask_embed."):
            return None
        most = config.get("cached-vectors-bytes")
        return registry.get_or_build("columns", lambda: cls(most)) if most else None

    def room(self, row_bytes: float) -> int:
        """Return how many rows there is room for."""
        return int(self._most_bytes / (row_bytes + _ROW_BYTES))

    def find(
        self, kind: Hashable, digests: Sequence[bytes]
    ) -> Iterator[tuple[np.ndarray, list[pa.Array]]]:
        """Yield places in `digests` and the columns of their rows, for those that are known."""
        known = self._places.get(kind, {})
        places = np.array([known.get(digest, -1) for digest in digests], np.int64)
        numbers = places >> _PLACE_BITS
        for number in np.unique(numbers[places >= 0]).tolist():
            block = self._blocks.get(number)
            if block is not None:  # it may have gone this moment
                here = np.flatnonzero(numbers == number)
                taken = pa.array(places[here] & (2**_PLACE_BITS - 1))
                yield here, [column.take(taken) for column in block.columns]

    def keep(self, kind: Hashable, digests: list[bytes], columns: list[pa.Array]) -> None:
        """Keep the columns of these rows, or of the first of them if there is no more room."""
        if not digests:
            return
        block = _Block(kind, digests, columns)
        room = self._most_bytes - block.beside
        if block.of_rows > room:
            count = int(len(digests) * room / block.of_rows * _MARGIN)
            if count < 1:
                return
            first = pa.array(range(count), pa.int64())
            block = _Block(kind, digests[:count], [column.take(first) for column in columns])
        with self._lock:
            number = next(self._numbers) << _PLACE_BITS
            places = range(number, number + len(block.digests))
            self._places.setdefault(kind, {}).update(zip(block.digests, places, strict=True))
            self._blocks[number >> _PLACE_BITS] = block

    def _forget(self, number: int, block: _Block) -> None:
        known = self._places.get(block.kind, {})
        for digest in block.digests:
            if known.get(digest, -1) >> _PLACE_BITS == number:
                del known[digest]
        if not known:  # an empty table is as large as it ever was
            self._places.pop(block.kind, None)


class ColumnarSink(Protocol):
    """A sink that keeps results, and gives and takes them as columns."""

    @property
    def row_bytes(self) -> float:
        """About what the results of a row take."""

    def fill(self, names: np.ndarray, columns: list[pa.Array]) -> None:
        """Take the results of rows that need not run."""

    def of(self, names: np.ndarray) -> list[pa.Array]:
        """Return the results of some rows."""


class KeptResults:
    """What `KeptColumns` has for a sink; see `dask_embed.inference.repeats.Claimed`.

    Parameters
    ----------
    kept : KeptColumns
    kind : hashable
        What results of equal samples have in common.
    sink : ColumnarSink
    """

    def __init__(self, kept: KeptColumns, kind: Hashable, sink: ColumnarSink) -> None:
        self._kept = kept
        self._kind = kind
        self._sink = sink
        self._made: dict[int, bytes] = {}

    def run_here(self, names: np.ndarray, digests: list[bytes]) -> np.ndarray:
        here = np.ones(len(names), bool)
        for places, columns in self._kept.find(self._kind, digests):
            self._sink.fill(names[places], columns)
            here[places] = False
        made = itertools.compress(digests, here.tolist())
        self._made.update(zip(names[here].tolist(), made, strict=True))
        return here

    def publish(self, failures: Container[int]) -> None:
        made = [each for each in self._made.items() if each[0] not in failures]
        made = made[: self._kept.room(self._sink.row_bytes)]
        if made:
            names, digests = zip(*made, strict=True)
            self._kept.keep(self._kind, list(digests), self._sink.of(np.array(names)))

    def release(self) -> None:
        """Nothing was claimed: another partition makes what is not there yet."""

    def collect(self) -> np.ndarray:
        return np.zeros(0, np.int64)
