"""Filters on filtered rows, by what is computed of all that are left: values are pandas' own.

Dask joins filters that meet. Of such a pair the upper one looks at the rows that the lower leaves,
so both have to be seen to stand on one filter, whichever columns are read of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from support.counting import Length, LengthVector, mapped, rows_of

import dask_embed as de

ORDER = ["length", "num", "id", "lang", "text", "weight"]  # another one than the operator gives

LOWER = {
    "==": lambda f: f[f.lang == "en"],
    "and": lambda f: f[(f.lang != "de") & (f.num < f.weight.mean() + 6)],
    "mean": lambda f: f[f.weight >= f.weight.mean()],
    "query": lambda f: f.query("weight > 1"),
    "loc": lambda f: f.loc[f.weight > 1],
}
UPPER = {
    "mean": lambda f: f[f.weight >= f.weight.mean()],
    "sum of another": lambda f: f[f.weight * 4 < f.num.sum()],
    "max": lambda f: f[f.num < f.num.max()],
    "count of another": lambda f: f[f.id > f.lang.count() / 3],
    "or": lambda f: f[(f.lang == "en") | (f.weight > f.weight.mean())],
    "mean of the result": lambda f: f[f.length >= f.length.mean()],
    "loc": lambda f: f.loc[f.num >= f.num.mean() - 1],
    "two": lambda f: (lambda g: g[g.num < g.num.max()])(f[f.weight >= f.weight.mean()]),
}


@pytest.fixture(scope="module")
def pdf() -> pd.DataFrame:
    """A frame whose labels repeat: a mask of other rows is not told by its labels."""
    number = np.arange(24)
    return pd.DataFrame(
        {
            "id": number,
            "lang": np.array(["en", "de", "fr"])[number % 3],
            "text": [f"row {i}" + " of words" * (i * 7 % 4) for i in number],
            "weight": (number * 5 % 7).astype(float),
            "num": number * 11 % 13,
        },
        index=pd.Index(number * 7 % 5, name="key"),
    ).astype({"lang": "string[pyarrow]", "text": "string[pyarrow]"})


@pytest.fixture(scope="module")
def sources(pdf: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    frame = dd.from_pandas(pdf, npartitions=3, sort=False)
    folder = tmp_path_factory.mktemp("table")
    frame.to_parquet(folder)
    return {"pandas": frame, "parquet": dd.read_parquet(folder)}


def rows(frame: Any) -> list[str]:
    frame = frame.to_frame() if frame.ndim == 1 else frame
    return sorted(map(str, frame.reset_index().astype(str).to_numpy().tolist()))


def check(chain: Callable[[Any], Any], source: Any, pdf: pd.DataFrame) -> None:
    found: list[Any] = []
    given = rows_of(lambda: found.append(chain(Length()(source)).compute()))
    assert rows(found[0]) == rows(chain(Length()(pdf)))
    assert given <= rows_of(lambda: chain(mapped(source, Length())).compute())


@pytest.mark.parametrize("source", ["pandas", "parquet"])
@pytest.mark.parametrize("upper", UPPER)
@pytest.mark.parametrize("lower", LOWER)
def test_a_filter_by_what_another_leaves(
    lower: str, upper: str, source: str, sources: dict[str, Any], pdf: pd.DataFrame
) -> None:
    kept = ["id"] if source == "pandas" else "length"  # the operator is dropped, or stays
    check(lambda f: UPPER[upper](LOWER[lower](f[ORDER]))[kept], sources[source], pdf)


@pytest.mark.parametrize("kept", [["length"], "weight", ORDER[1:]])
def test_of_two_operators(kept: Any, sources: dict[str, Any], pdf: pd.DataFrame) -> None:
    def chain(frame: Any) -> Any:
        return UPPER["two"](LOWER["=="](LengthVector()(frame)[[*ORDER, "vector"]]))[kept]

    check(chain, sources["pandas"], pdf)


# Where no result is kept the operator goes, and both filters would meet.

OF_THE_REST = {
    "cumulated": lambda f: f[f.num.cumsum() < 40],
    "a maximum so far": lambda f: f[f.num > f.num.cummax() - 4],
    "labels": lambda f: f[f.index.to_series() > f.num / 4],
    "mean": lambda f: f[f.num > f.num.mean()],
}
KEPT: dict[str, Callable[[Any], Any]] = {
    "columns": lambda f: f[["id", "num"]],
    "column": lambda f: f["id"],
    "index": lambda f: f.index,
}
OPERATORS: dict[str, Callable[[Any], Any]] = {
    "of each row": lambda f: Length()(f),
    "two": lambda f: Length()(LengthVector()(f)),
    "of all rows": lambda f: de.quantize(LengthVector()(f), "vector", "int8"),
}


@pytest.mark.parametrize("part", [None, 0, 1])
@pytest.mark.parametrize("kept", KEPT)
@pytest.mark.parametrize("upper", OF_THE_REST)
@pytest.mark.parametrize("operator", OPERATORS)
def test_an_operator_that_is_left_out_between_filters(
    operator: str, upper: str, kept: str, part: int | None, sources: dict[str, Any], pdf: Any
) -> None:
    def chain(frame: Any) -> Any:
        return OF_THE_REST[upper](frame)

    expected = chain(pdf[pdf.lang != "de"])
    lazy = chain(OPERATORS[operator](sources["pandas"][sources["pandas"].lang != "de"]))
    if part is not None:  # of eight rows
        expected = expected[expected.id // 8 == part]
        lazy = lazy.partitions[part]
    given = KEPT[kept](lazy).compute()
    assert given.to_numpy().tolist() == KEPT[kept](expected).to_numpy().tolist()


def test_another_filter_of_the_same_rows(sources: dict[str, Any], pdf: pd.DataFrame) -> None:
    """It is of one row alone, and passes what keeps the others from being joined."""
    frame = sources["parquet"]
    lazy = Length()(frame[frame.lang != "de"])
    other = lazy[lazy.num.cumsum() < 40][["id"]]
    lazy = dd.concat([lazy[lazy.weight > 2][["id"]], other])
    whole = pdf[pdf.lang != "de"]
    expected = [*whole[whole.weight > 2].id, *whole[whole.num.cumsum() < 40].id]
    assert lazy.compute().id.tolist() == expected
