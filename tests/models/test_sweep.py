"""A sample of the sweep over the architectures of transformers, one of each way to run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import sweep
import transformers
from support import built, compared, shrunk, tiny

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
    "deepseek_v32": ("by length up to 8 tokens", ("causal-lm",)),  # writes beyond what it selects
    "t5": ("padded", ("seq2seq-lm",)),
    "funnel": ("alone", ("classify",)),  # its classifier stands on fewer vectors than tokens
    "rwkv": ("padded", ("causal-lm",)),  # its first forward pass divides weights
    "clip": ("padded", ()),  # by get_text_features, as the next two
    "siglip2": ("padded up to 63 tokens", ()),  # texts are filled up to the length of training
    "flava": ("padded", ()),  # projects each token
    "embedding_gemma2": ("packed", ()),  # its vectors are wider than its hidden states
    "xlstm": ("padded", ("causal-lm",)),  # cuts a text in pieces, if it keeps a cache
    "got_ocr2": ("packed", ("causal-lm",)),  # attention is set on a part of it
}


@pytest.fixture(autouse=True)
def _unload() -> Iterator[None]:
    yield
    de.unload()


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=[pytest.mark.slow] * (place % 3 > 0))
        for place, kind in enumerate(SAMPLE)
    ],
)
def test_architecture_equals_its_own_class(kind: str) -> None:
    runs, heads = SAMPLE[kind]
    rows = list(sweep.one(kind, ("embed", *heads)))
    assert [row["outcome"] for row in rows] == ["equal"] * (1 + len(heads)), rows
    assert rows[0]["runs"] == runs


@pytest.mark.parametrize(
    ("kind", "head"), [("big_bird", "causal-lm"), ("bigbird_pegasus", "seq2seq-lm")]
)
def test_a_short_text_changes_nothing_for_long_ones(kind: str, head: str) -> None:
    """BigBird turns sparse attention off with a short one, for scores and what is written too."""
    assert [row["outcome"] for row in sweep.one(kind, (head,))] == ["equal"]


@pytest.mark.parametrize(
    ("kind", "heads"),
    [
        ("voxtral", ("seq2seq-lm",)),  # a decoder behind an encoder of sounds
        ("perceiver", ("classify",)),  # a transformer that takes no ids
        pytest.param("blt", ("embed", "causal-lm"), marks=pytest.mark.slow),
        pytest.param("reformer", ("embed", "causal-lm"), marks=pytest.mark.slow),
        pytest.param("fsmt", ("seq2seq-lm",), marks=pytest.mark.slow),
        pytest.param("clvp", ("embed",), marks=pytest.mark.slow),
    ],
)
def test_what_is_unlike_the_others(kind: str, heads: tuple[str, ...]) -> None:
    assert [row["outcome"] for row in sweep.one(kind, heads)] == ["equal"] * len(heads)


def test_results_for_other_places_than_tokens_are_refused() -> None:
    """Perceiver fills in words for every place that it has."""
    (row,) = sweep.one("perceiver", ("fill-mask",))
    assert row["outcome"] == "refused"
    assert re.search(r"gives \d+ results for \d+ tokens, and one for each is needed", row["why"])


def test_a_result_that_differs_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = compared.given_logits

    def off(task: str, folder: Path) -> list[np.ndarray]:
        return [each + 1e-3 for each in ours(task, folder)]

    monkeypatch.setattr(compared, "given_logits", off)
    assert [row["outcome"] for row in sweep.one("bert", ("fill-mask",))] == ["DIFFERS"]


def test_a_text_that_differs_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compared, "given_texts", lambda _: ["another"])
    assert [row["outcome"] for row in sweep.one("gpt2", ("causal-lm",))] == ["DIFFERS"]


@pytest.mark.parametrize("kind", ["jamba", "lilt", "nemotron"])
def test_widths_that_belong_together_are_shrunk_together(kind: str, tmp_path: Path) -> None:
    model_class = transformers.MODEL_MAPPING[transformers.CONFIG_MAPPING[kind]]
    built.save(kind, model_class, tmp_path)
    assert transformers.AutoConfig.from_pretrained(tmp_path).hidden_size < 64


def test_reasons_are_one_sentence_for_each_kind() -> None:
    missing = TypeError("forward() missing 1 required positional argument: 'pixel_values'")
    nothing = AttributeError("'NoneType' object has no attribute 'shape'")
    package = ImportError("TimmWrapperModel requires the timm library but it was not found")
    sight = ["input_ids", "pixel_values"]
    assert built.reason(missing, sight) == "needs an image or a video besides the text"
    assert built.reason(nothing, sight) == built.reason(missing, sight)
    assert built.reason(nothing, ["input_ids"]).startswith("AttributeError: 'NoneType'")
    assert built.reason(package, sight) == "needs the package timm"


def test_configurations_are_shrunk_by_the_names_of_their_fields() -> None:
    tokens = tiny.wordpiece()
    config = shrunk.shrunk(transformers.Gemma3Config, tokens, shrunk.Attempt())
    text = config.text_config
    assert (text.hidden_size, text.num_hidden_layers, text.sliding_window) == (32, 3, 8)
    assert text.vocab_size == len(tokens) + 24
    assert set(text.layer_types) == {"sliding_attention", "full_attention"}
    assert config.image_token_id >= len(tokens)
