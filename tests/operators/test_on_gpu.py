"""Every operator that runs a model on a GPU: what the CPU gives, which other tests compare."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from support import headed, methods
from support.methods import CALLS, VECTORS

import dask_embed as de

pytestmark = pytest.mark.cuda

NAMES = [name for name, (task, _) in CALLS.items() if task and not name.startswith("to_")]
Run = Callable[[str, str, str], pd.DataFrame]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a function that gives the rows of a method with a model on a device."""
    root = tmp_path_factory.mktemp("on-gpu")
    saved = functools.cache(lambda task: methods.save(task, root / task))
    frame = dd.from_pandas(VECTORS, npartitions=2)

    @functools.cache
    def rows(name: str, device: str, dtype: str) -> pd.DataFrame:
        task, call = CALLS[name]
        model = de.Model(saved(task), device=device, dtype=dtype)
        found: pd.DataFrame = call(frame, model, "").compute()
        return found.reset_index(drop=True)

    return rows


@pytest.mark.parametrize("name", NAMES)
def test_float32_gives_what_a_cpu_gives(name: str, run: Run) -> None:
    given, expected = run(name, "cuda", "float32"), run(name, "cpu", "float32")
    assert given.dtypes.to_dict() == expected.dtypes.to_dict()
    for column in expected:
        assert_close(given[column].tolist(), expected[column].tolist())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", NAMES)
def test_types_of_fewer_bits_give_every_row(name: str, dtype: str, run: Run) -> None:
    given, expected = run(name, "cuda", dtype), run(name, "cpu", "float32")
    assert given.dtypes.to_dict() == expected.dtypes.to_dict()
    if name in ("embed", "embed_multi_vector", "score perplexity"):  # others choose between values
        for column in expected:
            assert_close(given[column].tolist(), expected[column].tolist(), atol=0.05, rtol=0.05)
    assert given.isna().to_numpy().tolist() == expected.isna().to_numpy().tolist()


def test_a_classifier_that_wants_a_special_token_in_every_text(tmp_path: Path) -> None:
    """T5's refuses the texts by which memory is measured; it runs without that."""
    folder = str(headed.save("t5", "classify", tmp_path / "t5", num_labels=3))
    frame = pd.DataFrame({"text": ["a text", "another, longer text", "x"]})
    on = {
        device: de.Classifier(de.Model(folder, device=device, dtype="float32"))(frame)
        for device in ("cpu", "cuda")
    }
    assert_close(on["cuda"]["label_score"].tolist(), on["cpu"]["label_score"].tolist())


def test_a_model_runs_packed_in_the_fused_attention(run: Run) -> None:
    for task in ("embed", "causal-lm"):
        name = "embed" if task == "embed" else "score"
        run(name, "cuda", "bfloat16")
        assert de.stats().iloc[-1]["padding"] == 0


def assert_close(given: Any, expected: Any, *, atol: float = 1e-4, rtol: float = 1e-3) -> None:
    """Compare values that may hold lists, at any depth."""
    if isinstance(expected, str) or expected is None or expected is pd.NA:
        assert given is expected or given == expected
    elif isinstance(expected, dict):
        assert given.keys() == expected.keys()
        for key, value in expected.items():
            assert_close(given[key], value, atol=atol, rtol=rtol)
    elif isinstance(expected, list | tuple | np.ndarray):
        assert len(given) == len(expected)
        for one, other in zip(given, expected, strict=True):
            assert_close(one, other, atol=atol, rtol=rtol)
    else:
        np.testing.assert_allclose(given, expected, atol=atol, rtol=rtol)
