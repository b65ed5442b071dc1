"""What windows of a text have in common, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from dask_embed.text.entities import Tagged
from dask_embed.text.windows import (
    every_token_once,
    merged,
    positions_in_windows,
    widest_context,
    without_overlaps,
)


def spans(*rows):
    """Spans of (window, start, end, score), labelled by their number."""
    window, start, end, score = (np.array(column) for column in zip(*rows, strict=True))
    return Tagged(window, np.arange(len(rows)), score.astype(np.float32), start, end)


@pytest.mark.parametrize(
    ("rows", "kept"),
    [
        ([(0, 0, 4, 0.5), (1, 2, 8, 0.1)], [1]),  # the longer
        ([(0, 0, 4, 0.5), (1, 2, 6, 0.6)], [1]),  # of one length the better
        ([(0, 0, 4, 0.5), (1, 2, 6, 0.5)], [0]),  # else the first
        ([(0, 6, 8, 0.5), (1, 0, 6, 0.5)], [1, 0]),  # by where they start; neighbours both stay
        ([(0, 0, 4, 0.5), (1, 2, 8, 0.1), (1, 5, 9, 0.9)], [1]),  # against what was kept before
    ],
)
def test_overlaps(rows, kept):
    """Of spans that overlap one stays."""
    assert without_overlaps(spans(*rows)).labels.tolist() == kept


def test_only_texts_of_several_windows_merge():
    """Spans of a text's only window stay as they are; of two windows one of each overlap."""
    given = spans((0, 0, 4, 0.9), (0, 2, 4, 0.9), (1, 0, 4, 0.9), (2, 1, 4, 0.9))
    owners = np.array([0, 1, 1])
    assert merged(given, owners, [range(1), range(1, 3)]).labels.tolist() == [0, 1, 2]
    alone = given.take(np.array([0, 1]))
    assert merged(alone, owners[:1], [range(1)]) is alone


def test_positions():
    """Windows of four tokens that share one, over nine, from either side."""
    assert positions_in_windows([4, 4, 3], 1, backwards=False) == [
        range(4),
        range(3, 7),
        range(6, 9),
    ]
    assert positions_in_windows([4, 4, 3], 1, backwards=True) == [
        range(5, 9),
        range(2, 6),
        range(3),
    ]
    assert positions_in_windows([0], 5, backwards=True) == [range(0)]


def test_widest_context():
    """Each token belongs to the window in which it is farthest from an edge."""
    ahead = [range(6), range(2, 8)]
    assert widest_context(ahead).tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert widest_context(ahead[::-1]).tolist() == [1, 1, 1, 1, 0, 0, 0, 0]


def test_every_token_once():
    """Two texts: one of two windows of four tokens between special ones, one without tokens."""
    around = np.array([True, False, False, False, False, True])
    special = [around, around[[0, 1, 2, 3, 5]], np.array([True, True])]
    index, place = every_token_once(special, [range(2), range(2, 3)], 2, backwards=False)
    # windows hold the tokens 0 to 3 and 2 to 4, which stand at 0 to 3 and 4 to 6
    assert index.tolist() == [1, 2, 3, 4, 5]
    assert place.tolist() == [0, 1, 2, 5, 6]
