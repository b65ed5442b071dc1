"""Token ids are those of the checkpoint's tokenizer called as its model card says."""

from __future__ import annotations

import copy
import functools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from support import tiny

from dask_embed.tokens.lists import TextTokenizer, TokenLists

TOKENIZERS: dict[str, Callable[[], Any]] = {
    "wordpiece": tiny.wordpiece,
    "wordpiece-cased": lambda: tiny.wordpiece(lowercase=False),
    "bpe": lambda: tiny.bpe("<s> $A </s>"),
    "byte-level-bpe": tiny.byte_level_bpe,
    "byte-level-bpe-eos": tiny.ARCHITECTURES["qwen3"].tokenizer,
    "byte-level-bpe-both": tiny.ARCHITECTURES["roberta"].tokenizer,
    "unigram": tiny.unigram,
    "unigram-both": tiny.ARCHITECTURES["albert"].tokenizer,
}
TEXTS = [
    *tiny.corpus()[::40],
    "",
    " ",
    "\n\t ",
    "x",
    "[SEP] </s> <s> [MASK] <|end|>",
    "Ünïcode, 日本語, e\u0301, \u00a0 and 👩‍👩‍👧",
    "ALL CAPITALS and  two  spaces ",
]
LISTS = st.lists(st.lists(st.integers(0, 3), max_size=4), max_size=12)


def as_lists(tokens: TokenLists) -> list[list[int]]:
    return [tokens[row].tolist() for row in range(len(tokens))]


# ------------------------------------------------------------------------------------ TokenLists
@given(LISTS)
def test_of_keeps_the_lists(lists: list[list[int]]) -> None:
    tokens = TokenLists.of(lists)
    assert len(tokens) == len(lists)
    assert as_lists(tokens) == lists
    assert tokens.lengths.tolist() == [len(ids) for ids in lists]
    assert tokens.values.dtype == np.int32
    assert tokens.offsets.dtype == np.int64


@given(LISTS.filter(bool), st.data())
def test_take(lists: list[list[int]], data: st.DataObject) -> None:
    rows = data.draw(arrays(np.int64, st.integers(0, 9), elements=st.integers(0, len(lists) - 1)))
    assert as_lists(TokenLists.of(lists).take(rows)) == [lists[row] for row in rows]


@given(LISTS)
def test_digests_tell_lists_apart(lists: list[list[int]]) -> None:
    """Also lists of which one begins the other, and the same ids in another order."""
    lists = [*lists, [1, 2], [1], [], [2, 1], [1, 2], [], [1, 2, 0]]
    digests = TokenLists.of(lists).digests()
    assert [digests.index(each) for each in digests] == [lists.index(each) for each in lists]
    assert {len(each) for each in digests} == {16}


def test_digests_tell_types_apart() -> None:
    """Of a pair that is parted elsewhere, and ids that are the bytes of another's types."""
    ids = [[1, 2, 0x01000000], [1, 2, 0x01000000], [1, 2, 0x01000000]]
    typed = TokenLists.of(ids, [[0, 0, 1], [0, 1, 1], [0, 0, 1]]).digests()
    assert typed[0] == typed[2] != typed[1]
    plain = TokenLists.of([*ids, [1, 2, 3, 4, 0]]).digests()
    assert not {*plain} & {*typed, *TokenLists.of([[1, 2, 3, 4]], [[0] * 4]).digests()}


# --------------------------------------------------------------------------------- TextTokenizer
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("max_length", [None, 2, 5, 30])
@pytest.mark.parametrize("name", TOKENIZERS)
def test_ids_equal_the_reference(name: str, max_length: int | None, side: str) -> None:
    tokenizer = TOKENIZERS[name]()
    tokenizer.truncation_side = side
    expected = [
        tokenizer(text, truncation=max_length is not None, max_length=max_length)["input_ids"]
        for text in TEXTS
    ]
    assert max(map(len, expected)) == (max_length or max(map(len, expected)))
    given = TextTokenizer(copy.deepcopy(tokenizer), max_length)(TEXTS)
    assert as_lists(given) == expected


@functools.cache
def tokenizer_pair(name: str) -> tuple[Any, TextTokenizer]:
    return TOKENIZERS[name](), TextTokenizer(TOKENIZERS[name](), 7)


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=40, deadline=None)
@given(texts=st.lists(st.text(max_size=30), min_size=1, max_size=3))
def test_ids_of_any_text_equal_the_reference(name: str, texts: list[str]) -> None:
    tokenizer, ours = tokenizer_pair(name)
    expected = [tokenizer(text, truncation=True, max_length=7)["input_ids"] for text in texts]
    assert as_lists(ours(texts)) == expected


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_two_sides_differ_here(name: str) -> None:
    """So that the test above would show a side that is ignored."""
    tokenizer = TOKENIZERS[name]()
    ids = {}
    for side in ("right", "left"):
        tokenizer.truncation_side = side
        ids[side] = TextTokenizer(copy.deepcopy(tokenizer), 6)(TEXTS).values.tolist()
    assert ids["right"] != ids["left"]


def test_saved_truncation_and_padding_do_not_count() -> None:
    """tokenizer.json of many checkpoints asks for padding to a fixed length."""
    tokenizer = tiny.wordpiece()
    expected = [tokenizer(text)["input_ids"] for text in TEXTS]
    tokenizer.backend_tokenizer.enable_padding(length=64)
    tokenizer.backend_tokenizer.enable_truncation(7)
    assert as_lists(TextTokenizer(tokenizer, None)(TEXTS)) == expected


def test_a_tokenizer_that_changes_text_in_python_is_honoured() -> None:
    """What the Rust part alone would not do is not lost."""

    class Shouting(type(tiny.wordpiece(lowercase=False))):  # type: ignore[misc]
        def __call__(self, text: Any, **kwargs: Any) -> Any:
            return super().__call__([each.upper() for each in text], **kwargs)

    tokenizer = tiny.wordpiece(lowercase=False)
    expected = [tokenizer(text.upper())["input_ids"] for text in TEXTS]
    quiet = [tokenizer(text)["input_ids"] for text in TEXTS]
    assert expected != quiet
    tokenizer.__class__ = Shouting
    assert as_lists(TextTokenizer(tokenizer, None)(TEXTS)) == expected


def test_no_text_gives_no_list() -> None:
    tokens = TextTokenizer(tiny.wordpiece(), 8)([])
    assert len(tokens) == 0
    assert tokens.values.tolist() == []


@pytest.mark.parametrize(
    ("name", "extra"), [("wordpiece", 1), ("byte-level-bpe", 0), ("unigram", 0), ("bpe", 1)]
)
def test_the_length_of_a_prompt(name: str, extra: int) -> None:
    """With what stands before it, without the special token that closes it."""
    tokenizer = TOKENIZERS[name]()
    prompt = "Return the lines: "
    alone = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    assert TextTokenizer(tokenizer, 32).prompt_length(prompt) == len(alone) + extra


@pytest.mark.parametrize("name", ["wordpiece", "byte-level-bpe", "unigram", "bpe"])
def test_many_threads_at_once(name: str) -> None:
    """Different texts from several threads, with truncation: no mix-up, no error."""
    tokenizer = TOKENIZERS[name]()
    shares = [TEXTS[start:] + TEXTS[:start] for start in range(8)]
    expected = [
        [tokenizer(text, truncation=True, max_length=9)["input_ids"] for text in share]
        for share in shares
    ]
    shared = TextTokenizer(tokenizer, 9)
    start = threading.Barrier(len(shares))

    def work(share: list[str]) -> list[list[list[int]]]:
        start.wait()
        return [as_lists(shared(share)) for _ in range(10)]

    with ThreadPoolExecutor(len(shares)) as pool:
        results = list(pool.map(work, shares))
    assert results == [[each] * 10 for each in expected]
