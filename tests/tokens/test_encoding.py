"""Sequences are those of the tokenizer itself, traced back to characters."""

from __future__ import annotations

import numpy as np
import pytest
from support import tiny
from support.contract import LONG, TEXTS

from dask_embed.inference.encoding import encode_spans
from dask_embed.tokens.cutting import TextCutter
from dask_embed.tokens.lists import TokenLists
from dask_embed.tokens.sequences import SequenceTokenizer, check_stride, too_long

ROWS = [text for text in TEXTS if text is not None]


def by_transformers(tokenizer, *texts, **options):
    return tokenizer(*texts, return_offsets_mapping=True, **options)


@pytest.mark.parametrize("name", ["bert", "roberta", "t5", "gpt2"])
def test_windows_with_offsets_and_words(name):
    """Windows, offsets, parts and words as transformers gives them, row by row."""
    tokenizer = tiny.ARCHITECTURES[name].tokenizer()
    settings = {"stride": 3, "windows": True, "offsets": True, "words": True}
    rows, tokens, origins = SequenceTokenizer(tokenizer, 20, **settings)(ROWS)
    reference = tiny.ARCHITECTURES[name].tokenizer()
    number = 0
    for row, text in enumerate(ROWS):
        options = {"max_length": 20, "truncation": True, "stride": 3}
        encoded = by_transformers(reference, [text], return_overflowing_tokens=True, **options)
        for window, ids in enumerate(encoded["input_ids"]):
            assert rows[number] == row
            assert tokens[number].tolist() == ids
            found = origins[number]
            assert len(found) == len(ids)
            assert [tuple(pair) for pair in found.offsets] == encoded["offset_mapping"][window]
            assert _missing_as_none(found.parts) == encoded.sequence_ids(window)
            assert _missing_as_none(found.words) == encoded.word_ids(window)
            number += 1
    assert number == len(tokens)
    assert number > len(ROWS)


def _missing_as_none(values):
    return [None if value < 0 else value for value in values.tolist()]


def test_pairs():
    """Both texts of a pair are told apart by part and token type."""
    tokenizer = tiny.wordpiece()
    encode = SequenceTokenizer(tokenizer, 12, truncation="only_second", offsets=True)
    rows, tokens, origins = encode(["two words", "x"], [LONG, ""])
    assert rows.tolist() == [0, 1]
    for place, pair in enumerate([("two words", LONG), ("x", "")]):
        expected = tiny.wordpiece()([pair], max_length=12, truncation="only_second")
        assert [tokens[place].tolist()] == expected["input_ids"]
        part = tokens.types[tokens.offsets[place] : tokens.offsets[place + 1]].tolist()
        assert [part] == expected["token_type_ids"]
        assert _missing_as_none(origins[place].parts) == expected.sequence_ids(0)
    assert origins[0].words is None


def test_nothing():
    """No texts, no sequences."""
    rows, tokens, origins = SequenceTokenizer(tiny.wordpiece(), 8, offsets=True)([])
    assert (len(rows), len(tokens), origins) == (0, 0, [])
    assert SequenceTokenizer(tiny.wordpiece(), 8)([])[2] is None


@pytest.mark.parametrize("stride", [6, 7])
def test_stride_without_room(stride):
    """The Rust library would panic; here it is an error that names the numbers."""
    with pytest.raises(ValueError, match=f"less than 6, .* got {stride}"):
        SequenceTokenizer(tiny.wordpiece(), 8, stride=stride, windows=True)
    SequenceTokenizer(tiny.wordpiece(), 8, stride=5, windows=True)([LONG])
    with pytest.raises(ValueError, match="less than 8"):
        SequenceTokenizer(tiny.wordpiece(), 8, stride=8, windows=True, special=False)


@pytest.mark.parametrize("option", ["offsets", "windows"])
def test_python_tokenizers_are_refused(option):
    """What only tokenizers in Rust can is not silently left out."""

    class Slow:
        is_fast = False
        model_input_names = ()

    with pytest.raises(ValueError, match="tokenizer Slow does not say"):
        SequenceTokenizer(Slow(), 8, **{option: True})


def test_rows_that_are_too_long():
    """Rows of more tokens are failures; the others keep their sequences and origins."""
    tokenizer = SequenceTokenizer(tiny.wordpiece(), 9, offsets=True)
    encoded = encode_spans(tokenizer, ["x", LONG, "", LONG, "ab"], most=8)
    assert encoded.rows.tolist() == [0, 2, 4]
    assert list(encoded.failures) == [1, 3]
    assert "more than 8 tokens" in encoded.failures[1]
    for text, ids, origins in zip(["x", "", "ab"], encoded.samples, encoded.context, strict=True):
        expected = by_transformers(tiny.wordpiece(), text)
        assert ids.tolist() == expected["input_ids"]
        assert [tuple(pair) for pair in origins.offsets] == expected["offset_mapping"]
    assert encode_spans(tokenizer, ["x", LONG]).failures == {}


def test_too_long_counts_tokens():
    """Exactly the limit is not too long, and without a limit nothing is."""
    tokens = TokenLists.of([[1] * 3, [1] * 4, []])
    assert list(too_long(tokens, 3)) == [1]
    assert too_long(tokens, None) == {}


@pytest.mark.parametrize("most", [0, 1, 7])
@pytest.mark.parametrize("name", ["bert", "roberta", "albert"])
def test_texts_are_cut_at_a_token(name, most):
    """What is left has at most so many tokens, and nothing is cut that fits."""
    rows = [*ROWS, "naïve 漢字 😀😀", LONG]
    cut = TextCutter(tiny.ARCHITECTURES[name].tokenizer(), most)(rows)
    count = tiny.ARCHITECTURES[name].tokenizer()
    shortened = 0
    for text, left in zip(rows, cut, strict=True):
        assert text.startswith(left)
        whole = count(text, add_special_tokens=False, return_offsets_mapping=True)
        ends = [end for _, end in whole["offset_mapping"]]
        if len(ends) <= most:
            assert left == text
            continue
        shortened += 1
        assert len(count(left, add_special_tokens=False)["input_ids"]) <= most
        assert len(left) in (0, *ends[:most])
        assert most == 0 or np.abs(ends[most - 1] - len(left)) <= 2
    assert shortened >= 3


@pytest.mark.parametrize("stride", [None, 0, 7])
def test_good_strides(stride):
    """None, and any count of tokens."""
    assert check_stride(stride, "truncate") is None


@pytest.mark.parametrize("stride", [-1, 1.0, "3", True])
def test_bad_strides(stride):
    """What was given is in the message."""
    with pytest.raises((TypeError, ValueError), match="at least 0, or None; got"):
        check_stride(stride, "truncate")
