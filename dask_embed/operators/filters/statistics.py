"""Texts to the measures that corpora are filtered by."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from typing import ClassVar

import pyarrow as pa

from dask_embed._validation import one_of, strings
from dask_embed.operators.filters.base import TextFilter
from dask_embed.operators.filters.measures import MEASURES
from dask_embed.operators.filters.pieces import blocks


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextStatistics(TextFilter):
    """Append what texts are filtered by: words, repeated lines, ...; lazy on a Dask DataFrame.

    Parameters
    ----------
    column : str
        The text column.
    output : str
        What the columns begin with: ``<output>_words``, ``<output>_letters``, ...
    columns : sequence of str, optional
        Names of the measures, by default all. On a Dask DataFrame only those are computed that
        something asks for, so that there is no need to name them.
    on_error
        See `ColumnOperator`.

    Examples
    --------
    >>> import pandas as pd
    >>> import dask_embed as de
    >>> frame = pd.DataFrame({"text": ["One line.\\nOne line.", None]})
    >>> out = de.TextStatistics(columns=["words", "duplicate_lines"])(frame)
    >>> out[["text_words", "text_duplicate_lines"]].iloc[0].tolist()
    [4.0, 0.5]

    Notes
    -----
    Counts are int32, the rest float32; of a null all are null, of an empty text 0. Every measure is
    defined in ``docs/operators.md`` and `dask_embed.operators.filters.measures`, with its sources:
    Gopher (arXiv:2112.11446, A.1.1), C4 (JMLR 21/140, 2.2), FineWeb (arXiv:2406.17557, 3.6).
    Memory: some fifty bytes a character, of two million characters at a time.
    """

    method: ClassVar[str] = "text_statistics"

    columns: Sequence[str] | None = None

    incidental: ClassVar[frozenset[str]] = frozenset({"columns"})

    def __post_init__(self) -> None:
        if self.columns is not None:
            object.__setattr__(self, "columns", strings("columns", self.columns))
            if not self.columns:
                raise ValueError("columns must name a measure at least; leave it out for all")
            for name in self.columns:
                one_of("columns", name, tuple(MEASURES))
        super().__post_init__()

    @property
    def measures(self) -> tuple[str, ...]:
        """The names of what is measured."""
        return tuple(MEASURES if self.columns is None else self.columns)

    @property
    def result_columns(self) -> tuple[str, ...]:
        return tuple(f"{self.output}_{name}" for name in self.measures)

    def types(self) -> dict[str, pa.DataType]:
        types = [MEASURES[name].dtype for name in self.measures]
        return dict(zip(self.result_columns, types, strict=True))

    def keeping(self, wanted: Collection[str]) -> TextStatistics:
        """Return the operator without measures that nobody asks for."""
        named = zip(self.measures, self.result_columns, strict=True)
        kept = tuple(name for name, column in named if column in wanted) or self.measures[:1]
        return self if kept == self.measures else dataclasses.replace(self, columns=kept)

    def plan(self) -> list[str]:
        more = ", ..." if len(self.measures) > 5 else ""
        return [f"{len(self.measures)} measures: {', '.join(self.measures[:5])}{more}"]

    def measured(self, texts: list[str]) -> dict[str, pa.Array]:
        return measured(self.measures, texts, self.types())


def measured(
    names: Sequence[str], texts: list[str], types: dict[str, pa.DataType]
) -> dict[str, pa.Array]:
    """Return measures of texts, as columns of these names and types in the same order."""
    parts: list[list[pa.Array]] = [[pa.array([], dtype)] for dtype in types.values()]
    for block in blocks(texts):
        for name, dtype, part in zip(names, types.values(), parts, strict=True):
            part.append(pa.array(MEASURES[name].take(block)).cast(dtype))
    return dict(zip(types, map(pa.concat_arrays, parts), strict=True))
