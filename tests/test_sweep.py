"""A sample of the sweep over the architectures of transformers, one of each way to run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import compared
import numpy as np
import pytest
import shrunk
import sweep
import tiny
import transformers

import dask_embed as de

pytestmark = pytest.mark.usefixtures("one_torch_thread")

# Architecture: how its embeddings run, and the heads that are held against their class as well.
SAMPLE: dict[str, tuple[str, tuple[str, ...]]] = {
    "mistral": ("packed", ("causal-lm",)),
    "mixtral": ("packed", ("causal-lm",)),  # a head that asks for more than vectors
    "deberta-v2": ("padded", ("fill-mask",)),
    "bart": ("padded", ("answer",)),
    "doge": ("by length", ("classify",)),  # chooses between tokens, of which some are the same
    "axk2": ("by length up to 8 tokens", ()),  # chooses between scores that are zero
    "big_bird": ("alone", ("fill-mask",)),  # the first short text changes it, its heads too
    "bigbird_pegasus": ("alone", ("answer",)),
    "funnel": ("alone", ("classify",)),  # its classifier stands on fewer vectors than tokens
    "rwkv": ("padded", ("causal-lm",)),  # its first forward pass divides weights
    "got_ocr2": ("packed", ("causal-lm",)),  # attention is set on a part of it
}


@pytest.fixture(autouse=True)
def _unload() -> Iterator[None]:
    yield
    de.unload()


@pytest.mark.parametrize("kind", SAMPLE)
def test_architecture_equals_its_own_class(kind: str) -> None:
    runs, heads = SAMPLE[kind]
    rows = list(sweep.one(kind, ("embed", *heads)))
    assert [row["outcome"] for row in rows] == ["equal"] * (1 + len(heads)), rows
    assert rows[0]["runs"] == runs


def test_a_result_that_differs_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = compared.given_logits

    def off(task: str, folder: Path) -> list[np.ndarray]:
        return [each + 1e-3 for each in ours(task, folder)]

    monkeypatch.setattr(compared, "given_logits", off)
    assert [row["outcome"] for row in sweep.one("bert", ("fill-mask",))] == ["DIFFERS"]


def test_configurations_are_shrunk_by_the_names_of_their_fields() -> None:
    tokens = tiny.wordpiece()
    config = shrunk.shrunk(transformers.Gemma3Config, tokens, shrunk.Attempt())
    text = config.text_config
    assert (text.hidden_size, text.num_hidden_layers, text.sliding_window) == (32, 3, 8)
    assert text.vocab_size == len(tokens) + 24
    assert set(text.layer_types) == {"sliding_attention", "full_attention"}
    assert config.image_token_id >= len(tokens)
