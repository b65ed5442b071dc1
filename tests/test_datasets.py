"""Docstrings of installed packages, checked against Python's own `inspect`."""

from __future__ import annotations

import importlib
import inspect

import pytest

import dask_embed as de
from dask_embed.runtime.stats import totals


def test_texts_are_the_docstrings_that_inspect_gives() -> None:
    frame = de.datasets.docstrings(["tqdm"], npartitions=3).compute()
    assert frame.columns.tolist() == ["package", "module", "name", "kind", "text"]
    checked = 0
    for row in frame[frame["module"].isin(["tqdm.std", "tqdm.utils"])].itertuples():
        thing = importlib.import_module(row.module)
        for part in filter(None, row.name.split(".")):
            thing = inspect.getattr_static(thing, part, None)
        if inspect.isfunction(thing) or inspect.isclass(thing) or inspect.ismodule(thing):
            assert inspect.cleandoc(thing.__doc__) == row.text
            checked += 1
    assert checked > 30


def test_is_lazy_and_runs_no_model() -> None:
    before = totals()
    frame = de.datasets.docstrings(["tqdm"], npartitions=2)
    assert frame.npartitions == 2
    assert totals() == before


def test_a_sample_is_the_same_every_time_and_public_first() -> None:
    first = de.datasets.docstrings(["dask"], rows=50, npartitions=4).compute()
    again = de.datasets.docstrings(["dask"], rows=50, npartitions=4).compute()
    assert len(first) == 50
    assert first.equals(again)
    assert not first["name"].str.startswith("_").any()


def test_an_unknown_package_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"packages \['no-such-package'\] are not installed"):
        de.datasets.docstrings(["no-such-package"])
    with pytest.raises(ValueError, match="rows must be a positive integer, got 0"):
        de.datasets.docstrings(["dask"], rows=0)
    with pytest.raises(TypeError, match="packages must be a sequence of strings, got 'dask'"):
        de.datasets.docstrings("dask")
    with pytest.raises(ValueError, match=r"did you mean 'dask'\?\)$"):
        de.datasets.docstrings(["daks"])


@pytest.mark.parametrize("number", [100_001, 10**9, 10**30])
def test_more_partitions_than_can_be_planned_are_an_error(number: int) -> None:
    with pytest.raises(ValueError, match="npartitions must be from 1 to 100,000, got 1"):
        de.datasets.docstrings(["tqdm"], npartitions=number)
