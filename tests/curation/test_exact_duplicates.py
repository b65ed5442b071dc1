"""Exact duplicates: the rows that pandas keeps, in any partitions, once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from support.clusters import cluster

from dask_embed.curation.hashing import hashable
from dask_embed.curation.ranking import PLACES

ROWS = 400


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    """Texts that repeat, some nulls, ids in the order of rows, and a quality."""
    random = np.random.default_rng(0)
    texts = [None if i % 37 == 0 else f"text {random.integers(150)}" for i in range(ROWS)]
    quality = random.integers(5, size=ROWS).astype(float)
    quality[::11] = np.nan
    ids = [f"id {i:04}" for i in range(ROWS)]
    return pd.DataFrame({"id": ids, "text": texts, "quality": quality, "other": range(ROWS)})


def survivors(frame: pd.DataFrame) -> list[str]:
    """Return the ids that pandas keeps of rows in this order; it takes nulls for equal."""
    return sorted(frame[~frame.text.duplicated() | frame.text.isna()].id)


def shuffled(frame: pd.DataFrame, npartitions: int, seed: int) -> Any:
    mixed = frame.sample(frac=1, random_state=seed).reset_index(drop=True)
    return dd.from_pandas(mixed, npartitions=npartitions)


@pytest.mark.parametrize(("npartitions", "seed"), [(1, 0), (4, 1), (16, 2)])
def test_the_same_rows_in_any_order_and_partitions(
    frame: pd.DataFrame, npartitions: int, seed: int
) -> None:
    ddf = shuffled(frame, npartitions, seed)
    kept = ddf.ml.drop_exact_duplicates("text", id="id").compute()
    assert sorted(kept.id) == survivors(frame)
    pd.testing.assert_frame_equal(kept, ddf.compute().loc[kept.index])


@pytest.mark.parametrize("npartitions", [1, 5])
def test_rows_without_an_id_are_known_by_their_place(frame: pd.DataFrame, npartitions: int) -> None:
    ddf = dd.from_pandas(frame, npartitions=npartitions)
    marked = ddf.ml.mark_exact_duplicates("text").compute()
    assert sorted(marked[marked.exact_kept].id) == survivors(frame)
    partition, place = np.divmod(marked.exact_row.to_numpy(), 2**PLACES)
    lengths = ddf.map_partitions(len).compute()
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    np.testing.assert_array_equal(starts[partition.astype(int)] + place, np.arange(ROWS))
    dropped = marked[~marked.exact_kept]
    first = marked.set_index("exact_row").text[dropped.exact_duplicate_of]
    assert list(first) == list(dropped.text)


def test_the_best_by_columns_is_kept_and_of_equal_ones_the_lowest_id(frame: pd.DataFrame) -> None:
    ddf = shuffled(frame, 4, 0)
    kept = ddf.ml.drop_exact_duplicates("text", id="id", keep=("quality", "max")).compute()
    best = frame.sort_values(["quality", "id"], ascending=[False, True], na_position="last")
    assert sorted(kept.id) == survivors(best)
    keep = [("quality", "min"), ("other", "max")]
    kept = ddf.ml.drop_exact_duplicates("text", id="id", keep=keep).compute()
    best = frame.sort_values(["quality", "other"], ascending=[True, False], na_position="last")
    assert sorted(kept.id) == survivors(best)


def test_a_random_row_is_the_same_in_any_partitions_and_another_with_another_seed(
    frame: pd.DataFrame,
) -> None:
    def kept(npartitions: int, seed: int) -> list[str]:
        ddf = shuffled(frame, npartitions, npartitions)
        return sorted(
            ddf.ml.drop_exact_duplicates("text", id="id", keep="random", seed=seed).compute().id
        )

    assert kept(1, 0) == kept(4, 0) != kept(4, 1)
    assert len(kept(1, 0)) == len(kept(4, 1)) == len(survivors(frame))
    assert kept(1, 0) != survivors(frame)


def test_decisions_say_what_a_row_repeats(frame: pd.DataFrame) -> None:
    marked = shuffled(frame, 4, 0).ml.mark_exact_duplicates("text", id="id").compute()
    first = frame.groupby("text").id.min()
    counts = frame.text.value_counts()
    for row in marked.itertuples():
        alone = pd.isna(row.text) or counts[row.text] == 1
        assert pd.isna(row.exact_group) == alone
        if alone:
            assert row.exact_kept
            assert pd.isna(row.exact_reason)
            continue
        assert row.exact_group == first[row.text]
        assert row.exact_kept == (row.id == row.exact_group)
        if row.exact_kept:
            assert row.exact_reason == "best of its group"
            assert pd.isna(row.exact_duplicate_of)
        else:
            assert row.exact_duplicate_of == row.exact_group
            assert (row.exact_similarity, row.exact_reason) == (1, "duplicate")


def test_normalized_texts_are_compared_and_given_ones_kept() -> None:
    texts = ["A  b", "a b", " a\tb\n", "c", "C", "Straße", "STRASSE"]
    ddf = dd.from_pandas(pd.DataFrame({"text": texts}), npartitions=2)

    def kept(**options: Any) -> list[str]:
        return list(ddf.ml.drop_exact_duplicates("text", **options).text.compute())

    assert kept() == texts
    assert kept(normalize="whitespace") == ["A  b", "a b", "c", "C", "Straße", "STRASSE"]
    assert kept(normalize=["whitespace", "casefold"]) == ["A  b", "c", "Straße"]
    assert kept(normalize=lambda text: text.strip()[:1]) == ["A  b", "a b", "c", "C", "Straße"]


def test_several_columns_have_to_be_equal_in_all_and_nulls_are_equal_if_asked() -> None:
    values = pd.DataFrame(
        {
            "a": ["x", "x", "x", None, None, "ab", "a"],
            "b": ["y", "y", None, None, None, "c", "bc"],
            "n": [1, 1, 1, 2, 2, 3, 3],
        }
    )
    ddf = dd.from_pandas(values, npartitions=3)
    got = ddf.ml.drop_exact_duplicates(["a", "b", "n"]).compute()
    assert list(got.index) == [0, 2, 3, 4, 5, 6]
    got = ddf.ml.drop_exact_duplicates(["a", "b", "n"], nulls_equal=True).compute()
    assert list(got.index) == list(values.drop_duplicates().index)


def test_a_null_beside_an_empty_text_is_not_the_other_way_round() -> None:
    values = pd.DataFrame(
        {"a": ["", None, None, "x", None, ""], "b": [None, "", None, None, "x", None]}
    )
    ddf = dd.from_pandas(values, npartitions=2)
    got = ddf.ml.drop_exact_duplicates(["a", "b"], nulls_equal=True).compute()
    assert list(got.index) == list(values.drop_duplicates().index) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("best", ["max", "min"])
@pytest.mark.parametrize(
    "dtype",
    ["int64", "Int64", "uint64", "int64[pyarrow]", "datetime64[ns]", "timestamp[ns][pyarrow]"],
)
def test_the_best_by_whole_numbers_that_float64_takes_for_equal(dtype: str, best: str) -> None:
    stamps = pd.Series([2**62 + 1, 2**62, 2**62 + 3, 2**62 + 2]).astype(dtype)
    texts = pd.DataFrame({"text": ["one", "one", "two", "two"], "stamp": stamps})
    ddf = dd.from_pandas(texts, npartitions=2)
    kept = ddf.ml.drop_exact_duplicates("text", keep=("stamp", best)).compute()
    assert list(kept.index) == ([0, 2] if best == "max" else [1, 3])


@pytest.mark.parametrize("best", ["max", "min"])
def test_a_partition_whose_integers_are_null_is_one_of_floats(best: str) -> None:
    parts = [
        pd.DataFrame({"text": ["one", "two"], "version": [7, 1]}),
        pd.DataFrame({"text": ["one", "one", "two"], "version": [np.nan, 8.0, np.nan]}),
    ]
    ddf = dd.from_map(lambda part: part, parts, meta=parts[0].iloc[:0])
    kept = ddf.ml.drop_exact_duplicates("text", keep=("version", best)).compute()
    assert sorted(kept.version) == ([1, 8] if best == "max" else [1, 7])


def test_half_precision_numbers() -> None:
    numbers = pd.DataFrame({"number": np.array([1, -0.0, 1, 0.0, 0.5], "float16")})
    kept = dd.from_pandas(numbers, npartitions=2).ml.mark_exact_duplicates("number").compute()
    assert kept.exact_kept.tolist() == (~numbers.number.duplicated()).tolist()


def test_zeros_of_both_signs_are_equal() -> None:
    numbers = pd.DataFrame({"number": [0.0, -0.0, 1.5, -1.5, 1.5, 1e-300]})
    ddf = dd.from_pandas(numbers, npartitions=2)
    kept = ddf.ml.mark_exact_duplicates("number").compute().exact_kept
    assert kept.tolist() == (~numbers.number.duplicated()).tolist()


@pytest.mark.parametrize("npartitions", [1, 3, 7])
def test_of_rows_that_share_an_id_the_first_is_kept(npartitions: int) -> None:
    words = "one of several words"
    rows = pd.DataFrame({"text": [words] * 7 + ["other words"] * 5, "id": [1] * 5 + [0] * 7})
    ddf = dd.from_pandas(rows.sample(frac=1, random_state=1), npartitions=npartitions, sort=False)
    first = ddf.compute().sort_values("id", kind="stable").drop_duplicates("text").index
    for step, prefix in ((ddf.ml.mark_exact_duplicates, "exact"), (fuzzy_of(ddf), "fuzzy")):
        marked = step("text", id="id").compute()
        assert set(marked.index[marked[f"{prefix}_kept"]]) == set(first)


def fuzzy_of(ddf: Any) -> Callable[..., Any]:
    return functools.partial(ddf.ml.mark_fuzzy_duplicates, ngram=2)


def test_only_new_rows_are_judged_against_an_older_corpus() -> None:
    old = pd.DataFrame({"id": [90, 91, 92], "text": ["a", "a", "b"]})
    new = pd.DataFrame({"id": [1, 2, 3, 4], "text": ["b", "c", "c", "a"]})
    older, newer = (dd.from_pandas(each, npartitions=2) for each in (old, new))
    marked = newer.ml.mark_exact_duplicates("text", id="id", against=older).compute()
    assert list(marked.exact_kept) == [False, True, False, False]
    assert marked.exact_duplicate_of.tolist() == [92, pd.NA, 2, 90]
    assert list(marked.exact_reason[marked.exact_group.notna()]) == [
        *("duplicate of an older row", "best of its group"),
        *("duplicate", "duplicate of an older row"),
    ]
    unnamed = newer.ml.mark_exact_duplicates("text", against=older).compute()
    assert unnamed.exact_duplicate_of.tolist()[0] == -1 - 2**PLACES  # first row of partition 1


@pytest.mark.parametrize("types", [("Int64", "int64"), ("int64", "Int64"), ("int64", "int32")])
def test_ids_of_an_older_corpus_may_be_of_a_type_that_has_nulls(types: tuple[str, str]) -> None:
    old = pd.DataFrame({"id": [90, 91, 92], "text": ["a", "a", "b"]}).astype({"id": types[1]})
    new = pd.DataFrame({"id": [1, 2, 3, 4], "text": ["b", "c", "c", "a"]}).astype({"id": types[0]})
    older, newer = (dd.from_pandas(each, npartitions=2) for each in (old, new))
    if types[1] == "int32":
        with pytest.raises(TypeError, match="'id' is of int64 in the dataframe, of int32 in ag"):
            newer.ml.mark_exact_duplicates("text", id="id", against=older)
        return
    for mark in (newer.ml.mark_exact_duplicates, fuzzy_of(newer)):
        marked = mark("text", id="id", against=older).compute()
        of = next(name for name in marked.columns if name.endswith("_duplicate_of"))
        assert marked[of].tolist() == [92, pd.NA, 2, 90]
    dropped = newer.ml.drop_exact_duplicates("text", id="id", against=older, keep=("id", "max"))
    assert dropped.compute()["id"].tolist() == [3]


def test_files_are_read_for_the_hashes_alone_and_rows_find_their_partition(
    frame: pd.DataFrame, tmp_path: Path
) -> None:
    """Of few columns Dask makes fewer partitions, in which rows would have other places."""
    wide = frame.assign(**{f"more {i}": frame.text for i in range(20)})
    dd.from_pandas(wide, npartitions=9).to_parquet(tmp_path / "wide")
    ddf = dd.read_parquet(tmp_path / "wide")
    assert ddf.text.str.len().optimize(fuse=False).npartitions < 9
    assert sorted(ddf.ml.drop_exact_duplicates("text", id="id").id.compute()) == survivors(frame)
    kept = ddf.ml.mark_exact_duplicates("text")[["exact_kept", "id"]].compute()
    assert sorted(kept.id[kept.exact_kept]) == survivors(frame)
    plan = ddf.ml.drop_exact_duplicates("text").optimize(fuse=False)
    read = {tuple(n.columns) for n in plan.expr.walk() if type(n).__name__ == "Reading"}
    assert read == {("text",), tuple(wide.columns)}


def test_both_at_once_hash_once(frame: pd.DataFrame) -> None:
    seen: list[str] = []

    def spy(text: str) -> str:
        seen.append(text)
        return text

    ddf = dd.from_pandas(frame, npartitions=3)
    marked = ddf.ml.mark_exact_duplicates("text", normalize=spy)
    dropped = ddf.ml.drop_exact_duplicates("text", normalize=spy)
    assert not seen
    both, left = dask.compute(marked, dropped)
    assert len(seen) == frame.text.notna().sum()
    assert len(left) == both.exact_kept.sum()


def test_rows_are_counted_and_selected_without_a_hash(frame: pd.DataFrame) -> None:
    def never(text: str) -> str:
        raise AssertionError(text)

    marked = dd.from_pandas(frame, npartitions=3).ml.mark_exact_duplicates("text", normalize=never)
    assert len(marked) == ROWS
    assert list(marked.other.compute()) == list(frame.other)
    with pytest.raises(AssertionError):
        marked.exact_kept.compute()


@pytest.mark.parametrize("get", [lambda f: f.partitions[2], lambda f: f.tail(20, compute=False)])
def test_a_part_of_the_rows_is_marked_as_in_the_whole(
    frame: pd.DataFrame, get: Callable[[Any], Any]
) -> None:
    marked = dd.from_pandas(frame, npartitions=4).ml.mark_exact_duplicates("text")
    part = get(marked).compute()
    pd.testing.assert_frame_equal(part, marked.compute().loc[part.index])


def test_steps_stand_one_on_another_and_optimize_twice(frame: pd.DataFrame, tmp_path: Path) -> None:
    dd.from_pandas(frame, npartitions=5).to_parquet(tmp_path / "rows")
    ddf = dd.read_parquet(tmp_path / "rows")
    once = ddf.ml.drop_exact_duplicates("text", id="id")
    twice = once.ml.mark_exact_duplicates(["text", "quality"], id="id", nulls_equal=True)
    got = twice.compute()
    want = frame[frame.id.isin(survivors(frame))].drop_duplicates(["text", "quality"])
    assert sorted(got.id[got.exact_kept]) == sorted(want.id)
    again = twice.optimize().persist()[["id", "exact_kept"]].optimize().compute()
    assert sorted(again.id[again.exact_kept]) == sorted(want.id)


def test_filters_that_meet_see_the_same_rows(frame: pd.DataFrame) -> None:
    ddf = dd.from_pandas(frame, npartitions=3)
    kept = ddf.ml.drop_exact_duplicates("text", id="id")
    some = kept[kept.other > 100]
    few = some[some.quality > 2]
    marked = few.ml.mark_exact_duplicates("quality", id="id")
    last = marked[marked.exact_kept]
    want = frame[frame.id.isin(survivors(frame)) & (frame.other > 100) & (frame.quality > 2)]
    assert len(few) == len(few.compute()) == len(marked) == len(want)
    assert len(last) == len(last.compute()) == want.quality.nunique()
    last = last[last.other > 200]
    assert len(last) == len(last.compute())


def test_empty_partitions_and_frames(frame: pd.DataFrame) -> None:
    ddf = dd.from_pandas(frame, npartitions=4)
    some = ddf[ddf.other >= 350].ml.drop_exact_duplicates("text", id="id").compute()
    assert sorted(some.id) == survivors(frame[frame.other >= 350])
    none = ddf[ddf.other < 0].ml.mark_exact_duplicates("text").compute()
    assert (len(none), none.exact_kept.dtype) == (0, "bool")


@pytest.mark.slow
def test_workers_of_a_cluster_agree(frame: pd.DataFrame) -> None:
    ddf = shuffled(frame, 6, 3)
    with cluster(2, 1, processes=True) as client:
        got = client.compute(ddf.ml.mark_exact_duplicates("text", id="id")).result()
    here = ddf.ml.mark_exact_duplicates("text", id="id").compute()
    pd.testing.assert_frame_equal(got, here)
    assert sorted(got.id[got.exact_kept]) == survivors(frame)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"column": "txt"}, "column names column 'txt', which is not in the dataframe"),
        ({"column": []}, "column must name a column or several, got \\[\\]"),
        ({"id": "txt"}, "id names column 'txt', which is not"),
        ({"keep": "best"}, "keep must be one of 'lowest id', 'random', or columns"),
        ({"keep": ("quality", "most")}, "keep takes columns with 'max' or 'min'"),
        ({"keep": ("text", "max")}, "numbers or dates, column 'text' is of"),
        ({"keep": "lowest id", "seed": 3}, "seed=3 has no effect without keep='random'"),
        ({"normalize": "lower"}, "normalize must be 'whitespace', 'casefold'"),
        ({"prefix": 1}, "prefix must be a string"),
        ({"against": "old"}, "against takes a Dask DataFrame"),
        ({"nulls_equal": 1}, "nulls_equal must be True or False"),
        ({"normalise": None}, "did you mean 'normalize'"),
    ],
)
def test_bad_arguments_are_told_on_the_client(
    frame: pd.DataFrame, options: dict[str, Any], message: str
) -> None:
    ddf = dd.from_pandas(frame, npartitions=2)
    with pytest.raises((TypeError, ValueError), match=message):
        ddf.ml.mark_exact_duplicates(**{"column": "text", **options})


def test_marks_do_not_write_over_columns(frame: pd.DataFrame) -> None:
    ddf = dd.from_pandas(frame, npartitions=2).ml.mark_exact_duplicates("text")
    with pytest.raises(ValueError, match="column 'exact_row' is in the dataframe already"):
        ddf.ml.mark_exact_duplicates("text")
    again = ddf.ml.mark_exact_duplicates("text", prefix="again_")
    assert again.again_kept.compute().equals(ddf.exact_kept.compute().rename("again_kept"))


def test_a_row_without_an_id_is_an_error() -> None:
    values = pd.DataFrame({"id": [1, None], "text": ["a", "a"]}, index=[7, 8])
    ddf = dd.from_pandas(values, npartitions=1)
    with pytest.raises(ValueError, match=r"column .id. has 1 rows without a value.*index 8"):
        ddf.ml.drop_exact_duplicates("text", id="id").compute()


@pytest.mark.parametrize("other", [[5, 6], [5.0, None], [True, False]])
@pytest.mark.parametrize("column", ["text", "id"])
def test_a_partition_of_numbers_holds_no_texts(column: str, other: list[Any]) -> None:
    """Of a file that reads as another type: 5 is no duplicate of "5", and no id of that row."""
    rows = [pd.DataFrame({"text": ["5", "x"], "id": ["5", "6"]}) for _ in range(2)]
    rows[1][column] = other
    frame = dd.from_map(lambda place: rows[place], [0, 1], meta=rows[0].iloc[:0])
    with pytest.raises(ValueError, match=rf"column '{column}' has .* is not text: the column is"):
        frame.ml.mark_exact_duplicates("text", id="id").compute(scheduler="synchronous")


class OnDevice(pd.Series):
    """A column that Arrow may not take by itself, as those of cuDF."""

    @property
    def _constructor(self) -> type[pd.Series]:
        return OnDevice

    def __arrow_array__(self, type: Any = None) -> Any:
        raise TypeError("implicit conversion to a host PyArrow object is not allowed")


def test_columns_of_a_device_are_not_taken_for_the_host_s() -> None:
    hashable(OnDevice([1, 2], name="number"))
    with pytest.raises(TypeError, match="'lists' has dtype"):
        hashable(OnDevice([[1]], name="lists", dtype=pd.ArrowDtype(pa.list_(pa.int64()))))
