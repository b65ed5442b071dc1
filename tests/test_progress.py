"""The bar counts the rows that models have finished."""

from __future__ import annotations

import io
import threading

import dask.dataframe as dd
import pandas as pd
import pytest

import dask_embed as de


def test_shows_all_rows_and_a_rate(minilm: str) -> None:
    # repeats and nulls: a repeated text counts each time, a null has no row to run
    frame = pd.DataFrame({"text": ["one", "two", "one", None, "three two one"]})
    shown = io.StringIO()
    with de.progress(total=4, description="embed", file=shown):
        dd.from_pandas(frame, npartitions=2).ml.embed("text", model=minilm).compute()
    last = shown.getvalue().replace("\n", "\r").split("\r")
    assert any("embed: 100%" in line and "4/4" in line and "rows/s" in line for line in last)


def test_stops_watching_after_an_error() -> None:
    with pytest.raises(RuntimeError, match="lost"), de.progress(total=1, file=io.StringIO()):
        raise RuntimeError("lost")
    assert not [t for t in threading.enumerate() if t.name == "dask-embed-progress"]
