"""A text that UTF-8 has not, wherever it stands, is told with where that is, by no other library.

pandas keeps such a text in columns of objects alone; Dask makes strings of these by default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from support.counting import Length

import dask_embed as de

BAD = "bad \ud800"
VECTORS = pa.array(np.ones((6, 3), "float32").tolist(), pa.list_(pa.float32(), 3))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with dask.config.set(scheduler="synchronous"):
        yield


def frame(column: str | None, *, convert: bool = True) -> dd.DataFrame:
    """Six rows in two partitions, of which the fifth holds the text, in objects of Python."""
    rows = pd.DataFrame(
        {
            "id": pd.Series([f"i{row}" for row in range(6)], dtype=object),
            "text": pd.Series([f"text {row}" for row in range(6)], dtype=object),
            "vector": pd.arrays.ArrowExtensionArray(VECTORS),
        }
    )
    if column is not None:
        rows.loc[4, column] = BAD
    with dask.config.set({"dataframe.convert-string": convert}):
        return dd.from_pandas(rows, npartitions=2)


Step = Callable[[dd.DataFrame, str], Any]
OF_IDS: dict[str, Step] = {
    "parquet": lambda f, to: f.ml.to_parquet(to),
    "a column for folders": lambda f, to: f.ml.to_parquet(to, partition_on="id"),
    "rows that are resumed": lambda f, to: Length()(f).ml.to_parquet(to, resume="rows", id="id"),
    "exact": lambda f, to: f.ml.mark_exact_duplicates("text", id="id").compute(),
    "dropped": lambda f, to: f.ml.drop_exact_duplicates("text", id="id").compute(),
    "fuzzy": lambda f, to: f.ml.mark_fuzzy_duplicates("text", id="id").compute(),
    "semantic": lambda f, to: f.ml.mark_semantic_duplicates("vector", id="id").compute(),
    "nearest": lambda f, to: f.ml.nearest(f, k=2, column="vector", id="id").compute(),
}
OF_TEXTS: dict[str, Step] = {
    "exact": lambda f, to: f.ml.mark_exact_duplicates("text").compute(),
    "fuzzy": lambda f, to: f.ml.mark_fuzzy_duplicates("text").compute(),
    "signatures": lambda f, to: f.ml.fuzzy_signatures("text").compute(),
    "statistics": lambda f, to: f.ml.text_statistics("text").compute(),
    "language": lambda f, to: f.ml.detect_language("text").compute(),
    "cached": lambda f, to: f.ml.text_statistics("text", cache=to).compute(),
}


@pytest.mark.parametrize("convert", [True, False])
@pytest.mark.parametrize(
    ("column", "name"), [*(("id", name) for name in OF_IDS), *(("text", name) for name in OF_TEXTS)]
)
def test_the_column_and_the_row_are_told(
    column: str, name: str, convert: bool, tmp_path: Path
) -> None:
    step = (OF_IDS if column == "id" else OF_TEXTS)[name]
    with pytest.raises(ValueError, match=f"column '{column}'") as told:
        step(frame(column, convert=convert), str(tmp_path / "out"))
    said = str(told.value)
    assert "cannot be encoded as UTF-8 (surrogates not allowed at position 4)" in said
    assert "row 1 of the partition" in said or "index 4" in said
    assert "\n" not in said


@pytest.mark.parametrize("convert", [True, False])
@pytest.mark.parametrize("kind", ["lance", "delta"])
def test_of_tables_too(kind: str, convert: bool, tmp_path: Path) -> None:
    pytest.importorskip("lance" if kind == "lance" else "deltalake")
    with pytest.raises(ValueError, match=r"column 'id'.* cannot be encoded as UTF-8"):
        getattr(frame("id", convert=convert).ml, f"to_{kind}")(str(tmp_path / "out"))


@pytest.mark.parametrize("name", ["exact", "parquet"])
def test_a_column_that_is_not_read_is_told_where_dask_makes_strings(
    name: str, tmp_path: Path
) -> None:
    given = frame("id")[["text", "vector"]]
    with pytest.raises(ValueError, match=r"column 'id' has a text .* first at index 4: text ca"):
        OF_IDS[name](given, str(tmp_path)) if name == "parquet" else OF_TEXTS[name](given, "")
    kept = frame("id", convert=False)[["text", "vector"]]
    assert kept.ml.mark_exact_duplicates("text").compute().exact_kept.all()
    kept.ml.to_parquet(tmp_path / "out")
    assert len(de.read_parquet(tmp_path / "out")) == 6


NAMED: dict[str, Callable[[dd.DataFrame, str], Any]] = {
    "path": lambda f, to: f.ml.to_parquet(f"{to}/{BAD}"),
    "custom_metadata": lambda f, to: f.ml.to_parquet(to, custom_metadata={"a": BAD}),
    "custom_metadata ": lambda f, to: f.ml.to_parquet(to, custom_metadata={BAD: "a"}),
    "index": lambda f, to: f.rename_axis(BAD).ml.to_parquet(to, write_index=True),
    "output": lambda f, to: f.ml.text_statistics("text", output=BAD),
    "prefix": lambda f, to: f.ml.mark_exact_duplicates("text", prefix=BAD),
    "cache": lambda f, to: f.ml.text_statistics("text", cache=f"{to}/{BAD}"),
}


@pytest.mark.parametrize("name", NAMED)
def test_names_are_told(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"{name.strip()}.* cannot be encoded as UTF-8"):
        NAMED[name](frame(None), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
