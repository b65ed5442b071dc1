"""Chunks fit, lose nothing, end where sentences end, and keep the identity of their row."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import cloudpickle
import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from dask.base import tokenize
from hypothesis import given, settings
from hypothesis import strategies as st
from support import tiny, tokenizer_kinds
from support.contract import INDEXES, QUICK, TEXTS, assert_matches_meta, cut, lazy, values_of

import dask_embed as de
from dask_embed.operators.tokens.chunker import Chunker
from dask_embed.text.chunking import BOUNDARIES, Rules, chunk_texts
from dask_embed.text.sentences import paragraph_starts, sentence_starts
from dask_embed.tokens.lists import TextTokenizer
from dask_embed.tokens.sequences import SequenceTokenizer

pytestmark = pytest.mark.usefixtures("one_torch_thread")

STORY = (
    "Dr. Smith reads e.g. a table of 3.5 rows. It is lazy! Who knows?\n\n"
    "A new paragraph, written by J. Doe, begins here. And it ends."
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A sentence-transformers checkpoint; its tokenizer gives at most 64 tokens."""
    root = tmp_path_factory.mktemp("chunks")
    bases = tiny.save_bases(root)
    return tiny.SENTENCE_TRANSFORMERS["mean-normalize"](root / "sentence", bases)


# ------------------------------------------------------------------------------------ sentences
@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three? Four", ["One. ", "Two! ", "Three? ", "Four"]),
        ("He said “stop.” Then (so it is.) it", ["He said “stop.” ", "Then (so it is.) it"]),
        ("Dr. No met J. Bond, e.g. Here", ["Dr. No met J. Bond, e.g. Here"]),
        ("version 3.5 of a.b is out", ["version 3.5 of a.b is out"]),
        ("1. First\n2. Second", ["1. First\n", "2. Second"]),
        ("今天好。明天呢？「好！」他说", ["今天好。", "明天呢？", "「好！」", "他说"]),
        ("नमस्ते। आप कैसे हैं", ["नमस्ते। ", "आप कैसे हैं"]),
        ("كيف حالك؟ بخير", ["كيف حالك؟ ", "بخير"]),
        ("a line\nThat goes on\nand on", ["a line\n", "That goes on\nand on"]),
        ("blank\n\nlines part", ["blank\n\n", "lines part"]),
        ("Wait... what? No... Yes", ["Wait... what? ", "No... ", "Yes"]),
        ("end. ", ["end. "]),
        ("", [""]),
    ],
)
def test_sentences(text, sentences):
    """Rules by hand: closing quotes, abbreviations, scripts, lines."""
    ends = np.cumsum([len(sentence) for sentence in sentences])[:-1].tolist()
    assert sentence_starts(text) == ends


def test_paragraphs():
    """Empty lines part paragraphs, also with white space or Windows line ends in them."""
    text = "a\nb\n \nc\r\n\r\nd\n\n\n"
    assert [text[start] for start in paragraph_starts(text)] == ["c", "d"]


# ------------------------------------------------------------------------------- the pure logic
@pytest.fixture(scope="module", params=["wordpiece", "byte-level-both", "bpe", "gemma", "xlnet"])
def tokenizer(request):
    return tokenizer_kinds.KINDS[request.param]()


def pieces_of(tokenizer, texts, rules):
    own = copy.deepcopy(tokenizer)
    _, _, origins = SequenceTokenizer(own, None, offsets=True, special=False)(texts)
    alone = TextTokenizer(copy.deepcopy(tokenizer), None)
    offsets = [origin.offsets for origin in origins]
    return chunk_texts(texts, offsets, lambda pieces: alone(pieces).lengths, rules)


ALPHABET = "ab .!?\n漢。é😀\u0301\u200d\x00A"
any_text = st.one_of(
    st.text(alphabet=ALPHABET, max_size=150),
    st.text(max_size=60),
    st.sampled_from([STORY * 5, "x" * 400, "😀" * 40, " \n ", *tiny.corpus()[:5]]),
)


@settings(QUICK, max_examples=60)
@given(
    texts=st.lists(any_text, min_size=1, max_size=3),
    tokens=st.integers(1, 40),
    overlap=st.integers(0, 8),
    boundary=st.sampled_from(BOUNDARIES),
)
def test_pieces_fit_and_lose_nothing(tokenizer, texts, tokens, overlap, boundary):
    """Each piece alone has at most so many tokens; every character is in one but white space."""
    special = tokenizer.num_special_tokens_to_add()
    rules = Rules(tokens + special, special, min(overlap, tokens - 1), boundary)
    for text, pieces in zip(texts, pieces_of(tokenizer, texts, rules), strict=True):
        if isinstance(pieces, str):
            assert tokens < 8, "some character has more tokens than are allowed"
            assert f"more than max_tokens={rules.max_tokens}" in pieces
            continue
        covered = np.zeros(len(text), bool)
        for piece in pieces:
            chunk = text[piece.start : piece.stop]
            assert chunk == chunk.strip()
            assert chunk or not text.strip()
            assert len(tokenizer(chunk)["input_ids"]) == piece.tokens <= rules.max_tokens
            covered[piece.start : piece.stop] = True
        assert all(inside or text[n].isspace() for n, inside in enumerate(covered))
        starts, stops = [p.start for p in pieces], [p.stop for p in pieces]
        assert starts == sorted(set(starts))
        assert stops == sorted(set(stops))


def by_words(text: str, rules: Rules) -> list[str]:
    """Cut with words as tokens."""
    import re

    spans = np.array([found.span() for found in re.finditer(r"\S+", text)])
    (pieces,) = chunk_texts([text], [spans], lambda some: [len(s.split()) for s in some], rules)
    return [text[piece.start : piece.stop] for piece in pieces]


@pytest.mark.parametrize(
    ("boundary", "overlap", "expected"),
    [
        ("tokens", 0, ["a b. C d e", "f. G h.\n\nI j", "k l m n."]),
        ("tokens", 2, ["a b. C d e", "d e f. G h.", "G h.\n\nI j k", "j k l m n."]),
        ("sentences", 0, ["a b.", "C d e f.", "G h.", "I j k l m", "n."]),
        ("sentences", 2, ["a b.", "C d e f.", "G h.", "I j k l m", "l m n."]),
        ("paragraphs", 0, ["a b.", "C d e f.", "G h.", "I j k l m", "n."]),
    ],
)
def test_where_texts_are_cut(boundary, overlap, expected):
    """By hand, five words a piece: "I j k l m n." is too long and is cut at a word."""
    text = "a b. C d e f. G h.\n\nI j k l m n."
    rules = Rules(5, 0, overlap, boundary)
    assert by_words(text, rules) == expected


def test_whole_sentences_are_shared():
    """As many as fit into the overlap, and not so many that the next has no room."""
    text = "A b. C d. E f. G h i j. K l."
    assert by_words(text, Rules(6, 0, 4, "sentences")) == [
        "A b. C d. E f.",
        "E f. G h i j.",
        "G h i j. K l.",
    ]


def test_a_character_of_too_many_tokens():
    """Where not even one character fits the message says so."""
    text = "a漢"
    spans = np.array([[0, 1], [1, 2], [1, 2]])
    (message,) = chunk_texts(
        [text], [spans], lambda some: [1 + 2 * ("漢" in s) for s in some], Rules(2, 0)
    )
    expected = (
        "character 1 ('漢') alone has 3 tokens, special ones included, more than max_tokens=2"
    )
    assert message == expected


# ------------------------------------------------------------------------------------- the rows
def frame_of(texts=TEXTS, index=None) -> pd.DataFrame:
    columns = {"id": np.arange(len(texts)), "text": pd.array(texts, "str")}
    return pd.DataFrame(columns | {"weight": np.linspace(0, 1, len(texts))}, index=index)


@pytest.mark.parametrize("kind", INDEXES)
def test_rows_keep_their_identity(folder, kind):
    """Index and other columns are repeated, a null and an empty text stay one row each."""
    frame = frame_of(index=INDEXES[kind])
    chunker = Chunker(folder, max_tokens=12)
    eager = chunker(frame)
    parts = chunker(lazy(cut(frame, [0, 2, 5]))).compute()
    pd.testing.assert_frame_equal(parts, eager, check_index_type="equiv")
    counts = eager.groupby("id").size()
    assert counts[3] > 20
    assert counts.drop([3, 0, 5, 6]).tolist() == [1] * 5
    assert eager.index.tolist()[:1] == frame.index.tolist()[:1]
    expected = frame.index.repeat(counts.reindex(frame["id"]).to_numpy())
    pd.testing.assert_index_equal(eager.index, expected)
    names = [f"chunk{end}" for end in ("", "_index", "_start", "_end", "_tokens")]
    assert list(eager.columns) == ["id", "weight", *names]
    null = eager[eager["id"] == 2]
    assert null[names].isna().all(axis=None)
    empty = eager[eager["id"] == 4]
    assert empty[names].iloc[0].tolist() == ["", 0, 0, 0, 2]


def test_chunks_are_slices(folder):
    """Offsets are exact, numbers count from 0, and counts are the tokenizer's."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    out = Chunker(folder, max_tokens=15, overlap=4, keep_text=True)(frame_of())
    for _, rows in out.dropna(subset="chunk").groupby("id"):
        assert rows["chunk_index"].tolist() == list(range(len(rows)))
        for row in rows.itertuples():
            assert row.chunk == row.text[row.chunk_start : row.chunk_end]
            assert row.chunk_tokens == len(tokenizer(row.chunk)["input_ids"]) <= 15


def test_default_is_the_limit_of_the_model(folder):
    """Without max_tokens chunks are as long as the model takes."""
    counts = Chunker(folder, boundaries="tokens")(frame_of())["chunk_tokens"]
    assert counts.max() == 64


def test_length_and_meta(folder):
    """`len` counts chunks, and every partition has the dtypes that were announced."""
    ddf = lazy(cut(frame_of(), [0, 3, 4]))
    out = Chunker(folder, max_tokens=12)(ddf)
    eager = Chunker(folder, max_tokens=12)(frame_of())
    assert len(out) == len(eager) > len(TEXTS)
    for partition in dask.compute(*out.to_delayed()):
        assert_matches_meta(partition, out._meta)


def test_divisions_stay(folder):
    """Rows of an index value stay in the partition that Dask knows it in."""
    ddf = dd.from_pandas(frame_of(), npartitions=3)
    out = Chunker(folder, max_tokens=12)(ddf)
    assert out.divisions == ddf.divisions
    assert out.known_divisions
    assert out.loc[3].compute()["id"].unique().tolist() == [3]


def test_plain_value(folder):
    """Equal chunkers pickle, hash and have the same Dask token and task names."""
    chunker = Chunker(folder, max_tokens=12)
    for library in (pickle, cloudpickle):
        other = library.loads(library.dumps(chunker))
        assert other == chunker
        assert tokenize(other) == tokenize(chunker)
    assert tokenize(Chunker(folder, max_tokens=13)) != tokenize(chunker)
    ddf = dd.from_pandas(frame_of(), npartitions=2)
    assert chunker(ddf)._name == Chunker(str(folder), max_tokens=12)(ddf)._name


def test_rows_that_cannot_be_cut(folder):
    """Something that is not text, raised with its row, or one row of nulls and a message."""
    frame = frame_of().astype({"text": object})
    frame.loc[1, "text"] = 7
    with pytest.raises(ValueError, match=r"row 1 of the partition \(index 1\): column 'text'"):
        Chunker(folder)(frame)
    out = Chunker(folder, on_error="null", output="part", max_tokens=12)(frame)
    bad = out[out["id"] == 1]
    assert values_of(bad["part"]) == [None]
    assert "int is not text" in bad["part_error"].iloc[0]
    assert out["part_error"].notna().sum() == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens": 2}, "max_tokens must be more than the 2 special tokens"),
        ({"overlap": -1}, "overlap must be 0 or a positive integer, got -1"),
        ({"overlap": False}, "overlap must be 0 or a positive integer, got False"),
        ({"overlap": 1.5}, "overlap must be 0 or a positive integer, got 1.5"),
        ({"max_tokens": 9, "overlap": 7}, "overlap=7 together; got 9"),
        ({"max_tokens": 65}, "at most 64, the positions"),
        ({"boundaries": "lines"}, "boundaries must be one of"),
        ({"column": "texts"}, "did you mean 'text'"),
        ({"output": "id"}, "output column 'id' already exists"),
    ],
)
def test_bad_arguments(folder, options, message):
    """They are errors on the client, before any work."""
    with pytest.raises((TypeError, ValueError), match=message):
        Chunker(folder, **options)(dd.from_pandas(frame_of(), npartitions=2))


@pytest.mark.parametrize("boundaries", ["sentences", "tokens"])
def test_embedding_chunks(folder, boundaries):
    """Chunks are embedded like any texts: as sentence-transformers embeds them."""
    from sentence_transformers import SentenceTransformer

    ddf = lazy(cut(frame_of([STORY * 3, None, *tiny.corpus()[:6]]), [3, 5]))
    chunks = Chunker(folder, max_tokens=20, overlap=5, boundaries=boundaries)(ddf)
    out = de.Embedder(folder, column="chunk")(chunks).compute()
    texts = out["chunk"].dropna().tolist()
    expected = SentenceTransformer(str(folder), device="cpu").encode(texts)
    given = de.to_array(out["embedding"].dropna())
    assert len(texts) > 20
    np.testing.assert_allclose(given, expected, atol=1e-5)
    assert out["embedding"].isna().tolist() == out["chunk"].isna().tolist()
