"""A real model behind Parquet files gets the rows and columns that the result needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dask
import dask.dataframe as dd
import pytest
from dask.dataframe.dask_expr.io.parquet import ReadParquet
from support.contract import shared_tiny_bert
from support.row_steps import STEPS, english, others, small, table

NAMES = [
    *("head", "tail", "len", "unused", "sample", "filter ==", "filter mean", "filter cumsum"),
    *("filter after assign, of other", "filter after rename result", "filter after rename input"),
    *("filter after fillna of others", "filter after dropna", "filter after sort_values"),
    *("loc mask", "loc query other", "loc len of query", "loc head of query"),
    *("dropna of other", "head of dropna", "drop_duplicates by other", "nsmallest by other"),
    *("sort_values, head", "set_index, slice", "merge", "merge leftsemi", "merge, head"),
    *("repartition to fewer, head", "assign over result", "assign rename result, head"),
    *("filter after concat", "concat with others, sort_values, head", "concat, head"),
    *("merge right", "merge by another name", "filter after replace of another"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("table")
    dd.from_pandas(table(), npartitions=4).to_parquet(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return shared_tiny_bert(tmp_path_factory)


@pytest.fixture(scope="module")
def embedded(folder: Any, model: str) -> Any:
    """With the vectors under the name that the steps know a result by."""
    return dd.read_parquet(folder).ml.embed(model=model, output="length")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("one_torch_thread")
def test_rows_of_a_model(
    embedded: Any, rows_through_model: Callable[[Callable[[], Any]], int], name: str
) -> None:
    step, least = STEPS[name]

    def work() -> None:
        result = step(embedded)
        if hasattr(result, "compute"):
            result.compute()

    with dask.config.set({"dataframe.shuffle.method": "tasks"}):
        assert rows_through_model(work) == least


BEHIND: dict[str, tuple[Callable[[Any], Any], set[str], int]] = {
    "filter": (lambda f: english(f)[["id", "length"]], {"id", "lang", "text"}, 50),
    "query": (lambda f: f.query("key > 3")[["id", "length"]], {"id", "key", "text"}, 84),
    "sort_values, head": (
        lambda f: f[["id", "num", "length"]].sort_values("id").head(5, compute=False),
        {"id", "num", "text"},
        5,
    ),
    "unused": (lambda f: f[["id"]], {"id"}, 0),
}


@pytest.mark.parametrize("name", BEHIND)
@pytest.mark.usefixtures("one_torch_thread")
def test_two_files_behind_each_other(
    embedded: Any,
    model: str,
    tmp_path: Any,
    rows_through_model: Callable[[Callable[[], Any]], int],
    name: str,
) -> None:
    """The model of both gets the rows that are wanted, and no other columns are read."""
    step, columns, least = BEHIND[name]
    others().to_parquet(tmp_path)
    more = dd.read_parquet(tmp_path).ml.embed(model=model, output="length")
    result = step(dd.concat([embedded, more]))
    with dask.config.set({"dataframe.shuffle.method": "tasks"}):
        assert rows_through_model(result.compute) == least
    read = result.simplify().expr.find_operations(ReadParquet)
    assert {frozenset(each.columns) for each in read} == {frozenset(columns)}


def selected(step: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda f: step(f)[["id", "length"]]


READ: dict[str, tuple[Callable[[Any], Any], set[str]]] = {
    "filter": (selected(english), {"id", "lang", "text"}),
    "filter after assign": (
        selected(lambda f: english(f.assign(num=f.num * 2))),
        {"id", "lang", "text"},
    ),
    "filter after rename": (
        lambda f: english(f.rename(columns={"length": "l", "text": "t"}))[["id", "l"]],
        {"id", "lang", "text"},
    ),
    "query": (selected(lambda f: f.query("key > 3")), {"id", "key", "text"}),
    "dropna": (selected(lambda f: f.dropna(subset=["part"])), {"id", "part", "text"}),
    "loc": (lambda f: f.loc[f.lang == "en", ["id", "length"]], {"id", "lang", "text"}),
    "drop_duplicates": (
        selected(lambda f: f.drop_duplicates(subset=["lang"])),
        {"id", "lang", "text"},
    ),
    "merge": (selected(lambda f: f.merge(small(), on="lang")), {"id", "lang", "text"}),
    "cumsum": (selected(lambda f: f[f.num.cumsum() < 100]), {"id", "num", "text"}),
}


@pytest.mark.parametrize("name", READ)
def test_columns_that_are_read(embedded: Any, name: str) -> None:
    step, columns = READ[name]
    plan = step(embedded).simplify().expr
    assert set().union(*(read.columns for read in plan.find_operations(ReadParquet))) == columns


@pytest.mark.parametrize(
    "step",
    [
        lambda f: english(f.assign(num=f.num * 2))[["id", "length"]],
        lambda f: english(f.rename(columns={"length": "l"}))[["id", "l"]],
        lambda f: f.loc[f.lang == "en", ["id", "length"]],
    ],
    ids=["assign", "rename", "loc"],
)
def test_row_groups_that_are_read(folder: Any, model: str, step: Callable[[Any], Any]) -> None:
    """The filter reaches the reader, which leaves out row groups without such rows."""
    frame = dd.read_parquet(folder, filesystem="arrow").ml.embed(model=model, output="length")
    plan = step(frame).simplify().expr
    (read,) = {each._name: each for each in plan.find_operations(ReadParquet)}.values()
    assert read.filters == [[("lang", "==", "en")]]
