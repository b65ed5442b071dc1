"""No step gives an operator more rows than `map_partitions` would get, and many give it fewer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dask
import dask.dataframe as dd
import pytest
from dask.dataframe.dask_expr._shuffle import divisions_lru
from dask.dataframe.utils import assert_eq
from row_table import MORE, row, told
from support.counting import Length, mapped, rows_of
from support.row_steps import STEPS, table

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    frame = dd.from_pandas(table(), npartitions=4)
    folder = tmp_path_factory.mktemp("table")
    frame.to_parquet(folder)
    return {"pandas": frame, "parquet": dd.read_parquet(folder)}


@pytest.mark.parametrize("source", ["pandas", "parquet"])
@pytest.mark.parametrize("name", STEPS)
def test_rows_of_a_step(sources: dict[str, Any], source: str, name: str) -> None:
    step, least = STEPS[name]
    given, result = outcome(step, Length()(sources[source]))
    most, expected = outcome(step, mapped(sources[source], Length()))
    assert given <= most
    if least is not None:
        assert given == least
    if source == "pandas":
        assert row(name, least, given, most) == told()[name]
    if isinstance(expected, Exception):
        assert type(result) is type(expected)
    elif source == "pandas":  # files are read in other partitions: orders and quantiles differ
        assert_eq(result, expected)


def outcome(step: Callable[[Any], Any], frame: Any) -> tuple[int, Any]:
    """Return how many rows the operator got, and the result or Dask's own refusal."""
    divisions_lru.clear()  # which would know the divisions of an equal frame
    results: list[Any] = []

    def work() -> None:
        try:
            result = step(frame)
            results.append(result.compute() if hasattr(result, "compute") else result)
        except (KeyError, ValueError) as error:
            results.append(error)

    # Shuffled through files, rows come in another order each time.
    with dask.config.set({"scheduler": "sync", "dataframe.shuffle.method": "tasks"}):
        return rows_of(work), results[0]


def test_a_reason_stands_beside_each_step_that_sends_more() -> None:
    """And beside no other: reasons that are no longer true go."""
    more = set()
    for name, line in told().items():
        least, sent = (cell.strip() for cell in line.split("|")[2:4])
        if name != "step" and least != sent:
            more.add(name)
            assert line.split("|")[8].strip()
    assert more == set(MORE)
    assert set(told()) - {"step"} == set(STEPS)
