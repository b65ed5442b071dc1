"""A compiled model gives the same vectors, and no length compiles anything anew."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from support import tiny
from torch._dynamo.utils import counters

import dask_embed as de
from dask_embed.inference.runner import runner_for
from dask_embed.tokens.lists import TokenLists

pytestmark = [
    pytest.mark.usefixtures("one_torch_thread"),
    # importing torch's own compiler raises it, once a process
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated"),
]

COMPILERS = ("c++", "g++", "clang++")
needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, COMPILERS)), reason="needs a C++ compiler"
)
# One that runs packed, one that has to be padded, a decoder with a window.
MODELS = ("bert", "t5", "mistral")
# Lengths of the texts of a batch: one text, many, equal ones, the shortest, the longest.
BATCHES = (
    [5],
    [1],
    [2],
    [64],
    [1, 1],
    [7] * 9,
    [3, 41, 17, 17, 64, 2],
    list(range(1, 40)),
    [33] * 31 + [2] * 13,
    [63, 64],
)


@pytest.fixture(autouse=True)
def _nothing_compiled() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    de.unload()
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("compile")
    return {name: tiny.save(name, root / name) for name in MODELS}


def token_lists(lengths: list[int], seed: int = 0) -> TokenLists:
    draw = np.random.default_rng(seed)
    return TokenLists.of([draw.integers(5, 390, length).tolist() for length in lengths])


def graphs() -> int:
    return counters["stats"]["unique_graphs"]


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("name", MODELS)
def test_same_vectors_and_no_new_graphs(folders: dict[str, Path], name: str) -> None:
    """Once one token and many have run, no number or length of texts compiles anything."""
    plain = runner_for(de.Model(str(folders[name]), device="cpu"))
    quick = runner_for(de.Model(str(folders[name]), device="cpu", compile=True))
    assert graphs() > 0, "nothing was compiled"
    assert quick.verdict == plain.verdict
    for lengths in ([9, 4, 23], [1]):
        quick.token_vectors(token_lists(lengths))
    compiled = graphs()
    for seed, lengths in enumerate(BATCHES):
        batch = token_lists(lengths, seed)
        expected = plain.token_vectors(batch).numpy()
        given = quick.token_vectors(batch).numpy()
        scale = max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(given, expected, rtol=0, atol=1e-5 * scale)
    assert graphs() == compiled


@pytest.mark.slow
@needs_compiler
def test_a_batch_of_one_text_compiles_nothing(folders: dict[str, Path]) -> None:
    """It is a shape of its own for torch, and a common one: the longest text of a partition."""
    runner = runner_for(de.Model(str(folders["t5"]), device="cpu", compile=True))
    compiled = graphs()
    runner.token_vectors(token_lists([5]))
    assert graphs() == compiled


@pytest.mark.slow
@needs_compiler
def test_a_compiled_model_embeds(folders: dict[str, Path]) -> None:
    """Through the operator: nulls, repeats, an empty string; pooled and normalized."""
    texts = ["one", None, "two words " * 9, "", "one", *tiny.corpus()[:12]]
    frame = pd.DataFrame({"text": texts})
    name = str(folders["bert"])
    expected = frame.ml.embed(model=name, normalize=True)["embedding"]
    model = de.Model(name, compile=True, device="cpu")
    out = frame.ml.embed(model=model, normalize=True, batch_size=3)["embedding"]
    assert out.isna().tolist() == [text is None for text in texts]
    given, wanted = de.to_array(out.dropna()), de.to_array(expected.dropna())
    np.testing.assert_allclose(given, wanted, rtol=0, atol=1e-5)
    assert de.describe_model(model).compiled
    assert not de.describe_model(name).compiled


@pytest.mark.slow
@needs_compiler
def test_compiled_and_plain_are_two_models(folders: dict[str, Path]) -> None:
    name = str(folders["bert"])
    plain = runner_for(de.Model(name, device="cpu"))
    quick = runner_for(de.Model(name, device="cpu", compile=True))
    assert plain is not quick
    assert runner_for(de.Model(name, device="cpu", compile=True)) is quick


def test_no_compiler_is_a_clear_error(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named before anything runs, with what to do; without compiling nothing is missed."""
    asked = []
    monkeypatch.setattr(shutil, "which", lambda name, *rest: asked.append(name))
    name = str(folders["bert"])
    with pytest.raises(ValueError, match=r"compile=True needs a C\+\+ compiler") as caught:
        runner_for(de.Model(name, device="cpu", compile=True))
    assert "\n" not in str(caught.value)
    assert set(asked) >= {"g++", "clang++"}
    assert graphs() == 0
    runner_for(de.Model(name, device="cpu"))


@pytest.mark.parametrize("value", ["yes", None, 0, 1, "reduce-overhead", []])
def test_compile_is_true_or_false(folders: dict[str, Path], value: Any) -> None:
    """1 equals True but has another Dask token, so it is refused as well."""
    with pytest.raises((TypeError, ValueError), match=r"compile.*True.*False"):
        de.Model(str(folders["bert"]), compile=value)
