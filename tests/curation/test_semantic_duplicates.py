"""Semantic duplicates: the rows that a walk through all pairs keeps, in any partitions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from support import tiny
from support.clusters import cluster

import dask_embed as de
from dask_embed.curation import bordering
from dask_embed.curation.kmeans import Centres, assign
from dask_embed.curation.measures import unit
from dask_embed.curation.vectors import vector_series

ROWS, DIMENSION, THRESHOLD = 450, 16, 0.97


def some_frame() -> pd.DataFrame:
    """Rows of which three each are about alike, some equal, some null, one zero."""
    random = np.random.default_rng(0)
    means = np.repeat(random.normal(size=(ROWS // 3, DIMENSION)), 3, axis=0)
    vectors = (means + random.normal(size=means.shape) * 0.15).astype("float32")
    vectors = vectors[random.permutation(ROWS)]
    vectors[50:60] = vectors[0]
    vectors[70] = 0
    frame = pd.DataFrame({"id": [f"r{row:04}" for row in range(ROWS)]})
    frame["quality"] = random.integers(0, 4, ROWS)
    frame["embedding"] = vector_series(vectors)
    frame.loc[[5, 400], "embedding"] = None
    return frame


def lazy(frame: pd.DataFrame, npartitions: int = 4) -> Any:
    return dd.from_pandas(frame, npartitions=npartitions, sort=False)


def cosines(frame: pd.DataFrame) -> np.ndarray:
    vectors = np.nan_to_num(de.to_array(frame.embedding).astype(float))
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return vectors @ vectors.T


def greedy(similarity: np.ndarray, order: Any, threshold: float = THRESHOLD) -> list[int]:
    """Walk through rows in order: each is kept unless it is like one that is kept."""
    kept: list[int] = []
    for row in order:
        if not (similarity[row, kept] >= threshold).any():
            kept.append(int(row))
    return sorted(kept)


@pytest.mark.parametrize("npartitions", [1, 4, 16])
def test_with_one_cluster_as_by_all_pairs(npartitions: int) -> None:
    frame = some_frame()
    expected = greedy(cosines(frame), range(ROWS))
    assert len(expected) < 0.6 * ROWS
    mixed = frame.sample(frac=1, random_state=npartitions)
    for ddf in (lazy(frame, npartitions), lazy(mixed, npartitions)):
        out = ddf.ml.drop_semantic_duplicates(threshold=THRESHOLD, n_clusters=1, id="id").compute()
        assert sorted(out.id) == frame.id[expected].tolist()
        assert list(out.columns) == list(frame.columns)


def test_rows_are_duplicates_of_the_kept_row_that_they_are_most_like() -> None:
    frame = some_frame()
    similarity = cosines(frame)
    kept = np.array(greedy(similarity, range(ROWS)))
    marked = lazy(frame).ml.mark_semantic_duplicates(threshold=THRESHOLD, id="id").compute()
    assert marked.index[marked.semantic_kept].tolist() == kept.tolist()
    dropped = marked[~marked.semantic_kept]
    for row, other, value in zip(
        dropped.index, dropped.semantic_duplicate_of, dropped.semantic_similarity, strict=True
    ):
        place = int(other.removeprefix("r"))
        assert place in kept
        earlier = kept[kept < row]
        assert value == pytest.approx(similarity[row, place], abs=1e-6)
        assert value == pytest.approx(similarity[row, earlier].max(), abs=1e-6)
    assert marked.semantic_group[marked.semantic_kept].notna().sum() > 50
    assert marked.semantic_kept[[5, 70, 400]].all()  # no vector, or a zero one: like none
    assert marked.semantic_similarity[[5, 70, 400]].isna().all()


@pytest.mark.parametrize("npartitions", [1, 6])
def test_with_clusters_no_pair_is_missed_that_is_looked_for(npartitions: int) -> None:
    frame = some_frame()
    expected = frame.id[greedy(cosines(frame), range(ROWS))].tolist()
    options: dict[str, Any] = {"threshold": THRESHOLD, "id": "id"}

    def kept(**more: Any) -> list[str]:
        ddf = lazy(frame.sample(frac=1, random_state=3), npartitions)
        return sorted(ddf.ml.drop_semantic_duplicates(**options, **more).id.compute())

    assert kept(n_clusters=12, probe=11) == expected
    assert len(kept(n_clusters=12, probe=0)) > len(expected)  # those over borders
    pairs_found = (ROWS - len(kept(n_clusters=12))) / (ROWS - len(expected))
    assert pairs_found >= 0.95


def test_pairs_that_are_compared_are_counted() -> None:
    frame = some_frame()
    there = int(frame.embedding.notna().sum())
    before = len(de.stats())
    marks = lazy(frame, 3).ml.mark_semantic_duplicates(threshold=THRESHOLD, n_clusters=1)
    marks.semantic_kept.compute()
    records = de.stats().iloc[before:]
    assert records.operator.unique().tolist() == ["Semantic"]
    assert records.pairs.sum() == there * (there - 1) // 2
    similar = np.triu(cosines(frame) >= THRESHOLD, 1)
    assert records.alike.sum() == similar.sum() > 0


def test_borders_by_distance() -> None:
    """All pairs of a threshold are within a cluster, or one of them is told to look over."""
    random = np.random.default_rng(2)
    vectors = unit(random.normal(size=(800, 4)).astype("float32"))
    centres = Centres(unit(random.normal(size=(9, 4)).astype("float32")), "cosine")
    own = assign(vectors, centres).clusters
    for threshold in (0.8, 0.95, 0.999):
        found = bordering.clusters_of(vectors, centres, threshold, 8)
        assert found.rows[found.home].tolist() == list(range(800))
        assert found.clusters[found.home].tolist() == own.tolist()
        visits = set(zip(found.rows.tolist(), found.clusters.tolist(), strict=True))
        near = np.argwhere(vectors @ vectors.T >= threshold)
        over = [(left, right) for left, right in near if own[left] != own[right]]
        assert over
        for left, right in over:
            assert (left, own[right]) in visits or (right, own[left]) in visits
        few = bordering.clusters_of(vectors, centres, threshold, 1)
        assert np.bincount(few.rows).max() <= 2
    assert len(found.rows) < 1000  # near a border only


def test_chains_and_the_rule_of_semdedup() -> None:
    """On a circle, 15 degrees from one row to the next, and one far from all.

    Within 20 degrees each is like its neighbours. Walking from the first: the second is like it,
    the third is like none that is kept. The rule of SemDeDup drops the third, because of the
    second, which is dropped, too.
    """
    angles = np.radians([0, 15, 30, 45, 160])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype("float32")
    frame = pd.DataFrame({"embedding": vector_series(vectors)})
    options: dict[str, Any] = {"threshold": float(np.cos(np.radians(20))), "n_clusters": 1}

    def marked(**more: Any) -> Any:
        out = lazy(frame, 2).ml.mark_semantic_duplicates(**options, **more).compute()
        given = out.semantic_duplicate_of
        of = [None if pd.isna(row) else int(row >> 32) * 3 + int(row & 99) for row in given]
        return out.semantic_kept.tolist(), of

    assert marked() == ([True, False, True, False, True], [None, 0, None, 2, None])
    assert marked(method="semdedup") == ([True, False, False, False, True], [None, 0, 1, 2, None])
    # their mean lies at 34.8 degrees: the furthest first are the rows 4, 0, 1, 3 and 2
    assert marked(method="semdedup", keep="hard")[0] == [True, False, False, True, True]
    easy = marked(method="semdedup", keep="easy")  # 2, 3, 1, 0 and 4
    assert easy == ([False, False, True, False, True], [1, 2, None, 2, None])
    assert marked(keep="easy") == ([True, False, True, False, True], [None, 2, None, 2, None])


def test_which_of_them_is_kept() -> None:
    frame = some_frame()
    similarity = cosines(frame)
    options: dict[str, Any] = {"threshold": THRESHOLD, "n_clusters": 1, "id": "id"}

    def kept(npartitions: int = 3, **more: Any) -> list[int]:
        ddf = lazy(frame, npartitions)
        return ddf.ml.drop_semantic_duplicates(**options, **more).compute().index.tolist()

    by_quality = np.lexsort((np.arange(ROWS), -frame.quality))
    assert kept(keep=("quality", "max")) == greedy(similarity, by_quality)
    there = frame.dropna().index.to_numpy()
    vectors = unit(np.stack(frame.embedding[there]))
    far = np.zeros(ROWS, "float32")
    mean = vectors.astype(float).mean(axis=0)
    far[there] = (1 - vectors @ (mean / np.linalg.norm(mean))).round(5)
    hard, easy = kept(keep="hard"), kept(keep="easy")
    assert hard == kept(1, keep="hard")
    assert hard == greedy(similarity, np.lexsort((np.arange(ROWS), -far)))
    assert easy == greedy(similarity, np.lexsort((np.arange(ROWS), far)))
    assert kept(keep="random", seed=4) == kept(5, keep="random", seed=4) != kept(keep="random")


def test_against_an_older_corpus() -> None:
    frame = some_frame()
    old, new = frame.iloc[:150], frame.iloc[150:]
    similarity = cosines(frame)
    expected = []
    for row in range(150, ROWS):
        before = [*range(150), *expected]
        if not (similarity[row, before] >= THRESHOLD).any():
            expected.append(row)
    for clusters in ({"n_clusters": 1}, {"n_clusters": 6, "probe": 5}):
        out = lazy(new, 3).ml.drop_semantic_duplicates(
            threshold=THRESHOLD, id="id", against=lazy(old, 2), **clusters
        )
        assert out.compute().index.tolist() == expected


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_other_types(precision: str) -> None:
    frame = de.quantize(some_frame().dropna(), "embedding", precision)
    similarity = cosines(frame)
    out = lazy(frame).ml.drop_semantic_duplicates(threshold=0.96, id="id").id.compute()
    assert sorted(out) == frame.id.iloc[greedy(similarity, range(len(frame)), 0.96)].tolist()


def test_known_centres(tmp_path: Path) -> None:
    frame = some_frame()
    fitted = de.KMeans(6, seed=2).fit(lazy(frame).embedding)
    fitted.save(tmp_path / "c.safetensors")
    options: dict[str, Any] = {"threshold": THRESHOLD, "probe": 0, "id": "id"}
    expected = lazy(frame).ml.drop_semantic_duplicates(kmeans=de.KMeans(6, seed=2), **options)
    expected = expected.compute().index.tolist()
    assert expected != greedy(cosines(frame), range(ROWS))
    for known in (fitted, tmp_path / "c.safetensors"):
        out = lazy(frame, 2).ml.drop_semantic_duplicates(kmeans=known, **options)
        assert out.compute().index.tolist() == expected


@pytest.mark.parametrize("kind", ["semantic", "fuzzy"])
def test_files_of_which_no_column_is_read_for_ids(tmp_path: Path, kind: str) -> None:
    """Without an id rows are known by their place, and the pass over them reads none of it."""
    frame = some_frame().drop(columns="quality").iloc[:120]
    frame["text"] = [f"one two three four five six {row % 40}" for row in range(120)]
    lazy(frame, 3).ml.to_parquet(tmp_path / "out")
    given = {"semantic": {"threshold": THRESHOLD}, "fuzzy": {"column": "text", "threshold": 0.99}}
    kept = [
        getattr(ddf.ml, f"drop_{kind}_duplicates")(**given[kind]).compute().id.tolist()
        for ddf in (lazy(frame, 3), de.read_parquet(tmp_path / "out"))
    ]
    assert kept[0] == kept[1]
    assert 20 < len(kept[0]) < 120


# --------------------------------------------------------------------------------- what is run
@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.save("bert", tmp_path_factory.mktemp("semantic") / "bert"))


def embedded(bert: str, rows: int = 60, **options: Any) -> Any:
    texts = list(tiny.corpus()[:rows])
    frame = pd.DataFrame({"id": range(rows), "text": texts})
    return lazy(frame, 3).ml.embed("text", model=bert, **options)


def test_the_model_runs_once(bert: str, rows_through_model: Any) -> None:
    ddf = embedded(bert)
    options: dict[str, Any] = {"threshold": 0.97, "n_clusters": 3, "keep": "hard"}
    marked = ddf.ml.mark_semantic_duplicates(**options)
    dropped = ddf.ml.drop_semantic_duplicates(**options)
    assert rows_through_model(marked.compute) == 60
    assert rows_through_model(dropped[["id"]].compute) == 60
    given: list[Any] = []
    assert rows_through_model(lambda: given.extend(dask.compute(marked, dropped))) == 60
    assert given[0].id[given[0].semantic_kept].tolist() == given[1].id.tolist()
    assert 5 < len(given[1]) < 60


def test_spaces_do_not_mix(bert: str) -> None:
    mean, cls = embedded(bert), embedded(bert, pooling="cls")
    with pytest.raises(ValueError, match="its other rows are of"):
        dd.concat([mean, cls]).ml.mark_semantic_duplicates()
    message = r"but those of against are of .*different spaces"
    with pytest.raises(ValueError, match=message):
        mean.ml.mark_semantic_duplicates(against=cls, id="id")
    centres = de.KMeans(2).fit(cls.embedding)
    with pytest.raises(ValueError, match=r"but the centres are of .*different spaces"):
        mean.ml.drop_semantic_duplicates(kmeans=centres)
    mean.ml.mark_semantic_duplicates(against=cls, id="id", check=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 0}, "threshold must be above 0, at most 1; got 0"),
        ({"threshold": "high"}, "threshold must be a number"),
        ({"n_clusters": 0}, "n_clusters must be a positive integer"),
        ({"n_clusters": "many"}, "n_clusters must be a positive integer or 'auto'"),
        ({"probe": -1}, "probe must be 0 or a positive integer"),
        ({"method": "nemo"}, "method must be one of 'greedy', 'semdedup'"),
        ({"keep": "best"}, "keep must be one of 'lowest id', 'random', 'hard', 'easy'"),
        ({"column": "id"}, "vectors are needed"),
        ({"column": "vector"}, "column 'vector' is not in the dataframe"),
        ({"kmeans": 5}, "kmeans must be a dask_embed.KMeans"),
        ({"kmeans": de.KMeans(3), "n_clusters": 3}, "n_clusters=3 has no effect with kmeans"),
        ({"kmeans": de.KMeans(3, metric="euclidean")}, "kmeans must have metric='cosine'"),
        ({"against": "old"}, "against takes a Dask DataFrame"),
        ({"check": None}, "check must be True or False"),
        ({"eps": 0.1}, "has no option 'eps'"),
    ],
)
def test_bad_arguments_are_told_on_the_client(options: dict[str, Any], message: str) -> None:
    for method in ("mark_semantic_duplicates", "drop_semantic_duplicates"):
        with pytest.raises((TypeError, ValueError), match=message):
            getattr(lazy(some_frame(), 2).ml, method)(**options)


@pytest.mark.slow
def test_docstrings_with_more_clusters_than_needed(minilm: str, docstrings: pd.DataFrame) -> None:
    """Recall of duplicates of at least 0.95, beside all pairs."""
    texts = pd.DataFrame({"text": docstrings.text.str[:120], "id": range(len(docstrings))})
    frame = lazy(texts, 2).ml.embed("text", model=minilm).compute(scheduler="threads")
    wanted = set(frame.id) - set(greedy(cosines(frame), range(len(frame)), 0.9))
    found = lazy(frame).ml.drop_semantic_duplicates(threshold=0.9, id="id", n_clusters=32)
    dropped = set(frame.id) - set(found.id.compute())
    assert len(wanted) > 50
    assert len(dropped & wanted) >= 0.95 * len(wanted)


@pytest.mark.slow
def test_workers_of_a_cluster_agree() -> None:
    out = lazy(some_frame(), 5).ml.mark_semantic_duplicates(
        threshold=THRESHOLD, n_clusters=5, keep="hard"
    )
    with cluster(2, 1, processes=True) as client:
        got = client.compute(out).result()
    pd.testing.assert_frame_equal(got, out.compute())


_READERS = {
    "ours": de.read_parquet,
    "ours by Arrow": lambda path: de.read_parquet(path, filesystem="arrow"),
    "Dask's by Arrow": lambda path: dd.read_parquet(path, filesystem="arrow"),
}


@pytest.mark.parametrize(
    ("step", "reader"),
    [("semantic", "ours"), ("semantic", "ours by Arrow"), *(("fuzzy", name) for name in _READERS)],
)
def test_rows_of_files_are_known_by_their_place(tmp_path: Path, reader: str, step: str) -> None:
    """Without an id, although no column is read to put rows in order."""
    frame = some_frame().drop(columns=["id", "quality"])
    frame["text"] = [f"the words of row {row // 2} and no others" for row in range(ROWS)]
    chosen = frame[["text"]] if step == "fuzzy" else frame[["embedding"]]
    lazy(chosen).ml.to_parquet(tmp_path / "rows")
    ddf = _READERS[reader](tmp_path / "rows")
    read = ddf.compute()  # some readers have an order of files of their own
    if step == "fuzzy":
        marks = ddf.ml.mark_fuzzy_duplicates("text").compute()
        assert marks["text"].tolist() == read["text"].tolist()
        expected = np.flatnonzero(~read["text"].duplicated()).tolist()
    else:
        marks = ddf.ml.mark_semantic_duplicates(
            "embedding", threshold=THRESHOLD, n_clusters=1
        ).compute()
        known = np.flatnonzero(read["embedding"].notna()).tolist()
        missing = np.flatnonzero(read["embedding"].isna()).tolist()  # which are like none
        expected = sorted([*greedy(cosines(read), known), *missing])
    assert np.flatnonzero(marks[f"{step}_kept"].to_numpy(bool)).tolist() == expected
    assert len(expected) < ROWS
