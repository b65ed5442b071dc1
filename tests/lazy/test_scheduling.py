"""What a job costs besides its models: tasks, memory of client and scheduler, graph size."""

from __future__ import annotations

import gc
import pickle
from collections.abc import Iterator
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
import psutil
import pytest
from distributed import Client, LocalCluster
from support.noop import TextLengths

import dask_embed as de

pytestmark = pytest.mark.alone
PARTITIONS = 10_000


def make_partition(number: int) -> pd.DataFrame:
    return pd.DataFrame({"id": [number], "text": ["x" * (number % 7)]})


def lazy_lengths(model: str, partitions: int) -> Any:
    ddf = dd.from_map(make_partition, range(partitions), meta=make_partition(0).iloc[:0])
    return TextLengths(model)(ddf)


def total(partition: pd.DataFrame) -> pd.Series:
    return pd.Series([float(de.to_array(partition["length"]).sum())])


@pytest.fixture
def client() -> Iterator[Client]:
    cluster = LocalCluster(
        n_workers=4, threads_per_worker=1, scheduler_port=0, dashboard_address="127.0.0.1:0"
    )
    with cluster, Client(cluster) as client:
        yield client


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ten_thousand_partitions(client: Client, minilm: str) -> None:
    """Four workers, no-op models: client and scheduler, one process here, stay small.

    Dask itself keeps about 15 KiB for each partition of a job of this shape.
    """
    before = psutil.Process().memory_info().rss
    lengths = lazy_lengths(minilm, PARTITIONS)
    totals = lengths.map_partitions(total, meta=pd.Series([0.0]))
    assert totals.sum().compute(scheduler=client) == sum(n % 7 for n in range(PARTITIONS))
    del lengths, totals
    gc.collect()
    growth = psutil.Process().memory_info().rss - before
    print(f"client and scheduler: {growth / PARTITIONS / 1024:.1f} KiB a partition")
    assert growth / PARTITIONS < 25 * 1024


def test_a_partition_adds_little_to_the_graph(minilm: str) -> None:
    """The operator is in the graph once, whatever it carries; a task is a few hundred bytes."""
    ranges = np.stack([np.zeros(384), np.ones(384)])
    for operator in (TextLengths(minilm), de.Embedder(minilm, precision="int8", ranges=ranges)):
        sizes = []
        for partitions in (100, 1100):
            ddf = dd.from_map(make_partition, range(partitions), meta=make_partition(0).iloc[:0])
            graph = dict(operator(ddf).optimize().__dask_graph__())
            assert len(graph) == partitions
            sizes.append(len(pickle.dumps(graph)))
        assert (sizes[1] - sizes[0]) / 1000 < 600
