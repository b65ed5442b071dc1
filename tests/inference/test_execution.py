"""A batch that does not fit in memory is halved, and no result depends on it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from support import headed, tiny
from transformers import AutoModel, AutoTokenizer, T5EncoderModel

import dask_embed as de
from dask_embed.inference import embedding, memory, stream
from dask_embed.inference.forward import Forward
from dask_embed.inference.runner import Runner, runner_for
from dask_embed.inference.sinks import Reduction, VectorSink
from dask_embed.tokens.lists import TokenLists

pytestmark = pytest.mark.usefixtures("one_torch_thread")

Folders = dict[str, Path]
Scarce = Callable[..., list[list[int]]]
MEMORY_ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory"),
    MemoryError(),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4096 bytes"),
]
MODELS = {"packed": ("bert", "auto"), "padded": ("bert", "padded"), "t5": ("t5", "auto")}
PLACES = {
    "before the model": (Runner, "token_vectors", False),
    "after the model": (Runner, "token_vectors", True),
    "packed": (Forward, "packed", False),
    "padded": (Forward, "padded", False),
    "in the head": (embedding, "apply_modules", False),
    "in the sink": (VectorSink, "put", False),
    "after the sink": (VectorSink, "put", True),
}
LONG = "a text that is longer than all the others and so fits into no memory at all " * 3


def texts() -> list[str | None]:
    """Of unsorted lengths, with repeats, nulls and empty ones."""
    some = [text[: 4 + 17 * n % 90] for n, text in enumerate(tiny.corpus()[:60:3])]
    return [*some[:7], None, some[2], "", *some[7:], some[11], None, "", some[2]]


def with_long_ones() -> list[str | None]:
    """The long one stands in the middle, and again behind."""
    some = [text and text[:40] for text in texts()]
    return [*some[:9], LONG, *some[9:], LONG, "", "last"]


def cost(lengths: list[int], packed: bool) -> int:
    """Tokens that a batch computes."""
    return sum(lengths) if packed else len(lengths) * max(lengths)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    root = tmp_path_factory.mktemp("execution")
    return {name: tiny.save(name, root / name) for name in ("bert", "t5")}


@pytest.fixture(params=MODELS)
def embedder(request: pytest.FixtureRequest, folders: Folders) -> de.Embedder:
    return make(folders, request.param)


def make(folders: Folders, model: str = "packed", **settings: Any) -> de.Embedder:
    """Make an operator whose model is loaded and has learned nothing."""
    name, attention = MODELS[model]
    spec = de.Model(str(folders[name]), device="cpu", attention=attention)
    embedder = de.Embedder(spec, tokens_per_batch=48, **settings).pinned()
    assert runner_for(embedder.spec).verdict.packed == (model == "packed")
    runner_for(embedder.spec).budget.learned = None
    return embedder


@functools.cache
def transformer(folder: Path) -> tuple[Any, Any]:
    cls = T5EncoderModel if folder.name == "t5" else AutoModel
    return AutoTokenizer.from_pretrained(folder), cls.from_pretrained(folder).eval()


@functools.cache
def reference(folder: Path, text: str | None) -> np.ndarray | None:
    """Token vectors by transformers, one text at a time: no padding, no batches."""
    if text is None:
        return None
    tokenizer, model = transformer(folder)
    ids = tokenizer(text, truncation=True, max_length=tiny.POSITIONS, return_tensors="pt")
    with torch.inference_mode():
        return model(input_ids=ids["input_ids"]).last_hidden_state[0].numpy()


def assert_right(column: pd.Series, embedder: de.Embedder, wanted: list[str | None]) -> None:
    """Compare with the reference, nulls included."""
    tokens = embedder.pooling == ("none",)
    expected = [reference(Path(embedder.spec.name), text) for text in wanted]
    assert column.isna().tolist() == [vectors is None for vectors in expected]
    for given, vectors in zip(column, expected, strict=True):
        if vectors is not None:
            right = vectors if tokens else vectors.mean(0)
            array = np.array([np.asarray(v) for v in given]) if tokens else np.asarray(given)
            np.testing.assert_allclose(array, right, rtol=0, atol=1e-5 * np.abs(vectors).max())


@pytest.fixture
def scarce(monkeypatch: pytest.MonkeyPatch) -> Scarce:
    """Return a function that makes calls fail by number and lengths, and lists those of all."""

    def patch(error: Exception, fails: Callable, place: str = "before the model") -> list:
        owner, name, late = PLACES[place]

        def stand_in(*args: Any, **kwargs: Any) -> Any:
            tokens = next((arg for arg in args if isinstance(arg, TokenLists)), TokenLists.of([]))
            calls.append(tokens.lengths.tolist())
            failing = fails(len(calls) - 1, calls[-1])
            result = None if failing and not late else function(*args, **kwargs)
            if failing:
                raise error
            return result

        monkeypatch.undo()
        function, calls = getattr(owner, name), []
        monkeypatch.setattr(owner, name, stand_in)
        return calls

    return patch


def run(embedder: de.Embedder, wanted: list[str | None]) -> tuple[pd.DataFrame, pd.Series]:
    """Return the result and what was counted."""
    before = len(de.stats())
    result = embedder(pd.DataFrame({"text": wanted}))
    return result, de.stats().iloc[before:].sum(numeric_only=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "error"),
    [(place, MEMORY_ERRORS[n % 3]) for n, place in enumerate(PLACES) if place != "packed"],
)
def test_any_batch_may_fail_once(
    embedder: de.Embedder, scarce: Scarce, error: Exception, place: str
) -> None:
    """Only it runs again: what is done twice would be counted twice."""
    runner = runner_for(embedder.spec)
    place = "packed" if place == "padded" and runner.verdict.packed else place
    whole, calm = run(embedder, texts())
    assert_right(whole["embedding"], embedder, texts())
    assert calm["splits"] == 0
    assert calm["batches"] > 5
    expected = np.stack(whole["embedding"].dropna().to_list())
    for position in range(int(calm["batches"])):
        calls = scarce(error, lambda n, _, at=position: n == at, place)
        runner.budget.learned = None
        result, counts = run(embedder, texts())
        given = np.stack(result["embedding"].dropna().to_list())
        np.testing.assert_allclose(given, expected, rtol=0, atol=1e-6 * np.abs(expected).max())
        assert result["embedding"].isna().tolist() == whole["embedding"].isna().tolist()
        assert len(calls) == counts["batches"] + 1
        assert counts["splits"] == (runner.budget.learned is not None)
        for same in ("rows", "unique_rows", "tokens"):
            assert counts[same] == calm[same]


@pytest.mark.parametrize(
    ("limit", "pooling"), [(2, "mean"), (11, "none"), (11, "mean"), (33, "none")]
)
@pytest.mark.parametrize("model", MODELS)
def test_batches_above_a_limit_fail(
    folders: Folders, scarce: Scarce, model: str, limit: int, pooling: str
) -> None:
    """Texts that are longer run all the same, alone."""

    def fails(_: int, lengths: list[int]) -> bool:
        return len(lengths) > 1 and cost(lengths, model == "packed") > limit

    embedder = make(folders, model, pooling=pooling)
    calls = scarce(MEMORY_ERRORS[0], fails)
    result, counts = run(embedder, texts())
    assert_right(result["embedding"], embedder, texts())
    failed = [lengths for lengths in calls if fails(0, lengths)]
    done = [lengths for lengths in calls if not fails(0, lengths)]
    assert (counts["splits"], counts["batches"]) == (len(failed) or 1, len(done))
    folder = folders[MODELS[model][0]]
    lengths = [len(reference(folder, text)) for text in {*texts()} - {None}]
    assert sorted(chain(*done)) == sorted(lengths)


@pytest.mark.parametrize("later", ["chunks", "batches", "partitions"])
def test_what_did_not_fit_is_not_tried_again(
    embedder: de.Embedder, scarce: Scarce, monkeypatch: pytest.MonkeyPatch, later: str
) -> None:
    """The first batch of several texts fails; those after its halves cost half as much."""

    def first_of_several(_: int, lengths: list[int]) -> bool:
        return len(lengths) > 1 and not failed and not failed.extend(lengths)

    failed: list[int] = []
    packed = runner_for(embedder.spec).verdict.packed
    calls = scarce(MEMORY_ERRORS[0], first_of_several)
    monkeypatch.setattr(memory, "_FITS_BEFORE_GROWING", 10_000)
    if later == "chunks":
        monkeypatch.setattr(stream, "_BATCHES_PER_CHUNK", {"cpu": 0.5})
    wanted = [f"{text} {number}" for number in range(8) for text in texts() if text]
    embedder(pd.DataFrame({"text": wanted}))
    start = calls.index(failed) + 1
    assert [*chain(*calls[start : start + 2])] == failed
    start = {"batches": start + 2, "chunks": start + 30, "partitions": len(calls)}[later]
    embedder(pd.DataFrame({"text": texts()}))
    assert len(calls) > start + 5
    for lengths in calls[start:]:
        assert len(lengths) == 1 or cost(lengths, packed) <= cost(failed, packed) / 2


def test_the_size_that_fits_is_learned_once(folders: Folders, scarce: Scarce) -> None:
    """Equal texts: 48 tokens fail, 24 fit; every later batch would fail if it were tried."""
    embedder = make(folders)
    tokenizer, _ = transformer(folders["bert"])
    words = [str(number) for number in range(1000, 9000, 13)]
    words = [word for word in words if len(tokenizer(word)["input_ids"]) == 6][:64]
    scarce(MEMORY_ERRORS[1], lambda _, lengths: sum(lengths) > 24)
    result, counts = run(embedder, [*words])
    assert_right(result["embedding"], embedder, [*words])
    assert (len(words), counts["splits"], counts["batches"]) == (64, 1, 16)


def too_long(_: int, lengths: list[int]) -> bool:
    return max(lengths) > 40


@pytest.mark.parametrize("error", MEMORY_ERRORS, ids=repr)
@pytest.mark.parametrize("pooling", ["mean", "none"])
@pytest.mark.parametrize("model", MODELS)
def test_a_row_that_never_fits_is_null(
    folders: Folders, scarce: Scarce, model: str, pooling: str, error: Exception
) -> None:
    """Its repeats too; no other row is harmed."""
    embedder = make(folders, model, pooling=pooling, on_error="null")
    calls = scarce(error, too_long)
    result, counts = run(embedder, with_long_ones())
    expected = [None if text == LONG else text for text in with_long_ones()]
    assert counts["rows"] == sum(text is not None for text in with_long_ones())
    assert counts["unique_rows"] == len({*expected} - {None})
    messages = result["embedding_error"]
    assert messages.notna().tolist() == [text == LONG for text in with_long_ones()]
    length = len(reference(folders[MODELS[model][0]], LONG))
    start = f"its {length} tokens do not fit in the memory of cpu, even alone: "
    assert messages.dropna().str.startswith(start + (str(error) or "MemoryError")).all()
    assert calls.count([length]) == 2  # once more after memory was released
    assert_right(result["embedding"], embedder, expected)


def test_a_row_that_never_fits_is_named(folders: Folders, scarce: Scarce) -> None:
    embedder = make(folders)
    scarce(MEMORY_ERRORS[2], too_long)
    frame = pd.DataFrame({"text": with_long_ones()})
    frame.index = [f"label {number}" for number in range(len(frame))]
    problem = r"row 9 of the partition \(index 'label 9'\): its 6\d tokens .*\(2 such rows\)"
    with pytest.raises(ValueError, match=problem):
        embedder(frame)


@pytest.mark.parametrize("on_error", ["raise", "null"])
@pytest.mark.parametrize(
    "error", [ValueError("out of memory"), RuntimeError("shapes do not fit"), TypeError()], ids=repr
)
def test_other_errors_are_not_tried_again(
    folders: Folders, scarce: Scarce, error: Exception, on_error: str
) -> None:
    embedder = make(folders, on_error=on_error)
    calls = scarce(error, lambda n, _: n == 2)
    with pytest.raises(type(error)) as info:
        run(embedder, texts())
    assert info.value is error
    assert calls.count(calls[2]) == 1
    assert runner_for(embedder.spec).budget.learned is None


def test_what_is_stored_is_looked_at() -> None:
    """Finite token vectors, of which a type or a layer makes infinite numbers or integers."""
    hidden = torch.tensor([[1e5], [1.0], [3e38]])
    cases = {
        torch.float32: (lambda v: v, [True, True, False]),
        torch.float16: (lambda v: v.half(), [False, True, False]),
        torch.int8: (lambda v: (v > 0).to(torch.int8), [True, True, False]),
    }
    for dtype, (store, expected) in cases.items():
        reduction = Reduction(lambda h, lengths: h * 2, store, 1, dtype, kind="")
        sink = VectorSink([torch.zeros(3, 1, dtype=dtype)], [reduction])
        finite = sink.put(np.arange(3), hidden, np.ones(3, np.int64))
        assert finite is not None
        assert finite.tolist() == expected


_OPERATORS: dict[str, tuple[str, str, Callable[[Any], Any]]] = {
    "QuestionAnswerer": (
        "bert",
        "answer",
        lambda m: de.QuestionAnswerer(m, question="Who?", on_error="null"),
    ),
    "TokenClassifier": (
        "bert",
        "classify-tokens",
        lambda m: de.TokenClassifier(m, on_error="null"),
    ),
    "Reranker": (
        "bert",
        "classify",
        lambda m: de.Reranker(m, query="Who?", activation="sigmoid", on_error="null"),
    ),
    "PerplexityScorer": ("llama", "causal-lm", lambda m: de.PerplexityScorer(m, on_error="null")),
    "Generator": (
        "llama",
        "causal-lm",
        lambda m: de.Generator(m, max_new_tokens=3, on_error="null"),
    ),
}


@pytest.mark.parametrize("name", _OPERATORS)
def test_no_result_of_any_operator_is_no_number(tmp_path: Path, name: str) -> None:
    """The embedding of one token is damaged, which the probe's texts do not hold."""
    kind, task, build = _OPERATORS[name]
    labels = {} if task in ("causal-lm", "answer") else {"num_labels": 1 + (name != "Reranker")}
    folder = headed.save(kind, task, tmp_path / "model", **labels)
    operator = build(de.Model(str(folder), device="cpu"))
    frame = pd.DataFrame({"text": ["lines of it", "Return the lines.", "of it"]})
    operator(frame)  # loads and tries the model
    runner = runner_for(operator.pinned().spec, task)
    own = runner.loaded.tokenizer
    damaged = set(own("Return")["input_ids"]) - set(own("lines of it the.")["input_ids"])
    table = runner.loaded.model.get_input_embeddings().weight
    before = table.clone()
    try:
        table[sorted(damaged)] = float("nan")
        result = operator(frame)
    finally:
        table.copy_(before)
        de.unload()
    (errors,) = (column for column in result if column.endswith("_error"))
    assert result[errors].notna().tolist() == [False, True, False], result
    assert "no finite number" in result[errors][1]
    given = [column for column in result if column not in ("text", errors)]
    assert result[given[0]].isna().tolist() == [False, True, False]


def test_a_lost_gpu_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that failed takes the GPU from the process: nothing is tried in halves."""
    embedder = de.Embedder(str(tiny.save("bert", tmp_path)))
    frame = pd.DataFrame({"text": ["a", "b c", "d"]})
    embedder(frame)
    calls = []

    def lost(self: Forward, tokens: TokenLists) -> torch.Tensor:
        calls.append(len(tokens))
        raise torch.AcceleratorError("CUDA error: misaligned address")

    monkeypatch.setattr(Forward, "packed", lost)
    with pytest.raises(torch.AcceleratorError) as caught:
        embedder(frame)
    assert len(calls) == 1
    assert "restart the worker" in "".join(caught.value.__notes__)
