"""Operators without a model that count the rows they get, and `map_partitions` in their place."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa

import dask_embed as de

ROWS: Counter[str] = Counter()  # by output column


@dataclasses.dataclass(frozen=True, kw_only=True)
class Length(de.ColumnOperator):
    """Number of characters of a text."""

    column: str = "text"
    output: str = "length"

    nulls_follow_inputs: ClassVar[bool] = True

    @property
    def result_columns(self) -> tuple[str, ...]:
        return (self.output,)

    def types(self) -> dict[str, pa.DataType]:
        return {self.output: pa.int64()}

    def plan(self) -> list[str]:
        return ["number of characters"]

    def provenance(self) -> dict[str, Any]:
        return {"operator": "Length"}

    def run(self, columns: list[Any], *, on_device: bool, meter: Any) -> Any:
        texts = columns[0].values
        ROWS[self.output] += len(texts)
        lengths = [None if text is None else len(text) for text in texts]
        return {self.output: pa.array(lengths, pa.int64())}, {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unsaid(Length):
    """It does not say what becomes of nulls."""

    nulls_follow_inputs: ClassVar[bool] = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class LengthVector(Length):
    """A vector of the number of characters and twice as much."""

    output: str = "vector"

    nulls_follow_inputs: ClassVar[bool] = True  # its `run` is another one

    def types(self) -> dict[str, pa.DataType]:
        return {self.output: pa.list_(pa.float32(), 2)}

    def run(self, columns: list[Any], *, on_device: bool, meter: Any) -> Any:
        texts = columns[0].values
        ROWS[self.output] += len(texts)
        vectors = [None if text is None else [1.0 * len(text), 2.0 * len(text)] for text in texts]
        return {self.output: pa.array(vectors, self.types()[self.output])}, {}


def sources_of(pdf: pd.DataFrame, folder: Path) -> dict[str, Any]:
    """The frame in memory, and from files in both ways that Dask reads them."""
    ddf = dd.from_pandas(pdf, npartitions=4)
    ddf.to_parquet(folder)
    arrow = dd.read_parquet(folder, filesystem="arrow")
    return {"pandas": ddf, "parquet": dd.read_parquet(folder), "arrow": arrow}


def mapped(frame: Any, operator: de.ColumnOperator) -> dd.DataFrame:
    """The operator as an opaque function of partitions, about which Dask knows nothing."""
    return frame.map_partitions(operator.apply, meta=operator.meta(frame._meta))


def rows_of(work: Callable[[], Any]) -> int:
    """How many rows operators get while `work` runs."""
    ROWS.clear()
    work()
    return ROWS.total()


def table(rows: int = 40) -> pd.DataFrame:
    number = np.arange(rows)
    return pd.DataFrame(
        {
            "id": number,
            "lang": np.array(["en", "de", "fr", "it"])[number % 4],
            "text": [f"row {i} " + "of words " * (i * 7 % 5) for i in number],
            "weight": (number * 37 % 101).astype(float),
            "num": number * 17 % 41,
        },
        index=pd.Index(number * 10, name="key"),
    ).astype({"lang": "string[pyarrow]", "text": "string[pyarrow]"})
