"""The engine on a real GPU, from pandas frames: copies, budgets, memory that runs out."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
import torch

import dask_embed as de
from dask_embed.inference.runner import runner_for

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _unload() -> Iterator[None]:
    yield
    de.unload()


@pytest.fixture(scope="module")
def texts(docstrings: pd.DataFrame) -> pd.DataFrame:
    return docstrings.head(300)


@pytest.fixture(scope="module")
def expected(minilm: str, texts: pd.DataFrame) -> np.ndarray:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(minilm, device="cpu").encode(texts["text"].tolist())


def embed(minilm: str, texts: pd.DataFrame, dtype: str, **options: int) -> np.ndarray:
    model = de.Model(minilm, device="cuda", dtype=dtype)
    return de.to_array(de.Embedder(model, **options)(texts)["embedding"])


@pytest.mark.parametrize(("dtype", "most"), [("float32", 1e-4), ("bfloat16", 3e-2)])
@pytest.mark.parametrize("options", [{}, {"batch_size": 7}, {"tokens_per_batch": 300}], ids=str)
def test_vectors_come_back_to_their_rows(
    minilm: str,
    texts: pd.DataFrame,
    expected: np.ndarray,
    dtype: str,
    most: float,
    options: dict[str, int],
) -> None:
    """Also where many small batches are under way on the copy stream."""
    given = embed(minilm, texts, dtype, **options)
    assert np.abs(given - expected).max() < most


def test_a_batch_takes_what_was_measured(minilm: str, texts: pd.DataFrame) -> None:
    """Planned memory is not exceeded."""
    runner = runner_for(de.Model(minilm, device="cuda", dtype="bfloat16"))
    assert runner.budget.usage is not None
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    embed(minilm, texts, "bfloat16", tokens_per_batch=8192)
    taken = torch.cuda.max_memory_allocated() - before
    assert taken < 8192 * runner.budget.usage.per_token * 1.5 + 2**26


def test_memory_that_really_runs_out(
    minilm: str, texts: pd.DataFrame, expected: np.ndarray
) -> None:
    """A batch that does not fit is halved, and every vector is right."""
    runner = runner_for(de.Model(minilm, device="cuda", dtype="float32"))
    runner.budget.usage = None  # so that the plan asks for too much
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    room = torch.cuda.memory_reserved() + 150 * 2**20
    torch.cuda.set_per_process_memory_fraction(room / total)
    before = len(de.stats())
    try:
        given = embed(minilm, texts, "float32", tokens_per_batch=1_000_000)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert de.stats().iloc[before:]["splits"].sum() > 0
    assert np.abs(given - expected).max() < 1e-4
