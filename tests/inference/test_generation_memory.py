"""Texts under way fit in memory: what they keep is counted, and what did not fit begins again."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import transformers
from test_generation import LENGTHS, alone, decoder, encoder_decoder, lists, prompts_for

from dask_embed.inference import memory
from dask_embed.inference.cache_size import state_values, states_budget
from dask_embed.inference.generation.loop import Decoder
from dask_embed.inference.generation.plan import Plan
from dask_embed.inference.generation.reference import Reference
from dask_embed.inference.generation.settings import GenerationSettings
from dask_embed.inference.generation.text import TextGeneration
from dask_embed.inference.memory import Usage

pytestmark = pytest.mark.usefixtures("one_torch_thread")

SIZES = {
    "vocab_size": 50,
    "hidden_size": 24,
    "intermediate_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
}
BART = {
    "vocab_size": 50,
    "d_model": 24,
    "encoder_layers": 1,
    "decoder_layers": 3,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "max_position_embeddings": 32,
}
FALCON = {"vocab_size": 50, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4}
T5 = {"vocab_size": 50, "d_model": 24, "d_kv": 10, "d_ff": 16, "num_heads": 4}
MLA = {
    "first_k_dense_replace": 3,
    "num_key_value_heads": 4,
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_nope_head_dim": 6,
    "qk_rope_head_dim": 4,
    "v_head_dim": 7,
}
# Configuration, and two times layers, heads and head size by hand.
EXACT = {
    "every head": (transformers.LlamaConfig(**SIZES), 2 * 3 * 4 * 6),
    "grouped": (transformers.LlamaConfig(**SIZES, num_key_value_heads=2), 2 * 3 * 2 * 6),
    "larger heads": (
        transformers.Qwen3Config(**SIZES, num_key_value_heads=2, head_dim=10),
        2 * 3 * 2 * 10,
    ),
    "by layer": (
        transformers.Gemma4TextConfig(
            **SIZES,
            num_key_value_heads=2,
            num_global_key_value_heads=1,
            head_dim=8,
            global_head_dim=20,
            attention_k_eq_v=True,
            hidden_size_per_layer_input=0,
            layer_types=["sliding_attention", "sliding_attention", "full_attention"],
        ),
        2 * (2 * 8 + 2 * 8 + 1 * 20),
    ),
    "gpt2": (transformers.GPT2Config(vocab_size=50, n_embd=24, n_layer=3, n_head=4), 2 * 3 * 24),
    "gpt-neox": (transformers.GPTNeoXConfig(**SIZES), 2 * 3 * 4 * 6),
    "multi-query": (
        transformers.GPTBigCodeConfig(vocab_size=50, n_embd=24, n_layer=3, n_head=4),
        2 * 3 * 6,
    ),
    "falcon": (transformers.FalconConfig(**FALCON), 2 * 3 * 6),
    "new falcon": (
        transformers.FalconConfig(**FALCON, num_kv_heads=2, new_decoder_architecture=True),
        2 * 3 * 4 * 6,
    ),
    "t5": (transformers.T5Config(**T5, num_layers=1, num_decoder_layers=3), 2 * 3 * 4 * 10),
    "bart": (transformers.BartConfig(**BART), 2 * 3 * 4 * 6),
}
AT_MOST = {
    "window": (
        transformers.MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=4),
        2 * 3 * 2 * 6,
    ),
    "hybrid": (
        transformers.Gemma3TextConfig(
            **SIZES,
            num_key_value_heads=2,
            head_dim=8,
            sliding_window=4,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        ),
        2 * 3 * 2 * 8,
    ),
    "latent": (transformers.DeepseekV3Config(**SIZES, **MLA), 2 * 3 * 4 * 10),
}


def kept(config: Any, rows: int = 2, length: int = 9) -> list[float]:
    """What a real forward pass keeps: numbers of a token of its own, and of one of the prompt."""
    torch.manual_seed(0)
    encodes = config.is_encoder_decoder
    auto = transformers.AutoModelForSeq2SeqLM if encodes else transformers.AutoModelForCausalLM
    ids = torch.randint(5, 50, (rows, length))
    new = {"decoder_input_ids": ids[:, :3]} if encodes else {}
    with torch.inference_mode():
        cache = auto.from_config(config).eval()(ids, **new, use_cache=True).past_key_values
    if not encodes:
        return [_numbers(cache) / (rows * length)]
    own, cross = cache.self_attention_cache, cache.cross_attention_cache
    return [_numbers(own) / (rows * 3), _numbers(cross) / (rows * length)]


def _numbers(cache: Any) -> int:
    return sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers)


@pytest.mark.parametrize("name", EXACT)
def test_keys_and_values_are_counted(name: str) -> None:
    config, by_hand = EXACT[name]
    assert state_values(config) == by_hand
    assert set(kept(config)) == {by_hand}


@pytest.mark.parametrize("name", AT_MOST)
def test_what_some_layers_drop_is_counted_all_the_same(name: str) -> None:
    config, by_hand = AT_MOST[name]
    assert state_values(config) == by_hand
    assert max(kept(config)) < by_hand


def test_no_budget_on_a_cpu_and_one_elsewhere() -> None:
    model = transformers.LlamaForCausalLM(EXACT["grouped"][0])
    assert states_budget(model, 100.0).usage is None
    there = states_budget(model.to("meta", torch.bfloat16), 100.0)
    assert there.usage == Usage(2 * 2 * 3 * 2 * 6 + 100.0)


# --------------------------------------------------------------------------- rows under way
@pytest.fixture
def generate() -> TextGeneration:
    return TextGeneration(*decoder("llama"))


SETTINGS = GenerationSettings(max_new_tokens=10)


def limit(generate: TextGeneration, free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that so many bytes are free on the device of a model in float32."""
    monkeypatch.setattr(memory, "free_bytes", lambda device: free)
    generate.budget.usage = Usage(4 * state_values(generate._model.config))


def watched(monkeypatch: pytest.MonkeyPatch, fails: Any = lambda step, rows: False) -> list[Any]:
    """Record rows and bytes of each step of the loop; some fail, which is recorded as None."""
    step, seen = Decoder.step, []

    def watching(self: Decoder, cohorts: Any, **given: Any) -> Any:
        rows = sum(len(cohort.rows) for cohort in cohorts)
        if fails(len(seen), rows):
            seen.append(None)
            raise torch.OutOfMemoryError("injected")
        states = [each for cohort in cohorts for pair in cohort._states.values() for each in pair]
        seen.append((rows, sum(each.nbytes for each in states)))
        return step(self, cohorts, **given)

    monkeypatch.setattr(Decoder, "step", watching)
    return seen


def test_free_memory_limits_the_rows_under_way(
    generate: TextGeneration, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = prompts_for(generate._model, LENGTHS * 3)
    expected = alone(generate._model, prompts, max_new_tokens=10)
    generate.why_not_packed(SETTINGS)  # probes, which are no rows of ours
    seen = watched(monkeypatch)
    assert lists(generate(prompts, SETTINGS)) == expected
    assert max(rows for rows, _ in seen) == len(prompts)
    seen.clear()
    free = 4 * state_values(generate._model.config) * 200
    limit(generate, free, monkeypatch)
    assert lists(generate(prompts, SETTINGS)) == expected
    assert max(size for _, size in seen) <= 0.8 * free
    assert 3 < max(rows for rows, _ in seen) < len(prompts)
    seen.clear()
    limit(generate, 0, monkeypatch)  # one at a time, whatever it takes
    assert lists(generate(prompts.take([0, 1]), SETTINGS)) == expected[:2]
    assert {rows for rows, _ in seen} == {1}


@pytest.mark.parametrize("asked", [{}, {"num_beams": 2}], ids=["greedy", "beams"])
def test_free_memory_limits_the_batches_of_generate(
    asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each row of a batch counts like its longest, and each beam like a row."""
    model, tokenizer = encoder_decoder("bart")
    generate = TextGeneration(model, tokenizer)
    prompts = prompts_for(model)
    expected = alone(model, prompts, max_new_tokens=10, **asked)
    settings = dataclasses.replace(SETTINGS, **asked)
    limit(generate, 4 * state_values(model.config) * 150, monkeypatch)
    generate(prompts.take([0, 1]), settings)  # probes, which are no rows of ours
    sizes = []
    call = Reference.generate

    def watching(self: Reference, prompts: Any, **given: Any) -> Any:
        sizes.append((len(prompts), generate.cost(int(prompts.lengths.max()), settings)))
        return call(self, prompts, **given)

    monkeypatch.setattr(Reference, "generate", watching)
    assert lists(generate(prompts, settings)) == expected
    assert sum(rows for rows, _ in sizes) == len(prompts)
    assert max(rows for rows, _ in sizes) > 1
    assert all(rows == 1 or rows * cost <= 0.8 * 150 for rows, cost in sizes)


# ------------------------------------------------------------------------ memory that runs out
@pytest.mark.parametrize("asked", [{}, {"do_sample": True, "seed": 3}, {"stop": ("e",)}], ids=str)
def test_rows_go_on_where_memory_ran_out(
    asked: dict[str, Any], generate: TextGeneration, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of them at a time, and no token is chosen twice."""
    prompts = prompts_for(generate._model, LENGTHS * 2)
    settings = dataclasses.replace(SETTINGS, **asked)
    expected = generate(prompts, settings, hidden=True)
    chosen = 0
    choose = Plan.choose

    def counting(self: Plan, logits: torch.Tensor, rows: Any) -> torch.Tensor:
        nonlocal chosen
        chosen += len(rows)
        return choose(self, logits, rows)

    monkeypatch.setattr(Plan, "choose", counting)
    seen = watched(monkeypatch, lambda step, rows: rows > 4 and step % 4 == 3)
    given = generate(prompts, settings, hidden=True)
    assert (lists(given), given.finish) == (lists(expected), expected.finish)
    assert expected.hidden is not None
    assert given.hidden is not None
    for found, wanted in zip(given.hidden, expected.hidden, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)
    assert chosen == sum(map(len, lists(expected)))
    assert seen.count(None) > 0
    first = seen.index(None)
    assert seen[first + 1][0] <= seen[first - 1][0] // 2 + 1
    assert generate.budget.learned is not None


def test_batches_of_generate_are_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = encoder_decoder("t5")
    generate = TextGeneration(model, tokenizer)
    prompts = prompts_for(model)
    expected = alone(model, prompts, max_new_tokens=10)
    assert lists(generate(prompts, SETTINGS)) == expected
    call, sizes = Reference.generate, []

    def failing(self: Reference, prompts: Any, **given: Any) -> Any:
        sizes.append(len(prompts))
        if len(prompts) > 2:
            raise torch.OutOfMemoryError("injected")
        return call(self, prompts, **given)

    monkeypatch.setattr(Reference, "generate", failing)
    assert lists(generate(prompts, SETTINGS)) == expected
    assert sizes[:3] == [8, 4, 2]
    assert sum(size for size in sizes if size <= 2) == len(prompts)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("never fits"), ValueError("never fits")], ids=repr
)
def test_errors_that_smaller_batches_do_not_mend(
    error: Exception, generate: TextGeneration, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate.why_not_packed(SETTINGS)
    calls = []

    def failing(self: Decoder, cohorts: Any, **given: Any) -> Any:
        calls.append(sum(len(cohort.rows) for cohort in cohorts))
        raise error

    monkeypatch.setattr(Decoder, "step", failing)
    with pytest.raises(type(error), match="never fits"):
        generate(prompts_for(generate._model), SETTINGS)
    assert calls[-1] == (1 if isinstance(error, torch.OutOfMemoryError) else len(LENGTHS))


@pytest.mark.cuda
def test_states_fill_no_more_than_free_memory() -> None:
    """On a GPU of which the process may take little, fewer rows are under way, all texts made."""
    config = transformers.LlamaConfig(
        vocab_size=500,
        hidden_size=256,
        num_hidden_layers=32,
        num_attention_heads=4,
        intermediate_size=512,
    )
    torch.manual_seed(0)
    model: Any = transformers.LlamaForCausalLM(config).eval().to("cuda", torch.bfloat16)
    model.generation_config.eos_token_id = None
    generate = TextGeneration(model, decoder("llama")[1])
    settings = GenerationSettings(max_new_tokens=40)
    prompts = prompts_for(model, tuple(range(100, 400)))
    generate(prompts.take([0]), settings)
    wanted = sum(generate.cost(int(length), settings) for length in prompts.lengths)
    room = wanted * 2 * state_values(config) // 3
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated() + room) / total)
    try:
        assert generate.budget.tokens(wanted) < wanted
        given = generate(prompts, settings)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert {len(ids) for ids in lists(given)} == {40}
    assert generate.budget.learned is None
