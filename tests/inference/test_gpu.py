"""The engine on a real GPU, from pandas frames: copies, budgets, memory that runs out."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from support import tiny

import dask_embed as de
from dask_embed.inference.runner import runner_for

pytestmark = pytest.mark.cuda


@pytest.fixture(autouse=True)
def _unload() -> Iterator[None]:
    yield
    de.unload()


@pytest.fixture(scope="module")
def texts() -> pd.DataFrame:
    """Docstrings of the standard library, some joined to more than models take."""
    found = [*tiny.corpus()[:150]]
    return pd.DataFrame({"text": [*found, *(" ".join(found[n : n + 20]) for n in range(5)), "x"]})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A BERT of MiniLM's shape with random weights, so that no package brings it."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = tiny.wordpiece()
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
    )
    torch.manual_seed(0)
    transformers.BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def expected(model: str, texts: pd.DataFrame) -> np.ndarray:
    """The mean of what transformers' own class gives for each text alone, on the CPU."""
    reference = transformers.AutoModel.from_pretrained(model).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    vectors = []
    for text in texts["text"]:
        ids = tokenizer(text, truncation=True, max_length=512, return_tensors="pt")
        with torch.inference_mode():
            mean = reference(**ids).last_hidden_state[0].mean(dim=0)
        vectors.append(torch.nn.functional.normalize(mean, dim=0).numpy())
    return np.stack(vectors)


def embed(folder: str, texts: pd.DataFrame, dtype: str, **options: int) -> np.ndarray:
    model = de.Model(folder, device="cuda", dtype=dtype)
    return de.to_array(de.Embedder(model, normalize=True, **options)(texts)["embedding"])


@pytest.mark.parametrize(("dtype", "most"), [("float32", 1e-4), ("bfloat16", 3e-2)])
@pytest.mark.parametrize("options", [{}, {"batch_size": 7}, {"tokens_per_batch": 300}], ids=str)
def test_vectors_come_back_to_their_rows(
    model: str,
    texts: pd.DataFrame,
    expected: np.ndarray,
    dtype: str,
    most: float,
    options: dict[str, int],
) -> None:
    """Also where many small batches are under way on the copy stream."""
    given = embed(model, texts, dtype, **options)
    assert np.abs(given - expected).max() < most


def test_a_batch_takes_what_was_measured(model: str, texts: pd.DataFrame) -> None:
    """Planned memory is not exceeded."""
    runner = runner_for(de.Model(model, device="cuda", dtype="bfloat16"))
    assert runner.budget.usage is not None
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    embed(model, texts, "bfloat16", tokens_per_batch=8192)
    taken = torch.cuda.max_memory_allocated() - before
    assert taken < 8192 * runner.budget.usage.per_token * 1.5 + 2**26


def test_memory_that_really_runs_out(model: str, texts: pd.DataFrame, expected: np.ndarray) -> None:
    """A batch that does not fit is halved, and every vector is right."""
    runner = runner_for(de.Model(model, device="cuda", dtype="float32"))
    runner.budget.usage = None  # so that the plan asks for too much
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    room = torch.cuda.memory_reserved() + 150 * 2**20
    torch.cuda.set_per_process_memory_fraction(room / total)
    before = len(de.stats())
    try:
        given = embed(model, texts, "float32", tokens_per_batch=1_000_000)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert de.stats().iloc[before:]["splits"].sum() > 0
    assert np.abs(given - expected).max() < 1e-4
