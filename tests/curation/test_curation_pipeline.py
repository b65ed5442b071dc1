"""A corpus from raw to clean as one lazy graph on a cluster, also where a worker dies."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import pandas as pd
import pytest
from distributed import Client
from support import headed, tiny
from support.clusters import cluster

import dask_embed as de

ROWS = 120
PARTITIONS = 6
HELD = 72  # in the fourth of them


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("pipeline")
    classifier = headed.save("bert", "classify", folder / "classifier", num_labels=3)
    return str(tiny.save("bert", folder / "model")), str(classifier)


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    """Texts of which every fifth nearly repeats one, every tenth is short and one is null."""
    texts = [text[:160] for text in tiny.corpus()[:ROWS]]
    for row in range(5, ROWS, 5):
        texts[row] = f"{texts[row - 5]} again"
    for row in range(0, ROWS, 10):
        texts[row] = "short"
    return pd.DataFrame({"id": range(ROWS), "text": [None, *texts[1:]]})


def pipeline(
    ddf: Any, models: tuple[str, str], folder: Path, between: Callable[[Any], Any] | None = None
) -> Any:
    """Return the writing of a clean corpus, nothing run; `between` sees embedded partitions."""
    ddf = ddf.ml.text_statistics("text")
    ddf = ddf[ddf.text_words >= 3]
    ddf = ddf.ml.embed("text", model=models[0])
    if between is not None:
        ddf = ddf.map_partitions(between, meta=ddf._meta)
    ddf = ddf.ml.drop_fuzzy_duplicates("text", id="id", threshold=0.6, ngram=2)
    ddf = ddf.ml.drop_semantic_duplicates(id="id", threshold=0.999, n_clusters=2)
    ddf = ddf.ml.classify("text", model=models[1])
    ddf = ddf[ddf.label_score > 0.5]
    return ddf.ml.to_parquet(folder, compute=False)


def written(folder: Path) -> pd.DataFrame:
    return de.read_parquet(folder).compute().sort_values("id", ignore_index=True)


def rows_by_model(client: Client) -> Counter[str]:
    """Return the rows that each operator with a model ran on the workers that live."""
    ran = de.stats(client)
    return Counter(ran[ran.rows > 0].groupby("operator").rows.sum().to_dict())


@pytest.fixture(scope="module")
def whole(frame: pd.DataFrame, models: tuple[str, str], tmp_path_factory: Any) -> pd.DataFrame:
    """Return what one step after the other leaves, each on a frame in memory."""
    left = frame[frame.text.str.split().str.len().fillna(0) >= 3]
    left = dd.from_pandas(left, npartitions=1).ml.embed("text", model=models[0]).compute()
    for step, options in (
        ("drop_fuzzy_duplicates", {"column": "text", "threshold": 0.6, "ngram": 2}),
        ("drop_semantic_duplicates", {"threshold": 0.999, "n_clusters": 2}),
    ):
        ddf = dd.from_pandas(left, npartitions=1)
        left = getattr(ddf.ml, step)(id="id", **options).compute()
    left = left.ml.classify("text", model=models[1])
    return left[left.label_score > 0.5].reset_index(drop=True)


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with cluster(2, 1, processes=True) as found:
        yield found


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(600)
def test_each_model_sees_each_row_that_is_left_once(
    client: Client,
    frame: pd.DataFrame,
    models: tuple[str, str],
    whole: pd.DataFrame,
    tmp_path: Path,
) -> None:
    ddf = dd.from_pandas(frame, npartitions=PARTITIONS)
    before = rows_by_model(client)
    client.compute(pipeline(ddf, models, tmp_path / "clean")).result(timeout=300)
    ran = rows_by_model(client) - before
    got = written(tmp_path / "clean")
    assert got.id.tolist() == whole.id.tolist()
    assert got.label.tolist() == whole.label.tolist()
    enough = frame.text.str.split().str.len().fillna(0) >= 3
    assert ran["Embedder"] == enough.sum()
    assert len(whole) < ran["Classifier"] < ran["Embedder"] < ROWS


def _held(path: Path) -> Callable[[Any], Any]:
    """Return a step that stops at one partition until its worker is killed."""

    def wait(partition: pd.DataFrame) -> pd.DataFrame:
        if not (partition["id"] == HELD).any():
            (path / f"passed-{len(partition)}").touch()
        elif not list(path.glob("held-*")):
            (path / f"held-{os.getpid()}").touch()
            while True:
                time.sleep(0.05)
        return partition

    return wait


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(600)
def test_a_worker_that_is_killed_changes_nothing(
    client: Client,
    frame: pd.DataFrame,
    models: tuple[str, str],
    whole: pd.DataFrame,
    tmp_path: Path,
) -> None:
    at = tmp_path / "at"
    at.mkdir()
    ddf = dd.from_pandas(frame, npartitions=PARTITIONS)
    running = client.compute(pipeline(ddf, models, tmp_path / "clean", _held(at)))
    deadline = time.monotonic() + 200
    while not (held := list(at.glob("held-*"))) or not list(at.glob("passed-*")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(int(held[0].name.removeprefix("held-")), signal.SIGKILL)
    running.result(timeout=300)
    got = written(tmp_path / "clean")
    assert got.id.tolist() == whole.id.tolist()
    assert got.label.tolist() == whole.label.tolist()
