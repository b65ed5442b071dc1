"""Pictures show what they are made of: coordinates of scikit-learn, counts of NumPy, all texts."""

from __future__ import annotations

import html
import importlib.machinery
import re
import sys
import types
from collections.abc import Iterator
from typing import Any

import dask.dataframe as dd
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import make_blobs
from sklearn.decomposition import PCA
from support import tiny

import dask_embed as de
from dask_embed.curation.looking import with_differences
from dask_embed.curation.vectors import vector_series

mpl.use("Agg")
from matplotlib import pyplot as plt


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    plt.close("all")


VECTORS, LABELS = make_blobs(300, 8, centers=3, random_state=0)
VECTORS = VECTORS.astype("float32")


def frame_of(npartitions: int = 3) -> Any:
    frame = pd.DataFrame({"label": [f"blob {n}" for n in LABELS], "length": np.arange(300.0)})
    frame["embedding"] = vector_series(VECTORS)
    frame.loc[[4, 250], "embedding"] = None
    return dd.from_pandas(frame, npartitions=npartitions, sort=False) if npartitions else frame


THERE = np.delete(np.arange(300), [4, 250])


@pytest.mark.parametrize("npartitions", [0, 1, 5])
def test_a_map_is_that_of_scikit_learn(npartitions: int) -> None:
    ax = plt.subplots()[1]
    assert de.plot.map(frame_of(npartitions), ax=ax) is ax
    (points,) = ax.collections
    expected = PCA(2).fit_transform(VECTORS[THERE])
    np.testing.assert_allclose(points.get_offsets(), expected, rtol=1e-3, atol=1e-3)


def test_colors_of_a_map() -> None:
    ax = de.plot.map(frame_of(), color="label")
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["blob 0", "blob 1", "blob 2"]
    assert [len(each.get_offsets()) for each in ax.collections] == [
        int((LABELS[THERE] == label).sum()) for label in range(3)
    ]
    ax = de.plot.map(frame_of(), color="length")
    assert ax.collections[0].get_array().tolist() == THERE.tolist()
    assert ax.figure.axes[1].get_ylabel() == "length"
    many = frame_of().assign(label=frame_of().length.astype(str))
    with pytest.raises(ValueError, match="298 different values; up to 20 have a color each"):
        de.plot.map(many, color="label")


def test_many_points_are_counted() -> None:
    ax = de.plot.map(frame_of(4), points=297)
    (image,) = ax.images
    expected = PCA(2).fit_transform(VECTORS[THERE])
    counts = np.expm1(image.get_array())
    assert counts.sum() == pytest.approx(298)
    np.testing.assert_allclose(
        image.get_extent(),
        [*np.sort(expected[:, 0])[[0, -1]], *np.sort(expected[:, 1])[[0, -1]]],
        rtol=1e-4,
    )
    reference = np.histogram2d(*expected.T, bins=200)[0].T
    assert (np.abs(counts - reference) > 0.5).sum() <= 6  # of points on an edge


def test_pacmap_places_the_rest_where_the_nearest_is(monkeypatch: pytest.MonkeyPatch) -> None:
    class PaCMAP:
        def __init__(self, n_components: int, random_state: int) -> None:
            assert (n_components, random_state) == (2, 7)

        def fit_transform(self, vectors: np.ndarray) -> np.ndarray:
            seen.append(len(vectors))
            return vectors[:, :2] * 10

    seen: list[int] = []
    module = types.ModuleType("pacmap")
    module.__spec__ = importlib.machinery.ModuleSpec("pacmap", None)
    module.PaCMAP = PaCMAP  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pacmap", module)
    monkeypatch.setattr("dask_embed.curation.looking._SAMPLE", 40)
    ax = de.plot.map(frame_of(), method="pacmap", seed=7)
    assert seen == [40]
    given = np.unique(ax.collections[0].get_offsets(), axis=0)
    assert len(given) == 40
    places = VECTORS[THERE, :2] * 10
    assert all((np.abs(places - each).max(axis=1) < 1e-3).any() for each in given)


def test_pacmap_has_to_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pacmap", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="method='pacmap' needs pacmap: pip install pacmap"):
        de.plot.map(frame_of(), method="pacmap")


def test_similarities_are_counted_on_both_sides_of_a_threshold() -> None:
    values = np.random.default_rng(0).uniform(0.2, 1, 500).astype("float32")
    frame = pd.DataFrame({"fuzzy_similarity": values})
    frame.loc[3, "fuzzy_similarity"] = None
    ddf = dd.from_pandas(frame, npartitions=3)
    ax = de.plot.similarities(ddf, threshold=0.83, bins=20)
    counts, edges, _ = ax.patches[0].get_data()
    given = values[np.arange(500) != 3].astype(float)
    assert counts.tolist() == np.histogram(given, edges)[0].tolist()
    assert counts.sum() == 499
    assert len(edges) == 21
    assert 0.83 in edges
    share = (given >= 0.83).mean()
    assert ax.get_legend().get_texts()[0].get_text() == f"{share:.1%} at 0.83 or more"
    assert ax.lines[0].get_xdata() == [0.83, 0.83]
    both = frame.assign(similarity=1.0)
    with pytest.raises(ValueError, match="column must name the similarity, of which there are 2"):
        de.plot.similarities(both)
    assert de.plot.similarities(both, "similarity").patches[0].get_data()[0].sum() == 500


def test_what_a_threshold_drops() -> None:
    marks = pd.DataFrame(
        {"kept": [True, False, False, True], "similarity": [None, 0.8, 0.95, None]}
    )
    marks = marks.add_prefix("fuzzy_")
    table = de.duplicates_by_threshold(marks, [0.7, 0.9, 1.0])
    for given in (marks, dd.from_pandas(marks, npartitions=2), table):
        ax = de.plot.duplicates(given, [0.7, 0.9, 1.0])
        (line,) = ax.lines
        assert line.get_xdata().tolist() == [0.7, 0.9, 1.0]
        assert line.get_ydata().tolist() == [0.5, 0.25, 0]


def cells(table: str) -> list[str]:
    return re.findall(r"<td [^>]*>(.*?)</td>", table, re.DOTALL)


def test_pairs_side_by_side_are_escaped() -> None:
    texts = ["<script>alert(1)</script> one & two", "other", "<script>alert(1)</script> one & 3"]
    texts += ["one two three four", "one two three 4 four", "one two"]
    marks = pd.DataFrame(
        {
            "id": list("abcdef"),
            "text": texts,
            "near_similarity": [None, None, 0.9, None, 0.95, 0.5],
            "near_kept": [True, True, False, True, False, False],
            "near_duplicate_of": [None, None, "a", None, "d", "d"],
        }
    )
    for given in (marks, dd.from_pandas(marks, npartitions=3)):
        table = de.plot.pairs(given, id="id", rows=2)
        assert table._repr_html_() == table
        found = cells(table)
        assert found[0::3] == ["0.500", "0.900"]
        assert found[1] == "<small>d</small><br>one two<mark> three four</mark>"
        assert found[2] == "<small>f</small><br>one two"
        script = html.escape("<script>alert(1)</script> one & ")
        assert found[4] == f"<small>a</small><br>{script}<mark>two</mark>"
        assert found[5] == f"<small>c</small><br>{script}<mark>3</mark>"
        assert "<script>" not in table


@pytest.mark.parametrize(
    ("left", "right"),
    [("a  b\nc", "a b d"), ("", "x"), ("<b>", "<i>"), ("a & b", "a &amp; b"), (None, "null")],
)
def test_without_the_marks_both_texts_are_whole(left: Any, right: str) -> None:
    marked = with_differences(left, right)
    plain = [html.unescape(re.sub("</?mark>", "", text)) for text in marked]
    assert plain == [left or "", right]


def test_the_model_runs_once(tmp_path: Any, rows_through_model: Any) -> None:
    model = str(tiny.save("bert", tmp_path / "bert"))
    frame = pd.DataFrame({"text": list(tiny.corpus()[:30])})
    ddf = dd.from_pandas(frame, npartitions=3).ml.embed("text", model=model)
    assert rows_through_model(lambda: de.plot.map(ddf)) == 30
    marked = ddf.ml.mark_semantic_duplicates(threshold=0.9)
    given: list[str] = []
    assert rows_through_model(lambda: given.append(de.plot.pairs(marked, rows=3))) == 30
    assert len(cells(given[0])) == 9


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("map", {"column": "vector"}, "column names column 'vector', which the dataframe does not"),
        ("map", {"column": "label"}, "vectors are needed"),
        ("map", {"color": "kind"}, "color names column 'kind'"),
        ("map", {"method": "tsne"}, "method must be one of 'pca', 'pacmap'"),
        ("map", {"points": 0}, "points must be a positive integer"),
        ("map", {"ax": 3}, "ax must be matplotlib axes, got 3"),
        ("similarities", {}, "column must name the similarity, of which there are 0"),
        ("similarities", {"column": "label"}, "numbers are needed"),
        ("similarities", {"column": "length", "threshold": "x"}, "threshold must be a number"),
        ("duplicates", {}, "no marks of duplicates"),
        ("pairs", {}, "no marks of duplicates"),
        ("pairs", {"rows": 0}, "rows must be a positive integer"),
    ],
)
def test_bad_arguments(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        getattr(de.plot, name)(frame_of(), **options)
