"""Every method of ``.ml`` as the first job of a worker that several threads begin together."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import dask.dataframe as dd
import pytest
from support import methods
from support.clusters import cluster
from support.methods import CALLS, VECTORS

from dask_embed.accessor import DaskAccessor


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    root = tmp_path_factory.mktemp("fresh-clusters")
    return functools.cache(lambda task: methods.save(task, root / task))


def test_every_method_is_tried() -> None:
    methods = {name for name in dir(DaskAccessor) if not name.startswith("_")}
    assert methods == {name.partition(" ")[0] for name in CALLS}


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("threads", [2, 4])
@pytest.mark.parametrize("name", CALLS)
def test_the_first_job_of_a_worker(
    name: str, threads: int, saved: Callable[[str], str], tmp_path: Path
) -> None:
    if name.startswith(("to_lance", "to_delta")):
        pytest.importorskip("lance" if "lance" in name else "deltalake")
    task, call = CALLS[name]
    frame = dd.from_pandas(VECTORS, npartitions=8)
    with cluster(1, threads, processes=True):
        found = call(frame, saved(task), str(tmp_path / "out"))
        if found is not None:  # a table was written
            assert len(found.compute())
