"""A partition streams through in chunks: no result depends on how, and memory stays small."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import torch
from sentence_transformers import SentenceTransformer
from support import tiny
from test_execution import LONG, MODELS, Folders, assert_right, make, reference, run, texts

import dask_embed as de
from dask_embed.inference import stream
from dask_embed.inference.runner import Runner
from dask_embed.tokens.lists import TextTokenizer, TokenLists

pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    root = tmp_path_factory.mktemp("streaming")
    return {name: tiny.save(name, root / name) for name in ("bert", "t5", "gpt2")}


@pytest.fixture
def chunks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Refuse texts with "poison" as a broken tokenizer would; list the tokens of the others."""

    def tokenize(self: TextTokenizer, wanted: list[str]) -> TokenLists:
        if any("poison" in text for text in wanted):
            raise ValueError("too bitter")
        tokens = original(self, wanted)
        given.append(len(tokens.values))
        return tokens

    original, given = TextTokenizer.__call__, []
    monkeypatch.setattr(TextTokenizer, "__call__", tokenize)
    return given


@pytest.mark.parametrize(
    ("cut", "pooling"),
    [((1, 16), "mean"), ((2, 48), "none"), ((0.1, 9), "mean"), ((0.1, 9), "none")],
)
@pytest.mark.parametrize("model", MODELS)
def test_results_do_not_depend_on_chunks(
    folders: Folders, monkeypatch: Any, chunks: list[int], model: str, cut: Any, pooling: str
) -> None:
    """Repeats, nulls and empty texts stand in other chunks than each other."""
    per_chunk, tokens_per_batch = cut
    monkeypatch.setattr(stream, "_BATCHES_PER_CHUNK", {"cpu": per_chunk})
    wanted = [None, "", *texts(), None, None, "", *reversed(texts()), "the last"]
    embedder = make(folders, model, pooling=pooling)
    embedder = dataclasses.replace(embedder, tokens_per_batch=tokens_per_batch)
    chunks.clear()
    result, counts = run(embedder, wanted)
    assert len(chunks) > 2
    assert_right(result["embedding"], embedder, wanted)
    distinct, folder = {*wanted} - {None}, folders[MODELS[model][0]]
    assert counts["rows"] == sum(text is not None for text in wanted)
    assert counts["unique_rows"] == len(distinct)
    assert counts["tokens"] == sum(len(reference(folder, text)) for text in distinct)


@pytest.mark.parametrize("wanted", [["", None, "some", "", "some", ""], ["", None, ""], [None]])
def test_texts_without_tokens_are_in_no_batch(
    folders: Folders, monkeypatch: pytest.MonkeyPatch, wanted: list[str | None]
) -> None:
    """GPT-2 puts no token around a text; a chunk may have nothing to run."""
    monkeypatch.setattr(stream, "_BATCHES_PER_CHUNK", {"cpu": 0.01})
    spec = de.Model(str(folders["gpt2"]), device="cpu")
    result, counts = run(de.Embedder(spec, tokens_per_batch=9), wanted)
    assert result["embedding"].isna().tolist() == [text is None for text in wanted]
    for text, vector in zip(wanted, result["embedding"], strict=True):
        if text is not None:
            right = reference(folders["gpt2"], text).mean(0) if text else np.zeros(tiny.HIDDEN)
            np.testing.assert_allclose(vector, right, rtol=0, atol=1e-4)
    assert counts["unique_rows"] == counts["batches"] == int("some" in wanted)
    assert counts["rows"] == len(wanted) - wanted.count(None)


@pytest.mark.parametrize(
    ("length", "prompt"),
    [(1, ""), (20, ""), (300, ""), (1, "ask: " * 20)],
)
def test_a_chunk_holds_few_tokens(
    folders: Folders, chunks: list[int], length: int, prompt: str
) -> None:
    """Those of 32 batches, were a token four characters; of these texts it is about two."""
    embedder = dataclasses.replace(make(folders), tokens_per_batch=10, prompt=prompt)
    wanted = [f"{number} " + "of all " * (length // 7) for number in range(1000)]
    chunks.clear()
    embedder(pd.DataFrame({"text": wanted}))
    assert max(chunks) <= 3 * 32 * 10 < sum(chunks) / 3


@pytest.mark.parametrize(("per_chunk", "pooling"), [(0.5, "mean"), (0.5, "none"), (32, "mean")])
@pytest.mark.parametrize(
    "places", [[0], [5], [-1], [3, 4, 19], [*range(26)]], ids=lambda places: str(places)[:12]
)
def test_a_text_that_is_not_tokenized_is_null(
    folders: Folders, monkeypatch: Any, chunks: Any, places: list[int], per_chunk: Any, pooling: str
) -> None:
    monkeypatch.setattr(stream, "_BATCHES_PER_CHUNK", {"cpu": per_chunk})
    wanted = texts()
    for place in places:
        wanted[place] = f"poison {place % 2}"
    embedder = make(folders, on_error="null", pooling=pooling)
    result, counts = run(embedder, wanted)
    failed = [text is not None and "poison" in text for text in wanted]
    assert result["embedding_error"].notna().tolist() == failed
    assert set(result["embedding_error"].dropna()) == {"it cannot be encoded: too bitter"}
    expected = [None if bad else text for bad, text in zip(failed, wanted, strict=True)]
    assert_right(result["embedding"], embedder, expected)
    assert counts["rows"] == sum(text is not None for text in wanted)
    assert counts["unique_rows"] == len({*expected} - {None})


def test_a_panic_of_the_tokenizer_is_a_failed_row(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Panics of Rust are no `Exception`; an interrupt is not one either, and stops."""

    class PanicException(BaseException):  # as pyo3 names it
        pass

    def tokenize(self: TextTokenizer, wanted: list[str]) -> TokenLists:
        if any("poison" in text for text in wanted):
            raise kind("index out of bounds")
        return original(self, wanted)

    original, kind = TextTokenizer.__call__, PanicException
    monkeypatch.setattr(TextTokenizer, "__call__", tokenize)
    embedder = make(folders, on_error="null")
    result, _ = run(embedder, ["good", "poison", "better"])
    assert_right(result["embedding"], embedder, ["good", None, "better"])
    assert result["embedding_error"][1] == "it cannot be encoded: index out of bounds"
    kind = KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        run(embedder, ["good", "poison", "better"])


def test_a_text_that_is_not_tokenized_is_named(folders: Folders, chunks: list[int]) -> None:
    frame = pd.DataFrame({"text": ["good", None, "poison", "", "poison"]}, index=[*"abcde"])
    problem = r"row 2 of the partition \(index 'c'\): it cannot be encoded: too bitter \(2 such"
    with pytest.raises(ValueError, match=problem):
        make(folders)(frame)


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_partitions_in_threads(
    folders: Folders, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    """Each has a row that never fits, and batches that have to be halved."""

    def token_vectors(self: Runner, tokens: TokenLists) -> torch.Tensor:
        if tokens.lengths.max() > 60 or (len(tokens) > 1 and len(tokens.values) > 20):
            raise torch.OutOfMemoryError("no more")
        return original(self, tokens)

    embedder, original = make(folders, model, on_error="null"), Runner.token_vectors
    monkeypatch.setattr(Runner, "token_vectors", token_vectors)
    wanted = [text for number in range(4) for text in (*texts(), LONG, "", f"of {number}")]
    before = len(de.stats())
    ddf = dd.from_pandas(pd.DataFrame({"text": wanted}), npartitions=4)
    with dask.config.set(scheduler="threads", num_workers=4):
        result = embedder(ddf).compute()
    counts = de.stats().iloc[before:]
    assert len(counts) == 4
    assert counts["splits"].sum() > 0
    assert_right(result["embedding"], embedder, [None if t == LONG else t for t in wanted])


def test_tokenizing_beside_the_model(
    folders: Folders, monkeypatch: pytest.MonkeyPatch, chunks: list[int]
) -> None:
    """As on a GPU: in a thread of its own, that ends with the partition, also by an error."""
    monkeypatch.setattr(stream, "_BATCHES_PER_CHUNK", {"cpu": 0.5})
    embedder = make(folders, on_error="null")
    result, _ = run(embedder, [*texts(), "poison", *texts()])
    assert_right(result["embedding"], embedder, [*texts(), None, *texts()])
    monkeypatch.setattr(Runner, "token_vectors", None)
    with pytest.raises(TypeError, match="not callable"):
        run(embedder, texts())


# The peak is that of this process since it was reset: `ru_maxrss` would begin with its parent's.
MEASURE = """
import re, sys
from pathlib import Path
import dask.dataframe as dd, pandas as pd, torch
import dask_embed as de
from dask_embed.inference.runner import Runner
from dask_embed.runtime.malloc import trim

def status(name):
    return int(re.search(name + r":\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

def peak(work):
    trim()
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    result = work()
    return status("VmHWM") - before

def no_model(self, tokens, side="right"):
    return torch.zeros(len(tokens.values), self.loaded.checkpoint.hidden_size)

def write(count):
    ddf = dd.from_map(partition, range(count), rows=rows, meta=partition(0, 1).iloc[:0])
    embedder(ddf).ml.to_parquet(
        sys.argv[3], overwrite=True, compute_kwargs={"scheduler": "synchronous"}
    )

def partition(number, rows):
    return pd.DataFrame({"text": [f"{number} {row} short" for row in range(rows)]}, dtype="str")

torch.set_num_threads(1)
folder, rows = sys.argv[1], int(sys.argv[2])
embedder = de.Embedder(de.Model(folder, device="cpu"))
"""
WITHOUT_MODEL = """
Runner.token_vectors = no_model
embedder(partition(0, 5000))
frame = partition(1, rows)
taken = peak(lambda: embedder(frame))
counts = de.stats().iloc[-1]
assert counts["unique_rows"] == rows
rows //= 25
print(taken, counts["tokens"], *[peak(lambda: write(count)) for count in (2, 24)])
"""
LIMITED = """
import resource
from support import tiny
embedder = de.Embedder(embedder.model, tokens_per_batch=300_000).pinned()
texts = [f"{n} {text}"[:150] for n in range(rows // 80) for text in tiny.corpus()[:80]]
few = embedder(pd.DataFrame({"text": texts[-200:]}))
room = status("VmSize") + 40 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (room, room))
many = embedder(pd.DataFrame({"text": texts}))
counts = de.stats().iloc[-1]
difference = de.to_array(many["embedding"])[-200:] - de.to_array(few["embedding"])
assert abs(difference).max() < 1e-5, abs(difference).max()
print(counts["splits"], counts["unique_rows"])
"""


def measured(script: str, *arguments: Any) -> list[float]:
    """Run a script in a process of its own and return the numbers that it prints."""
    command = [sys.executable, "-c", MEASURE + script, *map(str, arguments)]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return [float(number) for number in done.stdout.split()]


@pytest.mark.slow
@pytest.mark.alone
def test_memory_is_that_of_one_partition_of_vectors(minilm: str, tmp_path: Path) -> None:
    """Of 24 that are written one by one less than the vectors of twelve."""
    rows, row = 200_000, 384 * 4
    taken, tokens, _, many = measured(WITHOUT_MODEL, minilm, rows, tmp_path / "out")
    assert rows * row < taken < 1.5 * (rows * row + tokens * 4)
    assert many < 12 * rows / 25 * row  # what malloc keeps differs by a few from run to run


@pytest.mark.alone
def test_memory_that_really_runs_out(folders: Folders) -> None:
    """One batch of all texts takes more than 40 MiB: torch's own allocator fails."""
    splits, unique_rows = measured(LIMITED, folders["bert"], 4000)
    assert (splits > 0, unique_rows) == (True, 4000)


@pytest.fixture(scope="module")
def documents() -> list[str]:
    return [text[:300] for text in de.datasets.docstrings(["dask"], rows=40)["text"].compute()]


@pytest.fixture(scope="module")
def whole(minilm: str, documents: list[str]) -> np.ndarray:
    """The vectors of one partition, which are those of sentence-transformers."""
    vectors = embed(minilm, documents)
    expected = SentenceTransformer(minilm, device="cpu").encode(documents)
    np.testing.assert_allclose(vectors, expected, rtol=0, atol=1e-6)
    return vectors


def embed(model: str, documents: list[str], parts: int = 1, **settings: Any) -> np.ndarray:
    ddf = dd.from_pandas(pd.DataFrame({"text": documents}), npartitions=parts, sort=False)
    embedded = de.Embedder(de.Model(model, device="cpu"), **settings)(ddf)
    return de.to_array(embedded.compute()["embedding"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [{"parts": 7}, {"tokens_per_batch": 200}, {"tokens_per_batch": 9000}, {"batch_size": 3}],
    ids=str,
)
def test_vectors_do_not_depend_on_batches(
    minilm: str, documents: list[str], whole: np.ndarray, settings: dict[str, int]
) -> None:
    given = embed(minilm, documents, **settings)
    np.testing.assert_allclose(given, whole, rtol=0, atol=1e-6)


def test_vectors_do_not_depend_on_order_and_repeats(
    minilm: str, documents: list[str], whole: np.ndarray
) -> None:
    order = np.random.default_rng(0).permutation(np.repeat(np.arange(len(documents)), 2))
    given = embed(minilm, [documents[row] for row in order])
    np.testing.assert_allclose(given, whole[order], rtol=0, atol=1e-6)
