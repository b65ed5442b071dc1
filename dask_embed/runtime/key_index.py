"""Which row of which file has a key: sorted arrays in memory, 24 bytes for each row."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

KEY_BYTES = 16
# Arrays of keys that are searched one after the other before they become one.
_MOST_RUNS = 16


@dataclass(frozen=True)
class _Run:
    """Sorted keys, with the file and row of each."""

    keys: np.ndarray
    files: np.ndarray
    rows: np.ndarray

    @classmethod
    def of(cls, keys: np.ndarray, files: np.ndarray, rows: np.ndarray) -> _Run:
        order = np.argsort(keys, kind="stable")
        return cls(keys[order], files[order], rows[order])

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Return the place of each key, -1 where it is not there."""
        if not len(self.keys):
            return np.full(len(keys), -1)
        places = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[places] == keys, places, -1)


class KeyIndex:
    """The keys of files that are known by their numbers.

    Attributes
    ----------
    files : list of str
        The name of each number; those of files that are gone stay.

    Notes
    -----
    Not for several threads at a time.
    """

    def __init__(self) -> None:
        self.files: list[str] = []
        self._numbers: dict[str, int] = {}
        self._gone: set[int] = set()
        self._runs: list[_Run] = []

    def add(self, name: str, keys: np.ndarray) -> None:
        """Note the keys of the rows of a file, unless they are known."""
        if name in self._numbers:
            return
        number = self._numbers[name] = len(self.files)
        self.files.append(name)
        files = np.full(len(keys), number, np.int32)
        self._runs.append(_Run.of(keys, files, np.arange(len(keys), dtype=np.int32)))
        if len(self._runs) > _MOST_RUNS:
            self._runs = [self._joined()]

    def _joined(self) -> _Run:
        """Return what is known as one run, of each key the newest row: older files go first."""
        columns = [
            np.concatenate([getattr(run, name) for run in self._runs])
            for name in ("keys", "files", "rows")
        ]
        alive = ~np.isin(columns[1], list(self._gone))
        run = _Run.of(*(column[alive] for column in columns))
        newest = np.ones(len(run.keys), bool)
        newest[:-1] = run.keys[:-1] != run.keys[1:]
        return _Run(run.keys[newest], run.files[newest], run.rows[newest])

    def find(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the number of the file and the row there of each key, -1 where there is none."""
        files, rows = np.full(len(keys), -1), np.full(len(keys), -1)
        for run in self._runs:
            places = run.find(keys)
            here = np.flatnonzero(places >= 0)
            alive = ~np.isin(run.files[places[here]], list(self._gone))
            here = here[alive]
            files[here], rows[here] = run.files[places[here]], run.rows[places[here]]
        return files, rows

    def unknown(self, there: Iterable[str]) -> list[str]:
        """Return which of the files that are there are not known, and drop those that are not."""
        names = set(there)
        for name in self._numbers.keys() - names:
            self.drop(self._numbers[name])
        return sorted(names - self._numbers.keys())

    def drop(self, number: int) -> None:
        """Find no more rows in a file until it is added again."""
        self._gone.add(number)
        self._numbers.pop(self.files[number], None)
