"""Where only the nulls of results are asked for, an operator that is known to keep them rests.

Expected values are those of the same steps in the order in which they are written.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import dask
import dask.dataframe as dd
import pandas as pd
import pytest
from support.contract import assert_same_frame, shared_tiny_bert
from support.counting import Length, LengthVector, rows_of
from support.row_chains import as_written, table

import dask_embed as de
from dask_embed.lazy.nulls import inputs_by_result

NULLS = 4  # of the 40 texts of the table: rows 5, 16, 27 and 38


@pytest.fixture(autouse=True)
def _in_order() -> Any:
    with dask.config.set({"scheduler": "sync"}):
        yield


def lengths() -> Any:
    return Length()(dd.from_pandas(table(), npartitions=4))


def nearest() -> Any:
    directions = {"a": [1.0, 0.5], "b": [0.5, 1.0]}
    vectors = LengthVector()(dd.from_pandas(table(), npartitions=4))
    return de.Similarity(prototypes=directions, column="vector", output="nearest")(vectors)


ASKED: dict[str, tuple[Callable[[], Any], int]] = {
    "notnull": (lambda: lengths().length.notnull(), 0),
    "isna of the frame": (lambda: lengths().isna(), 0),
    "isna of some columns": (lambda: lengths()[["id", "length"]].isna(), 0),
    "count": (lambda: lengths().count(), 0),
    "dropna": (lambda: lengths().dropna(subset=["length"]), 40 - NULLS),
    "dropna, unused": (lambda: lengths().dropna(subset=["length"])[["id"]], 0),
    "dropna of everything": (lambda: lengths().dropna(), 23),
    "rows without a result": (lambda: (lambda f: f[f.length.isna()])(lengths()), NULLS),
    "dropna after assign": (
        lambda: lengths().assign(twice=lambda f: f.num * 2).dropna(subset=["length"]),
        40 - NULLS,
    ),
    "dropna after rename": (
        lambda: lengths().rename(columns={"length": "l", "text": "t"}).dropna(subset=["l"]),
        40 - NULLS,
    ),
    "result of a result": (lambda: nearest().dropna(subset=["nearest"])[["id"]], 0),
    "both results": (lambda: nearest().isna(), 0),
    "quantized": (lambda: halved().dropna(subset=["vector"])[["id"]], 0),
    "nulls and values": (
        lambda: (lambda f: f[f.length.notnull() & (f.length > 30)])(lengths()),
        40 - NULLS,
    ),
    "nulls, then values": (
        lambda: (lambda f: f[f.length > 30])(lengths().dropna(subset=["length"])),
        40 - NULLS,
    ),
}


def halved() -> Any:
    return de.quantize(LengthVector()(dd.from_pandas(table(), npartitions=4)), "vector", "float16")


@pytest.mark.parametrize("name", ASKED)
def test_rows_that_run(name: str) -> None:
    build, rows = ASKED[name]
    lazy, given = build(), []  # type: ignore[var-annotated]
    assert rows_of(lambda: given.append(lazy.compute())) == rows
    expected = as_written(lazy)
    assert len(expected)
    if isinstance(expected, pd.DataFrame):
        assert_same_frame(given[0], expected)
    else:
        pd.testing.assert_series_equal(given[0], expected)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unsure(Length):
    """Has a `run` of its own, of which nothing is said."""

    def run(self, columns: list[Any], *, on_device: bool, meter: Any) -> Any:
        return super().run(columns, on_device=on_device, meter=meter)


class Hollow(de.Embedder):
    """Reads in a way of its own, which may find nulls where the column has none."""

    def read(self, series: Any) -> Any:
        return super().read(series.where(series != ""))


def test_which_operators_say_so(tmp_path_factory: pytest.TempPathFactory) -> None:
    """One whose `run` is another says nothing; neither does one that makes bad rows null."""
    model = shared_tiny_bert(tmp_path_factory)
    assert inputs_by_result(Length()) == {"length": ("text",)}
    assert inputs_by_result(Unsure()) == {}
    assert inputs_by_result(Length(on_error="null")) == {}
    assert inputs_by_result(de.Embedder(model)) == {"embedding": ("text",)}
    assert inputs_by_result(Hollow(model)) == {}
    assert inputs_by_result(de.Tokenizer(model)) == {}


@pytest.mark.usefixtures("one_torch_thread")
def test_empty_texts_have_vectors(tmp_path_factory: pytest.TempPathFactory) -> None:
    """An empty text is no null, and a null in one of many inputs is one of the result."""
    model = shared_tiny_bert(tmp_path_factory)
    pdf = pd.DataFrame({"text": ["", None, "a", " "]}).astype("string[pyarrow]")
    lazy = de.Embedder(model)(dd.from_pandas(pdf, npartitions=2))
    assert lazy.embedding.isna().compute().tolist() == [False, True, False, False]
    assert as_written(lazy).embedding.isna().tolist() == [False, True, False, False]
    assert lazy.embedding.count().compute() == 3
