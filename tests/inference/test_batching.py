"""Batches hold every row exactly once, stay within their budget, and waste little of it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_embed.inference.batching import plan_batches

LENGTHS = st.lists(st.integers(0, 60), max_size=80).map(lambda values: np.array(values, np.int64))
LIMITS = {
    "lengths": LENGTHS,
    "max_tokens": st.integers(1, 200),
    "max_rows": st.none() | st.integers(1, 9),
    "padded": st.booleans(),
}
PARTS = st.integers(1, 6)


def cost(lengths: np.ndarray, padded: bool) -> int:
    """Tokens that a batch computes."""
    return int(len(lengths) * lengths.max(initial=0) if padded else lengths.sum())


@given(**LIMITS, parts=PARTS)
def test_every_row_is_in_exactly_one_batch(
    lengths: np.ndarray, max_tokens: int, max_rows: int | None, padded: bool, parts: int
) -> None:
    batches = plan_batches(
        lengths, max_tokens=max_tokens, max_rows=max_rows, padded=padded, parts=parts
    )
    rows = [row for batch in batches for row in batch.tolist()]
    assert sorted(rows) == list(range(len(lengths)))
    assert all(len(batch) for batch in batches)


@given(**LIMITS, parts=PARTS)
def test_the_budget_holds_unless_one_row_alone_exceeds_it(
    lengths: np.ndarray, max_tokens: int, max_rows: int | None, padded: bool, parts: int
) -> None:
    for batch in plan_batches(
        lengths, max_tokens=max_tokens, max_rows=max_rows, padded=padded, parts=parts
    ):
        assert len(batch) == 1 or cost(lengths[batch], padded) <= max_tokens
        assert max_rows is None or len(batch) <= max_rows


@given(**LIMITS)
def test_a_batch_is_as_full_as_it_can_be(
    lengths: np.ndarray, max_tokens: int, max_rows: int | None, padded: bool
) -> None:
    """The first row of the next batch would not have fitted in."""
    batches = plan_batches(lengths, max_tokens=max_tokens, max_rows=max_rows, padded=padded)
    for batch, following in itertools.pairwise(batches):
        longer = lengths[[*batch, following[0]]]
        # a padded row counts at least one token
        longer = np.maximum(longer, 1) if padded else longer
        assert len(batch) == max_rows or cost(longer, padded) > max_tokens


@given(**LIMITS, parts=PARTS)
def test_rows_go_from_long_to_short(
    lengths: np.ndarray, max_tokens: int, max_rows: int | None, padded: bool, parts: int
) -> None:
    batches = plan_batches(
        lengths, max_tokens=max_tokens, max_rows=max_rows, padded=padded, parts=parts
    )
    ordered = [lengths[row] for batch in batches for row in batch]
    assert ordered == sorted(lengths.tolist(), reverse=True)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"max_tokens": 8}, [[3], [1, 0], [4, 2]]),
        ({"max_tokens": 8, "padded": True}, [[3], [1], [0, 4], [2]]),
        ({"max_tokens": 100, "max_rows": 2}, [[3, 1], [0, 4], [2]]),
        ({"max_tokens": 100}, [[3, 1, 0, 4, 2]]),
        ({"max_tokens": 1}, [[3], [1], [0], [4], [2]]),
    ],
    ids=str,
)
def test_by_hand(settings: dict[str, int], expected: list[list[int]]) -> None:
    lengths = np.array([3, 5, 1, 9, 2])
    assert [batch.tolist() for batch in plan_batches(lengths, **settings)] == expected


@given(lengths=LENGTHS.filter(len), parts=PARTS)
def test_parts_are_about_equal(lengths: np.ndarray, parts: int) -> None:
    """No more of them than asked for, and none further from its share than its longest row."""
    batches = plan_batches(lengths, max_tokens=10**9, parts=parts)
    assert len(batches) <= parts
    left = int(lengths.sum())
    for number, batch in enumerate(batches[:-1]):
        tokens = int(lengths[batch].sum())
        assert abs(tokens - left / (parts - number)) <= lengths[batch].max()
        left -= tokens


def test_no_small_rest_is_left() -> None:
    lengths = np.array([256] * 18 + [91] * 43 + [4] * 3)
    by_share = plan_batches(lengths, max_tokens=-(-int(lengths.sum()) // 2))
    assert [len(batch) for batch in by_share] == [16, 43, 5]
    assert [len(batch) for batch in plan_batches(lengths, max_tokens=10**9, parts=2)] == [17, 47]


def test_nothing_gives_no_batch() -> None:
    assert plan_batches(np.array([], np.int64), max_tokens=8) == []
