"""`explain` says in words what is left of a plan."""

from __future__ import annotations

import io

import dask.dataframe as dd
import pandas as pd
import pytest

import dask_embed as de


@pytest.fixture
def embedded(minilm: str) -> dd.DataFrame:
    frame = pd.DataFrame({"id": [1, 2], "lang": ["en", "de"], "text": ["a", "b"]})
    return dd.from_pandas(frame, npartitions=2).ml.embed("text", model=minilm)


def _explained(frame: dd.DataFrame) -> str:
    out = io.StringIO()
    de.explain(frame, file=out)
    return out.getvalue()


def test_names_steps_columns_and_filters_in_order(embedded: dd.DataFrame, minilm: str) -> None:
    lines = _explained(embedded[embedded.lang == "en"][["id", "embedding"]]).splitlines()
    steps = [line.split(". ", 1)[1] for line in lines if line[:4].strip().rstrip(".").isdigit()]
    assert lines[0] == "Plan (2 partitions), first step first:"
    assert steps == [
        "read a pandas frame in memory: columns id, lang, text",
        "keep columns id, text",
        "keep rows where (lang == 'en')",
        "run Embedder on text -> embedding",
        "keep columns id, embedding",
    ]
    details = [line.strip() for line in lines]
    assert any(line.startswith(f"model {minilm} at revision local-") for line in details)
    assert "384 x float32, mean pooling, normalize" in details
    assert "over columns id, text" in details
    assert "over rows where (lang == 'en')" in details


def test_a_filter_on_the_result_stays_above(embedded: dd.DataFrame) -> None:
    text = _explained(embedded[embedded.embedding.notnull()])
    assert text.index("run Embedder") < text.index("keep rows where")
    assert "over all rows that reach it" in text


def test_a_removed_operator_is_said_to_be_removed(embedded: dd.DataFrame) -> None:
    text = _explained(embedded[["id"]])
    assert "run Embedder" not in text
    assert "not run: Embedder on text -> embedding, no result column is used" in text


def test_series_and_parquet(embedded: dd.DataFrame, tmp_path) -> None:
    embedded.drop(columns="embedding").to_parquet(tmp_path)
    text = _explained(dd.read_parquet(tmp_path).ml.embed("text", model=de.datasets.minilm()).id)
    assert f"read Parquet {tmp_path}: columns id" in text


def test_explaining_runs_nothing(embedded: dd.DataFrame, rows_through_model) -> None:
    assert rows_through_model(lambda: _explained(embedded)) == 0


def test_a_pandas_frame_is_refused() -> None:
    with pytest.raises(TypeError, match="explain takes a Dask DataFrame or Series, got DataFrame"):
        de.explain(pd.DataFrame({"a": [1]}))
