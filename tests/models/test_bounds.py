"""Small files that ask for more than any model has are refused on the client, at once."""

from __future__ import annotations

import json
import os
import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import tokenizers
from support import headed, tokenizer_kinds
from tokenizers import pre_tokenizers

import dask_embed as de
from dask_embed.inference.runner import runner_for
from dask_embed.models import bounds, patterns
from dask_embed.models.growth import growth, require_bounded_growth

FRAME = pd.DataFrame({"text": ["hello there", "second"]})


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    return headed.saver(tmp_path_factory.mktemp("bounds"))


def rewritten(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(content | changes))


def config(**changes: Any) -> Callable[[Path], Any]:
    return lambda folder: rewritten(folder / "config.json", **changes)


def generation(**changes: Any) -> Callable[[Path], Any]:
    return lambda folder: rewritten(folder / "generation_config.json", **changes)


def tokenizer_settings(**changes: Any) -> Callable[[Path], Any]:
    return lambda folder: rewritten(folder / "tokenizer_config.json", **changes)


def text(name: str, content: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_text(content)


def splits_by(pattern: str, part: str = "pre_tokenizer") -> Callable[[Path], Any]:
    def edit(folder: Path) -> None:
        path = folder / "tokenizer.json"
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
        split = pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
        if part == "pre_tokenizer":
            tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, tokenizer.pre_tokenizer])
        else:
            replace = tokenizers.normalizers.Replace(tokenizers.Regex(pattern), "")
            tokenizer.normalizer = tokenizers.normalizers.Sequence([replace])
        tokenizer.save(str(path))

    return edit


def tokenizer_part(part: str, step: dict[str, Any]) -> Callable[[Path], Any]:
    return lambda folder: rewritten(folder / "tokenizer.json", **{part: step})


def _replace(text: str, by: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": text}, "content": by}


def _steps(*steps: dict[str, Any], name: str = "normalizers", times: int = 20) -> dict[str, Any]:
    return {"type": "Sequence", name: [*steps] * times}


TOGETHER = "may write 1,000 characters or more for one, step after step"
# Steps that write much with each text, or hold more than any tokenizer does.
LONG_STEPS: dict[str, tuple[str, dict[str, Any], str]] = {
    "before": ("normalizer", {"type": "Prepend", "prepend": "x" * 10**6}, "'prepend' of 1,000,000"),
    "within": (
        "normalizer",
        {
            "type": "Sequence",
            "normalizers": [
                {"type": "Replace", "pattern": {"String": "e"}, "content": "e " * 10**5}
            ],
        },
        "'content' of 200,000",
    ),
    "of pieces": (
        "decoder",
        {"type": "WordPiece", "prefix": "#" * 10**5, "cleanup": True},
        "'prefix' of 100,000",
    ),
    "around": (
        "post_processor",
        {
            "type": "TemplateProcessing",
            "single": [
                *([{"SpecialToken": {"id": "[CLS]", "type_id": 0}}] * 5000),
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [
                {"Sequence": {"id": "A", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 1}},
            ],
            "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]}},
        },
        "'single' of 5,001 parts",
    ),
    "tokens around": (
        "post_processor",
        {
            "type": "TemplateProcessing",
            "single": [
                *([{"SpecialToken": {"id": "[CLS]", "type_id": 0}}] * 500),
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [
                {"Sequence": {"id": "A", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 1}},
            ],
            "special_tokens": {
                "[CLS]": {"id": "[CLS]", "ids": [2] * 500, "tokens": ["[CLS]"] * 500}
            },
        },
        "writes 250,000 tokens around",
    ),
    "doubled again and again": ("normalizer", _steps(_replace("a", "aa"), times=40), TOGETHER),
    "two that feed each other": (
        "normalizer",
        _steps(_replace("a", "bb"), _replace("b", "aa")),
        TOGETHER,
    ),
    "any character": (
        "normalizer",
        _steps({"type": "Replace", "pattern": {"Regex": "."}, "content": "xy"}, times=40),
        TOGETHER,
    ),
    "between characters": (
        "normalizer",
        _steps({"type": "Replace", "pattern": {"Regex": "(?=a)"}, "content": "a"}, times=40),
        TOGETHER,
    ),
    "bytes of bytes": ("normalizer", _steps({"type": "ByteLevel"}, times=40), TOGETHER),
    "letters of Unicode": (
        "normalizer",
        _steps(_replace(" ", "\ufdfa"), {"type": "NFKC"}),
        TOGETHER,
    ),
    "many before": ("normalizer", _steps({"type": "Prepend", "prepend": "a" * 900}), TOGETHER),
    "bytes in pieces": (
        "pre_tokenizer",
        _steps(
            {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True},
            name="pretokenizers",
        ),
        TOGETHER,
    ),
    "answers": ("decoder", _steps(_replace("a", "aa"), name="decoders", times=40), TOGETHER),
}


# Expressions that part a run of characters in many ways: minutes for some thousand of them.
ENDLESS = (
    *("a*a*b", "a*a*a*b", r"\s*[\r\n]+b", "(a|aa)+b", r"\d*\d*\d*x", r"\w*\w*!", ".*.*.*b"),
    *("[A-Z]*[A-Z]*[A-Z]*b", "(\u7684|\u7684\u7684)+b"),
)

CHECKPOINTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a million layers": (config(num_hidden_layers=10**6), "num_hidden_layers=1000000"),
    "more layers than numbers": (config(num_hidden_layers=10**30), "num_hidden_layers="),
    "layers as a float": (config(num_hidden_layers=1e9), "num_hidden_layers=1000000000"),
    "fewer than no layers": (config(num_hidden_layers=-(10**9)), "num_hidden_layers="),
    "no layers at all": (config(num_hidden_layers=-2), "num_hidden_layers=-2"),
    "layers of a part": (config(text_config={"num_layers": 10**7}), "num_layers=10000000"),
    "layers in a list": (config(decoder_layers=[1, 10**7]), "decoder_layers=10000000"),
    "width": (config(hidden_size=10**9), "hidden_size=1000000000"),
    "inner width": (config(intermediate_size=10**9), "intermediate_size="),
    "vocabulary": (config(vocab_size=10**10), "vocab_size="),
    "positions": (config(max_position_embeddings=10**9), "max_position_embeddings="),
    "kinds of tokens": (config(type_vocab_size=10**9), "type_vocab_size="),
    "heads": (config(num_attention_heads=10**9), "num_attention_heads="),
    "experts": (config(num_local_experts=10**6), "num_local_experts=1000000"),
    "vocabulary that fits no file": (config(vocab_size=16_000_000), "describes a model of"),
    "widths that fit no file": (
        config(hidden_size=2**16, num_hidden_layers=99),
        "describes a model",
    ),
    "positions that fit no file": (config(max_position_embeddings=2**24), "describes a model of"),
    "an encoder beside no decoder": (config(is_encoder_decoder=True), "is_encoder_decoder=True"),
    "a part of another type": (config(text_config={"model_type": "llama"}), "a part for texts"),
    "an empty part": (config(text_config={}), "a part for texts"),
    "a part that is a number": (config(text_config=5), "a part for texts"),
    "limit in words": (tokenizer_settings(model_max_length="x"), "model_max_length='x'"),
    "limit below one": (tokenizer_settings(model_max_length=0), "model_max_length=0"),
    "limit that is true": (tokenizer_settings(model_max_length=True), "model_max_length=True"),
    "nesting": (text("config.json", '{"a":' * 100_000 + "1" + "}" * 100_000), "is not valid json"),
    "nested lists": (text("config.json", "[" * 100_000), "is not valid json"),
    "nested tokenizer settings": (
        text("tokenizer_config.json", '{"a":' * 100_000 + "1" + "}" * 100_000),
        "is not valid json",
    ),
    "size of a file": (
        lambda folder: os.truncate(folder / "config.json", 1 << 30),
        "a configuration has at most",
    ),
    "stop strings": (generation(stop_strings=["x" * 10**6]), "of 1,000,000"),
    "one stop string": (generation(stop_strings="x" * 10**6), "of 1,000,000"),
    "many stop strings": (generation(stop_strings=["x"] * 1000), "got 1,000 of 1,000"),
    "numbers as stop strings": (generation(stop_strings=[1]), "must be strings"),
    "beams": (generation(num_beams=10**6), "num_beams=1000000"),
    "texts of a prompt": (generation(num_return_sequences=10**6), "num_return_sequences="),
    **{
        f"writes {case}": (tokenizer_part(part, step), says)
        for case, (part, step, says) in LONG_STEPS.items()
    },
    "splits for ever": (splits_by("(a+)+$"), "in many ways"),
    "splits for ever, counted": (splits_by(r"(\w{1,9})*!"), "in many ways"),
    **{f"splits by {each}": (splits_by(each), "may take for ever") for each in ENDLESS},
    "replaces for ever": (splits_by(r"((a|b)*c)*d", "normalizer"), "in many ways"),
}


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_a_checkpoint_that_asks_for_too_much(
    case: str, saved: Callable[..., Path], tmp_path: Path
) -> None:
    edit, says = CHECKPOINTS[case]
    folder = tmp_path / "model"
    shutil.copytree(saved("bert"), folder)
    edit(folder)
    started = time.thread_time()
    with pytest.raises(ValueError, match=says) as caught:
        # the limit is low, so that the client counts special tokens with the tokenizer
        de.Embedder(str(folder), max_length=8)(dd.from_pandas(FRAME, npartitions=1))
    assert time.thread_time() - started < 5
    assert len(str(caught.value)) < 1000


def test_model_kwargs_ask_for_no_more(saved: Callable[..., Path]) -> None:
    model = de.Model(str(saved("bert")), model_kwargs={"num_hidden_layers": 10**6})
    with pytest.raises(ValueError, match="num_hidden_layers=1000000"):
        de.Embedder(model)(FRAME)


@pytest.mark.parametrize(
    ("name", "value", "has"),
    [
        ("problem_type", "regression", "None"),
        ("num_hidden_layers", "2", "3"),
        ("use_cache", "x", "True"),
    ],
)
def test_a_text_for_another_value_is_told_as_such(
    name: str, value: str, has: str, saved: Callable[..., Path]
) -> None:
    model = de.Model(str(saved("bert")), model_kwargs={name: value})
    with pytest.raises(
        ValueError, match=f"sets {name}='{value}', a text where .* has {has}:"
    ) as told:
        de.Embedder(model)(FRAME)
    assert "did you mean" not in str(told.value)


@pytest.mark.parametrize(
    "written",
    [
        # as of Qwen2-57B-A14B, Llama 4 Scout, Kimi K2, BERT with many labels
        {"shared_expert_intermediate_size": 20480, "num_experts": 64, "max_window_layers": 28},
        {"max_position_embeddings": 10485760, "num_hidden_layers": 48, "vocab_size": 202048},
        {"n_routed_experts": 384, "num_hidden_layers": 61, "moe_layer_freq": 1, "ep_size": 1},
        {"label2id": {"layer 5": 50_000, "depth": 4_000}, "id2label": {"0": "layer"}},
        {"rope_theta": 10**11, "eos_token_id": 10**5, "layer_norm_eps": 1e-12, "is_decoder": True},
    ],
)
def test_what_large_models_have_is_allowed(written: dict[str, Any]) -> None:
    bounds.require_sizes(written, "config.json")


@pytest.mark.parametrize(
    ("stop", "says"),
    [(["x" * 10**6], "of 1,000,000"), (["ab"] * 65, "got 65 of 130")],
)
def test_stop_strings_are_few(stop: list[str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        de.Generator("x", stop=stop)
    assert len(de.Generator("x", stop=["ab"] * 64).stop) == 64


# ------------------------------------------------------------------------------------- adapters
ADAPTERS: dict[str, tuple[dict[str, Any], str]] = {
    "rank": ({"r": 10**9}, "r=1000000000; at most 8,192"),
    "rank of a layer": ({"rank_pattern": {"query": 10**9}}, "rank_pattern="),
    "replicated layers": ({"layer_replication": [[0, 10**7]]}, "replicates 10,000,000 layers"),
    "replicated again and again": ({"layer_replication": [[0, 3]] * 1000}, "replicates 3,000"),
    "replicated words": ({"layer_replication": ["ab"]}, "must be pairs of layers"),
    "layers for ever": ({"layers_pattern": "(a+)+"}, "at most two wildcards"),
    "layers of many wildcards": ({"layers_pattern": [".*.*.*.*.*.*"]}, "at most two wildcards"),
    "ranks for ever": ({"rank_pattern": {"(a*)*b": 4}}, "at most two wildcards"),
    "scales for ever": ({"alpha_pattern": {"(a|aa)+(b+)+$": 4}}, "at most two wildcards"),
    "many ranks": ({"rank_pattern": {f"l{n}": 4 for n in range(5000)}}, "at most 4,096"),
    "many wildcards in all": (
        {"rank_pattern": {f"a{n}.*": 4 for n in range(100)}},
        "at most two wildcards",
    ),
    "saved for ever": ({"modules_to_save": ["(a+)+"]}, "at most two wildcards"),
    "parameters for ever": ({"target_parameters": ["(.*)*x"]}, "at most two wildcards"),
    "numbers as modules": ({"modules_to_save": [5]}, "must be names of modules"),
    "long expression": ({"target_modules": "a|" * 20_000}, "at most 20,000 characters"),
    "broken expression": ({"target_modules": "(a"}, "must be a regular expression"),
    "deep expression": ({"target_modules": "(" * 5000 + ")" * 5000}, "must be a regular"),
    "counted expression": ({"target_modules": "((a{999}){999}){999}"}, "very often"),
    "counted once": ({"exclude_modules": "[a-z]{1000000000}"}, "very often"),
    "many modules": ({"target_modules": ["a"] * 5000}, "at most 4,096"),
}


@pytest.mark.parametrize("case", ADAPTERS)
def test_an_adapter_that_asks_for_too_much(
    case: str, saved: Callable[..., Path], tmp_path: Path
) -> None:
    changes, says = ADAPTERS[case]
    plain = {"peft_type": "LORA", "r": 4, "target_modules": ["query"], "task_type": None}
    rewritten(tmp_path / "adapter_config.json", **plain | changes)
    model = de.Model(str(saved("bert")), adapter=str(tmp_path))
    started = time.thread_time()
    with pytest.raises(ValueError, match=says) as caught:
        de.Embedder(model)(dd.from_pandas(FRAME, npartitions=1))
    assert time.thread_time() - started < 5
    assert len(str(caught.value)) < 1000


NAMES = ["encoder.layer.0.query", "encoder.layer.1.value", "pooler.dense"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (r".*\.(query|value)", NAMES[:2]),
        (r"encoder\.layer\.\d+\..*", NAMES[:2]),
        (r"^(?!.*encoder).*(?:dense|query)$", NAMES[2:]),
        (r"(?:.*?(?:encoder).*?(?:layer).*?(?:query).*?)|(?:\bpooler\.[a-z]{1,})", NAMES[::2]),
        ("query", []),
    ],
)
def test_modules_are_matched_as_a_whole(pattern: str, expected: list[str]) -> None:
    """By hand; as `re.fullmatch`, which is how peft matches them."""
    assert patterns.matching(pattern, NAMES, "target_modules") == expected


def trained(base: Path, folder: Path, **settings: Any) -> Any:
    """Save an adapter of random weights, and return the model with it."""
    peft, torch, transformers = map(pytest.importorskip, ("peft", "torch", "transformers"))
    with warnings.catch_warnings(action="ignore"), torch.random.fork_rng():
        torch.manual_seed(1)
        model = transformers.AutoModel.from_pretrained(base).eval()
        adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, **settings))
        for weights in adapted.parameters():
            if weights.requires_grad:
                weights.data.add_(torch.randn_like(weights) * 0.3)
        adapted.save_pretrained(folder)
    return adapted


def test_modules_chosen_by_expressions_are_those_of_peft(
    saved: Callable[..., Path], tmp_path: Path
) -> None:
    import torch

    base = saved("bert")
    chosen = {"target_modules": r".*\.(query|value)", "exclude_modules": r".*layer\.0\..*"}
    adapted = trained(base, tmp_path / "lora", **chosen)
    assert json.loads((tmp_path / "lora/adapter_config.json").read_text()).items() >= chosen.items()
    model = de.Model(str(base), device="cpu", adapter=str(tmp_path / "lora"))
    tokens = runner_for(model).loaded.tokenizer(["hello there"], return_tensors="pt")
    with torch.no_grad():
        expected = adapted(**tokens).last_hidden_state.mean(1)[0].numpy()
    out = de.Embedder(model, normalize=False)(FRAME[:1])["embedding"][0]
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-5)


def test_an_adapter_whose_expression_never_ends(
    saved: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where module names are known, which is when the model is built."""
    trained(saved("bert"), tmp_path / "lora", target_modules=["query"])
    for pattern, seconds, says in (
        ("none", 2, "matches no module"),
        ("query", 2, "matches no module"),
        (r".*\.query", 0, "ends in time"),
    ):
        monkeypatch.setattr(patterns, "_SECONDS", seconds)
        rewritten(tmp_path / "lora/adapter_config.json", target_modules=pattern)
        model = de.Model(str(saved("bert")), device="cpu", adapter=str(tmp_path / "lora"))
        with pytest.raises(ValueError, match=says):
            de.Embedder(model)(FRAME)
        de.unload()


def test_an_expression_that_never_ends_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """However fast the machine: it tries 2 ** 100 ways."""
    monkeypatch.setattr(patterns, "_SECONDS", 0.2)
    names = ["a" * 150]
    started = time.monotonic()
    with pytest.raises(ValueError, match="ends in time"):
        patterns.matching(r"(a|aa|aaa)+[bc]", names, "target_modules")
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("pattern", ["(a+)+", "(a*)*", "(a{1,3})+", "((a|b)*c)*", "([a]+b?)*"])
def test_repeats_that_nest(pattern: str) -> None:
    assert patterns.repeats_nest(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        # of GPT-2, Llama 3, DeepSeek V3 and CLIP
        r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+",
        r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+",
        r"<\|startoftext\|>|'s|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
        *(r"[(a+)+]", r"\(a+\)+", r"(a*){5}", r"(a|b)+", "(a)+(b)+", r"[\p{Han}&&[^\d]]*[a]+"),
    ],
)
def test_expressions_of_tokenizers_in_use_are_run(pattern: str) -> None:
    assert not patterns.repeats_nest(pattern)


def test_bases_of_rotations_are_no_counts_of_layers() -> None:
    """Granite's sliding-window models name theirs layer by layer."""
    bounds.require_sizes({"layer_rope_theta": [10_000, 10_000_000], "num_hidden_layers": 3}, "it")


def test_what_a_character_becomes_is_known_without_running_a_step() -> None:
    """Counted by hand: of steps that write each other's letters, of tables, and of those in use."""
    steps = tokenizers.normalizers
    replace, any_of = steps.Replace, tokenizers.Regex
    sixteen = [replace("a", "bb"), replace("b", "cccc"), replace("c", "dd")]
    expected = [
        (16, sixteen),
        (4, [*reversed(sixteen), *(replace(each, "wxyz") for each in "efgh" * 30)]),
        (1, [replace("a", "b"), replace("b", "a"), replace("abc", "a")] * 50),
        (3, [replace("ab", "cd"), replace("cd", "efghij")]),
        (5, [replace(any_of("[a-z]+"), "12345"), replace(any_of(r"^\s+"), "")]),
        # CLIP, Llama 2 and ALBERT
        (8, [steps.NFC(), replace(any_of(r"\s+"), " "), steps.Lowercase()]),
        (1, [steps.Prepend("\u2581"), replace(" ", "\u2581")]),
        (18, [replace("``", '"'), steps.NFKD(), steps.StripAccents(), steps.Lowercase()]),
    ]
    for times, given in expected:
        step = steps.Sequence(given)
        assert growth(step) == times, step
        longest = max(len(step.normalize_str(letter)) for letter in "abcdefgh \ufdfa\u0390")
        assert longest <= times + 1, step


@pytest.mark.parametrize("kind", [kind for kind in tokenizer_kinds.KINDS if "unigram" not in kind])
def test_tokenizers_in_use_make_texts_little_longer(kind: str) -> None:
    require_bounded_growth(tokenizer_kinds.KINDS[kind](), kind)


# Of GPT-2, Llama 3, GPT-4o and others.
IN_USE = (
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r" ?[^(\s|[.,!?\u2026\u3002\uff0c\u3001])]+",
    r"\d{1,3}(?=(?:\d{3})*\b)",
    r"^\s+|\s+$| {2,}",
)


@pytest.mark.parametrize("pattern", IN_USE)
def test_expressions_in_use_take_no_time(pattern: str) -> None:
    assert not patterns.takes_long(pattern)
