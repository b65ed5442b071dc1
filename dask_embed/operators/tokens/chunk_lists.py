"""The chunks of each row as one value, which a cache of rows can keep."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa

from dask_embed.columns import Result, append_columns
from dask_embed.columns.pandas import series_to_arrow, to_arrow
from dask_embed.operators.cached import through_cache


def chunks_through_cache(chunker: Any, partition: Any) -> Any:
    """Return what a `Chunker` makes of a pandas partition; rows that its cache knows do not run."""
    lists = _Lists(chunker)
    texts = partition[[chunker.column]]
    kept = through_cache((lists,), texts, lists.run)
    rows, results = lists.flat(kept)
    return append_columns(chunker.kept(partition).iloc[rows], results)


@dataclasses.dataclass(frozen=True)
class _Lists:
    """A `Chunker` as an operator that appends a list for each of its columns."""

    chunker: Any

    @property
    def cache(self) -> Any:
        return self.chunker.cache

    @property
    def on_error(self) -> str:
        return str(self.chunker.on_error)

    @property
    def input_columns(self) -> tuple[str, ...]:
        return (self.chunker.column,)

    @property
    def statistics_name(self) -> str:
        return type(self.chunker).__name__

    @property
    def subject(self) -> str:
        return str(self.chunker.spec.name)

    @property
    def error_column(self) -> str:
        return self._name(f"{self.chunker.output}_error")

    def types(self) -> dict[str, pa.DataType]:
        types = self.chunker.types()
        # names that cannot be that of the text, the one column beside them
        return {self._name(name): pa.list_(types[name]) for name in self.chunker.result_columns}

    def provenance(self) -> dict[str, Any]:
        told: dict[str, Any] = self.chunker.provenance()
        return told

    def _name(self, column: str) -> str:
        return f"{self.chunker.column} {column}"

    def run(self, texts: Any) -> Any:
        """Return rows of texts with the lists of their chunks."""
        with self.chunker.metered(len(texts)) as meter:
            rows, results = self.chunker.chunked(texts, meter)
            with meter.seconds("convert"):
                first = np.searchsorted(rows, np.arange(len(texts) + 1)).astype(np.int32)
                lists: dict[str, Result] = {
                    self._name(name): pa.ListArray.from_arrays(first, to_arrow(results[name]))
                    for name in self.chunker.result_columns
                }
                if self.on_error == "null":
                    errors = to_arrow(results[self.chunker.error_column])
                    lists[self.error_column] = errors.take(pa.array(first[:-1]))
                return append_columns(texts, lists)

    def flat(self, kept: Any) -> tuple[np.ndarray, dict[str, Result]]:
        """Return the row that each chunk is of, and the columns of chunks."""
        lists = {name: series_to_arrow(kept[name], each) for name, each in self.types().items()}
        counts = next(iter(lists.values())).value_lengths().to_numpy()
        rows = np.repeat(np.arange(len(kept)), counts)
        results: dict[str, Result] = {}
        for name in self.chunker.output_columns:
            if name in self.chunker.result_columns:
                results[name] = lists[self._name(name)].flatten()
            else:
                errors = series_to_arrow(kept[self.error_column], pa.string())
                results[name] = errors.take(pa.array(rows))
        return rows, results
