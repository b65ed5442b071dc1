"""Labels of tokens to entities, worked out by hand; test_token_classifier has the pipeline's."""

from __future__ import annotations

import numpy as np
import pytest

from dask_embed.text.entities import LabelScheme, Tagged, follows_no_space, words

LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "X-ODD")


def tagged(labels, sequences=None, scores=None):
    count = len(labels)
    return Tagged(
        np.zeros(count, np.int64) if sequences is None else np.array(sequences),
        np.array([LABELS.index(label) for label in labels], np.int64),
        np.array(np.linspace(0.5, 1, count) if scores is None else scores, np.float32),
        np.arange(count) * 2,
        np.arange(count) * 2 + 2,
    )


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["B-PER", "I-PER", "O"], [("PER", 0, 4), ("O", 4, 6)]),
        (["B-PER", "B-PER"], [("PER", 0, 2), ("PER", 2, 4)]),
        (["I-PER", "I-LOC", "I-LOC"], [("PER", 0, 2), ("LOC", 2, 6)]),
        (["I-PER", "B-LOC", "I-PER"], [("PER", 0, 2), ("LOC", 2, 4), ("PER", 4, 6)]),
        (["X-ODD", "X-ODD", "O"], [("ODD", 0, 4), ("O", 4, 6)]),
        ([], []),
    ],
)
def test_tags_join(labels, expected):
    """B- begins anew, I- and labels without a prefix go on with their own tag."""
    scheme = LabelScheme(LABELS)
    found = scheme.entities(tagged(labels))
    names = [scheme.groups[label] for label in found.labels]
    assert list(zip(names, found.starts.tolist(), found.ends.tolist(), strict=True)) == expected


def test_scores_are_means_and_sequences_stay_apart():
    """Tokens of two sequences never join."""
    tokens = tagged(["I-PER", "I-PER", "I-PER"], [0, 0, 1], [0.5, 1.0, 0.25])
    found = LabelScheme(LABELS).entities(tokens)
    assert found.scores.tolist() == [0.75, 0.25]
    assert found.sequences.tolist() == [0, 1]


def test_words_by_hand():
    """Label and score of the first token, of the surest (the first of several), of the mean."""
    probabilities = np.array([[0.6, 0.4], [0.1, 0.9], [0.9, 0.1], [0.7, 0.3], [0.7, 0.3]])
    tokens = Tagged(
        np.array([0, 0, 0, 0, 1]),
        probabilities.argmax(1),
        probabilities.max(1),
        np.arange(5),
        np.arange(5) + 1,
    )
    continues = np.array([True, True, True, False, True])
    found = {
        how: words(tokens, continues, how, probabilities) for how in ("first", "max", "average")
    }
    for each in found.values():
        assert each.sequences.tolist() == [0, 0, 1]
        assert (each.starts.tolist(), each.ends.tolist()) == ([0, 3, 4], [3, 4, 5])
    assert found["first"].labels.tolist() == [0, 0, 0]
    assert found["max"].labels.tolist() == [1, 0, 0]
    np.testing.assert_allclose(found["first"].scores, [0.6, 0.7, 0.7])
    np.testing.assert_allclose(found["max"].scores, [0.9, 0.7, 0.7])
    np.testing.assert_allclose(found["average"].scores, [1.6 / 3, 0.7, 0.7])


def test_tokens_behind_spaces():
    """Only a space itself counts, in the token's own text."""
    texts = ["ab c\td", "", " e"]
    tokens = Tagged(
        np.array([0, 0, 0, 0, 0, 0, 2, 2, 2]),
        np.zeros(9, np.int64),
        np.zeros(9, np.float32),
        np.array([0, 1, 2, 3, 4, 6, 0, 1, 2]),
        np.zeros(9, np.int64),
    )
    found = follows_no_space(texts, tokens)
    assert found.tolist() == [False, True, False, False, True, True, False, False, True]
