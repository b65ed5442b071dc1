"""Vectors of chunks from one pass over the text, as computed from transformers by hand."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import torch
from support import tiny

import dask_embed as de
from dask_embed.operators.tokens.chunker import Chunker
from dask_embed.operators.tokens.late_chunks import LateChunkEmbedder
from dask_embed.runtime.stats import totals

pytestmark = pytest.mark.usefixtures("one_torch_thread")

SHORT = "Dask reads a table. It is lazy! Who knows? 漢字。é 😀 ends"
LONG = SHORT * 4 + " " + "Another sentence follows here. And it ends. " * 8
TEXTS = [SHORT, None, LONG, "", "one", SHORT, "  spaced.  Out. "]
WAYS = {
    "packed": {},
    "padded": {"attention": "padded"},
    "left": {"attention": "padded", "padding_side": "left", "batch_size": 1},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("late")
    bases = tiny.save_bases(root)
    made = tiny.SENTENCE_TRANSFORMERS
    names = ("mean-normalize", "dense-tanh", "prompts")
    return {**bases, **{name: made[name](root / name, bases) for name in names}}


def frame_of(texts=TEXTS) -> pd.DataFrame:
    return pd.DataFrame({"text": pd.array(texts, "str"), "id": np.arange(len(texts))})


@functools.cache
def reference(folder: Path):
    from transformers import AutoModel, AutoModelForTextEncoding, AutoTokenizer

    auto = AutoModelForTextEncoding if folder.name == "t5" else AutoModel
    return AutoTokenizer.from_pretrained(folder), auto.from_pretrained(folder).eval()


@functools.cache
def windows_of(folder: Path, text: str, shared: int, prompt: str = "", limit: int = 64):
    """Return offsets and vectors of the tokens of each window, those seen before left out."""
    tokenizer, model = reference(folder)
    plain = tokenizer(prompt + text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = plain["input_ids"], plain["offset_mapping"]
    whole = tokenizer(prompt + text)["input_ids"]
    lead = whole.index(ids[0]) if ids else 0
    before, after = whole[:lead], whole[lead + len(ids) :]
    room = limit - len(before) - len(after)
    windows = []
    for start in range(0, max(1, len(ids) - shared), room - shared):
        part = ids[start : start + room]
        with torch.inference_mode():
            hidden = model(torch.tensor([[*before, *part, *after]])).last_hidden_state[0]
        seen = shared if start else 0
        own = hidden[lead + seen : lead + len(part)] if ids else hidden
        windows.append((offsets[start + seen : start + len(part)], own))
    return windows


def expected_vector(folder, row, text, shared, prompt="", limit=64) -> np.ndarray:
    """The mean of the token vectors of a chunk, from one pass over each window."""
    found = []
    for offsets, hidden in windows_of(folder, text, shared, prompt, limit):
        for (start, stop), vector in zip(offsets, hidden, strict=False):
            start, stop = start - len(prompt), stop - len(prompt)
            if start < row.chunk_end and stop > row.chunk_start:
                found.append(vector)
        if not offsets:
            found += list(hidden)
    return torch.stack(found).mean(0).numpy()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["bert", "roberta", "modernbert", "t5", "qwen3"])
def test_vectors_are_means_within_the_text(folders, name, way):
    """Against a forward pass of transformers over each text, and each window of a long one."""
    folder = folders[name]
    options = dict(WAYS[way])
    model = de.Model(folder, attention=options.pop("attention", "auto"))
    late = LateChunkEmbedder(model, max_tokens=14, overlap=4, keep_text=True, **options)
    out = late(frame_of())
    assert out["embedding"].isna().tolist() == out["chunk"].isna().tolist()
    special = late.rules().special
    shared = (64 - special) // 4
    rows = out.dropna(subset="chunk")
    vectors = de.to_array(rows["embedding"])
    expected = [expected_vector(folder, row, row.text, shared) for row in rows.itertuples()]
    np.testing.assert_allclose(vectors, np.array(expected), atol=1e-5)
    assert len(np.unique(vectors.round(3), axis=0)) > 15


def test_rows_are_those_of_the_chunker(folders):
    """Everything but the vector is as `Chunker` gives it, and lazily the same."""
    options = {"max_tokens": 14, "overlap": 3, "boundaries": "words"}
    plain = Chunker(folders["bert"], **options)(frame_of())
    late = LateChunkEmbedder(folders["bert"], **options)
    out = late(frame_of())
    pd.testing.assert_frame_equal(out.drop(columns="embedding"), plain)
    ddf = late(dd.from_pandas(frame_of(), npartitions=3))
    computed = ddf.compute()
    assert len(ddf) == len(out)
    assert list(computed.dtypes) == list(ddf._meta.dtypes) == list(out.dtypes)
    given, expected = (de.to_array(f["embedding"].dropna()) for f in (computed, out))
    np.testing.assert_allclose(given, expected, atol=1e-6)


def test_without_vectors_it_is_the_chunker(folders):
    """Where no vector is read its chunks are those of `Chunker`, cut by an equal one."""
    options = {"max_tokens": 14, "overlap": 3, "boundaries": "words", "output": "part"}
    late = LateChunkEmbedder(folders["bert"], keep_text=True, **options)
    plain = Chunker(folders["bert"], **options)
    assert late.keeping({"part", "id"}) == plain
    assert late.keeping({"text"}) == replace(plain, keep_text=True)
    assert late.keeping({"embedding", "text"}) is late
    ddf = late(dd.from_pandas(frame_of(), npartitions=2)).drop(columns=["embedding", "text"])
    before = totals()["tokens"]
    computed = ddf.compute()
    assert totals()["tokens"] == before
    pd.testing.assert_frame_equal(computed, plain(frame_of()))


def test_text_sees_more_than_its_chunk(folders):
    """A chunk's vector differs from that of the chunk alone; of a single chunk it does not."""
    out = LateChunkEmbedder(folders["bert"], max_tokens=14)(frame_of([SHORT]))
    alone = de.Embedder(folders["bert"], column="chunk", output="alone")(out)
    distance = de.to_array(alone["embedding"]) - de.to_array(alone["alone"])
    assert (np.linalg.norm(distance, axis=1) > 0.1).all()


@pytest.mark.parametrize("name", ["mean-normalize", "prompts"])
def test_what_follows_the_pooling(folders, name):
    """Vectors are normalized as the checkpoint says; a prompt is seen but in no chunk."""
    folder = folders[name]
    prompt = "Document: " if name == "prompts" else ""
    options = {"prompt_name": "document"} if prompt else {}
    late = LateChunkEmbedder(folder, max_tokens=14, keep_text=True, **options)
    rows = late(frame_of([SHORT, "one two. three"]))
    expected = [expected_vector(folder, row, row.text, 15, prompt) for row in rows.itertuples()]
    expected = [vector / np.linalg.norm(vector) for vector in expected]
    np.testing.assert_allclose(de.to_array(rows["embedding"]), expected, atol=1e-5)
    raw = replace(late, normalize=False)(frame_of([SHORT]))
    assert (np.linalg.norm(de.to_array(raw["embedding"]), axis=1) > 1.1).all()


@pytest.mark.parametrize("shared", [0, 7])
def test_windows(folders, shared):
    """`max_length` and `context` say what the model sees of a long text at a time."""
    folder = folders["bert"]
    late = LateChunkEmbedder(
        folder, max_tokens=12, max_length=30, context=shared, keep_text=True, batch_size=2
    )
    rows = late(frame_of([LONG]))
    expected = [expected_vector(folder, row, LONG, shared, "", 30) for row in rows.itertuples()]
    np.testing.assert_allclose(de.to_array(rows["embedding"]), expected, atol=1e-5)


def test_the_model_runs_once_over_each_text(folders):
    """Tokens of the forward passes are those of the distinct texts, once."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folders["bert"])
    texts = [SHORT, "one", None, SHORT, "two words. here"]
    late = LateChunkEmbedder(folders["bert"], max_tokens=8, overlap=3)
    late(frame_of(["loads the model"]))
    before = totals()
    out = late(frame_of(texts))
    after = totals()
    expected = sum(len(tokenizer(text)["input_ids"]) for text in {SHORT, "one", texts[-1]})
    assert after["tokens"] - before["tokens"] == expected
    assert after["unique_rows"] - before["unique_rows"] == 3
    assert after["rows"] - before["rows"] == 4
    assert len(out) > 8


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dense-tanh", {}, "is pooled by cls"),
        ("bert", {"context": 62}, "context must be less than 62"),
        ("bert", {"max_length": 65}, "max_length must be at most 64"),
        ("bert", {"embedding": "chunk_start"}, "output columns must differ"),
        ("bert", {"prompt_name": "query"}, "the checkpoint has no prompts"),
    ],
)
def test_bad_arguments(folders, name, options, message):
    """They are errors on the client, before any work."""
    with pytest.raises(ValueError, match=message):
        LateChunkEmbedder(folders[name], **options)(dd.from_pandas(frame_of(), npartitions=2))


def test_text_that_does_not_fit_in_memory(folders, monkeypatch):
    """Its chunks have no vector and a message, other texts have theirs."""
    from dask_embed.inference.runner import Runner

    late = LateChunkEmbedder(folders["bert"], max_tokens=14, on_error="null")
    good = late(frame_of(["one"]))
    run = Runner.token_vectors

    def fails_on_long(self, tokens):
        if tokens.lengths.max() > 20:
            raise torch.OutOfMemoryError("no room")
        return run(self, tokens)

    monkeypatch.setattr(Runner, "token_vectors", fails_on_long)
    out = late(frame_of(["one", SHORT]))
    assert out["embedding"].isna().tolist() == [False] + [True] * (len(out) - 1)
    assert out["chunk_error"].iloc[1:].str.contains("do not fit in the memory").all()
    np.testing.assert_allclose(
        de.to_array(out["embedding"].iloc[:1]), de.to_array(good["embedding"]), atol=1e-6
    )
