"""Functions of partitions with declared columns: operators rise above them, and a lie is told."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import dask
import dask.dataframe as dd
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal
from support.counting import Length, LengthVector, rows_of
from support.row_chains import as_written, table

import dask_embed as de


@pytest.fixture(autouse=True)
def _sync() -> Any:
    with dask.config.set({"scheduler": "sync"}):
        yield


@functools.cache
def frame() -> Any:
    return dd.from_pandas(table(), npartitions=4)


def parity(part: pd.DataFrame, of: int = 2) -> pd.DataFrame:
    """Look at all rows of the partition, as functions of partitions may."""
    return part.assign(even=part["id"] % of, place=range(len(part)))


DECLARED = {
    "names": de.declare_columns(parity, reads=["id"], writes=["even", "place"]),
    "types": de.declare_columns(parity, reads=["id"], writes={"even": "int64", "place": "int64"}),
}
# 40 rows, a quarter of them English: with an operator below, then these steps.
ABOVE: dict[str, tuple[Callable[[Any], Any], int]] = {
    "filter of another": (lambda f: f[f.lang == "en"], 10),
    "filter of what it writes": (lambda f: f[f.even == 1], 20),
    "filter of the place": (lambda f: f[f.place < 2], 8),
    "head": (lambda f: f.head(5, compute=False), 5),
    "unused result": (lambda f: f[["id", "even"]], 0),
    "unused function": (lambda f: f[["id", "length"]], 40),
    "sorted": (lambda f: f.nlargest(3, "id"), 3),
    "renamed": (lambda f: f.rename(columns={"even": "odd"}).query("odd == 1"), 20),
    "filter of the result": (lambda f: f[f.length > 9], 40),
}


@pytest.mark.parametrize("kind", DECLARED)
@pytest.mark.parametrize("name", ABOVE)
def test_an_operator_rises_above_it(kind: str, name: str) -> None:
    step, least = ABOVE[name]
    lazy = step(Length()(frame()).map_partitions(DECLARED[kind]))
    given: list[Any] = []
    assert rows_of(lambda: given.append(lazy.compute())) == least
    assert len(given[0])
    assert_frame_equal(given[0], as_written(lazy))


def test_a_function_that_nobody_wants_does_not_run() -> None:
    ran: list[int] = []

    def counted(part: pd.DataFrame) -> pd.DataFrame:
        ran.append(len(part))
        return part.assign(even=part.id % 2)

    declared = de.declare_columns(counted, reads=["id"], writes={"even": "int64"})
    lazy = Length()(frame()).map_partitions(declared, meta=declared.meta(Length()(frame())._meta))
    assert lazy[["id", "length"]].compute().length.notna().sum() > 9
    assert not ran


STAYS = {
    "writes the input": de.declare_columns(
        lambda part: part.assign(text=part["text"] + "!"), reads=["text"], writes=["text"]
    ),
    "writes the result": de.declare_columns(
        lambda part: part.assign(length=1), reads=[], writes=["length"]
    ),
    "reads the result": de.declare_columns(
        lambda part: part.assign(twice=part.length * 2), reads=["length"], writes=["twice"]
    ),
}


@pytest.mark.parametrize("name", STAYS)
def test_an_operator_stays_below_it(name: str) -> None:
    lazy = Length()(frame()).map_partitions(STAYS[name])
    lazy = lazy[lazy.lang == "en"]
    result = lazy.compute()
    assert len(result) == 10
    assert_frame_equal(result, as_written(lazy))


def test_arguments_and_a_frame_in_memory() -> None:
    declared = DECLARED["names"]
    expected = parity(table(), of=3)
    assert_frame_equal(declared(table(), of=3), expected)
    lazy = dd.from_pandas(table(), npartitions=1)
    assert_frame_equal(lazy.map_partitions(declared, of=3).compute(), expected)
    assert_frame_equal(declared(lazy, of=3).compute(), expected)
    behind = Length()(lazy).map_partitions(declared, of=3)
    behind = behind[behind.lang == "en"]
    assert_frame_equal(behind.compute(), as_written(behind))


def test_with_another_frame_beside_it() -> None:
    """Which would have to be filtered, too: the operator stays below."""
    declared = de.declare_columns(
        lambda part, other: part.assign(more=other["id"] * 2), reads=["id"], writes=["more"]
    )
    lazy = Length()(frame()).map_partitions(declared, frame()[["id"]])
    lazy = lazy[lazy.lang == "en"]
    assert_frame_equal(lazy.compute(), as_written(lazy))


# What it is given and what it returns. Each is told in one line, with the function's name.


def liar(part: pd.DataFrame) -> pd.DataFrame:
    return part.assign(made=1)


def by_attribute(part: pd.DataFrame) -> pd.DataFrame:
    return part.assign(made=part.num)


def by_name(part: pd.DataFrame) -> pd.DataFrame:
    return part.assign(made=part["num"])


def by_list(part: pd.DataFrame) -> pd.DataFrame:
    return part.assign(made=part[["id", "num"]].sum(axis=1))


def fewer(part: pd.DataFrame) -> pd.DataFrame:
    return liar(part)[1:]


def relabelled(part: pd.DataFrame) -> pd.DataFrame:
    return liar(part).reset_index(drop=True)


def changed(part: pd.DataFrame) -> pd.DataFrame:
    return liar(part).assign(id=0)


def reversed_vectors(part: pd.DataFrame) -> pd.DataFrame:
    return liar(part).assign(vector=part["vector"].iloc[::-1].array)


def column(part: pd.DataFrame) -> Any:
    return part["id"]


LIES: list[tuple[Any, list[str], Any, str]] = [
    (by_attribute, ["id"], ["made"], r"by_attribute reads \['num'\], which its reads \['id'\] do"),
    (by_name, ["id"], ["made"], r"by_name reads \['num'\], which its reads"),
    (by_list, ["id"], ["made"], r"by_list reads \['num'\], which its reads"),
    (liar, ["id"], ["other"], r"liar returned columns that are not in its writes.*\['made'\]"),
    (liar, ["id"], ["made", "other"], r"liar did not return columns of its writes: \['other'\]"),
    (liar, ["nothing"], ["made"], r"liar reads \['nothing'\], and each must be one column"),
    (liar, ["id"], {"made": "string"}, r"liar returned column 'made' as int64.* say string"),
    (fewer, ["id"], ["made"], r"fewer returned \d+ rows of \d+"),
    (relabelled, ["id"], ["made"], r"relabelled returned another index"),
    (changed, ["id"], ["made"], r"changed changed columns that it says it only reads: \['id'\]"),
    (reversed_vectors, ["vector"], ["made"], r"changed columns that it says .*\['vector'\]"),
    (column, ["id"], ["made"], r"column must return a dataframe"),
]


@pytest.mark.parametrize(("function", "reads", "writes", "told"), LIES)
def test_a_lie_is_told_on_the_client(function: Any, reads: Any, writes: Any, told: str) -> None:
    declared = de.declare_columns(function, reads=reads, writes=writes)
    with pytest.raises((TypeError, ValueError), match=told) as caught:
        declared(LengthVector()(table()))
    assert "\n" not in str(caught.value)
    if not isinstance(writes, dict) and function is not reversed_vectors:  # made-up vectors
        with pytest.raises((TypeError, ValueError), match=told) as caught:
            declared(LengthVector()(frame()))
        assert "\n" not in str(caught.value)


def test_a_lie_is_told_by_a_worker() -> None:
    """Where the empty frame does not show it: here the types of the columns are given."""
    declared = de.declare_columns(fewer, reads=["id"], writes={"made": "int64"})
    with pytest.raises(ValueError, match="fewer returned 9 rows of 10"):
        declared(frame()).compute()


def test_columns_that_are_as_they_were_may_be_returned() -> None:
    """Vectors and nulls too, which no library compares with `==`."""
    with_vectors = LengthVector()(table())
    every = list(with_vectors.columns)
    declared = de.declare_columns(liar, reads=every, writes=["made"])
    assert_frame_equal(declared(with_vectors), with_vectors.assign(made=1))


@pytest.mark.parametrize(
    ("function", "reads", "writes", "told"),
    [
        (3, ["id"], ["a"], "function must be callable, got 3"),
        (liar, "id", ["a"], "reads must be a sequence of strings, got 'id'"),
        (liar, ["id"], "a", "writes must be a sequence of strings, got 'a'"),
        (liar, ["id"], [3], "writes must be a sequence of strings, got 3"),
        (liar, ["id", "id"], ["a"], "reads names a column twice"),
        (liar, ["id"], ["a", "a"], "writes names a column twice"),
        (liar, ["id"], [], "writes must name a column, got none"),
        (liar, ["id"], {"a": "flooat"}, "writes must give a dtype for 'a', got 'flooat'"),
    ],
)
def test_a_declaration_that_is_none(function: Any, reads: Any, writes: Any, told: str) -> None:
    with pytest.raises((TypeError, ValueError), match=told) as caught:
        de.declare_columns(function, reads=reads, writes=writes)
    assert "\n" not in str(caught.value)
