"""Generated tokens are those of `model.generate` for each row alone."""

from __future__ import annotations

import copy
import functools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from support.tiny import ARCHITECTURES, HIDDEN, POSITIONS, bart, bpe, enlarge, unigram

from dask_embed.inference.generation import cache
from dask_embed.inference.generation.probe import judge_decoder
from dask_embed.inference.generation.settings import GenerationSettings
from dask_embed.inference.generation.text import TextGeneration
from dask_embed.tokens.lists import TokenLists

DECODERS = ("llama", "nemotron", "qwen3", "gpt2", "mistral", "gemma3")
# Unsorted, one token alone, two equal, some longer than the windows of Mistral and Gemma 3.
LENGTHS = (7, 19, 1, 30, 12, 7, 2, 25)

pytestmark = pytest.mark.usefixtures("one_torch_thread")


def _seeded(build: Any, config: Any, seed: int) -> Any:
    torch.manual_seed(seed)
    model = build(config).eval().requires_grad_(False)
    enlarge(model, 0.15)
    return model


@functools.cache
def decoder(name: str) -> tuple[Any, Any]:
    architecture = ARCHITECTURES[name]
    tokenizer = architecture.tokenizer()
    config = architecture.config(len(tokenizer))
    model = _seeded(transformers.AutoModelForCausalLM.from_config, config, len(name))
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = None
    return model, tokenizer


@functools.cache
def encoder_decoder(name: str) -> tuple[Any, Any]:
    tokenizer = unigram()
    if name == "t5":
        config = ARCHITECTURES["t5"].config(len(tokenizer))
        return _seeded(transformers.T5ForConditionalGeneration, config, 3), tokenizer
    config = bart(len(tokenizer))
    return _seeded(transformers.BartForConditionalGeneration, config, 4), tokenizer


def prompts_for(model: Any, lengths: tuple[int, ...] = LENGTHS) -> TokenLists:
    draw = np.random.default_rng(5)
    return TokenLists.of([draw.integers(5, model.config.vocab_size, n).tolist() for n in lengths])


def alone(model: Any, prompts: TokenLists, **arguments: Any) -> list[list[int]]:
    """Return what `model.generate` gives for each prompt on its own."""
    found = []
    for row in range(len(prompts)):
        ids = torch.from_numpy(prompts[row].astype(np.int64))[None]
        output = model.generate(ids, attention_mask=torch.ones_like(ids), **arguments)
        begin = 1 if model.config.is_encoder_decoder else ids.shape[1]
        found.append(output[0, begin:].tolist())
    return found


def lists(found: Any) -> list[list[int]]:
    return [found.tokens[row].tolist() for row in range(len(found.tokens))]


def likely_end(model: Any, prompts: TokenLists, steps: int) -> int:
    """Return a token that some rows produce at different steps, and others never."""
    written = alone(model, prompts, max_new_tokens=steps)
    counts = {
        token: [row.index(token) for row in written if token in row]
        for token in {token for row in written for token in row}
    }
    fitting = [
        token
        for token, at in sorted(counts.items())
        if 1 < len(at) < len(written) and len(set(at)) > 1
    ]
    assert fitting, "the model repeats nothing; choose another seed"
    return max(fitting, key=lambda token: len(counts[token]))


def copied(name: str) -> tuple[Any, Any]:
    """Return a model that a test may change."""
    model, tokenizer = decoder(name)
    return copy.deepcopy(model), tokenizer


@functools.cache
def _ending(name: str) -> tuple[Any, Any]:
    """Return a model whose end of sequence is a token that it often produces."""
    model, tokenizer = copied(name)
    model.generation_config.eos_token_id = likely_end(model, prompts_for(model, LENGTHS * 2), 20)
    return model, tokenizer


# ------------------------------------------------------------------------------------- greedy
@pytest.mark.parametrize("name", DECODERS)
def test_greedy_equals_generate_alone(name: str) -> None:
    model, tokenizer = decoder(name)
    prompts = prompts_for(model)
    generate = TextGeneration(model, tokenizer)
    settings = GenerationSettings(max_new_tokens=24)
    found = generate(prompts, settings)
    assert generate.why_not_packed(settings) == ""
    expected = alone(model, prompts, max_new_tokens=24)
    assert lists(found) == expected
    assert len({tuple(row) for row in expected}) == len(expected)
    assert set(found.finish) == {"length"}


@pytest.mark.cuda
@pytest.mark.parametrize("name", DECODERS)
def test_a_gpu_writes_what_a_cpu_writes(name: str) -> None:
    """In float32, windows and texts of any length among them."""
    model, tokenizer = decoder(name)
    expected = alone(model, prompts_for(model), max_new_tokens=24)
    moved = copy.deepcopy(model).to("cuda")
    generate = TextGeneration(moved, tokenizer)
    settings = GenerationSettings(max_new_tokens=24)
    assert lists(generate(prompts_for(moved), settings)) == expected
    assert generate.why_not_packed(settings) == ""


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma3"])
def test_masks_begin_where_the_kernels_of_a_gpu_read(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 16 bytes: a window's part of a mask began at any, and one such kernel ends the process."""
    begins = []
    attend = cache.scaled_dot_product_attention

    def noted(*tensors: torch.Tensor, attn_mask: torch.Tensor | None, **more: Any) -> Any:
        if attn_mask is not None:
            begins.append(attn_mask.data_ptr() % 16)
        return attend(*tensors, attn_mask=attn_mask, **more)

    monkeypatch.setattr(cache, "scaled_dot_product_attention", noted)
    model, tokenizer = decoder(name)
    TextGeneration(model, tokenizer)(prompts_for(model), GenerationSettings(max_new_tokens=24))
    assert len(begins) > 20
    assert set(begins) == {0}


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma3"])
def test_rows_end_at_different_steps(name: str) -> None:
    model, tokenizer = _ending(name)
    prompts = prompts_for(model, LENGTHS * 2)
    expected = alone(model, prompts, max_new_tokens=20)
    assert len({len(row) for row in expected}) > 2
    generate = TextGeneration(model, tokenizer)
    settings = GenerationSettings(max_new_tokens=20)
    found = generate(prompts, settings)
    assert lists(found) == expected
    assert lists(generate(prompts, settings, budget=150)) == expected
    end = model.generation_config.eos_token_id
    assert found.finish == tuple("eos" if end in row else "length" for row in expected)


def test_prompt_longer_than_an_unprobed_window_uses_generate() -> None:
    """A window of 600 is not probed beyond; texts longer than it go another way."""
    config = transformers.MistralConfig(
        vocab_size=60,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        sliding_window=600,
        max_position_embeddings=2000,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = _seeded(transformers.AutoModelForCausalLM.from_config, config, 2)
    prompts = prompts_for(model, (610, 3, 595))
    found = TextGeneration(model, bpe())(prompts, GenerationSettings(max_new_tokens=8))
    assert lists(found) == alone(model, prompts, max_new_tokens=8)


def test_hidden_states_are_those_that_chose_the_tokens() -> None:
    model, tokenizer = decoder("llama")
    prompts = prompts_for(model)
    settings = GenerationSettings(max_new_tokens=5)
    found = TextGeneration(model, tokenizer)(prompts, settings, hidden=True)
    assert found.hidden is not None
    for row, given in enumerate(found.hidden):
        ids = torch.from_numpy(prompts[row].astype(np.int64))[None]
        output = model.generate(
            ids, max_new_tokens=5, output_hidden_states=True, return_dict_in_generate=True
        )
        expected = torch.cat([layers[-1][:, -1] for layers in output.hidden_states])
        torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-4)


def test_model_is_left_as_it_was() -> None:
    model, tokenizer = decoder("mistral")
    before = {name: id(each) for name, each in model.named_parameters()}
    TextGeneration(model, tokenizer)(prompts_for(model), GenerationSettings(max_new_tokens=2))
    assert model.config._attn_implementation == "sdpa"
    assert {name: id(each) for name, each in model.named_parameters()} == before


# ------------------------------------------------------------------------- scores and endings
@pytest.mark.parametrize("name", ["llama", "gemma3"])
@pytest.mark.parametrize(
    "asked",
    [
        {"repetition_penalty": 1.7},
        {"no_repeat_ngram_size": 2},
        {"repetition_penalty": 1.3, "no_repeat_ngram_size": 3},
    ],
    ids=["penalty", "n-grams", "both"],
)
def test_scores_that_depend_on_tokens(name: str, asked: dict[str, Any]) -> None:
    model, tokenizer = decoder(name)
    prompts = prompts_for(model)
    found = TextGeneration(model, tokenizer)(
        prompts, GenerationSettings(max_new_tokens=24, **asked)
    )
    expected = alone(model, prompts, max_new_tokens=24, **asked)
    assert lists(found) == expected
    assert expected != alone(model, prompts, max_new_tokens=24)


def test_end_is_put_off_for_each_row() -> None:
    model, tokenizer = _ending("llama")
    prompts = prompts_for(model)
    settings = GenerationSettings(max_new_tokens=20, min_new_tokens=11)
    found = TextGeneration(model, tokenizer)(prompts, settings)
    expected = alone(model, prompts, max_new_tokens=20, min_new_tokens=11)
    assert lists(found) == expected
    assert min(map(len, alone(model, prompts, max_new_tokens=20))) < 11
    assert "eos" in found.finish


def test_values_not_given_are_the_checkpoints() -> None:
    model, tokenizer = copied("llama")
    prompts = prompts_for(model)
    plain = alone(model, prompts, max_new_tokens=12)
    model.generation_config.repetition_penalty = 1.8
    found = TextGeneration(model, tokenizer)(prompts, GenerationSettings(max_new_tokens=12))
    assert lists(found) == alone(model, prompts, max_new_tokens=12) != plain


@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_stop_strings(name: str) -> None:
    model, tokenizer = decoder(name)
    prompts = prompts_for(model)
    written = alone(model, prompts, max_new_tokens=16)
    texts = [tokenizer.decode(row) for row in written]
    stop = (texts[0].strip()[4:7], texts[3].strip()[9:11])
    expected = alone(
        model, prompts, max_new_tokens=16, stop_strings=list(stop), tokenizer=tokenizer
    )
    assert sum(len(row) < 16 for row in expected) > 1
    generate = TextGeneration(model, tokenizer)
    found = generate(prompts, GenerationSettings(max_new_tokens=16, stop=stop))
    assert lists(found) == expected
    for row, reason in zip(expected, found.finish, strict=True):
        assert reason == "stop" or len(row) == 16
        if reason == "stop":
            assert any(string in tokenizer.decode(row) for string in stop)


# ---------------------------------------------------------------------------------- sampling
SAMPLING = GenerationSettings(
    max_new_tokens=12, do_sample=True, temperature=2.5, top_k=40, top_p=0.97
)


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5"])
def test_draws_depend_on_nothing_but_the_row(name: str) -> None:
    model, tokenizer = encoder_decoder(name) if name == "t5" else decoder(name)
    prompts = prompts_for(model)
    seeds = list(range(100, 100 + len(prompts)))
    generate = TextGeneration(model, tokenizer)
    found = lists(generate(prompts, SAMPLING, seeds))
    order = np.random.default_rng(1).permutation(len(prompts))
    shuffled = lists(generate(prompts.take(order), SAMPLING, [seeds[row] for row in order]))
    assert [found[row] for row in order] == shuffled
    for row in (0, 3):
        single = generate(prompts.take(np.asarray([row])), SAMPLING, [seeds[row]])
        assert lists(single) == [found[row]]
    assert lists(generate(prompts, SAMPLING, [seed + 1 for seed in seeds])) != found
    repeated = generate(prompts.take(np.zeros(6, np.int64)), SAMPLING, list(range(6)))
    assert len({tuple(row) for row in lists(repeated)}) > 1


def test_draws_follow_the_distribution_of_generate() -> None:
    """First tokens of many seeds occur as often as the processed scores of `generate` say."""
    model, tokenizer = decoder("llama")
    prompts = prompts_for(model, (9,))
    settings = GenerationSettings(max_new_tokens=1, do_sample=True, temperature=4.0, top_k=5)
    ids = torch.from_numpy(prompts[0].astype(np.int64))[None]
    output = model.generate(
        ids,
        max_new_tokens=1,
        do_sample=True,
        temperature=4.0,
        top_k=5,
        output_scores=True,
        return_dict_in_generate=True,
    )
    expected = output.scores[0].softmax(-1)[0].numpy()
    draws = 2000
    generate = TextGeneration(model, tokenizer)
    found = generate(prompts.take(np.zeros(draws, np.int64)), settings, list(range(draws)))
    frequencies = np.bincount(found.tokens.values, minlength=len(expected)) / draws
    assert (expected > 0.02).sum() > 2
    assert not frequencies[expected == 0].any()
    deviation = np.sqrt(expected * (1 - expected) / draws)
    assert (np.abs(frequencies - expected) <= 5 * deviation + 1e-12).all()


# ------------------------------------------------------------------ beams, encoders, fallbacks
@pytest.mark.parametrize("name", ["llama", "gpt2", "mistral", "t5", "bart"])
@pytest.mark.parametrize("penalty", [None, 1.4])
def test_beams(name: str, penalty: float | None) -> None:
    encodes = name in ("t5", "bart")
    model, tokenizer = encoder_decoder(name) if encodes else _ending(name)
    prompts = prompts_for(model)
    asked: dict[str, Any] = {"max_new_tokens": 10, "num_beams": 3}
    if penalty is not None:
        asked["repetition_penalty"] = penalty
    found = TextGeneration(model, tokenizer)(prompts, GenerationSettings(**asked))
    assert lists(found) == alone(model, prompts, **asked)


@pytest.mark.parametrize("name", ["t5", "bart"])
@pytest.mark.parametrize("asked", [{}, {"repetition_penalty": 1.5}, {"no_repeat_ngram_size": 2}])
def test_encoders_with_decoders(name: str, asked: dict[str, Any]) -> None:
    model, tokenizer = encoder_decoder(name)
    prompts = prompts_for(model)
    found = TextGeneration(model, tokenizer)(
        prompts, GenerationSettings(max_new_tokens=14, **asked), budget=100
    )
    assert lists(found) == alone(model, prompts, max_new_tokens=14, **asked)


# What a checkpoint may write into its generation_config.json, each of which asks `generate` for
# more than the probe may, or for what its plain calls do not have.
_WRITTEN: tuple[dict[str, Any], ...] = (
    {"exponential_decay_length_penalty": (2, 1.5)},
    {"forced_bos_token_id": 7, "forced_eos_token_id": 1},
    {"bad_words_ids": [[5], [9, 8]], "suppress_tokens": [5, 6]},
    {"begin_suppress_tokens": [20, 30], "sequence_bias": [[[5], 9.0]]},
    {"min_length": 8},
    {"num_beams": 2, "num_return_sequences": 2, "length_penalty": 2.0, "early_stopping": True},
    {"cache_implementation": "static"},
    {"encoder_no_repeat_ngram_size": 2, "max_time": 100.0},
    {"repetition_penalty": 1.7, "renormalize_logits": True},
    {"pad_token_id": -1},
)


@pytest.mark.parametrize("written", _WRITTEN, ids=lambda written: next(iter(written)))
@pytest.mark.parametrize("name", ["t5", "llama"])
def test_settings_of_the_checkpoint(name: str, written: dict[str, Any]) -> None:
    model, tokenizer = encoder_decoder(name) if name == "t5" else decoder(name)
    model = copy.deepcopy(model)
    prompts = prompts_for(model)
    end = alone(model, prompts, max_new_tokens=10)[0][3]
    model.generation_config.update(**{"eos_token_id": end} | written)
    found = TextGeneration(model, tokenizer, packs=False)(prompts, GenerationSettings(10))
    expected = alone(model, prompts, max_new_tokens=10, num_return_sequences=1)
    assert lists(found) == expected


def test_model_that_the_loop_is_wrong_for() -> None:
    """A model whose forward does something with neighbours in a row is found out."""
    model, tokenizer = copied("llama")
    plain = model.model.embed_tokens.forward

    def mixing(ids: torch.Tensor) -> torch.Tensor:
        vectors = plain(ids)
        return vectors + 0.5 * torch.nn.functional.pad(vectors, (0, 0, 1, 0))[:, :-1]

    model.model.embed_tokens.forward = mixing
    generate = TextGeneration(model, tokenizer)
    reason = generate.why_not_packed(GenerationSettings(max_new_tokens=6))
    assert "its scores differ from those of single texts by" in reason


def test_rotary_frequencies_that_follow_the_longest_text() -> None:
    _, tokenizer = decoder("llama")
    config = ARCHITECTURES["llama"].config(len(tokenizer))
    config.rope_parameters = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
    config.max_position_embeddings = 16
    model = _seeded(transformers.AutoModelForCausalLM.from_config, config, 9)
    model.generation_config.eos_token_id = None
    reason = TextGeneration(model, tokenizer).why_not_packed(GenerationSettings())
    assert reason == "its rotary frequencies follow the longest text of a batch"


# ---------------------------------------------------------------------------------- the rest
def test_two_threads_on_one_model() -> None:
    model, tokenizer = decoder("gemma3")
    prompts = prompts_for(model)
    generate = TextGeneration(model, tokenizer)
    asked = [{}, {"repetition_penalty": 1.6}, {}, {"num_beams": 2}] * 2
    settings = [GenerationSettings(max_new_tokens=12, **each) for each in asked]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda each: lists(generate(prompts, each)), settings))
    assert found[:4] == [alone(model, prompts, max_new_tokens=12, **each) for each in asked[:4]]
    assert found[4:] == found[:4]


def test_no_prompts() -> None:
    model, tokenizer = decoder("llama")
    found = TextGeneration(model, tokenizer)(TokenLists.of([]), GenerationSettings(), hidden=True)
    assert (len(found.tokens), found.finish, found.hidden) == (0, (), ())


def test_cost_counts_prompt_new_tokens_and_beams() -> None:
    generate = TextGeneration(*decoder("llama"))
    assert generate.cost(7, GenerationSettings(max_new_tokens=5)) == 12
    assert generate.cost(7, GenerationSettings(max_new_tokens=5, num_beams=3)) == 36


def test_errors_say_what_was_given() -> None:
    generate = TextGeneration(*decoder("llama"))
    with pytest.raises(ValueError, match="prompt 1 has none"):
        generate(TokenLists.of([[5], []]), GenerationSettings())
    with pytest.raises(ValueError, match="one seed for each of 1 prompts; got 2"):
        generate(TokenLists.of([[5]]), GenerationSettings(), [1, 2])
    with pytest.raises(ValueError, match="hidden states are not kept with beam_search"):
        generate(TokenLists.of([[5]]), GenerationSettings(num_beams=2), hidden=True)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1; got 0"),
        ({"max_new_tokens": 2.0}, "max_new_tokens must be an integer, not 2.0"),
        ({"min_new_tokens": 21}, "min_new_tokens must be at most max_new_tokens, 20; got 21"),
        ({"do_sample": 1}, "do_sample must be True, False or None, not 1"),
        ({"temperature": 0}, "temperature must be above 0; got 0"),
        ({"top_k": -1}, "top_k must be at least 0; got -1"),
        ({"top_p": 1.5}, "top_p must be above 0 and at most 1; got 1.5"),
        ({"min_p": -0.1}, "min_p must be at least 0 and at most 1; got -0.1"),
        ({"num_beams": 0}, "num_beams must be at least 1; got 0"),
        ({"num_beams": 10**9}, "num_beams must be between 1 and 1024; got 1000000000"),
        ({"num_beams": 2, "do_sample": True}, "num_beams=2 is not supported"),
        ({"repetition_penalty": float("nan")}, "repetition_penalty must be above 0; got nan"),
        ({"stop": "end"}, "stop must be a sequence of strings, not 'end'"),
        ({"stop": ("a", "")}, "stop must hold strings that are not empty; got ''"),
        ({"seed": -1}, "seed must be at least 0; got -1"),
    ],
)
def test_settings_are_checked(given: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        GenerationSettings(**given)


def test_settings_are_plain_values() -> None:
    settings = GenerationSettings(stop=["a"], temperature=2)  # type: ignore[arg-type]
    assert settings == GenerationSettings(stop=("a",), temperature=2.0)
    assert hash(settings) == hash(GenerationSettings(stop=("a",), temperature=2.0))


def test_lengths_that_no_prompt_was_tried_beyond() -> None:
    """Any field of a configuration may name one, as for embeddings."""
    model = copy.deepcopy(decoder("llama")[0])
    model.config.max_position_embeddings = 4096
    assert judge_decoder(model)[1:] == (None, "")
    model.config.some_new_kind_of_reach = 600
    assert judge_decoder(model)[1:] == (600, "")
    assert judge_decoder(decoder("mistral")[0])[1:] == (None, "")


def test_prompts_of_one_length_are_not_taken_for_right() -> None:
    """RWKV's `generate` gives two prompts other tokens than each alone."""
    config = transformers.RwkvConfig(
        vocab_size=len(bpe()), hidden_size=HIDDEN, num_hidden_layers=3, context_length=POSITIONS
    )
    model = _seeded(transformers.RwkvForCausalLM, config, 0)
    model.generation_config.eos_token_id = None
    draw = np.random.default_rng(1)
    prompts = [draw.integers(5, len(bpe()), length).tolist() for length in (9, 5, 9, 9, 5)]
    with torch.inference_mode():
        alone = [
            copy.deepcopy(model)
            .generate(torch.tensor([ids]), max_new_tokens=6, do_sample=False)[0, len(ids) :]
            .tolist()
            for ids in prompts
        ]
        model(torch.tensor([[5]]))  # its first forward pass divides weights, once
    given = TextGeneration(model, bpe())(TokenLists.of(prompts), GenerationSettings(6))
    assert [given.tokens[row].tolist() for row in range(5)] == alone


def test_a_model_that_takes_one_prompt_at_a_time() -> None:
    """XLNet's `generate` refuses two where attention goes one way."""
    config = transformers.XLNetConfig(
        vocab_size=len(bpe()), d_model=HIDDEN, n_layer=2, n_head=2, d_inner=16, attn_type="uni"
    )
    model = _seeded(transformers.XLNetLMHeadModel, config, 0)
    model.generation_config.eos_token_id = None
    prompts = [[9, 8, 7, 6], [5, 6], [9, 8, 7, 5]]
    alone = []
    with torch.inference_mode():
        for ids in prompts:
            written = model.generate(torch.tensor([ids]), max_new_tokens=3, do_sample=False)
            alone.append(written[0, len(ids) :].tolist())
    given = TextGeneration(model, bpe())(TokenLists.of(prompts), GenerationSettings(3))
    assert [given.tokens[row].tolist() for row in range(len(prompts))] == alone
