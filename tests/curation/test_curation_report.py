"""What a threshold would drop, and what each step of a plan did."""

from __future__ import annotations

import io
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest

import dask_embed as de

# as many letters as words that stand for the texts: rows 0 to 39, each again in 40 to 79
TEXTS = [f"{i} {i}a {i}b {i}c {i}d" for i in range(40)]


@pytest.fixture
def ddf() -> Any:
    frame = pd.DataFrame(
        {"text": [*TEXTS, *(f"{text} more" for text in TEXTS)], "place": range(80)}
    )
    return dd.from_pandas(frame, npartitions=4)


def test_the_curve_counts_what_the_filter_keeps() -> None:
    similarity = np.array([np.nan, 0.5, 0.7, 0.7, 1.0, np.nan])
    marks = pd.DataFrame({"kept": np.isnan(similarity), "similarity": similarity})
    marks = marks.astype({"similarity": "double[pyarrow]"}).add_prefix("fuzzy_")
    thresholds = [1.0, 0.7, 0.71, 0.2]
    want = [
        (t, int((~(marks.fuzzy_kept | (marks.fuzzy_similarity.fillna(0) < t))).sum()))
        for t in sorted(thresholds)
    ]
    assert want == [(0.2, 4), (0.7, 3), (0.71, 1), (1.0, 1)]
    for frame in (marks, dd.from_pandas(marks, npartitions=3)):
        got = de.duplicates_by_threshold(frame, thresholds)
        assert list(zip(got.threshold, got.dropped, strict=True)) == want
        assert got.kept.tolist() == [6 - dropped for _, dropped in want]
        assert got.share.tolist() == [dropped / 6 for _, dropped in want]
    assert len(de.duplicates_by_threshold(marks)) == 51


def test_the_curve_is_of_the_marks_that_are_meant(ddf: Any) -> None:
    both = ddf.ml.mark_exact_duplicates("text").ml.mark_fuzzy_duplicates("text", ngram=1)
    with pytest.raises(ValueError, match="prefix must be one of 'exact_', 'fuzzy_'; got None"):
        de.duplicates_by_threshold(both)
    got = de.duplicates_by_threshold(both, [0.8, 0.9], prefix="fuzzy_")
    assert got.dropped.tolist() == [40, 0]  # five words of six: 0.833
    assert de.duplicates_by_threshold(both, [0.8], prefix="exact_").dropped.tolist() == [0]
    with pytest.raises(ValueError, match="has no marks of duplicates"):
        de.duplicates_by_threshold(ddf)
    with pytest.raises(TypeError, match="thresholds must be"):
        de.duplicates_by_threshold(both, "high", prefix="fuzzy_")


def test_the_report_tells_of_each_step_what_it_took_and_why(ddf: Any) -> None:
    repeated = dd.concat([ddf, ddf.partitions[:1]])  # the first 20 rows again
    unique = repeated.ml.drop_exact_duplicates("text")
    some = unique[unique.place != 3]
    marked = some.ml.mark_fuzzy_duplicates("text", ngram=1)
    left = marked[marked.fuzzy_kept][["text"]]
    report = de.curation_report(left)
    numbers = report[["rows_in", "rows_out", "dropped", "why"]].to_numpy().tolist()
    assert numbers == [[100, 80, 20, "20 duplicate"], [80, 79, 1, ""], [79, 40, 39, "39 duplicate"]]
    assert [step.partition(",")[0].partition(":")[0] for step in report.step] == [
        "drop exact duplicates of text",
        "keep rows where (place != 3)",
        "mark fuzzy duplicates of text",
    ]
    assert report.share.tolist() == [0.2, 1 / 80, 39 / 79]
    assert "<table" in report._repr_html_()


def test_the_report_tells_of_each_bucket_that_is_too_large() -> None:
    texts = [f"{kind} one two three four five six" for kind in ("a", *"bbb", *"cccccc")]
    ddf = dd.from_pandas(pd.DataFrame({"id": range(9, -1, -1), "text": texts}), npartitions=3)
    options: dict[str, Any] = {"id": "id", "ngram": 6, "threshold": 0.9, "bucket_limit": 2}
    told = ["7 duplicate", "bucket of 6 rows like 0", "bucket of 3 rows like 6"]
    marked = ddf.ml.mark_fuzzy_duplicates("text", **options)
    for left in (ddf.ml.drop_fuzzy_duplicates("text", **options), marked[marked.fuzzy_kept]):
        assert de.curation_report(left).why.tolist() == [", ".join(told)]


def test_the_report_tells_why_quality_took_rows_and_what_operators_took(ddf: Any) -> None:
    quality = ddf.ml.text_quality("text", preset="gopher")
    report = de.curation_report(quality[quality.quality])
    assert report.rows_out.tolist() == [80, 0]
    assert report.why.tolist()[1] == "80 words < 50"
    assert report.seconds[0] > 0


def test_the_plan_tells_the_step_and_what_its_bands_find(ddf: Any) -> None:
    out = io.StringIO()
    marked = ddf.ml.mark_fuzzy_duplicates(
        "text", id="place", keep=("place", "max"), bands=16, rows=8
    )
    de.explain(marked, out)
    told = out.getvalue()
    assert "fuzzy duplicates of text: Jaccard of 5-grams of words at least 0.8" in told
    chance = 1 - (1 - 0.8**8) ** 16
    assert f"16 bands of 8 find {chance:.1%} of pairs at that threshold" in told
    grid = (np.arange(100_000) + 0.5) / 100_000
    curve = 1 - (1 - grid**8) ** 16
    assert f"{curve[grid < 0.8].sum() / curve.sum():.0%} of candidates are below it" in told
    assert "keep max place, then lowest place" in told
    out = io.StringIO()
    de.explain(ddf.ml.drop_exact_duplicates("text"), out)
    assert "drop exact duplicates of text, keep first row" in out.getvalue()
