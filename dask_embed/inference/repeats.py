"""Equal samples run once: in a partition, and as far as memory goes in a process."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Container, Hashable, Iterable
from typing import Any, Protocol

import numpy as np
import zict

from dask_embed.inference.sink import Sink
from dask_embed.tokens.encoded import Samples

# What an entry takes besides its vector: digest, entries of the cache, array header.
_ENTRY_BYTES = 480
Key = tuple[Hashable, bytes]


class Repeats:
    """Tell the samples that were seen before; to be used from one thread.

    Parameters
    ----------
    claims : Claimed, optional
        Tells what other partitions have, or compute.
    """

    def __init__(self, claims: Claimed | None = None) -> None:
        self.claims = claims
        self._first: dict[bytes, int] = {}
        self._pairs = array("q")

    def first_seen(self, names: np.ndarray, samples: Samples) -> np.ndarray:
        """Return the places in `samples` that have to run; empty ones have nothing to.

        Repeats are remembered for `copy_all`.
        """
        fresh, digests = [], samples.digests()
        each = zip(names.tolist(), samples.lengths.tolist(), digests, strict=True)
        for place, (name, length, digest) in enumerate(each):
            if not length:
                continue
            source = self._first.setdefault(digest, name)
            if source != name:
                self._pairs.extend((name, source))
            else:
                fresh.append(place)
        places = np.array(fresh, np.int64)
        if self.claims is None:
            return places
        return places[self.claims.run_here(names[places], [digests[place] for place in fresh])]

    def copy_all(self, sink: Sink, failures: dict[int, str]) -> None:
        """Give repeats the results, or the failures, of what they repeat."""
        if not self._pairs:
            return
        pairs = np.array(self._pairs).reshape(-1, 2)
        sink.copy(pairs[:, 0], pairs[:, 1])
        if failures:
            for name, source in pairs.tolist():
                if source in failures:
                    failures[name] = failures[source]


class Claimed(Protocol):
    """What a partition knows of what others compute; all but `run_here` when its own is done."""

    def run_here(self, names: np.ndarray, digests: list[bytes]) -> np.ndarray:
        """Give the sink what is known, and return which samples have to run here, bool."""

    def publish(self, failures: Container[int]) -> None:
        """Let others have what was computed, and has not failed."""

    def release(self) -> None:
        """Let others compute what this partition claimed, whether it did or not."""

    def collect(self) -> np.ndarray:
        """Wait for others, and return the names of what they do not have."""


class VectorCache:
    """The vectors that a model computed last in this process, by the digest of the tokens.

    Parameters
    ----------
    most_bytes : int
        What is kept; the least recently used goes first.

    Notes
    -----
    May be used from several threads.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._vectors: zict.LRU[Key, np.ndarray] = zict.LRU(most_bytes, {}, weight=_weight)
        self._owners: dict[Key, Claims] = {}

    def holds(self, vector_bytes: int) -> int:
        """Return how many vectors of a size there is room for."""
        return self._most_bytes // (vector_bytes + _ENTRY_BYTES)

    def get(self, key: Key) -> np.ndarray | None:
        return self._vectors.get(key)

    def put(self, key: Key, vector: np.ndarray) -> None:
        if key not in self._vectors:
            self._vectors[key] = vector

    def owner(self, key: Key, claims: Claims) -> Claims:
        """Return who computes a vector: whoever claimed it first, maybe these claims now."""
        with self._lock:
            return self._owners.setdefault(key, claims)

    def disown(self, keys: Iterable[Key]) -> None:
        with self._lock:
            for key in keys:
                del self._owners[key]


def _weight(key: Key, vector: np.ndarray) -> int:
    return vector.nbytes + _ENTRY_BYTES


class Claims:
    """What one partition computes, finds in the cache, or waits for from another partition.

    A partition computes all that it claimed before it waits, so none waits for one that waits.

    Parameters
    ----------
    cache : VectorCache
    kind : hashable
        What vectors of equal tokens have to have in common.
    out : numpy.ndarray, or what is indexed like it
        The vectors of the partition, shape (rows, dimension).
    """

    def __init__(self, cache: VectorCache, kind: Hashable, out: Any) -> None:
        self._cache = cache
        self._kind = kind
        self._out = out
        self._most = cache.holds(out.shape[1] * out.itemsize)
        self._own: dict[bytes, int] = {}
        self._computed = threading.Event()
        self._borrowed: list[tuple[int, bytes, Claims]] = []

    def run_here(self, names: np.ndarray, digests: list[bytes]) -> np.ndarray:
        here = map(self._runs_here, names.tolist(), digests)
        return np.fromiter(here, bool, len(digests))

    def _runs_here(self, row: int, digest: bytes) -> bool:
        """Fill in a vector that is known, and return whether a text has to run here.

        What another partition computes at the moment is waited for in `collect`.
        """
        key = (self._kind, digest)
        found = self._cache.get(key)
        if found is not None:
            self._out[row] = found
            return False
        if len(self._own) >= self._most:
            return True
        owner = self._cache.owner(key, self)
        if owner is self:
            self._own[digest] = row
            return True
        self._borrowed.append((row, digest, owner))
        return False

    def publish(self, failures: Container[int]) -> None:
        for digest, row in self._own.items():
            if row not in failures:
                self._cache.put((self._kind, digest), self._out[row].copy())

    def release(self) -> None:
        self._cache.disown((self._kind, digest) for digest in self._own)
        self._own = {}
        self._computed.set()

    def collect(self) -> np.ndarray:
        """Wait for other partitions and fill in their vectors.

        Returns
        -------
        numpy.ndarray
            Rows without a vector: the other one failed, or the cache had no room.
        """
        lost = []
        for row, digest, owner in self._borrowed:
            owner._computed.wait()
            found = self._cache.get((self._kind, digest))
            if found is None:
                lost.append(row)
            else:
                self._out[row] = found
        return np.array(lost, np.int64)
