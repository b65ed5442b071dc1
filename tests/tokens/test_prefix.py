"""Of a long text only what truncation keeps is tokenized, and the ids are those of all of it."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import tiny
from support.tokenizer_kinds import KINDS
from support.unsafe_tokenizers import UNSAFE, Unsafe

from dask_embed.tokens.lists import TextTokenizer
from dask_embed.tokens.prefix import cut_after, cuts_at_spaces

MAX_LENGTHS = (3, 9, 32)
WORD = "antidisestablishmentarianism"
TEXTS = {
    "words": "the quick brown fox jumps over a lazy dog " * 60,
    "prose": " ".join(tiny.corpus()[3:40]),
    "runs of spaces": "one   two     three four" + " " * 700 + "five six  seven " * 40,
    "spaces before all else": " " * 900 + "one two three " * 40,
    "newlines and tabs": "def f(x):\n\treturn x\n\n\n    # then\r\n" * 40,
    "ends in spaces": "one two three " * 40 + " " * 300,
    "no spaces": "日本語の文章には空白がない。" * 120,
    "Chinese with spaces": "东京 是 日本 的 首都 , 人口 1400 万 。" * 40,
    "emoji": "so 😀 happy 👩‍👩‍👧 today 🇯🇵🇯🇵 and ❤️ then " * 40,
    "combining marks": "e\u0301te\u0301 cafe\u0301 a\u030a n\u0303 o \u0301 x " * 60,
    "one word": WORD * 80,
    "words of any length": " ".join("z" * length for length in range(1, 90)),
    "numbers": "1 000 000 and 3 141 592 7 or 1e9 0x7f ² ½ Ⅷ ৩ " * 40,
    "apostrophes": "don't won't I'll they've she'd 's 't x'll y " * 50,
    "Arabic": "مرحبا بكم في العالم الكبير في كل يوم ١ ٢ ٣ " * 40,
    "Hebrew": "שלום לכל העולם הגדול בכל יום " * 50,
    "Hindi, Thai and Korean": "नमस्ते दुनिया สวัสดี ชาวโลก 안녕 세상 여러분 " * 40,
    "letters that decompose": "abc ﹰ def ﷺ x ﾞ y ͺ z ﬁ ① Ａ Ｂ ﱞ q İ i ß ẞ " * 40,
    "capital sigma": "ΟΔΟΣ ΣΑΣ Σ Σ ΑΣ ΟΔΟΣ. ΣΣ " * 50,
    "special tokens": "a [SEP] b </s> c <s> d <|end|> e <mask> f [MASK] g " * 40,
    "other spaces": "a\u00a0b\u2003c d\u200be f\u3000g h\u202fi j\x0bk l " * 50,
    "underscores and marks": "snake_case and _ x _y z_ ▁ a▁b Ġ aĠb ~ a~b " * 50,
}
FRAGMENTS = [
    *(
        "a",
        "b",
        " ",
        "  ",
        " x ",
        "the ",
        "ing ",
        "1 ",
        "000 ",
        "\n",
        "\t",
        " \n",
        ". ",
        ", ",
        "'s ",
    ),
    *(
        "é ",
        "e\u0301 ",
        "ﾞ ",
        "ﹰ ",
        " ͺ",
        "ﷺ ",
        "ﬁ ",
        "日 ",
        "本",
        "في ",
        "كل ",
        "ש ",
        "한 ",
        "ไ ",
        "न ",
    ),
    *("😀 ", "\u200d", "\u00a0", "\u00ad", "_ ", "▁", "Ġ", "<s>", "[SEP] ", "½ ", "² ", "Σ ", "İ "),
]


@functools.cache
def tokenizer(kind: str) -> Any:
    return KINDS[kind]()


@functools.cache
def cutting(kind: str, max_length: int) -> TextTokenizer:
    return TextTokenizer(copy.deepcopy(tokenizer(kind)), max_length)


def reference(kind: str, texts: list[str], max_length: int) -> list[list[int]]:
    """What transformers gives for the whole texts."""
    encoded = tokenizer(kind)(texts, truncation=True, max_length=max_length)
    return encoded["input_ids"]


def ids_of(tokens: Any) -> list[list[int]]:
    return [tokens[row].tolist() for row in range(len(tokens))]


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Return a list that gets the lengths of the texts of each call of the Rust tokenizer."""
    calls: list[list[int]] = []
    real = TextTokenizer._encode

    def encode(self: TextTokenizer, texts: list[str]) -> list[list[int]]:
        calls.append([len(text) for text in texts])
        return real(self, texts)

    monkeypatch.setattr(TextTokenizer, "_encode", encode)
    return calls


# ---------------------------------------------------------------------------------- the same ids
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_cut(kind: str) -> None:
    """Otherwise the tests below would show nothing."""
    assert cutting(kind, 9).cuts_first


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("kind", KINDS)
def test_ids_of_the_whole_text(kind: str, name: str) -> None:
    """From several places on, so that the cut falls everywhere."""
    for max_length, places in zip(MAX_LENGTHS, ((0, 1, 2), (0, 3, 4), (0, 5, 6)), strict=True):
        texts = [TEXTS[name][start:] for start in places]
        assert ids_of(cutting(kind, max_length)(texts)) == reference(kind, texts, max_length)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_ids_of_docstrings(kind: str, docstrings: pd.DataFrame) -> None:
    texts = sorted(docstrings["text"], key=len)[-60:]
    assert len(texts[0]) > 1500
    for max_length in (16, 128):
        assert ids_of(cutting(kind, max_length)(texts)) == reference(kind, texts, max_length)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(
    parts=st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=3)), min_size=1),
    repeats=st.integers(2, 40),
    max_length=st.sampled_from((3, 4, 9, 20)),
)
def test_ids_of_any_long_text(kind: str, parts: list[str], repeats: int, max_length: int) -> None:
    text = "".join(parts) * repeats
    assert ids_of(cutting(kind, max_length)([text])) == reference(kind, [text], max_length)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=3)), min_size=4))
def test_tokens_before_any_cut_do_not_depend_on_the_rest(kind: str, parts: list[str]) -> None:
    """The claim of `cuts_at_spaces`, wherever the cut is."""
    text = "".join(parts)
    backend = tokenizer(kind).backend_tokenizer
    whole = backend.encode(text, add_special_tokens=False).ids
    for beginning in {cut_after(text, characters) for characters in range(len(text))}:
        ids = backend.encode(beginning, add_special_tokens=False).ids
        assert whole[: len(ids)] == ids, f"{beginning!r} is cut from {text!r}"


# ------------------------------------------------------------------------- the rest is left alone
@pytest.mark.parametrize("kind", KINDS)
def test_the_rest_is_not_tokenized(kind: str, passed: list[list[int]]) -> None:
    """Of 250,000 characters the Rust tokenizer gets a few hundred."""
    text = "the quick brown fox " * 12_500
    cutting(kind, 16)([text, "short", text])
    assert sum(map(sum, passed)) < 1000
    assert max(map(max, passed)) <= 16 * 5 + len("quick")


def test_a_beginning_that_was_too_short_is_widened(passed: list[list[int]]) -> None:
    """Long words of one token each: more of the text is taken, but not all of it."""
    text = " ".join(["z" * 110] * 2000)  # more than WordPiece takes: [UNK]
    given = ids_of(cutting("wordpiece", 12)(["one two", text]))
    assert given == reference("wordpiece", ["one two", text], 12)
    assert len(given[1]) == 12
    assert len(passed) > 1
    widened = [lengths[0] for lengths in passed[1:]]
    assert widened == sorted(set(widened))
    assert all(len(lengths) == 1 for lengths in passed[1:])  # the other text is not run again
    assert 110 * 10 <= widened[-1] < len(text) / 10


def test_a_text_of_one_word_is_tokenized_whole(passed: list[list[int]]) -> None:
    """There is no place to cut, so everything is needed."""
    assert ids_of(cutting("bpe", 9)([WORD * 200])) == reference("bpe", [WORD * 200], 9)
    assert passed == [[len(WORD) * 200]]


def test_a_long_text_with_few_tokens_is_tokenized_to_its_end(passed: list[list[int]]) -> None:
    """Almost all spaces: whatever is cut is too short until everything was taken."""
    text = (" " * 200).join(["a b"] * 5)
    assert ids_of(cutting("wordpiece", 32)([text])) == reference("wordpiece", [text], 32)
    assert passed[-1] == [len(text)]


@pytest.mark.parametrize("kind", ["wordpiece", "byte-level", "llama-3", "unigram"])
def test_left_truncation_reads_the_whole_text(kind: str, passed: list[list[int]]) -> None:
    """It keeps the end, so the end is needed."""
    left = copy.deepcopy(tokenizer(kind))
    left.truncation_side = "left"
    text = TEXTS["prose"]
    expected = left(text, truncation=True, max_length=9)["input_ids"]
    assert expected != reference(kind, [text], 9)[0]
    ours = TextTokenizer(left, 9)
    assert not ours.cuts_first
    assert ids_of(ours([text])) == [expected]
    assert passed[-1] == [len(text)]


def test_without_a_limit_nothing_is_cut(passed: list[list[int]]) -> None:
    ours = TextTokenizer(copy.deepcopy(tokenizer("wordpiece")), None)
    assert not ours.cuts_first
    assert ids_of(ours([TEXTS["prose"]])) == [tokenizer("wordpiece")(TEXTS["prose"])["input_ids"]]
    assert passed == [[len(TEXTS["prose"])]]


# --------------------------------------------------------------------- tokenizers that cannot cut
@pytest.mark.parametrize("name", UNSAFE)
def test_a_tokenizer_that_reaches_over_spaces_is_not_cut(name: str) -> None:
    """Each case first shows by an example that it does reach over them."""
    case: Unsafe = UNSAFE[name]()
    whole = case.backend.encode(case.text, add_special_tokens=False).ids
    alone = case.backend.encode(case.beginning, add_special_tokens=False).ids
    assert case.text.startswith(case.beginning + " ")
    assert whole[: len(alone)] != alone, "the example does not show it"
    assert not cuts_at_spaces(case.backend)


# ----------------------------------------------------------------------------------- the boundary
@pytest.mark.parametrize(
    ("text", "characters", "expected"),
    [
        ("one two three", 0, "one"),
        ("one two three", 3, "one"),
        ("one two three", 4, "one two"),
        ("one two three", 8, "one two three"),
        ("one two three", 99, "one two three"),
        ("one, two three", 1, "one, two"),
        ("one  two three", 1, "one  two"),
        ("one\ntwo\tthree four", 1, "one\ntwo\tthree"),
        ("a_ b c", 0, "a_ b"),
        ("1 000 km", 0, "1"),
        ("日本 語", 0, "日本"),
        ("e\u0301 x y", 0, "e\u0301 x"),
        ("", 0, ""),
        ("x" * 5000, 10, "x" * 5000),
    ],
)
def test_cut_after(text: str, characters: int, expected: str) -> None:
    """At a single space between letters or digits, at the wanted place or behind it."""
    assert cut_after(text, characters) == expected


@given(st.text(alphabet="ab1é_ .\n日", max_size=60), st.integers(0, 60))
def test_cut_after_is_a_beginning(text: str, characters: int) -> None:
    beginning = cut_after(text, characters)
    assert text.startswith(beginning)
    assert len(beginning) >= min(characters, len(text))
    rest = text[len(beginning) :]
    assert not rest or (beginning[-1].isalnum() and rest[0] == " " and rest[1].isalnum())
