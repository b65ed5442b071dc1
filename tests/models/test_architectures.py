"""Vectors are those of a plain transformers forward, for every kind of model.

The reference runs in this file: the model class of transformers with its eager attention, one
padded batch in text order, and the pooling written out in numpy. What the library does to be
fast (no padding, batches of similar length, each distinct text once) must not show.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from support import tiny
from transformers import AutoModel, AutoTokenizer, T5EncoderModel

import dask_embed as de
from dask_embed.inference.runner import runner_for
from dask_embed.runtime import lanes

pytestmark = pytest.mark.usefixtures("one_torch_thread")

# Unsorted lengths, from no token at all to more than the model takes; twice the same text.
TEXTS = [
    "Return the lines.",
    tiny.corpus()[40] + tiny.corpus()[41],
    None,
    "",
    "x",
    tiny.corpus()[7],
    "Return the lines.",
    "Ünïcode, 日本語 and  two\n lines\tof it",
    tiny.corpus()[100][:60],
    "",
    tiny.corpus()[200][:90],
    None,
    tiny.corpus()[40] + tiny.corpus()[41],
    "A tie: x y z",
]
POOLING: list[str | tuple[str, ...]] = [
    "cls",
    "max",
    "mean",
    "mean_sqrt_len_tokens",
    "weightedmean",
    "lasttoken",
    "sum",
    ("lasttoken", "mean", "cls"),
]


@dataclasses.dataclass
class Case:
    """A checkpoint, its model under one attention, and the token vectors to expect."""

    name: str
    folder: Path
    attention: str
    expected: list[np.ndarray | None]

    def embedder(self, **settings: Any) -> de.Embedder:
        model = de.Model(str(self.folder), device="cpu", attention=self.attention)
        return de.Embedder(model, column="text", normalize=False, **settings)


@pytest.fixture(scope="module")
def checkpoints(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], tuple[Path, list[np.ndarray | None]]]:
    """Return a function that saves a checkpoint once and gives its reference vectors."""
    made: dict[str, tuple[Path, list[np.ndarray | None]]] = {}

    def checkpoint(name: str) -> tuple[Path, list[np.ndarray | None]]:
        if name not in made:
            folder = tiny.save(name, tmp_path_factory.mktemp("tiny") / name)
            made[name] = folder, reference(name, folder)
        return made[name]

    return checkpoint


@pytest.fixture(
    scope="module",
    params=[(name, how) for name in tiny.ARCHITECTURES for how in ("auto", "padded")],
    ids="-".join,
)
def case(request: pytest.FixtureRequest, checkpoints: Any) -> Iterator[Case]:
    name, attention = request.param
    folder, expected = checkpoints(name)
    yield Case(name, folder, attention, expected)
    de.unload()


def reference(name: str, folder: Path) -> list[np.ndarray | None]:
    """Token vectors of each text by transformers alone; None for null."""
    cls = T5EncoderModel if name == "t5" else AutoModel
    model = cls.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = [
        tokenizer(text, truncation=True, max_length=tiny.POSITIONS)["input_ids"]
        for text in TEXTS
        if text is not None
    ]
    hidden = padded_forward(model, ids)
    vectors = (hidden[row, : len(each)].numpy() for row, each in enumerate(ids))
    return [None if text is None else next(vectors) for text in TEXTS]


def padded_forward(model: Any, ids: list[list[int]]) -> torch.Tensor:
    """Run one right-padded batch; rows without a token get one that is not read."""
    padding = getattr(model.config, "pad_token_id", None) or 0
    longest = max(map(len, ids))
    batch = torch.tensor([each + [padding] * (longest - len(each)) for each in ids])
    lengths = torch.tensor([max(len(each), 1) for each in ids])
    mask = (torch.arange(longest)[None] < lengths[:, None]).long()
    with torch.inference_mode():
        return model(input_ids=batch, attention_mask=mask).last_hidden_state


def pool(mode: str | tuple[str, ...], tokens: np.ndarray) -> np.ndarray:
    """Pool one text, shape (tokens, hidden size), from the definition of the mode."""
    if isinstance(mode, tuple):
        return np.concatenate([pool(each, tokens) for each in mode])
    count = len(tokens)
    if count == 0:
        return np.zeros(tokens.shape[1])
    tokens = tokens.astype(np.float64)
    weights = np.arange(1, count + 1)[:, None]
    return {
        "cls": lambda: tokens[0],
        "max": lambda: tokens.max(axis=0),
        "mean": lambda: tokens.sum(axis=0) / count,
        "mean_sqrt_len_tokens": lambda: tokens.sum(axis=0) / np.sqrt(count),
        "weightedmean": lambda: (tokens * weights).sum(axis=0) / weights.sum(),
        "lasttoken": lambda: tokens[-1],
        "sum": lambda: tokens.sum(axis=0),
    }[mode]()


def frame() -> pd.DataFrame:
    """The texts under an index with duplicates, next to another column."""
    index = [5, 5, *range(len(TEXTS) - 2)]
    return pd.DataFrame({"text": TEXTS, "other": range(len(TEXTS))}, index=index)


def assert_close(given: Any, expected: np.ndarray) -> None:
    """Equal to 1e-5, absolute or relative to the largest value of the vector."""
    scale = max(1.0, float(np.abs(expected).max(initial=0)))
    np.testing.assert_allclose(np.asarray(given), expected, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_vectors_equal_a_plain_forward(case: Case, padding_side: str) -> None:
    """Pooling reads token vectors, whatever gave them: all modes for one model of each kind."""
    whole = case.name in ("bert", "gpt2", "t5")
    for pooling in POOLING if whole else POOLING[-2:]:
        embedder = case.embedder(pooling=pooling, padding_side=padding_side, batch_size=5)
        result = embedder(frame())
        assert result.index.tolist() == frame().index.tolist()
        assert result["other"].tolist() == frame()["other"].tolist()
        for given, tokens in zip(result["embedding"], case.expected, strict=True):
            if tokens is None:
                assert given is pd.NA
            else:
                assert_close(given, pool(pooling, tokens))


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_token_vectors_equal_a_plain_forward(case: Case, padding_side: str) -> None:
    embedder = case.embedder(pooling="none", padding_side=padding_side, batch_size=4)
    result = embedder(frame())["embedding"]
    for given, tokens in zip(result, case.expected, strict=True):
        if tokens is None:
            assert given is pd.NA
        else:
            rows = [np.asarray(vector) for vector in given]
            assert len(rows) == len(tokens)
            assert_close(np.array(rows).reshape(tokens.shape), tokens)


def test_the_batch_does_not_show(case: Case) -> None:
    """One text at a time, or all in one batch: the same vectors."""
    for settings in ({"batch_size": 1}, {"tokens_per_batch": 100_000}, {"tokens_per_batch": 1}):
        result = case.embedder(pooling="mean", **settings)(frame())
        for given, tokens in zip(result["embedding"], case.expected, strict=True):
            if tokens is not None:
                assert_close(given, pool("mean", tokens))


def test_several_batches_at_a_time(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four lanes and three partitions share one model."""
    monkeypatch.setattr(lanes, "math_threads", lambda: 4)
    embedder = case.embedder(pooling="mean", batch_size=2)
    with ThreadPoolExecutor(3) as threads:
        results = list(threads.map(embedder, [frame()] * 3))
    for result in results:
        for given, tokens in zip(result["embedding"], case.expected, strict=True):
            if tokens is not None:
                assert_close(given, pool("mean", tokens))


def test_verdict(case: Case) -> None:
    verdict = runner_for(case.embedder().pinned().model).verdict
    wanted = case.attention == "auto" and tiny.ARCHITECTURES[case.name].packed
    assert verdict.packed == wanted, verdict
    assert verdict.packed != bool(verdict.reason)


def test_a_text_without_tokens_gets_the_zero_vector(case: Case) -> None:
    empty = [
        row for row, tokens in enumerate(case.expected) if tokens is not None and not len(tokens)
    ]
    assert [TEXTS[row] for row in empty] == (["", ""] if case.name == "gpt2" else [])
    result = de.to_array(case.embedder(pooling="lasttoken")(frame())["embedding"])
    zero = np.flatnonzero((result == 0).all(axis=1))
    assert zero.tolist() == empty


@pytest.mark.parametrize("name", tiny.ARCHITECTURES)
def test_a_leak_would_show(checkpoints: Any, name: str) -> None:
    """The checkpoints are sensitive: what stands before a text changes its vectors a lot.

    Otherwise the tests above could not tell packed attention from one that mixes texts.
    """
    folder, _ = checkpoints(name)
    cls = T5EncoderModel if name == "t5" else AutoModel
    model = cls.from_pretrained(folder, attn_implementation="eager").eval()
    draw = np.random.default_rng(0)
    first, second = draw.integers(5, 390, (2, 6)).tolist()
    alone = padded_forward(model, [second])[0]
    after = padded_forward(model, [first + second])[0, len(first) :]
    assert float((alone - after).norm() / alone.norm()) > 0.03


@pytest.mark.parametrize("name", ["modernbert", "mistral", "gemma3", "gemma3-bidirectional"])
def test_the_window_matters(checkpoints: Any, name: str) -> None:
    """Without the window the reference is another one, so a lost window would show."""
    folder, expected = checkpoints(name)
    lengths = [len(tokens) for tokens in expected if tokens is not None]
    assert max(lengths) == tiny.POSITIONS > 2 * tiny.WINDOW
    settings = {"modernbert": {"local_attention": 256}}.get(name, {"sliding_window": 128})
    wide = AutoModel.from_pretrained(folder, attn_implementation="eager", **settings).eval()
    ids = AutoTokenizer.from_pretrained(folder)(
        TEXTS[1], truncation=True, max_length=tiny.POSITIONS
    )["input_ids"]
    unlimited = padded_forward(wide, [ids])[0].numpy()
    assert np.abs(unlimited - expected[1]).max() > 0.03
