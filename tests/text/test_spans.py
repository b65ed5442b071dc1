"""The best spans of a text, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.contract import QUICK

from dask_embed.text.spans import Text, best_spans, null_token, softmax
from dask_embed.tokens.sequences import Origins

#       0123456789
TEXT = " Ada  by B"
OFFSETS = np.array([[0, 2], [2, 4], [4, 5], [5, 6], [6, 8], [8, 10]])


def places(words=None):
    return Text(TEXT).answers(OFFSETS, None if words is None else np.array(words))


def test_answers_have_no_white_space_around():
    """Starts move behind white space and ends before it."""
    starts, ends = places()
    assert starts.tolist() == [1, 2, 6, 6, 6, 9]
    assert ends.tolist() == [2, 4, 4, 4, 8, 10]


def test_answers_of_whole_words():
    """Tokens of one word begin and end with it."""
    starts, ends = places([0, 0, 1, 2, 2, 3])
    assert starts.tolist() == [1, 1, 6, 6, 6, 9]
    assert ends.tolist() == [4, 4, 4, 8, 8, 10]


def test_a_word_does_not_reach_over_white_space():
    """Also where the tokenizer takes the whole text for one word, or knows none."""
    for words in ([0] * 6, [-1] * 6):
        starts, ends = places(words)
        joined = words[0] == 0
        assert starts.tolist() == [1, 1 if joined else 2, 6, 6, 6, 9]
        assert ends.tolist() == [4 if joined else 2, 4, 4, 8 if joined else 4, 8, 10]


def test_best_span_by_hand():
    """The highest product of a start and an end not before it nor too far behind it."""
    offsets = np.array([[0, 1], [1, 2], [2, 3]])
    where = Text("abc").answers(offsets, None)
    start, end = np.array([0.2, 0.3, 0.5]), np.array([0.6, 0.1, 0.3])
    best = best_spans(start, end, where, max_tokens=2, count=1)
    assert best == [(2, 3, pytest.approx(0.15))]
    found = best_spans(start, end, where, max_tokens=2, count=9)
    assert [span[:2] for span in found] == [(2, 3), (0, 1), (1, 3), (1, 2), (0, 2)]
    scores = [0.5 * 0.3, 0.2 * 0.6, 0.3 * 0.3, 0.3 * 0.1, 0.2 * 0.1]
    np.testing.assert_allclose([span[2] for span in found], scores)
    assert len(best_spans(start, end, where, max_tokens=3, count=9)) == 6


def test_same_characters_count_once():
    """Spans that words make equal count with their best score."""
    where = Text("ab c").answers(np.array([[0, 1], [1, 2], [3, 4]]), np.array([0, 0, 1]))
    start, end = np.array([0.1, 0.7, 0.2]), np.array([0.2, 0.5, 0.3])
    found = best_spans(start, end, where, max_tokens=3, count=9)
    assert [span[:2] for span in found] == [(0, 2), (0, 4), (3, 4)]
    np.testing.assert_allclose([span[2] for span in found], [0.35, 0.21, 0.06])


def test_no_tokens_no_spans():
    """An empty context, and one of white space, have no span."""
    none = np.zeros((0, 2), int)
    where = Text("").answers(none, np.zeros(0, int))
    assert best_spans(np.zeros(0), np.zeros(0), where, max_tokens=3, count=1) == []
    where = Text("  ").answers(np.array([[0, 1], [1, 2]]), None)
    assert best_spans(np.ones(2), np.ones(2), where, max_tokens=3, count=4) == []


@QUICK
@given(st.text("a b\u3000\n", max_size=12), st.data())
def test_any_white_space(text, data):
    """Whatever the text, what is between start and end is the stretch without its spaces."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), min_size=2, max_size=6)))
    offsets = np.array([cuts[:-1], cuts[1:]]).T
    starts, ends = Text(text).answers(offsets, None)
    for i in range(len(offsets)):
        for j in range(i, len(offsets)):
            wanted = text[offsets[i][0] : offsets[j][1]].strip()
            found = text[starts[i] : ends[j]] if ends[j] > starts[i] else ""
            assert found == wanted


def test_softmax():
    """Large logits do not overflow."""
    np.testing.assert_allclose(softmax(np.array([1000.0, 1000.0 + np.log(3)])), [0.25, 0.75])


@pytest.mark.parametrize(
    ("ids", "parts", "part", "place"),
    [
        ([9, 5, 6, 8], [-1, 0, 1, -1], 1, 0),  # the token itself
        ([5, 9, 6, 9], [0, 1, 1, -1], 1, 3),  # not where it stands in a text
        ([5, 7, 6], [0, -1, 1], 1, 1),  # the second choice
        ([5, 6], [0, 1], 1, 0),  # else the first token
        ([6, 5], [1, 0], 1, None),  # but none of the text
        ([], [], 1, None),
    ],
)
def test_null_token(ids, parts, part, place):
    """The CLS token (9), else the BOS token (7), else the first of the question."""
    origins = Origins(np.zeros((len(ids), 2), int), np.array(parts, np.int8))
    assert null_token(np.array(ids), origins, (None, 9, 7), part) == place
