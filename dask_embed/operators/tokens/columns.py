"""Token lists as columns."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from dask_embed.tokens.encoded import Row
from dask_embed.tokens.sequences import too_long
from dask_embed.tokens.sharing import tokenize_once
from dask_embed.tokens.texts import Made

if TYPE_CHECKING:
    from dask_embed.tokens.lists import TextTokenizer, TokenLists
    from dask_embed.tokens.sequences import Origins

OFFSET = pa.struct([("start", pa.int32()), ("end", pa.int32()), ("part", pa.int8())])


@dataclasses.dataclass(frozen=True)
class OneList:
    """A tokenizer of single texts in the form of `SequenceTokenizer`."""

    lists: TextTokenizer

    def __call__(
        self, texts: list[str], pairs: list[str] | None
    ) -> tuple[np.ndarray, TokenLists, list[Origins] | None]:
        return np.arange(len(texts)), tokenize_once(self.lists, texts), None


@dataclasses.dataclass(frozen=True)
class RowEncoder:
    """Turn rows of texts into result columns."""

    sequences: Callable[..., Any]
    limit: int | None
    windows: bool = False

    def __call__(self, rows: Sequence[Row]) -> Made:
        pairs = [row[1] for row in rows] if rows and len(rows[0]) == 2 else None
        owners, tokens, origins = self.sequences([row[0] for row in rows], pairs)
        failures = too_long(tokens, self.limit)
        kept = np.array([row for row in range(len(rows)) if row not in failures], np.int64)
        if failures:  # then every row has one list
            tokens = tokens.take(kept)
            origins = origins and [origins[row] for row in kept]
            owners = np.arange(len(kept))
        starts = np.searchsorted(owners, np.arange(len(kept) + 1))
        ends = tokens.offsets[starts]
        columns = [pa.array(tokens.values, pa.int32()), pa.array(np.diff(ends), pa.int32())]
        if origins is not None:
            columns.append(_offsets(origins))
        for place in range(0, len(columns), 2):
            columns[place] = self._nested(columns[place], tokens.offsets, starts)
        return Made(kept, columns, failures)

    def _nested(self, values: pa.Array, ends: np.ndarray, starts: np.ndarray) -> pa.Array:
        lists = pa.ListArray.from_arrays(pa.array(ends, pa.int32()), values)
        if not self.windows:
            return lists
        return pa.ListArray.from_arrays(pa.array(starts, pa.int32()), lists)


def _offsets(origins: Sequence[Origins]) -> pa.Array:
    spans = np.concatenate([np.zeros((0, 2), np.int64), *(origin.offsets for origin in origins)])
    parts = np.concatenate([np.zeros(0, np.int8), *(origin.parts for origin in origins)])
    arrays = [pa.array(spans[:, 0]), pa.array(spans[:, 1]), pa.array(parts)]
    fields = zip(arrays, OFFSET, strict=True)
    return pa.StructArray.from_arrays(
        [array.cast(field.type) for array, field in fields], fields=list(OFFSET)
    )
