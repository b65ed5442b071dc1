"""Texts through a tokenizer, in the loop that runs models.

The samples are the texts themselves, and what is made of a batch of them are columns: token ids,
pieces of a text, or vectors of a table. It runs on the threads of the CPU.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from dask_embed.columns import TextColumn
from dask_embed.inference.driver import Driver
from dask_embed.inference.execution import RefusedError
from dask_embed.inference.kept_columns import KeptColumns, KeptResults
from dask_embed.inference.memory import Budget, is_out_of_memory
from dask_embed.inference.sink import Sink
from dask_embed.inference.stream import Batching, Stream
from dask_embed.runtime.registry import parts
from dask_embed.runtime.stats import Meter
from dask_embed.tokens.encoded import Encoded
from dask_embed.tokens.sequences import encoding_problem
from dask_embed.tokens.sharing import tokenizing_for
from dask_embed.tokens.texts import Made, Texts

# Characters of a batch: what a tokenizer gives back is large.
_BATCH = Batching(max_tokens=250_000)


class TextRunner:
    """What a `Stream` of texts asks of a model: there is none."""

    shares = True
    phase = "tokenize"
    smallest_share = 16_384
    device = torch.device("cpu")

    def __init__(self) -> None:
        self.budget = Budget(self.device)

    def usable(self, encoded: Encoded[Texts]) -> Encoded[Texts]:
        return encoded

    def runs_packed(self, longest: int) -> bool:
        return True

    def amounts(self, lengths: np.ndarray) -> dict[str, int]:
        return {}

    def session(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


class ColumnSink(Sink):
    """Keep Arrow columns of the rows of a partition.

    Parameters
    ----------
    rows : int
    types : sequence of pyarrow.DataType
    """

    keeps = True

    def __init__(self, rows: int, types: Sequence[pa.DataType]) -> None:
        self.failures: dict[int, str] = {}
        self._parts: list[list[pa.Array]] = [[pa.array([], dtype)] for dtype in types]
        self._back = np.full(rows, -1)
        self._count = 0
        self._lock = threading.Lock()

    def put(self, names: np.ndarray, results: Made, lengths: np.ndarray) -> None:
        kept = names[results.rows]
        with self._lock:
            self._back[kept] = np.arange(self._count, self._count + len(kept))
            self._count += len(kept)
            for parts, column in zip(self._parts, results.columns, strict=True):
                parts.append(column)
            self.failures.update((int(names[row]), why) for row, why in results.failures.items())

    def copy(self, names: np.ndarray, sources: np.ndarray) -> None:
        self._back[names] = self._back[sources]

    def columns(self) -> list[pa.Array]:
        """Return the columns, null where there is no text or it failed."""
        return self.of(np.arange(len(self._back)))

    @property
    def row_bytes(self) -> float:
        total = sum(part.nbytes for parts in self._parts for part in parts)
        return float(total) / max(self._count, 1)

    def fill(self, names: np.ndarray, columns: list[pa.Array]) -> None:
        self.put(names, Made(np.arange(len(names)), columns), np.zeros(0))

    def of(self, names: np.ndarray) -> list[pa.Array]:
        """Return the columns of some rows."""
        self._parts = [[pa.concat_arrays(parts)] for parts in self._parts]
        back = self._back[names]
        taken = pa.array(back, mask=back < 0)
        return [column.take(taken) for (column,) in self._parts]


def run_texts(
    columns: Sequence[TextColumn],
    make: Callable[[Texts], Any],
    sink: Sink,
    meter: Meter,
    longest: int | None = None,
    kind: Hashable = None,
) -> dict[int, str]:
    """Give what `make` makes of the rows of texts to `sink`, and return the rows that failed.

    Parameters
    ----------
    columns : sequence of TextColumn
        Rows without a text in one of them do not run.
    make : callable
        ``(texts) -> results``, called on any thread; equal texts have equal results.
    sink : Sink
    meter : Meter
    longest : int, optional
        Most tokens of a row, for statistics.
    kind : hashable, optional
        What columns of equal texts have in common, to find them in another partition.
    """
    rows = list(zip(*(column.values for column in columns), strict=True))

    def encode(places: np.ndarray) -> Encoded[Texts]:
        return Encoded(places, Texts([rows[place] for place in places.tolist()]))

    def made(texts: Texts) -> Any:
        try:
            with tokenizing_for(meter):
                return make(texts)
        except BaseException as error:  # tokenizers raise bare exceptions, those in Rust panic
            if is_out_of_memory(error):
                raise
            why = encoding_problem(error)
        raise RefusedError(f"it cannot be tokenized: {why}")

    sizes = [None if None in row else sum(map(len, row)) for row in rows]
    stream = Stream(TextRunner(), encode, sizes, meter, _BATCH, longest)
    kept = None if kind is None else KeptColumns.of(parts)
    claims = KeptResults(kept, kind, sink) if kept and isinstance(sink, ColumnSink) else None
    Driver(stream, made, sink, claims=claims).run()
    return stream.failures
