"""A model runs packed only where that was seen to give the padded result."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from support import tiny
from torch.nn.functional import scaled_dot_product_attention
from transformers import (
    AttentionInterface,
    AutoModel,
    AutoTokenizer,
    BloomConfig,
    MistralConfig,
)

import dask_embed as de
from dask_embed.inference.attention import ATTENTION, NotPackableError
from dask_embed.inference.attention import attention as dask_embed_attention
from dask_embed.inference.batching import padded_on
from dask_embed.inference.runner import Runner, runner_for
from dask_embed.loading.load import load
from dask_embed.tokens.lists import TokenLists

pytestmark = pytest.mark.usefixtures("one_torch_thread")

LENGTHS = [5, 1, 19, 5, 32, 2, 2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that saves a checkpoint once."""
    root = tmp_path_factory.mktemp("runner")

    def save(name: str) -> Path:
        return root / name if (root / name).exists() else tiny.save(name, root / name)

    return save


@pytest.fixture
def bert(folder: Callable[[str], Path]) -> de.Model:
    return de.Model(str(folder("bert")), device="cpu")


def token_lists(seed: int = 0) -> TokenLists:
    draw = np.random.default_rng(seed)
    return TokenLists.of([draw.integers(5, 390, length).tolist() for length in LENGTHS])


def each_alone(folder: Path, tokens: TokenLists, **settings: Any) -> np.ndarray:
    """The reference: transformers on one sequence at a time, so nothing is padded."""
    model = AutoModel.from_pretrained(folder, attn_implementation="eager", **settings).eval()
    with torch.inference_mode():
        parts = [
            model(input_ids=torch.from_numpy(tokens[row].astype(np.int64))[None])
            for row in range(len(tokens))
        ]
    return torch.cat([part.last_hidden_state[0] for part in parts]).float().numpy()


def replace_packed_attention(monkeypatch: pytest.MonkeyPatch, function: Callable) -> None:
    monkeypatch.setitem(AttentionInterface._global_mapping, ATTENTION, function)


# ------------------------------------------------------------------------------------- the probe
def leaking(module: Any, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
    """Every token sees the whole batch."""
    return scaled_dot_product_attention(query, key, value).transpose(1, 2), None


def leaking_a_little(*args: Any, **kwargs: Any) -> Any:
    """A thousandth of the next token's vector, be it of another sequence."""
    attended, weights = dask_embed_attention(*args, **kwargs)
    return attended + 1e-3 * attended.roll(1, dims=1), weights


@pytest.mark.parametrize("attention", [leaking, leaking_a_little])
def test_attention_that_leaks_is_found_and_not_used(
    bert: de.Model, monkeypatch: pytest.MonkeyPatch, attention: Callable
) -> None:
    assert Runner(load(bert)).verdict.packed
    replace_packed_attention(monkeypatch, attention)
    runner = Runner(load(bert))
    assert not runner.verdict.packed
    assert "differs" in runner.verdict.reason
    assert not runner.runs_packed(1)
    given = runner.token_vectors(token_lists()).numpy()
    expected = each_alone(Path(bert.name), token_lists())
    np.testing.assert_allclose(given, expected, rtol=0, atol=1e-5)


def test_nan_is_no_agreement(bert: de.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(module: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
        return torch.full_like(query, float("nan")).transpose(1, 2), None

    replace_packed_attention(monkeypatch, broken)
    assert not Runner(load(bert)).verdict.packed


@pytest.mark.parametrize(
    "error",
    [
        NotPackableError("it has a bias"),
        ValueError("it has a bias"),
        TypeError("it has a bias"),
        RuntimeError("it has a bias"),  # GPT-Neo builds its masks itself: shapes do not fit
        IndexError("it has a bias"),
        AttributeError("it has a bias"),
        KeyError("it has a bias"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_model_that_fails_packed_runs_padded(
    bert: de.Model, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise error

    replace_packed_attention(monkeypatch, refuse)
    runner = Runner(load(bert))
    assert not runner.verdict.packed
    assert "it has a bias" in runner.verdict.reason
    given = runner.token_vectors(token_lists()).numpy()
    expected = each_alone(Path(bert.name), token_lists())
    np.testing.assert_allclose(given, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("attention", ["padded", "eager", "sdpa"])
def test_another_attention_is_padded(bert: de.Model, attention: str) -> None:
    runner = runner_for(de.Model(bert.name, device="cpu", attention=attention))
    assert not runner.verdict.packed
    assert attention in runner.verdict.reason
    used = runner.loaded.transformer.config._attn_implementation
    runner.token_vectors(token_lists())
    assert used == runner.loaded.transformer.config._attn_implementation
    assert used == ("sdpa" if attention == "padded" else attention)


def test_a_forward_without_positions_is_padded(folder: Callable[[str], Path]) -> None:
    verdict = runner_for(de.Model(str(folder("t5")), device="cpu")).verdict
    assert not verdict.packed
    assert "position_ids" in verdict.reason


def test_alibi_runs_padded(tmp_path: Path) -> None:
    """BLOOM's positions are a bias of its attention, made from the mask."""
    config = BloomConfig(vocab_size=400, hidden_size=32, n_layer=2, n_head=4)
    torch.manual_seed(0)
    model = AutoModel.from_config(config)
    tiny.enlarge(model)
    model.save_pretrained(tmp_path)
    tiny.bpe().save_pretrained(tmp_path)
    runner = Runner(load(de.Model(str(tmp_path), device="cpu")))
    assert not runner.verdict.packed
    given = runner.token_vectors(token_lists()).numpy()
    expected = each_alone(tmp_path, token_lists())
    np.testing.assert_allclose(given, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_a_wide_window_is_packed_up_to_its_width(tmp_path: Path) -> None:
    """Windows too wide to be probed: longer texts run padded, and are right."""
    config = MistralConfig(
        **{
            **tiny._SIZES,
            **tiny._PADDED,
            "vocab_size": 400,
            "num_key_value_heads": 2,
            "max_position_embeddings": 1024,
            "sliding_window": 600,
        }
    )
    torch.manual_seed(0)
    model = AutoModel.from_config(config)
    tiny.enlarge(model)
    model.save_pretrained(tmp_path)
    tiny.bpe().save_pretrained(tmp_path)
    embedder = de.Embedder(de.Model(str(tmp_path), device="cpu"), column="text", pooling="none")
    runner = runner_for(embedder.pinned().model)
    assert runner.verdict.packed
    assert runner.verdict.up_to == 600
    assert runner.runs_packed(600)
    assert not runner.runs_packed(601)
    texts = [" ".join(tiny.corpus()[:30]), "x", tiny.corpus()[3]]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    ids = [tokenizer(text, truncation=True, max_length=1024)["input_ids"] for text in texts]
    assert max(map(len, ids)) > 800
    expected = each_alone(tmp_path, TokenLists.of(ids))
    result = embedder(pd.DataFrame({"text": texts}))["embedding"]
    given = np.concatenate([np.array([np.asarray(v) for v in vectors]) for vectors in result])
    np.testing.assert_allclose(given, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["convbert", "fnet", "mobilebert"])
def test_padding_that_shows_is_not_computed(tmp_path: Path, name: str, side: str) -> None:
    """Convolutions and Fourier transforms see padding, whatever the mask says.

    Of these models transformers itself gives a text another vector in every batch, so the
    reference is the text alone.
    """
    sizes = tiny._SIZES
    config = {
        "convbert": lambda: transformers.ConvBertConfig(
            vocab_size=400, embedding_size=tiny.HIDDEN, **sizes
        ),
        "fnet": lambda: transformers.FNetConfig(
            vocab_size=400,
            **{key: value for key, value in sizes.items() if key != "num_attention_heads"},
        ),
        "mobilebert": lambda: transformers.MobileBertConfig(
            vocab_size=400,
            embedding_size=16,
            true_hidden_size=16,
            intra_bottleneck_size=16,
            **sizes,
        ),
    }[name]()
    torch.manual_seed(0)
    model = AutoModel.from_config(config)
    tiny.enlarge(model)
    model.save_pretrained(tmp_path)
    tiny.wordpiece().save_pretrained(tmp_path)
    tokens = token_lists()
    alone = AutoModel.from_pretrained(tmp_path).eval()
    with torch.inference_mode():
        parts = [
            alone(input_ids=torch.from_numpy(tokens[row].astype(np.int64))[None])
            for row in range(len(tokens))
        ]
    expected = torch.cat([part.last_hidden_state[0] for part in parts]).numpy()
    runner = Runner(load(de.Model(str(tmp_path), device="cpu")))
    with padded_on(side):
        given = runner.token_vectors(tokens)
    scale = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(given.numpy(), expected, rtol=0, atol=1e-5 * scale)


# ------------------------------------------------------------------------------------ the forward
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("attention", ["auto", "padded"])
@pytest.mark.parametrize("name", ["bert", "roberta", "llama", "mistral", "t5"])
def test_token_vectors_equal_each_sequence_alone(
    folder: Callable[[str], Path], name: str, attention: str, side: str
) -> None:
    runner = runner_for(de.Model(str(folder(name)), device="cpu", attention=attention))
    with padded_on(side):
        given = runner.token_vectors(token_lists()).numpy()
    if name == "t5":
        from transformers import T5EncoderModel

        model = T5EncoderModel.from_pretrained(folder(name)).eval()
        with torch.inference_mode():
            parts = [
                model(input_ids=torch.from_numpy(token_lists()[row].astype(np.int64))[None])
                for row in range(len(LENGTHS))
            ]
        expected = torch.cat([part.last_hidden_state[0] for part in parts]).numpy()
    else:
        expected = each_alone(folder(name), token_lists())
    scale = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(given, expected, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("attention", ["auto", "padded"])
def test_several_threads_share_a_model(bert: de.Model, attention: str) -> None:
    model = de.Model(bert.name, device="cpu", attention=attention)
    runner = runner_for(model)
    batches = [token_lists(seed) for seed in range(8)]
    expected = [each_alone(Path(bert.name), batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        given = list(pool.map(runner.token_vectors, batches * 3))
    for vectors, wanted in zip(given, expected * 3, strict=True):
        np.testing.assert_allclose(vectors.numpy(), wanted, rtol=0, atol=1e-5)


def test_packed_and_padded_run_at_a_time(bert: de.Model) -> None:
    """Nothing is switched: each thread waits inside the model until the other is there, too."""
    runner = Runner(load(bert))
    forward, expected = runner._forward, each_alone(Path(bert.name), token_lists())
    own = forward.model.config._attn_implementation
    events = [threading.Event(), threading.Event()]

    def enter(module: Any, *args: Any) -> None:
        here = int(module is forward._packing)
        events[here].set()
        assert events[1 - here].wait(60)

    for model in (forward.model, forward._packing):
        model.register_forward_pre_hook(enter)

    def run(way: Callable) -> np.ndarray:
        with runner.session():
            return way(token_lists()).numpy()

    with ThreadPoolExecutor(2) as pool:
        for given in pool.map(run, [forward.packed, forward.padded]):
            np.testing.assert_allclose(given, expected, rtol=0, atol=1e-5)
    assert own != ATTENTION
    assert forward.model.config._attn_implementation == own


def test_threads_that_ask_at_once_load_once(bert: de.Model) -> None:
    de.unload()
    with ThreadPoolExecutor(4) as pool:
        runners = list(pool.map(runner_for, [bert] * 8))
    assert len({id(runner) for runner in runners}) == 1


def test_unload_forgets(bert: de.Model) -> None:
    de.unload()
    first = runner_for(bert)
    assert runner_for(bert) is first
    assert de.unload() == 1
    assert de.unload() == 0
    assert runner_for(bert) is not first


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_weights_have_the_type_asked_for(bert: de.Model, dtype: str) -> None:
    runner = runner_for(de.Model(bert.name, device="cpu", dtype=dtype))
    wanted = getattr(torch, dtype)
    assert {parameter.dtype for parameter in runner.loaded.transformer.parameters()} == {wanted}
    given = runner.token_vectors(token_lists())
    assert given.dtype == wanted
    expected = each_alone(Path(bert.name), token_lists(), dtype=wanted)
    error = np.linalg.norm(given.float().numpy() - expected) / np.linalg.norm(expected)
    assert error < {"bfloat16": 3e-2, "float32": 1e-5}[dtype]


def test_autocast_keeps_the_weights(bert: de.Model) -> None:
    runner = runner_for(de.Model(bert.name, device="cpu", autocast="bfloat16"))
    kept = {parameter.dtype for parameter in runner.loaded.transformer.parameters()}
    assert kept == {torch.float32}
    expected = each_alone(Path(bert.name), token_lists())
    given = runner.token_vectors(token_lists()).float().numpy()
    error = np.linalg.norm(given - expected) / np.linalg.norm(expected)
    assert 1e-5 < error < 3e-2  # above: nothing ran in bfloat16


def test_the_model_is_ready_for_inference(bert: de.Model) -> None:
    transformer = runner_for(bert).loaded.transformer
    assert not transformer.training
    assert not any(parameter.requires_grad for parameter in transformer.parameters())
    assert not transformer.config.use_cache
    assert not runner_for(bert).token_vectors(token_lists()).requires_grad


def test_model_kwargs_reach_transformers(bert: de.Model) -> None:
    """Two layers of the three."""
    model = de.Model(bert.name, device="cpu", model_kwargs={"num_hidden_layers": 2})
    given = runner_for(model).token_vectors(token_lists()).numpy()
    expected = each_alone(Path(bert.name), token_lists(), num_hidden_layers=2)
    np.testing.assert_allclose(given, expected, rtol=0, atol=1e-5)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_missing_device_is_an_error(bert: de.Model) -> None:
    with pytest.raises(ValueError, match=r"'cuda'.*no CUDA device"):
        runner_for(de.Model(bert.name, device="cuda"))


def test_a_model_that_keeps_states_in_its_modules_runs_alone(tmp_path: Path) -> None:
    """RecurrentGemma: several batches at a time would take each other's states."""
    settings = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "lru_width": 32,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "attention_window_size": 16,
        "block_types": ["recurrent", "recurrent", "attention"],
    }
    base = tiny.save("llama", tmp_path / "llama")
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    config = transformers.RecurrentGemmaConfig(
        vocab_size=len(tokenizer), pad_token_id=0, **settings
    )
    folder = tmp_path / "recurrent"
    model = transformers.RecurrentGemmaModel(config).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    runners = [runner_for(de.Model(str(each), device="cpu")) for each in (folder, base)]
    assert [runner.shares for runner in runners] == [False, True]
    frame = pd.DataFrame({"text": ["one two " * (i % 7 + 1) + str(i) for i in range(40)]})
    found = de.to_array(frame.ml.embed(model=folder, batch_size=4).embedding)
    for row, text in enumerate(frame.text):
        ids = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            expected = model(**ids, use_cache=False).last_hidden_state[0].mean(0)
        assert abs(found[row] - expected.numpy()).max() < 1e-4
