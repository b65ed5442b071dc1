"""Generated columns hold what `model.generate` writes for each row alone."""

from __future__ import annotations

import dataclasses
import functools
import importlib.machinery
import json
import re
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from support import headed, tiny
from support.contract import TEXTS, DataframeContract, cut, lazy, values_of

import dask_embed as de
from dask_embed.inference.generation.engines import engine_of
from dask_embed.inference.generation.loop import Decoder
from dask_embed.inference.generation.prompts import PromptRules, PromptTokenizer
from dask_embed.inference.generation.text import TextGeneration
from dask_embed.inference.runner import runner_for
from dask_embed.operators.language.generator import Generator
from dask_embed.runtime import registry
from dask_embed.runtime.stats import totals

pytestmark = pytest.mark.usefixtures("one_torch_thread")

CHAT = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}{% if quiet %}!{% endif %}"
)
# Unsorted lengths, a null, an empty text, a repeat, one too long, and more than ASCII.
LONG = "It is a long text. " + max(tiny.corpus(), key=len)
ROWS = ["Dask reads.", None, "x", LONG, "", "漢字 ünï", "Dask reads.", "two words"]
LEFT = {"llama", "nemotron", "gpt2", "qwen3", "mistral", "gemma3"}
NEW = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a function from an architecture to its checkpoint, made once."""
    root = tmp_path_factory.mktemp("generator")

    @functools.cache
    def made(name: str) -> Path:
        if name == "bart":
            return _save_bart(root / name)
        if name == "chat":
            return _save_chat(root)
        task = "seq2seq-lm" if name == "t5" else "causal-lm"
        return headed.save(name, task, root / name, seed=len(name))

    return made


def _save_bart(folder: Path) -> Path:
    tokenizer = tiny.unigram()
    with torch.random.fork_rng():
        torch.manual_seed(4)
        model = transformers.BartForConditionalGeneration(tiny.bart(len(tokenizer)))
        tiny.enlarge(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _save_chat(root: Path) -> Path:
    folder = headed.save("mistral", "causal-lm", root / "chat", seed=7)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    return folder


class Reference:
    """A checkpoint as transformers runs it, one prompt at a time."""

    def __init__(self, folder: Path) -> None:
        config = transformers.AutoConfig.from_pretrained(folder)
        self.encodes = config.is_encoder_decoder
        build = transformers.AutoModelForCausalLM
        if self.encodes:
            build = transformers.AutoModelForSeq2SeqLM
        self.model = build.from_pretrained(folder).eval()
        side = {} if self.encodes else {"truncation_side": "left"}
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **side)

    def ids(self, prompt: str, new: int, **options: Any) -> list[int]:
        most = tiny.POSITIONS if self.encodes else tiny.POSITIONS - new
        ids = self.tokenizer(prompt, truncation=True, max_length=most, **options)["input_ids"]
        return ids or [self.model.generation_config.bos_token_id]

    def write(self, ids: list[int], **arguments: Any) -> list[int]:
        given = torch.tensor([ids])
        output = self.model.generate(given, attention_mask=torch.ones_like(given), **arguments)
        return output[0, 1 if self.encodes else len(ids) :].tolist()

    def text(self, tokens: list[int]) -> str:
        return self.tokenizer.decode(tokens, skip_special_tokens=True)

    def column(self, prompts: list[str | None], **arguments: Any) -> list[tuple[str, int] | None]:
        new = arguments["max_new_tokens"]
        written = [
            None if each is None else self.write(self.ids(each, new), **arguments)
            for each in prompts
        ]
        return [None if each is None else (self.text(each), len(each)) for each in written]


@pytest.fixture(scope="module")
def reference(folder):
    return functools.cache(lambda name: Reference(folder(name)))


def frame(texts: list[str | None] | None = None) -> pd.DataFrame:
    return pd.DataFrame({"text": pd.array(ROWS if texts is None else texts, "str")})


def columns(out: pd.DataFrame) -> list[tuple[str, int] | None]:
    found = zip(values_of(out["generated"]), values_of(out["generated_tokens"]), strict=True)
    return [None if text is None else (text, count) for text, count in found]


def rows_for(name: str) -> list[str | None]:
    """Leave out the empty text where no token begins texts: `generate` refuses that."""
    return [row for row in ROWS if row or name != "gpt2"]


# -------------------------------------------------------------------------- as model.generate
SEARCHES = {
    "greedy": {},
    "penalty": {"repetition_penalty": 1.6, "no_repeat_ngram_size": 2},
    "beams": {"num_beams": 3},
}


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("name", [*sorted(LEFT), "t5", "bart"])
def test_texts_are_those_of_generate(name, search, folder, reference):
    asked = {"max_new_tokens": NEW, **SEARCHES[search]}
    rows = rows_for(name)
    out = Generator(folder(name), **asked)(frame(rows))
    expected = reference(name).column(rows, **asked)
    assert columns(out) == expected
    assert len({text for text, _ in filter(None, expected)}) > 3


@pytest.mark.parametrize("name", ["llama", "gemma3", "t5"])
@pytest.mark.parametrize(
    "options",
    [
        {"engine": "transformers"},
        {"model": {"attention": "padded"}},
        {"padding_side": "right", "batch_size": 3},
        {"tokens_per_batch": 1},
    ],
    ids=["transformers", "padded", "batches of three", "batches of one"],
)
def test_batches_do_not_matter(name, options, folder, reference):
    options = dict(options)
    model = de.Model(str(folder(name)), **options.pop("model", {}))
    out = Generator(model, max_new_tokens=NEW, **options)(frame())
    assert columns(out) == reference(name).column(ROWS, max_new_tokens=NEW)


def test_stop_strings(folder, reference):
    alone = reference("llama")
    written = [text for text, _ in filter(None, alone.column(ROWS, max_new_tokens=12))]
    stop = [written[0][3:5], written[2][6:8]]
    asked = {"stop_strings": stop, "tokenizer": alone.tokenizer}
    expected = alone.column(ROWS, max_new_tokens=12, **asked)
    out = Generator(folder("llama"), max_new_tokens=12, stop=stop)(frame())
    assert columns(out) == expected
    stopped = [text is not None and text[1] < 12 for text in expected]
    assert 1 < sum(stopped) < len(stopped) - 1
    assert [reason == "stop" for reason in out["generated_finish"]] == stopped


def test_end_of_sequence(folder, reference, tmp_path):
    alone = reference("qwen3")
    ids = [alone.write(alone.ids(row or "", NEW), max_new_tokens=NEW) for row in ROWS]
    end = ids[0][2]
    model = transformers.AutoModelForCausalLM.from_pretrained(folder("qwen3"))
    model.generation_config.eos_token_id = end
    model.save_pretrained(tmp_path)
    alone.tokenizer.save_pretrained(tmp_path)
    out = Generator(tmp_path, max_new_tokens=NEW)(frame())
    assert columns(out) == Reference(tmp_path).column(ROWS, max_new_tokens=NEW)
    assert out["generated_finish"][0] == "eos"
    assert {"eos", "length"} <= set(out["generated_finish"].dropna())


def test_hidden_states(folder, reference):
    out = Generator(folder("llama"), max_new_tokens=3, hidden="states")(frame())
    alone = reference("llama")
    for row, states in enumerate(values_of(out["states"])):
        if ROWS[row] is None:
            assert states is None
            continue
        given = torch.tensor([alone.ids(ROWS[row], 3)])
        output = alone.model.generate(
            given, max_new_tokens=3, output_hidden_states=True, return_dict_in_generate=True
        )
        expected = torch.cat([layers[-1][:, -1] for layers in output.hidden_states])
        np.testing.assert_allclose(states, expected, rtol=1e-4, atol=1e-4)


# ------------------------------------------------------------------------------------ prompts
def test_template_over_two_columns(folder, reference):
    given = frame().assign(title=pd.array(["A", "b", None, "{t}", "e", "f", "A", ""], "str"))
    template = "{{{title}}}\n{text} {{}} {title}:"
    generator = Generator(folder("llama"), prompt=template, max_new_tokens=NEW)
    assert generator.input_columns == ("title", "text")
    prompts = [
        None if text is None or pd.isna(title) else template.format(title=title, text=text)
        for title, text in zip(given["title"], ROWS, strict=True)
    ]
    assert columns(generator(given)) == reference("llama").column(prompts, max_new_tokens=NEW)


def _chats(alone, rows, new, **template):
    """Return what follows the chats of some messages that fit."""
    found = []
    for row in rows:
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": row}]
        text = alone.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, **template
        )
        ids = alone.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert len(ids) <= tiny.POSITIONS - new
        written = alone.write(ids, max_new_tokens=new)
        found.append((alone.text(written), len(written)))
    return found


@pytest.mark.parametrize("template", [{}, {"quiet": True}])
def test_chats(template, folder, reference):
    rows = ["Hi", "", "What?", "漢"]
    generator = Generator(
        folder("chat"),
        chat=True,
        system="Be brief.",
        chat_template_kwargs=template,
        max_new_tokens=NEW,
    )
    expected = _chats(reference("chat"), rows, NEW, **template)
    assert columns(generator(frame(rows))) == expected
    assert len(set(expected)) == 4
    plain = Generator(folder("chat"), max_new_tokens=NEW)(frame(rows))
    assert columns(plain) != expected


def test_chat_auto_is_as_the_tokenizer_says(folder):
    rows = ["Hi", "What?"]
    for name, chat in (("chat", True), ("mistral", False)):
        auto = Generator(folder(name), chat="auto", max_new_tokens=NEW)(frame(rows))
        told = Generator(folder(name), chat=chat, max_new_tokens=NEW)(frame(rows))
        assert columns(auto) == columns(told)


def test_long_message_loses_its_beginning_and_the_template_stays(folder, reference):
    alone, message = reference("chat"), "so many words " * 20 + "the end"
    generator = Generator(folder("chat"), chat=True, system="Be brief.", max_new_tokens=NEW)
    out = columns(generator(frame([message])))
    # the longest end of the message whose chat fits, found one character at a time
    for start in range(len(message)):
        text = f"<system>Be brief.\n<user>{message[start:]}\n<assistant>"
        ids = alone.tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) <= tiny.POSITIONS - NEW:
            break
    assert 0 < start < len(message) - 7
    written = alone.write(ids, max_new_tokens=NEW)
    assert out == [(alone.text(written), len(written))]


@pytest.mark.parametrize("side", ["left", None])
def test_which_end_of_a_long_message_a_model_reads(folder, reference, side):
    """Decoders the end, encoders (no side of their own) the beginning."""
    alone, message = reference("chat"), "so many words " * 20 + "the end"
    rules = PromptRules(most=40, side=side, chat=True)
    own = transformers.AutoTokenizer.from_pretrained(folder("chat"))
    tokens, failures = PromptTokenizer(own, rules)([message, "Hi"])
    assert not failures
    parts = [message[-n:] if side else message[:n] for n in range(1, len(message))]
    chats = alone.tokenizer(
        [f"<user>{part}\n<assistant>" for part in parts], add_special_tokens=False
    )
    fitting = [ids for ids in chats["input_ids"] if len(ids) <= 40]
    assert tokens[0].tolist() == fitting[-1]
    assert len(fitting) < len(parts)


def test_prompts_that_hold_their_special_tokens(folder, reference):
    alone = reference("llama")
    ids = alone.ids("a text", NEW, add_special_tokens=False)
    assert ids != alone.ids("a text", NEW)
    out = Generator(folder("llama"), add_special_tokens=False, max_new_tokens=NEW)(
        frame(["a text"])
    )
    assert columns(out)[0][0] == alone.text(alone.write(ids, max_new_tokens=NEW))


# ------------------------------------------------------------------------- draws and batches
SAMPLING = {"max_new_tokens": 8, "do_sample": True, "temperature": 3.0, "seed": 11}


def test_draws_depend_on_the_row_alone(folder):
    """Neither partitions, nor order, nor batches, nor threads change what is drawn."""
    generator = Generator(folder("llama"), **SAMPLING)
    given = frame().assign(place=range(len(ROWS)))
    expected = columns(generator(given))
    assert len(set(filter(None, expected))) == len(set(filter(None, ROWS))) + 1
    order = np.random.default_rng(3).permutation(len(ROWS))
    shuffled = generator(given.iloc[order])
    assert columns(shuffled) == [expected[row] for row in order]
    for cuts in ([2, 5], [1, 1, 7]):
        out = generator(lazy(cut(given, cuts)))
        assert columns(out.compute(scheduler="threads", num_workers=2)) == expected
    for options in ({"batch_size": 1}, {"engine": "transformers"}):
        assert columns(dataclasses.replace(generator, **options)(given)) == expected


def test_seed_and_prompt_decide_the_draws(folder):
    generator = Generator(folder("llama"), **SAMPLING)
    expected = columns(generator(frame()))
    assert expected[0] == expected[6]
    assert expected[0] != expected[7]
    other = columns(dataclasses.replace(generator, seed=12)(frame()))
    assert other != expected


@pytest.mark.parametrize("options", [{}, SAMPLING], ids=["greedy", "draws"])
def test_memory_that_runs_out_midway(options, folder, monkeypatch):
    """Fewer rows are under way from then on, and the texts are the same."""
    rows = [text[:40] for text in tiny.corpus()[:24]]
    generator = Generator(folder("nemotron"), **{"max_new_tokens": 5, **options})
    expected = columns(generator(frame(rows)))
    de.unload()
    step, steps = Decoder.step, []

    def failing(self: Any, cohorts: Any, **given: Any) -> Any:
        count = sum(len(cohort.rows) for cohort in cohorts)
        steps.append(count)
        if count > 5 and len(steps) % 3 == 0:
            raise torch.OutOfMemoryError("injected: out of memory")
        return step(self, cohorts, **given)

    monkeypatch.setattr(Decoder, "step", failing)
    before = totals()["splits"]
    assert columns(generator(frame(rows))) == expected
    assert totals()["splits"] == before  # no batch began anew
    engine = engine_of(runner_for(generator.pinned().spec, "causal-lm"), "auto")
    assert engine.budget.learned is not None
    de.unload()


def test_batches_are_cut_by_prompts_and_new_tokens(folder, monkeypatch):
    sizes = []
    call = TextGeneration.__call__

    def counting(self: Any, prompts: Any, *args: Any, **given: Any) -> Any:
        sizes.append(prompts.lengths + 10)
        return call(self, prompts, *args, **given)

    monkeypatch.setattr(TextGeneration, "__call__", counting)
    rows = [f"{number} of some texts" for number in range(12)]
    Generator(folder("llama"), max_new_tokens=10, tokens_per_batch=60)(frame(rows))
    assert sum(map(len, sizes)) == 12
    assert max(size.sum() for size in sizes) <= 60
    assert len(sizes) < 12


def test_head_runs_what_it_shows(folder, rows_through_model):
    ddf = dd.from_pandas(frame([f"text {row}" for row in range(40)]), npartitions=2, sort=False)
    out = Generator(folder("llama"), max_new_tokens=2)(ddf)
    assert rows_through_model(lambda: out.head(5)) == 5
    assert rows_through_model(lambda: out[["text"]].compute()) == 0


# ------------------------------------------------------------------------------ unusable rows
def test_rows_that_are_too_long(folder, reference):
    generator = Generator(
        folder("llama"), max_new_tokens=NEW, on_long="error", on_error="null", output="answer"
    )
    out = generator(frame())
    expected = reference("llama").column(ROWS, max_new_tokens=NEW)
    kept = [row for row in range(len(ROWS)) if row != 3]
    assert [values_of(out["answer"])[row] for row in kept] == [
        expected[row] and expected[row][0] for row in kept
    ]
    messages = values_of(out["answer_error"])
    assert [row for row, message in enumerate(messages) if message] == [3]
    assert f"more than {tiny.POSITIONS - NEW} tokens" in messages[3]
    assert out.isna().loc[3, ["answer", "answer_finish", "answer_tokens"]].all()
    with pytest.raises(ValueError, match="row 3 of the partition"):
        dataclasses.replace(generator, on_error="raise")(frame())


def test_chat_that_is_too_long_without_its_message(folder):
    generator = Generator(folder("chat"), chat=True, system="many words " * 40, on_error="null")
    with pytest.raises(ValueError, match="more than 44 tokens even without the prompt"):
        generator(frame(["Hi"]))  # no prompt would fit


def test_prompt_without_a_token(folder, reference, tmp_path):
    """It begins with the token that begins texts; a model without one cannot go on."""
    given = frame(["", "x"])
    with pytest.raises(ValueError, match="no token, and the model has none that begins a text"):
        Generator(folder("gpt2"), max_new_tokens=2)(given)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder("gpt2"))
    model.generation_config.bos_token_id = 17
    model.save_pretrained(tmp_path)
    reference("gpt2").tokenizer.save_pretrained(tmp_path)
    out = Generator(tmp_path, max_new_tokens=NEW)(given)
    assert columns(out) == Reference(tmp_path).column(["", "x"], max_new_tokens=NEW)


# ------------------------------------------------------------------------------------ engines
@pytest.mark.filterwarnings("ignore")
def test_continuous_batching(folder, reference):
    rows = ["Dask reads.", "x", "two words of it"]
    generator = Generator(folder("llama"), max_new_tokens=4, engine="continuous")
    assert columns(generator(frame(rows))) == reference("llama").column(rows, max_new_tokens=4)


class FakeSamplingParams(types.SimpleNamespace):
    pass


class FakeLLM:
    """Notes what it is given, and answers with the last token of the prompt, twice."""

    made: list[Any] = []  # noqa: RUF012

    def __init__(self, **arguments: Any) -> None:
        self.arguments = arguments
        self.calls: list[Any] = []
        FakeLLM.made.append(self)

    def generate(self, prompts: Any, sampling_params: Any, use_tqdm: bool) -> list[Any]:
        self.calls.append((prompts, sampling_params, use_tqdm))
        ends = [("length", None), ("stop", None), ("stop", "a string")]
        answers = []
        for place, prompt in enumerate(prompts):
            reason, stop = ends[place % 3]
            ids = prompt["prompt_token_ids"][-1:] * 2
            one = types.SimpleNamespace(token_ids=ids, finish_reason=reason, stop_reason=stop)
            answers.append(types.SimpleNamespace(outputs=[one]))
        return answers


@pytest.fixture
def vllm(monkeypatch):
    module: Any = types.ModuleType("vllm")
    module.LLM, module.SamplingParams = FakeLLM, FakeSamplingParams
    module.__spec__ = importlib.machinery.ModuleSpec("vllm", None)
    monkeypatch.setitem(sys.modules, "vllm", module)
    FakeLLM.made.clear()
    yield FakeLLM
    de.unload()


def test_vllm_gets_prompts_and_parameters(vllm, folder, reference):
    rows = ["one two three", "x", None, "some words"]
    generator = Generator(
        folder("llama"),
        engine="vllm",
        engine_options={"gpu_memory_utilization": 0.5},
        max_new_tokens=7,
        stop=["end"],
        **{name: SAMPLING[name] for name in ("do_sample", "temperature")},
    )
    out = generator(frame(rows))
    (llm,) = vllm.made
    assert llm.arguments["model"] == llm.arguments["tokenizer"]
    given = Path(llm.arguments["model"])  # what of the checkpoint may be read
    for name in ("model.safetensors", "tokenizer.json"):
        assert (given / name).read_bytes() == (folder("llama") / name).read_bytes()
    assert llm.arguments["gpu_memory_utilization"] == 0.5
    ((prompts, parameters, shows),) = llm.calls
    assert not shows
    alone = reference("llama")
    ids = {text: alone.ids(text, 7) for text in rows if text}
    assert sorted(p["prompt_token_ids"] for p in prompts) == sorted(ids.values())
    expected = [text and alone.text(ids[text][-1:] * 2) for text in rows]
    assert values_of(out["generated"]) == expected
    assert set(out["generated_finish"].dropna()) == {"length", "eos", "stop"}
    assert len({each.seed for each in parameters}) == 3
    first = vars(parameters[0]) | {"seed": None}
    assert first == {
        "max_tokens": 7,
        "min_tokens": 0,
        "temperature": 3.0,
        "top_k": 50,
        "top_p": 1.0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "stop": ["end"],
        "include_stop_str_in_output": True,
        "seed": None,
    }


def test_vllm_greedy_is_temperature_zero(vllm, folder):
    generator = Generator(folder("llama"), engine="vllm", repetition_penalty=1.2)
    generator(frame(["x"]))
    (parameters,) = vllm.made[0].calls[0][1]
    assert (parameters.temperature, parameters.seed) == (0.0, None)
    assert parameters.repetition_penalty == 1.2


def test_vllm_that_is_not_installed(folder):
    pytest.importorskip("transformers")
    if importlib.util.find_spec("vllm"):
        pytest.skip("it is installed here")
    de.unload()
    with pytest.raises(ModuleNotFoundError, match=r"needs the package vllm .*: pip install vllm"):
        Generator(folder("llama"), engine="vllm")(frame())
    assert registry.loaded() == []


# ------------------------------------------------------------------------------------- errors
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prompt": "Summarize: {text"}, "single '{'"),
        ({"prompt": "Hello"}, "prompt must name at least one column"),
        ({"prompt": "{text!r}"}, "has a conversion or a format"),
        ({"system": "Be kind"}, "system='Be kind' is for chats; set chat=True"),
        ({"chat_template_kwargs": {"a": 1}}, "is for chats; set chat=True"),
        ({"chat": "always"}, "chat must be one of False, True, 'auto'; got 'always'"),
        ({"chat": True, "system": 3}, "system must be a string, got 3"),
        ({"engine": "fast"}, "engine must be one of 'auto', 'transformers', 'continuous', 'vllm'"),
        ({"engine_options": {"a": 1}}, "are for engine='vllm', and the engine is 'auto'"),
        ({"engine": "vllm", "num_beams": 2}, "'vllm' does not take num_beams=2"),
        ({"engine": "continuous", "do_sample": True}, "does not take do_sample=True"),
        ({"hidden": "h", "num_beams": 2}, "hidden='h' is not kept of beams"),
        ({"hidden": "generated_finish"}, "output columns must differ"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1; got 0"),
        ({"stop": "end"}, "stop must be a sequence of strings, not 'end'"),
        ({"temperature": -1}, "temperature must be above 0; got -1"),
        ({"temperature": float("inf")}, "temperature must be finite; got inf"),
    ],
)
def test_arguments_are_checked(given, message):
    with pytest.raises((TypeError, ValueError)) as error:
        Generator("no/model", **given)
    assert message in str(error.value)


DRAWING = {"temperature": 0.7, "top_k": 5, "top_p": 0.5, "min_p": 0.1, "seed": 7}


@pytest.mark.parametrize("name", DRAWING)
def test_what_only_draws_read_needs_draws(name, folder, tmp_path):
    """As said by the generator or, where it says nothing, by the checkpoint."""
    option = {name: DRAWING[name]}
    with pytest.raises(ValueError, match=f"^{name}=.* add do_sample=True to draw tokens"):
        Generator("no/model", do_sample=False, **option)
    greedy = folder("llama")
    with pytest.raises(ValueError, match=f"^{name}=.* add do_sample=True to draw tokens"):
        Generator(greedy, **option)(dd.from_pandas(frame(), npartitions=1))
    Generator(greedy, do_sample=True, **option)(dd.from_pandas(frame(), npartitions=1))
    draws = shutil.copytree(greedy, tmp_path / "draws")
    written = json.loads((draws / "generation_config.json").read_text())
    (draws / "generation_config.json").write_text(json.dumps(written | {"do_sample": True}))
    Generator(str(draws), **option)(dd.from_pandas(frame(), npartitions=1))
    with pytest.raises(ValueError, match="no effect"):
        Generator(str(draws), do_sample=False, **option)


WRONG_IN_FILE = (
    {"num_beams": 0},
    {"num_beams": "3"},
    {"eos_token_id": "2"},
    {"eos_token_id": [2, "x"]},
    {"repetition_penalty": -1},
    {"min_new_tokens": "x"},
    {"temperature": 0.0, "do_sample": True},
    {"forced_eos_token_id": 10**6},
    {"sequence_bias": [[[10**6], 1.0]]},
    {"sequence_bias": [5]},
    {"bad_words_ids": []},
    {"token_healing": True},
    {"penalty_alpha": 0.6, "top_k": 4},
    {"num_beam_groups": 2, "num_beams": 4},
)


def _before_generation_configs(folder, **written):
    """Write settings into config.json, as checkpoints before 2023 have them."""
    (folder / "generation_config.json").unlink()
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | written))


@pytest.mark.parametrize("name", ["generation_config.json", "config.json"])
@pytest.mark.parametrize("written", WRONG_IN_FILE, ids=str)
def test_what_a_checkpoint_must_not_ask_for(written, name, folder, tmp_path):
    model = shutil.copytree(folder("llama"), tmp_path / "model")
    if name == "config.json":
        _before_generation_configs(model, **written)
    else:
        file = model / name
        file.write_text(json.dumps(json.loads(file.read_text()) | written))
    # transformers checks ids of config.json itself
    source = "files of checkpoint" if name == "config.json" and "eos_token_id" in written else name
    with pytest.raises(ValueError, match=f"^the {source} .*" + next(iter(written))):
        Generator(str(model))(dd.from_pandas(frame(), npartitions=1))


@pytest.mark.parametrize(
    ("written", "options"),
    [
        ({"temperature": 0, "top_p": None, "top_k": -1}, {}),  # read by draws only
        ({"temperature": 0, "do_sample": True}, {"temperature": 0.5}),
        ({"num_beams": 0}, {"num_beams": 1}),
        ({"penalty_alpha": 0.6, "top_k": 4}, {"num_beams": 2}),
        ({"eos_token_id": [2, 10**6], "pad_token_id": -1, "max_length": 20, "new_one": "x"}, {}),
        ({"diversity_penalty": 1.0, "num_beam_groups": 2}, {}),
    ],
    ids=str,
)
def test_what_a_checkpoint_may_ask_for(written, options, folder, tmp_path):
    model = shutil.copytree(folder("llama"), tmp_path / "model")
    file = model / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | written))
    operator = Generator(str(model), max_new_tokens=2, **options)
    made = operator(dd.from_pandas(frame(), npartitions=1)).compute(scheduler="synchronous")
    assert len(made) == len(frame())


def test_a_checkpoint_before_generation_configs_may_draw(folder, tmp_path):
    lazy = dd.from_pandas(frame(), npartitions=1)
    model = shutil.copytree(folder("llama"), tmp_path / "model")
    _before_generation_configs(model, do_sample=True)
    Generator(str(model), temperature=0.7)(lazy)
    with pytest.raises(ValueError, match=r"temperature=0\.7 has no effect"):
        Generator(str(model), temperature=0.7, do_sample=False)(lazy)


def test_values_that_change_no_draws_are_no_error(folder):
    neutral = {"temperature": 1.0, "top_k": 0, "top_p": 1, "min_p": 0, "seed": 0}
    Generator(folder("llama"), do_sample=False, **neutral)(dd.from_pandas(frame(), npartitions=1))


def test_a_column_that_the_prompt_does_not_name_is_not_read():
    Generator("no/model", column="other", prompt="{other} and {text}")
    with pytest.raises(ValueError, match="column='other' has no effect with prompt="):
        Generator("no/model", column="other", prompt="{text}")


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("llama", {"prompt": "{title}: {text}"}, "column 'title' is not in the dataframe"),
        ("llama", {"max_new_tokens": 64}, "max_new_tokens must be less than 64"),
        ("llama", {"max_new_tokens": 9, "max_length": 8}, "max_new_tokens must be less than 8"),
        ("llama", {"max_length": 65}, "max_length must be at most 64"),
        ("llama", {"chat": True}, "has no chat template; set chat=False or 'auto'"),
        ("bart", {"max_new_tokens": 64}, "max_new_tokens must be less than 64"),
        ("t5", {"engine": "continuous"}, "has an encoder; use engine='auto'"),
        ("bert", {}, "reads texts from both sides"),
    ],
)
def test_checkpoints_and_columns_are_checked(name, given, message, folder, tmp_path_factory):
    where = tiny.save("bert", tmp_path_factory.mktemp("bert")) if name == "bert" else folder(name)
    de.unload()
    for data in (frame(), dd.from_pandas(frame(), npartitions=2)):
        with pytest.raises(ValueError, match=re.escape(message)):
            Generator(where, **given)(data)
    assert registry.loaded() == []


def test_column_that_is_no_text(folder):
    data = pd.DataFrame({"text": ["a"], "n": [1]})
    with pytest.raises(TypeError, match="'n'"):
        Generator(folder("llama"), prompt="{text} {n}")(data)


def test_explained(folder, capsys):
    ddf = dd.from_pandas(frame(), npartitions=1)
    de.explain(Generator(folder("llama"), prompt="Say {text}")(ddf))
    assert "up to 20 new tokens after 'Say {text}'" in capsys.readouterr().out


# ----------------------------------------------------------------------- the dataframe contract
CONTRACT = {
    "greedy": ("llama", {"max_new_tokens": 3}),
    "draws": ("llama", {"max_new_tokens": 3, "do_sample": True, "on_error": "null", "seed": 5}),
    "chat of two columns": (
        "chat",
        {"max_new_tokens": 3, "chat": True, "prompt": "{body} | {title}", "batch_size": 2},
    ),
}


class TestContract(DataframeContract):
    @pytest.fixture(scope="class", params=CONTRACT.values(), ids=CONTRACT)
    @classmethod
    def operator(cls, request, folder):
        name, options = request.param
        return Generator(str(folder(name)), **options)


def test_texts_of_the_contract_differ(folder):
    out = Generator(folder("llama"), max_new_tokens=3)(frame(list(TEXTS)))
    assert len(set(out["generated"].dropna())) == len(set(filter(None, TEXTS))) + 1


@pytest.mark.parametrize(
    ("written", "options", "says"),
    [
        (
            {"low_memory": True},
            {"num_beams": 2},
            r"config\.json: ValueError: .*low_memory",
        ),
        ({"is_assistant": True}, {}, r"config\.json: TypeError"),
    ],
)
def test_settings_that_generate_itself_refuses(folder, tmp_path, written, options, says):
    copy = Path(shutil.copytree(folder("llama"), tmp_path / "copy"))
    file = copy / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | written))
    with pytest.raises(ValueError, match=says) as raised:
        Generator(copy, column="text", **options)(pd.DataFrame({"text": ["Return."]}))
    assert "\n" not in str(raised.value)


def test_stop_strings_of_a_tokenizer_that_does_not_say_what_tokens_stand_for(folder, tmp_path):
    copy = Path(shutil.copytree(folder("llama"), tmp_path / "copy"))
    tiny.wordpiece().save_pretrained(copy)
    generator = Generator(copy, column="text", stop=["e"])
    with pytest.raises(ValueError, match=r"^stop=\('e',\) cannot be looked for"):
        generator(pd.DataFrame({"text": ["Return the lines."]}))


def test_continuous_batches_say_no_token_types(folder, tmp_path):
    copy = Path(shutil.copytree(folder("gpt2"), tmp_path / "copy"))
    tiny.wordpiece().save_pretrained(copy)
    generator = Generator(copy, column="text", engine="continuous")
    with pytest.raises(ValueError, match=r"says no token types, which model .* reads"):
        generator(pd.DataFrame({"text": ["Return the lines."]}))
