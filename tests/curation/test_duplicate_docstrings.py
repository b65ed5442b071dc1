"""Duplicates among the docstrings of this machine: pandas and brute force are the judges."""

from __future__ import annotations

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from support.jaccard import alike, kept, word_ngrams

import dask_embed as de

PACKAGES = ["sympy", "transformers", "torch", "scipy", "pandas", "matplotlib", "scikit-learn"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # files are parsed for a minute


@pytest.fixture(scope="module")
def docs() -> pd.DataFrame:
    """50,000 docstrings, with ids in no order."""
    found = de.datasets.docstrings(PACKAGES).compute(scheduler="sync").head(50_000)
    assert len(found) == 50_000
    ids = np.random.default_rng(0).permutation(len(found))
    return found.assign(id=ids).reset_index(drop=True)


def test_exact_survivors_are_those_of_pandas(docs: pd.DataFrame) -> None:
    ddf = dd.from_pandas(docs, npartitions=8)
    got = ddf.ml.drop_exact_duplicates("text", id="id").id.compute()
    assert sorted(got) == sorted(docs.sort_values("id").drop_duplicates("text").id)


def test_fuzzy_recall_and_precision_are_those_of_brute_force(docs: pd.DataFrame) -> None:
    some = docs.head(20_000)
    true = alike(word_ngrams(some.text, 5), 0.8)
    wanted = set(some.id) - kept(some.id.tolist(), true)
    assert len(wanted) > 1000
    got = dd.from_pandas(some, npartitions=8).ml.mark_fuzzy_duplicates("text", id="id").compute()
    dropped = set(got.id[~got.fuzzy_kept])
    assert len(dropped & wanted) >= 0.99 * max(len(wanted), len(dropped))
    ends = np.array([*true])
    groups = got.fuzzy_group.to_numpy("float64", na_value=np.nan)
    assert (groups[ends[:, 0]] == groups[ends[:, 1]]).mean() >= 0.99
    of, ids, similarity = (
        got[name].tolist() for name in ("fuzzy_duplicate_of", "id", "fuzzy_similarity")
    )
    stored = [
        (similarity[b], true[a, b]) for a, b in true if of[b] is not pd.NA and of[b] == ids[a]
    ]
    assert stored
    assert all(told == counted for told, counted in stored)
