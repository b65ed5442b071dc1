"""Steps over many small partitions: tasks grow with their number, not with its square."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest

import dask_embed as de
from dask_embed.curation import moving
from dask_embed.curation.vectors import vector_series

ROWS = 200


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    """Texts and vectors of which some repeat, ids in no order."""
    random = np.random.default_rng(0)
    numbers = random.integers(80, size=ROWS)
    texts = [f"one text of several words with the number {number}" for number in numbers]
    vectors = random.normal(size=(ROWS, 4)).astype(np.float32)
    vectors[::3] = vectors[0]
    embedding = vector_series(vectors)
    return pd.DataFrame({"id": random.permutation(ROWS), "text": texts, "embedding": embedding})


def exact(ddf: Any) -> Any:
    return ddf.ml.mark_exact_duplicates("text", id="id")


def fuzzy(ddf: Any) -> Any:
    return ddf.ml.mark_fuzzy_duplicates("text", id="id", threshold=0.6, ngram=2)


def stars(ddf: Any) -> Any:
    given = {"threshold": 0.6, "ngram": 2, "components": "stars"}
    return ddf.ml.mark_fuzzy_duplicates("text", id="id", **given)


def semantic(ddf: Any) -> Any:
    return ddf.ml.mark_semantic_duplicates(id="id", threshold=0.9, n_clusters=3)


def cluster(ddf: Any) -> Any:
    return ddf[["id", "embedding"]].ml.cluster(n_clusters=3)


def neighbours(ddf: Any) -> Any:
    return ddf.ml.nearest(k=2, id="id")


def beside(ddf: Any) -> Any:
    return ddf[["id", "embedding"]].ml.nearest(k=2, lists=True)


QUICK = [exact, fuzzy, semantic, cluster, neighbours, beside]
STEPS = [*QUICK, pytest.param(stars, marks=pytest.mark.slow)]


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moving, "_FEW", 2)


@pytest.mark.parametrize("step", QUICK)
def test_tasks_grow_with_partitions(frame: pd.DataFrame, step: Callable[[Any], Any]) -> None:
    tasks = []
    for npartitions in (16, 64):
        with dask.config.set({"dataframe.shuffle.method": "tasks"}):
            made = step(dd.from_pandas(frame, npartitions=npartitions)).optimize()
        tasks.append(len(made.__dask_graph__()))
    assert tasks[1] < 4.5 * tasks[0]


@pytest.mark.parametrize("step", STEPS)
def test_the_same_of_many_partitions_as_of_one(
    frame: pd.DataFrame, step: Callable[[Any], Any]
) -> None:
    whole, cut = (step(dd.from_pandas(frame, npartitions=n)).compute() for n in (1, 9))
    pd.testing.assert_frame_equal(cut.reset_index(drop=True), whole.reset_index(drop=True))


def test_partitions_that_get_no_rows_are_empty() -> None:
    rows = pd.DataFrame({"row": [7, 2, 7], "to": [5, 0, 5]})
    assert {k: list(v["row"]) for k, v in moving._cut(rows, _to, ()).items() if k is not None} == {
        0: [2],
        5: [7, 7],
    }
    assert list(moving._cut(rows[:0], _to, ())) == [None]


@pytest.mark.parametrize("step", QUICK[:3])
def test_few_duplicates_among_many_partitions(step: Callable[[Any], Any]) -> None:
    places = [*range(20), 0]  # most partitions of decisions get none
    texts = [" ".join(f"{chr(97 + place)}{word}" for word in range(6)) for place in places]
    vectors = vector_series(np.eye(21, dtype=np.float32)[places])
    rows = pd.DataFrame({"id": [*range(20), 1000], "text": texts, "embedding": vectors})
    marked = step(dd.from_pandas(rows, npartitions=21)).compute()
    assert list(marked["id"][~marked.filter(like="_kept").iloc[:, 0]]) == [1000]


@pytest.mark.parametrize("method", ["disk", "tasks"])
def test_rows_arrive_where_they_are_sent(method: str) -> None:
    frame = pd.DataFrame({"row": np.arange(1000), "to": np.arange(1000) * 7 % 30})
    ddf = dd.from_pandas(frame, npartitions=50)
    with dask.config.set({"dataframe.shuffle.method": method}):
        found = dask.compute(*moving.moved(ddf, 30, _to).to_delayed())
    assert len(found) == 30
    for number, part in enumerate(found):
        expected = frame[frame["to"] == number]
        assert sorted(part["row"]) == list(expected["row"])


def _to(frame: pd.DataFrame) -> np.ndarray:
    return frame["to"].to_numpy()


def test_how_many_partitions_are_shuffled_may_be_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert [moving.fewer(n) for n in (0, 1, 32, 33, 1000, 10_000)] == [1, 1, 32, 32, 62, 200]
    with dask.config.set({"embed.shuffle-partitions": 500}):
        assert [moving.fewer(n) for n in (16, 10_000)] == [16, 500]
    for wrong in (0, "many", True):
        with (
            dask.config.set({"embed.shuffle-partitions": wrong}),
            pytest.raises(ValueError, match="shuffle-partitions must be a positive integer"),
        ):
            moving.fewer(4)


@pytest.mark.parametrize("step", QUICK[:3])
def test_rows_of_files_are_filtered_by_marks_whatever_columns_are_asked_for(
    frame: pd.DataFrame, step: Callable[[Any], Any], tmp_path: Path
) -> None:
    wide = frame.assign(text=frame["text"] + " more" * 200)  # so that Dask joins files for the id
    dd.from_pandas(wide, npartitions=6).ml.to_parquet(tmp_path / "files")
    marked = step(de.read_parquet(tmp_path / "files"))
    kept = next(name for name in marked.columns if name.endswith("_kept"))
    left = marked.compute()
    left = left[left[kept]]
    rows = marked[marked[kept]]
    assert len(rows) == rows.shape[0].compute() == rows["id"].count().compute() == len(left)
    assert rows["id"].compute().tolist() == left["id"].tolist()
    assert de.curation_report(rows).rows_out.tolist() == [len(left)]
