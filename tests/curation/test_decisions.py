"""Which rows of a group are kept, against a plain walk through all pairs."""

from __future__ import annotations

import dataclasses
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from dask_embed.curation import components, stars
from dask_embed.curation.components import forest, merged, roots_of
from dask_embed.curation.decisions import PAIRS, decisions_of_pairs
from dask_embed.curation.greedy import decide
from dask_embed.curation.marks import Finding, marked
from dask_embed.curation.ranking import Ranking, row_numbers
from dask_embed.curation.source import Source
from dask_embed.curation.stars import labels_of


def random_pairs(rows: int, count: int, seed: int) -> list[tuple[int, int, float]]:
    random = np.random.default_rng(seed)
    ends = random.integers(rows, size=(count, 2))
    return [
        (int(a), int(b), float(s))
        for (a, b), s in zip(ends, random.random(count), strict=True)
        if a != b
    ]


def walked(order: list[int], pairs: list[tuple[int, int, float]], rule: str) -> dict[int, Any]:
    """Return for each row of an order what it is a duplicate of, and how alike; None if kept."""
    alike: dict[int, dict[int, float]] = {}
    for a, b, s in pairs:
        for one, other in ((a, b), (b, a)):
            beside = alike.setdefault(one, {})
            beside[other] = max(s, beside.get(other, 0))
    found: dict[int, Any] = {}
    for row in order:
        before = [
            (s, -order.index(other), other)
            for other, s in alike.get(row, {}).items()
            if other in found and (rule == "semdedup" or found[other] is None)
        ]
        found[row] = (max(before)[2], max(before)[0]) if before else None
    return found


@pytest.mark.parametrize("rule", ["greedy", "semdedup"])
@pytest.mark.parametrize("seed", range(3))
def test_decisions_are_those_of_a_walk(rule: str, seed: int) -> None:
    pairs = random_pairs(120, 130, seed)
    order = np.random.default_rng(seed).permutation(120).tolist()
    rows = sorted({row for pair in pairs for row in pair[:2]})
    trees = forest(*(np.array([pair[i] for pair in pairs]) for i in (0, 1)))
    members = pd.DataFrame({"row": rows, "group": roots_of(trees, np.array(rows))})
    members["place"] = [order.index(row) for row in rows]
    members = members.assign(id=members["row"] + 1000).sample(frac=1, random_state=0)
    frame = pd.DataFrame(pairs, columns=["row", "other", "similarity"])
    got = decide(members, frame, ["place", "id"], rule).set_index("row")
    want = walked(order, pairs, rule)
    assert set(got.index) == set(rows)
    for row in rows:
        assert got.kept[row] == (want[row] is None)
        if want[row] is not None:
            of, similarity = want[row]
            assert got.duplicate_of[row] == of + 1000
            assert got.similarity[row] == similarity
            assert got.reason[row] == "duplicate"
        else:
            best = got.group[row] == row + 1000
            assert got.reason[row] == ("best of its group" if best else "not like a kept row")


def test_a_chain_keeps_what_nothing_that_is_kept_is_like() -> None:
    """1 is like 2, 2 like 3: 2 goes because of 1, and then 3 stays; for SemDeDup it goes."""
    members = pd.DataFrame({"row": [1, 2, 3], "group": 0})
    pairs = pd.DataFrame({"row": [1, 2], "other": [2, 3], "similarity": [0.9, 0.95]})
    assert decide(members, pairs, ["row"]).kept.tolist() == [True, False, True]
    assert decide(members, pairs, ["row"], "semdedup").kept.tolist() == [True, False, False]


def test_older_rows_are_kept_and_come_first() -> None:
    members = pd.DataFrame({"row": [-1, -2, 0, 1], "group": 0, "id": [7, 8, 0, 1]})
    pairs = pd.DataFrame({"row": [-1, 0, 1], "other": [-2, 1, -2], "similarity": 1.0})
    got = decide(members, pairs, ["id"])
    assert got.row.tolist() == [0, 1]
    assert got.kept.tolist() == [True, False]
    assert got.duplicate_of.tolist() == [pd.NA, 8]
    assert got.reason.tolist() == ["not like a kept row", "duplicate of an older row"]


@pytest.mark.parametrize("edges", [0, 1, 50, 400])
def test_forests_are_components_also_if_they_are_merged(edges: int) -> None:
    ends = np.random.default_rng(edges).integers(300, size=(2, edges)) * 10**12
    rows, roots = merged([forest(*ends[:, part::3]) for part in range(3)])
    assert [list(each) for each in forest(*ends)] == [list(rows), list(roots)]
    np.testing.assert_array_equal(rows, np.unique(ends))
    places = np.searchsorted(rows, ends)
    graph = coo_array((np.ones(edges), tuple(places)), shape=(len(rows), len(rows)))
    _, labels = connected_components(graph, directed=False)
    expected = [rows[labels == label].min() for label in labels]
    assert list(roots) == expected


def test_long_chains_need_few_rounds() -> None:
    chain = np.random.default_rng(0).permutation(100_000)
    rows, roots = forest(chain[:-1], chain[1:])
    assert (len(rows), roots.max()) == (100_000, 0)


@dataclasses.dataclass(frozen=True)
class Given(Finding):
    """Finds pairs of ids that are given."""

    pairs: tuple[tuple[int, int, float], ...]
    rule: str = "greedy"
    ranks: bool = False
    components: str = "forest"

    @property
    def reads(self) -> list[Any]:
        return ["id"]

    def decisions(self, source: Source) -> Any:
        known = source.each(_known, ["id"], _known(*_none()), use="pairs")
        pairs = known.repartition(npartitions=1).map_partitions(_paired, self.pairs, meta=PAIRS)
        ranks = source.each(_ranks, ["id"], _ranks(*_none()), use="ranks") if self.ranks else None
        pairs = dd.concat([pairs, pairs])  # each pair twice, in two partitions
        options: dict[str, Any] = {"rule": self.rule, "components": self.components}
        return decisions_of_pairs(source, pairs, self.ranking, ranks=ranks, **options)

    def told(self) -> str:
        return "given pairs"


def _none() -> tuple[pd.DataFrame, np.ndarray]:
    return pd.DataFrame({"id": np.zeros(0, np.int64)}), np.zeros(0, np.int64)


def _known(partition: pd.DataFrame, numbers: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({"row": numbers, "id": partition["id"].to_numpy()})


def _ranks(partition: pd.DataFrame, numbers: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({"row": numbers, "hard": -partition["id"].to_numpy()})


def _paired(known: pd.DataFrame, pairs: tuple[tuple[int, int, float], ...]) -> pd.DataFrame:
    numbers = known.set_index("id")["row"]
    frame = pd.DataFrame(list(pairs), columns=["row", "other", "similarity"])
    frame = frame.assign(row=numbers[frame["row"]].to_numpy())
    frame = frame.assign(other=numbers[frame["other"]].to_numpy())
    return frame.astype({"similarity": "float64"})


@pytest.fixture(scope="module")
def pairs() -> list[tuple[int, int, float]]:
    return random_pairs(200, 160, 5)


@pytest.mark.parametrize(("chain", "seed"), [(True, 0), (False, 1)])
def test_stars_by_turns_are_components(
    chain: bool, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stars, "ROUNDS", 8)  # each takes time, and few are enough here
    random = np.random.default_rng(seed)
    path = random.permutation(150)
    ends = np.stack([path[:-1], path[1:]]) if chain else random.integers(300, size=(2, 170))
    pairs = pd.DataFrame({"row": ends[0], "other": ends[1]})
    pairs = pairs[pairs["row"] != pairs["other"]]
    got = labels_of(dd.from_pandas(pairs, npartitions=2)).compute().sort_values("row")
    rows, roots = forest(pairs["row"].to_numpy(), pairs["other"].to_numpy())
    assert got.row.tolist() == rows.tolist()
    assert got.group.tolist() == roots.tolist()


def test_too_few_rounds_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stars, "ROUNDS", 1)
    path = np.random.default_rng(0).permutation(3000)
    pairs = pd.DataFrame({"row": path[:-1], "other": path[1:]})
    with pytest.raises(RuntimeError, match="1 rounds of stars did not connect all groups"):
        labels_of(dd.from_pandas(pairs, npartitions=3)).compute()


def test_more_rows_than_one_place_holds_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(components, "MOST", 3)
    ends = np.arange(4)
    with pytest.raises(ValueError, match=r"4 rows are in pairs, more than the 3 that.*'stars'"):
        merged([forest(ends[:2], ends[2:])])


def test_stars_decide_as_forests_do(
    pairs: list[tuple[int, int, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stars, "ROUNDS", 5)
    frame = pd.DataFrame({"id": np.arange(200), "text": "x"})
    ddf = dd.from_pandas(frame, npartitions=3)
    got, want = (
        marked(ddf, Given(Ranking("id"), "given_", None, tuple(pairs), components=how)).compute()
        for how in ("stars", "forest")
    )
    pd.testing.assert_frame_equal(got, want)


@pytest.mark.parametrize("npartitions", [1, 4, 16])
@pytest.mark.parametrize(("rule", "ranks"), [("greedy", False), ("semdedup", True)])
def test_pairs_are_decided_alike_in_any_partitions(
    pairs: list[tuple[int, int, float]], npartitions: int, rule: str, ranks: bool
) -> None:
    frame = pd.DataFrame({"id": np.arange(200), "text": "x"})
    mixed = frame.sample(frac=1, random_state=npartitions).reset_index(drop=True)
    ddf = dd.from_pandas(mixed, npartitions=npartitions)
    finding = Given(Ranking("id"), "given_", None, tuple(pairs), rule, ranks)
    got = marked(ddf, finding).compute().set_index("id")
    want = walked([*range(200)][:: -1 if ranks else 1], pairs, rule)
    for row, found in want.items():
        assert got.given_kept[row] == (found is None)
        if found is not None:
            assert got.given_duplicate_of[row] == found[0]


def test_row_numbers_tell_partition_and_place() -> None:
    assert row_numbers(3, 2).tolist() == [3 * 2**32, 3 * 2**32 + 1]
