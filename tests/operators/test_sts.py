"""Vectors are good for what they are for: the published score on a public benchmark."""

from __future__ import annotations

from pathlib import Path

import dask.dataframe as dd
import numpy as np
import pytest
from scipy.stats import spearmanr

import dask_embed as de

DATA = Path(__file__).parents[3] / "shared" / "data" / "sts15.parquet"
# all-MiniLM-L6-v2 on STS15 as published by MTEB: Spearman correlation of cosine similarity, x 100
PUBLISHED = 85.39


@pytest.mark.slow
def test_sts15(minilm):
    """3,000 pairs in 8 partitions, both sentences embedded, against the published score."""
    if not DATA.is_file():
        pytest.skip(f"needs the STS15 test set at {DATA}; it is not part of the package")
    ddf = dd.read_parquet(DATA).repartition(npartitions=8)
    out = ddf.ml.embed("sentence1", model=minilm, output="first")
    out = out.ml.embed("sentence2", model=minilm, output="second")
    assert out.npartitions == 8
    pairs = out[["score", "first", "second"]].compute()
    first, second = (de.to_array(pairs[name]).astype("float64") for name in ("first", "second"))
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    cosine = (first * second).sum(axis=1) / lengths
    assert len(pairs) == 3000
    assert spearmanr(cosine, pairs["score"]).statistic * 100 == pytest.approx(PUBLISHED, abs=0.01)
