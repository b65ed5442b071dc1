"""What the probe finds out about a model, held against the model's own call on one text.

The reference is the class of transformers called as its tokenizer says, a fresh copy for each text.
"""

from __future__ import annotations

import copy
import gc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from support import tiny
from tokenizers import processors

import dask_embed as de
from dask_embed.inference import probe
from dask_embed.inference.lengths import named_lengths
from dask_embed.inference.positions import Positions
from dask_embed.inference.runner import Runner, runner_for
from dask_embed.inference.state import ModelState
from dask_embed.loading.load import load
from dask_embed.runtime import lanes
from dask_embed.tokens.lists import TokenLists

pytestmark = pytest.mark.usefixtures("one_torch_thread")

_SIZES = tiny._SIZES | {"max_position_embeddings": 160}
_IDS = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
_DECODER = {**_SIZES, **_IDS, "num_key_value_heads": 2, "head_dim": 8}
_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "original_max_position_embeddings": 24,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [2.0, 3.0, 4.0, 5.0],
}
# Architecture: its configuration, and how it is expected to run.
CASES: dict[str, tuple[dict[str, Any], str]] = {
    # positions that begin at 2
    "nystromformer": ({**_SIZES, "pad_token_id": 0}, "by length"),
    # an embedding of token type 0, which the tokenizer gives
    "gpt2": ({**_SIZES, "pad_token_id": 0}, "packed"),
    # a mask token in a text scales the others
    "esm": ({**_SIZES, "pad_token_id": 0, "mask_token_id": 4, "token_dropout": True}, "padded"),
    # the first text that is short turns sparse attention off for good
    "big_bird": (
        {**_SIZES, "pad_token_id": 0, "block_size": 4, "num_random_blocks": 1},
        "alone",
    ),
    # states that stay in the module
    "recurrent_gemma": (
        {
            **_DECODER,
            "num_key_value_heads": 1,
            "lru_width": 32,
            "attention_window_size": 16,
            "block_types": ["recurrent", "recurrent", "attention"],
        },
        "alone",
    ),
    # frequencies that follow the longest text of a batch
    "phi3": ({**_DECODER, "rope_parameters": _ROPE, "hidden_size": 32}, "alone"),
    # a mask of as many tokens as a text may have: rows of no more
    "gpt_neo": (
        {
            "hidden_size": 32,
            "num_layers": 2,
            "attention_types": [[["global", "local"], 1]],
            "num_heads": 4,
            "max_position_embeddings": 160,
        },
        "packed",
    ),
    # rows of no more than its positions
    "clip_text_model": ({**_SIZES, **_IDS, "max_position_embeddings": 77}, "packed"),
    # no text of one token, and what it knows of the length of a text stays in the module
    "funnel": (
        {
            "block_sizes": [2, 2],
            "block_repeats": [1, 1],
            "num_decoder_layers": 1,
            "d_model": 32,
            "n_head": 4,
            "d_head": 8,
            "d_inner": 48,
        },
        "alone",
    ),
}


def tokenizer(kind: str) -> Any:
    made = tiny.wordpiece()
    made.model_max_length = 77 if kind == "clip_text_model" else 100
    return made


def save(kind: str, folder: Path, settings: dict[str, Any], own: Any = None) -> Path:
    tokens = own or tokenizer(kind)
    torch.manual_seed(0)
    config = transformers.CONFIG_MAPPING[kind](vocab_size=len(tokens), **settings)
    if kind == "funnel":
        config.architectures = ["FunnelModel"]  # there is another one without its decoder
    model = transformers.AutoModel.from_config(config)
    tiny.enlarge(model, 0.1)
    model.save_pretrained(folder)
    tokens.save_pretrained(folder)
    return folder


def texts() -> list[str]:
    """Short and long ones, with special tokens in letters."""
    words = tiny.corpus()
    return [
        words[40] + words[41],
        "[PAD] to fill up [MASK] a batch [SEP]",
        words[7],
        "Return the lines.",
        words[7][:40],
        words[100] + words[101],
        "[PAD][PAD]",
        "write <pad> to fill up a batch",
    ]


def means(folder: Path, **settings: Any) -> np.ndarray:
    """The reference: mean of the token vectors, each text alone in a fresh model."""
    tokens = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32, **settings).eval()
    with torch.inference_mode():
        return np.stack(
            [
                copy.deepcopy(model)(**tokens(text, truncation=True, return_tensors="pt"))
                .last_hidden_state[0]
                .mean(0)
                .numpy()
                for text in texts()
            ]
        )


def embedded(folder: Path, **settings: Any) -> np.ndarray:
    embedder = de.Embedder(
        de.Model(str(folder), device="cpu"), column="text", pooling="mean", **settings
    )
    return de.to_array(embedder(pd.DataFrame({"text": texts()}))["embedding"])


def assert_close(given: np.ndarray, expected: np.ndarray, tolerance: float = 1e-5) -> None:
    scale = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(given, expected, rtol=0, atol=tolerance * scale)


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    kind = request.param
    settings, runs = CASES[kind]
    folder = save(kind, tmp_path_factory.mktemp("probe") / kind, settings)
    yield folder, means(folder), runs
    de.unload()


def test_vectors_are_those_of_each_text_alone(case: Any) -> None:
    folder, expected, _ = case
    for settings in ({}, {"batch_size": 2}, {"padding_side": "left"}, {"tokens_per_batch": 10_000}):
        assert_close(embedded(folder, **settings), expected)


def test_how_it_runs(case: Any) -> None:
    folder, _, runs = case
    verdict = runner_for(de.Embedder(str(folder)).pinned().spec).verdict
    longest = max(100, verdict.up_to or 0)
    alone = verdict.up_to is not None and verdict.up_to < longest
    assert ("alone" if alone and runs == "alone" else verdict.runs) == runs, verdict


def test_threads_share_what_may_be_shared(case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, expected, _ = case
    monkeypatch.setattr(lanes, "math_threads", lambda: 4)
    with ThreadPoolExecutor(3) as threads:
        for given in threads.map(lambda _: embedded(folder, batch_size=2), range(3)):
            assert_close(given, expected)


def test_padding_token_in_a_text(tmp_path: Path) -> None:
    """RoBERTa and its kin do not count it as a position."""
    for name in ("roberta", "mpnet"):
        folder = tiny.save(name, tmp_path / name)
        own = transformers.AutoTokenizer.from_pretrained(folder)
        own.model_max_length = tiny.POSITIONS
        own.save_pretrained(folder)
        assert own("<pad> to fill")["input_ids"].count(own.pad_token_id) == 1
        given = embedded(folder)
        assert_close(given, means(folder))
        de.unload()


def test_token_types_of_single_texts(tmp_path: Path) -> None:
    """XLNet's tokenizer gives its last token type 2."""
    own = tokenizer("xlnet")
    own.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A:0 [SEP]:0 [CLS]:2", special_tokens=[("[SEP]", 3), ("[CLS]", 2)]
    )
    sizes = {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48, "pad_token_id": 0}
    folder = save("xlnet", tmp_path, sizes, own)
    assert transformers.AutoTokenizer.from_pretrained(folder)("x")["token_type_ids"][-1] == 2
    assert_close(embedded(folder), means(folder))


def test_packing_is_judged_without_rounding(tmp_path: Path) -> None:
    """Convolutions of LFM2 reach into the text before: 9 % that bfloat16 must not excuse."""
    settings = {**_DECODER, "full_attn_idxs": [1], "conv_L_cache": 3, "block_dim": 32}
    settings["layer_types"] = ["conv", "full_attention", "conv"]
    folder = save("lfm2", tmp_path, settings)
    for dtype in ("float32", "bfloat16"):
        assert not Runner(load(de.Model(str(folder), device="cpu", dtype=dtype))).verdict.packed
    bert = save("bert", tmp_path / "bert", _SIZES)
    assert Runner(load(de.Model(str(bert), device="cpu", dtype="bfloat16"))).verdict.packed


def test_the_exact_copy_is_gone_when_the_model_itself_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes twice the memory of a model in 16 bits, which runs then."""
    tried, copies = probe._judge_rounded, []

    def judge_rounded(*given: Any) -> Any:
        gc.collect()
        models = (each for each in gc.get_objects() if isinstance(each, transformers.BertModel))
        copies.extend(each for each in models if each.dtype == torch.float32)
        return tried(*given)

    monkeypatch.setattr(probe, "_judge_rounded", judge_rounded)
    folder = tiny.save("bert", tmp_path / "bert")
    assert Runner(load(de.Model(str(folder), device="cpu", dtype="bfloat16"))).verdict.packed
    assert not copies


def test_a_text_that_is_too_short_is_a_failed_row(tmp_path: Path) -> None:
    folder = save("funnel", tmp_path, CASES["funnel"][0], tiny.byte_level_bpe())
    frame = pd.DataFrame({"text": ["Return the lines.", "x"]})
    model = de.Model(str(folder), device="cpu")
    result = frame.ml.embed("text", model=model, on_error="null")
    assert result["embedding"].notna().tolist() == [True, False]
    assert "no fewer than" in result["embedding_error"][1]


def test_weights_that_are_no_numbers(tmp_path: Path) -> None:
    folder = save("bert", tmp_path, _SIZES)
    model = transformers.AutoModel.from_pretrained(folder)
    with torch.no_grad():
        model.encoder.layer[1].output.dense.bias[3] = float("nan")
    model.save_pretrained(folder)
    with pytest.raises(ValueError, match="no finite numbers"):
        embedded(folder)


@pytest.mark.parametrize("pooling", ["mean", "none"])
def test_a_result_that_is_no_number_is_a_failed_row(tmp_path: Path, pooling: str) -> None:
    """One word whose embedding is NaN, which the probe's random tokens do not hold."""
    folder = save("bert", tmp_path, _SIZES)
    tokens = transformers.AutoTokenizer.from_pretrained(folder)
    frame = pd.DataFrame({"text": ["lines of it", "Return the lines.", "of it"]})
    embedder = de.Embedder(de.Model(str(folder), device="cpu"), pooling=pooling, on_error="null")
    runner = runner_for(embedder.pinned().spec)
    table = runner.loaded.transformer.get_input_embeddings().weight
    (word,) = set(tokens("Return")["input_ids"]) - set(tokens("")["input_ids"]) or {None}
    before = table[word].clone()
    try:
        table[word] = float("nan")
        result = embedder(frame)
    finally:
        table[word] = before
    assert result["embedding"].notna().tolist() == [True, False, True]
    assert "no finite number" in result["embedding_error"][1]


def judged(folder: Path) -> tuple[Runner, list[int]]:
    """Return a runner, and the length of every row that its transformer runs from now on."""
    loaded, rows = load(de.Model(str(folder), device="cpu")), []
    loaded.transformer.register_forward_pre_hook(
        lambda _, args, given: rows.append(given["input_ids"].shape[1]), with_kwargs=True
    )
    return Runner(loaded), rows


def test_a_model_that_packs_is_judged_with_one_pass_over_all_texts(tmp_path: Path) -> None:
    """Loading takes no longer than that: each text alone, then all of them in a row."""
    runner, rows = judged(save("bert", tmp_path, {**_SIZES, "max_position_embeddings": 512}))
    assert runner.verdict.packed
    assert rows == [11, 3, 7, 7, 1, 29]


@pytest.mark.parametrize("kind", ["bert", "clip_text_model"])
def test_rows_longer_than_positions_are_tried_when_one_is_wanted(kind: str, tmp_path: Path) -> None:
    """BERT takes them; CLIP refuses, and gets its texts in several rows."""
    settings = {"bert": {**_SIZES, "max_position_embeddings": 77}, "clip_text_model": None}[kind]
    runner, rows = judged(save(kind, tmp_path, settings or CASES[kind][0]))
    draw = np.random.default_rng(1)
    tokens = TokenLists.of([draw.integers(5, 200, 30).tolist() for _ in range(4)])
    model = transformers.AutoModel.from_pretrained(tmp_path).eval()
    with torch.inference_mode():
        ids = torch.from_numpy(np.asarray(tokens.values, np.int64)).reshape(4, 30)
        expected = torch.cat([model(row[None]).last_hidden_state[0] for row in ids]).numpy()
    assert max(rows) <= 77
    rows.clear()
    for _ in range(2):
        assert_close(runner.token_vectors(tokens).numpy(), expected)
    trial, *batches = rows
    assert trial > 77
    assert batches == ([120] * 2 if kind == "bert" else [60] * 4)


# ------------------------------------------------------------------------------------- its parts
def test_positions_of_texts() -> None:
    tokens = TokenLists.of([[7, 1, 8], [9], [1, 1, 5]])
    assert Positions().of(tokens).tolist() == [0, 1, 2, 0, 0, 1, 2]
    assert Positions(2).of(tokens).tolist() == [2, 3, 4, 2, 2, 3, 4]
    # RoBERTa: cumulated count of what is no padding, plus the padding's id; padding has that id
    assert Positions(2, skipped=1).of(tokens).tolist() == [2, 1, 3, 2, 1, 1, 2]


def test_lengths_that_a_configuration_names() -> None:
    config = transformers.PhiConfig(
        hidden_size=1000,
        num_attention_heads=10,
        max_position_embeddings=2000,
        rope_parameters={"rope_type": "default", "original_max_position_embeddings": 300},
        vocab_size=5000,
    )
    config.some_new_kind_of_reach = 77
    found = named_lengths(config)
    assert {77, 300, 2000} <= set(found)
    assert not {1000, 5000} & set(found)


class _Remembers(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(2))
        self.seen: list[int] = []
        self.last = None
        self.inner = torch.nn.Linear(2, 2)

    def forward(self, number: int) -> None:
        self.seen.append(number)
        self.last = number
        self.total += number
        self.inner = torch.nn.Identity()
        self.new = 1


def test_a_model_is_put_back() -> None:
    model = _Remembers()
    layer = model.inner
    state = ModelState(model)
    assert not state.changes()
    model(3)
    assert len(state.changes()) == 5
    state.restore()
    assert not state.changes()
    assert (model.seen, model.last, model.total.tolist()) == ([], None, [0.0, 0.0])
    assert model.inner is layer
    assert not hasattr(model, "new")


def test_what_there_is_once_weights_were_written_to_counts() -> None:
    """RWKV divides them with its first text, and says so in an attribute."""
    model: Any = torch.nn.Linear(2, 2).requires_grad_(False)
    model.divided, model.seen = False, 0
    state = ModelState(model)
    model.weight.div_(2)
    model.divided, model.seen = True, 1
    state.restore()
    assert (model.divided, model.seen) == (True, 1)
    model.seen = 2
    state.restore()
    assert (model.divided, model.seen) == (True, 1)


def test_hidden_states_of_two_streams_side_by_side(tmp_path: Path) -> None:
    """Reformer's are twice as wide as its configuration says; its local attention draws nothing."""
    tokenizer = tiny.wordpiece()
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    tokenizer.model_max_length = 64
    config = transformers.ReformerConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        attention_head_size=8,
        num_attention_heads=4,
        axial_pos_embds=False,
        attn_layers=["local", "local"],
        local_attn_chunk_length=8,
        feed_forward_size=48,
        is_decoder=False,
        max_position_embeddings=160,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    model = transformers.ReformerModel(config).eval()
    tiny.enlarge(model, 0.1)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    texts = ["a list of words", "one", "the mean of a sample " * 6]
    given = de.to_array(
        de.Embedder(str(tmp_path), normalize=False)(pd.DataFrame({"text": texts}))["embedding"]
    )
    for text, vector in zip(texts, given, strict=True):
        with torch.inference_mode():
            hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        np.testing.assert_allclose(vector, hidden.mean(dim=0), rtol=0, atol=1e-5)
