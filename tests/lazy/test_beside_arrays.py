"""Arrays beside a frame that passed an operator and a filter, and frames that are kept in memory.

Expected values are pandas' own; expected numbers of rows those of `map_partitions`, or fewer.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from typing import Any

import dask
import numpy as np
import pandas as pd
import pytest
from support.counting import LengthVector, mapped, rows_of, sources_of, table

import dask_embed as de

ROWS = 20


@pytest.fixture(scope="module")
def pdf() -> pd.DataFrame:
    return table(ROWS)


@pytest.fixture(scope="module")
def sources(pdf: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return sources_of(pdf, tmp_path_factory.mktemp("table"))


FILTERED: dict[str, Callable[[Any], Any]] = {
    "whole": lambda f: f,
    "filtered": lambda f: f[f.id > 4],
    "filtered, selected": lambda f: f[f.id > 4][["id", "vector"]],
    "selected": lambda f: f[["id", "vector"]],
    "by what is new": lambda f: (lambda g: g[g.new > 5])(f.assign(new=f.id + 1)),
}


def score(frame: Any) -> Any:
    """Three times the number of characters."""
    if isinstance(frame, pd.DataFrame):
        return frame.vector.map(sum).to_numpy("float64")
    return de.to_array(frame.vector) @ np.ones(2, "float32")


def identities(frame: Any) -> Any:
    return frame.id.to_numpy() * 9 if isinstance(frame, pd.DataFrame) else frame.id.values * 9


def item(frame: Any, array: Any) -> Any:
    frame = frame.copy()
    frame["z"] = array
    return frame


def above(frame: Any) -> Any:
    return frame[frame.z > 45]


USES: dict[str, Callable[[Any, Any], Any]] = {
    "assign": lambda f, a: f.assign(z=a),
    "item": item,
    "assign two, select": lambda f, a: f.assign(z=a, y=a * 2)[["id", "z"]],
    "locate": lambda f, a: f.loc[a > 45][["id"]],
    "assign, locate": lambda f, a: f.assign(z=a).loc[a > 45],
    "add": lambda f, a: (f.id + a).to_frame("z"),
    "array of its own": lambda f, a: f[["id"]].assign(z=a, w=2),
}
# Only where divisions are known: Dask shuffles both sides of a filter where they are not.
OF_DIVISIONS: dict[str, Callable[[Any, Any], Any]] = {
    "assign, filter": lambda f, a: above(f.assign(z=a)),
}
ENDS: dict[str, Callable[[Any, Any], Any]] = {
    "compute": lambda result, frame: result.compute(),
    "optimize": lambda result, frame: result.optimize().compute(),
    "persist": lambda result, frame: result.persist().compute(),
    "persist both": lambda result, frame: dask.persist(frame, result)[1].compute(),
    "compute both": lambda result, frame: dask.compute(result, frame)[0],
}


def run(source: Any, filtered: str, array: Any, use: Any, end: str) -> tuple[int, Any]:
    found: list[Any] = []

    def work() -> None:
        frame = FILTERED[filtered](source)
        found.append(ENDS[end](use(frame, array(frame)), frame))

    return rows_of(work), found[0]


def assert_same(given: Any, expected: Any) -> None:
    given, expected = given.sort_index(), expected.sort_index()
    assert list(given.columns) == list(expected.columns)
    assert given.index.tolist() == expected.index.tolist()
    for column in given.columns:
        assert list(map(str, given[column])) == list(map(str, expected[column])) or (
            np.stack(given[column].to_list()).tolist()
            == np.stack(expected[column].to_list()).tolist()
        )


def _cases() -> list[Any]:
    """Every use of every frame, of pandas and by each reader in turn; by both in the slow lane."""
    cases = [("pandas", use, filtered) for use in USES | OF_DIVISIONS for filtered in FILTERED]
    for place, (use, filtered) in enumerate(itertools.product(USES, FILTERED)):
        first, second = ("parquet", "arrow") if place % 2 else ("arrow", "parquet")
        cases.append((first, use, filtered))
        cases.append(pytest.param(second, use, filtered, marks=pytest.mark.slow))
    return cases


@pytest.mark.parametrize(("source", "use", "filtered"), _cases())
def test_as_often_as_map_partitions(sources, pdf, source, use, filtered):
    number = list(USES | OF_DIVISIONS).index(use) + list(FILTERED).index(filtered)
    end = list(ENDS)[number % len(ENDS)]
    array = (score, identities)[number % 2]
    step = (USES | OF_DIVISIONS)[use]
    whole = FILTERED[filtered](LengthVector()(pdf))
    rows, given = run(LengthVector()(sources[source]), filtered, array, step, end)
    assert_same(given, step(whole, array(whole)))
    try:
        most, _ = run(mapped(sources[source], LengthVector()), filtered, array, step, end)
    except (AssertionError, ValueError, TypeError):
        return  # Dask alone does not manage: it joins small files where an array stands beside
    assert rows <= most


# Frames that are kept in memory

KEPT: dict[str, Callable[[Any], Any]] = {
    "some": lambda f: f[["id", "vector"]],
    "no result": lambda f: f[["id"]],
    "a column": lambda f: f.id,
    "two selections": lambda f: f[["id", "num"]][["id"]],
    "filtered": lambda f: f[f.id > 4][["id"]],
    "filtered, a result": lambda f: f[f.id > 4][["id", "vector"]],
}


@pytest.mark.parametrize("source", ["parquet", "arrow"])
@pytest.mark.parametrize("name", KEPT)
def test_selected_columns_of_files_are_kept(sources, pdf, source, name):
    """Dask joins files of which few columns are read, and looks for as many parts as before."""
    chosen = KEPT[name](LengthVector()(sources[source]))
    wanted = KEPT[name](LengthVector()(pdf))
    together = dask.persist(chosen, LengthVector()(sources[source]))[0]
    assert together.npartitions == 4
    for kept in (chosen.persist(), chosen.optimize().persist(), *dask.persist(chosen), together):
        assert len(kept) == len(wanted)
        given = kept.compute()
        assert_same(*(f.to_frame() if f.ndim == 1 else f for f in (given, wanted)))


def test_columns_as_arrays_have_a_chunk_for_each_partition(sources, pdf):
    out = LengthVector()(sources["parquet"])
    for frame in (out, out[out.id > 4], out[["id", "num"]]):
        for array in (frame.id.values, frame[["id", "num"]].values):
            assert array.numblocks[0] == 4
        assert len(list(frame[["id", "num"]].itertuples())) == len(frame)
        assert len(frame[["num"]].map_partitions(len).compute()) == 4
    lengths = out[["id", "num"]].to_dask_array(lengths=True)
    assert lengths.chunks[0] == (5, 5, 5, 5)
    assert lengths.compute().tolist() == pdf[["id", "num"]].to_numpy().tolist()


def test_what_is_computed_reads_small_files_together(sources, pdf):
    """Nobody counts its partitions; `explain` tells what is computed."""
    out = LengthVector()(sources["parquet"])
    told = io.StringIO()
    de.explain(out[["id", "vector"]], file=told)
    assert "Plan (2 partitions)" in told.getvalue()
    assert "inparts" not in told.getvalue()
    behind = out.reset_index(drop=True)
    given = behind[(behind.id > 3) & (behind.num < 30)].vector.compute()
    wanted = LengthVector()(pdf)
    wanted = wanted[(wanted.id > 3) & (wanted.num < 30)].vector
    assert sorted(map(list, given)) == sorted(map(list, wanted))
