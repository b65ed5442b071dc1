"""Clusters for a block, models that workers load when they start, threads bound to cores."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
import types
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from distributed import LocalCluster
from safetensors.numpy import save_file
from support import tiny
from support.clusters import cluster

import dask_embed as de
from dask_embed.jobs import cluster as home
from dask_embed.jobs.plugins import BoundToNodes
from dask_embed.runtime.registry import loaded

FRAME = pd.DataFrame({"text": [f"text {row}" for row in range(6)]})


def _wait(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def bert(tmp_path: Path) -> str:
    return str(tiny.save("bert", tmp_path / "bert"))


@pytest.mark.parametrize(
    ("where", "options", "message"),
    [
        (3, {}, "where must be 'local', 'cuda', the address"),
        ("", {}, "where must be"),
        ("nowhere.yaml", {}, "where must be"),
        ("locl", {}, "where must be"),
        ("local", {"workers": 0}, "workers must be a positive integer"),
        ("local", {"threads": 1.5}, "threads must be a positive integer"),
        ("local", {"n_workers": 2}, "cluster has no option 'n_workers'"),
        ("tcp://127.0.0.1:1", {"workers": 2}, "workers is not for the cluster 'tcp://127.0.0.1:1'"),
        ("tcp://127.0.0.1:1", {"memory": "1GiB"}, "memory is not for the cluster"),
    ],
)
def test_what_is_no_cluster(where: Any, options: dict[str, Any], message: str) -> None:
    with (
        pytest.raises((TypeError, ValueError), match=message),
        de.cluster(where, **options),
    ):
        pass


def test_no_scheduler_at_an_address_is_an_error_of_the_system() -> None:
    with (
        pytest.raises(OSError, match=r"127\.0\.0\.1:1"),
        de.cluster("tcp://127.0.0.1:1", timeout="200ms"),
    ):
        pass


def test_a_file_that_no_scheduler_writes_is_waited_for(tmp_path: Path) -> None:
    with (
        pytest.raises(OSError, match=r"no scheduler has written the file '.*later\.json'"),
        de.cluster(tmp_path / "later.json", timeout="300ms"),
    ):
        pass


def test_joins_a_cluster_and_leaves_it_running(tmp_path: Path) -> None:
    """By its address and by the file that its scheduler wrote."""
    import json

    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
    ) as local:
        file = tmp_path / "scheduler.json"
        file.write_text(json.dumps(local.scheduler.identity()))
        for where in (local.scheduler_address, file):
            with de.cluster(where) as client:
                assert dd.from_pandas(FRAME, npartitions=2).text.str.len().sum().compute() == 36
                assert client.scheduler.address == local.scheduler_address
        assert local.status.name == "running"


@pytest.mark.slow
def test_a_local_cluster_keeps_to_itself() -> None:
    """One process a node with its cores as threads, one math thread each, on the loopback."""
    cores = home.cores_of_nodes()
    with de.cluster("local", memory="1GiB") as client:
        told = client.scheduler_info(n_workers=-1)["workers"]
        assert len(told) == len(cores)
        assert sum(worker["nthreads"] for worker in told.values()) == sum(map(len, cores))
        assert {worker["memory_limit"] for worker in told.values()} == {2**30}
        assert all(address.startswith("tcp://127.0.0.1:") for address in told)
        assert set(client.run(os.environ.get, "OMP_NUM_THREADS").values()) == {"1"}
        masks = client.run(signal.pthread_sigmask, signal.SIG_BLOCK, [])
        assert all(
            signal.SIGINT in mask for mask in masks.values()
        )  # of a terminal, for the client
    assert client.status == "closed"


def test_the_cores_of_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the kernel lists them, of those that this process may use."""
    for node, cores in ((0, "0-2,8\n"), (1, "4-6\n"), (2, "\n"), (10, "9\n")):
        (tmp_path / f"node{node}").mkdir()
        (tmp_path / f"node{node}" / "cpulist").write_text(cores)
    monkeypatch.setattr(home, "_NODES", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 4, 5, 6}, raising=False)
    monkeypatch.setattr(home, "CPU_COUNT", 6)
    assert home.cores_of_nodes() == [{0, 1, 2}, {4, 5, 6}]
    monkeypatch.setattr(home, "CPU_COUNT", 2)  # a container with a limit on time
    assert home.cores_of_nodes() == [{0, 1}]
    monkeypatch.setattr(home, "CPU_COUNT", 7)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 3}, raising=False)
    assert home.cores_of_nodes() == [{0, 3}]  # the lists do not name all


@pytest.mark.slow
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_each_worker_keeps_to_its_node() -> None:
    first, second = sorted(os.sched_getaffinity(0))[:2]

    def affinities() -> set[tuple[int, ...]]:
        tasks = [int(name) for name in os.listdir("/proc/self/task")]
        return {tuple(os.sched_getaffinity(task)) for task in tasks}

    with cluster(2, 1, processes=True) as client:
        client.register_plugin(BoundToNodes([{first}, {second}]))
        found = list(client.run(affinities).values())
    assert sorted(found, key=str) == sorted([{(first,)}, {(second,)}], key=str)


def test_gpus_are_asked_for_as_dask_cuda_takes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not run on a GPU: what is handed to LocalCUDACluster, of which a stand-in is a cluster."""
    handed: dict[str, Any] = {}

    class LocalCUDACluster(LocalCluster):
        def __init__(self, **options: Any) -> None:
            handed.update(options)
            super().__init__(n_workers=0, processes=False, dashboard_address="127.0.0.1:0")

    module = types.ModuleType("dask_cuda")
    module.LocalCUDACluster = LocalCUDACluster  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dask_cuda", module)
    with de.cluster("cuda", workers=2) as client:
        assert client.status == "running"
    assert handed["rmm_allocator_external_lib_list"] == ["torch"]
    assert (handed["n_workers"], handed["threads_per_worker"]) == (2, 1)


@pytest.mark.parametrize("dashboard", [None, "127.0.0.1:0"])
def test_no_cluster_takes_a_port_that_others_want(
    dashboard: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that a scheduler listens on is a free port of the loopback, with pages or without."""

    class WithoutWorkers(LocalCluster):
        def __init__(self, **options: Any) -> None:
            super().__init__(**{**options, "n_workers": 0, "processes": False, "protocol": "tcp"})

    monkeypatch.setattr("distributed.LocalCluster", WithoutWorkers)
    with de.cluster("local", dashboard=dashboard) as client:
        scheduler = client.cluster.scheduler
        assert scheduler.address.startswith("tcp://127.0.0.1:")
        served = scheduler.http_server
        assert served.address == "127.0.0.1"
        assert (scheduler.port, served.port) != (8786, 8787)
        page = f"http://127.0.0.1:{served.port}"
        assert urllib.request.urlopen(f"{page}/health").read() == b"ok"
        if dashboard is None:
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(f"{page}/status")
        else:
            assert urllib.request.urlopen(f"{page}/status").status == 200


def test_gpus_without_dask_cuda_name_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dask_cuda", None)
    with (
        pytest.raises(ModuleNotFoundError, match=r"pip install 'dask-embed\[cuda13\]'"),
        de.cluster("cuda"),
    ):
        pass


def test_what_was_computed_stands_though_processes_are_slow_to_go() -> None:
    class Slow:
        def __init__(self, loop: Any) -> None:
            assert loop.asyncio_loop.is_running()

        def close(self) -> None:
            raise TimeoutError

    with home._closed(Slow) as made:
        assert isinstance(made, Slow)
    with pytest.raises(ValueError, match="of the block"), home._closed(Slow):
        raise ValueError("of the block")


# --------------------------------------------------------------------------------- plugins
def test_a_plugin_loads_models_and_frees_them(bert: str, tmp_path: Path) -> None:
    """Before any partition, on workers that join later too; gone with the last worker."""
    other = str(tiny.save("distilbert", tmp_path / "other"))
    de.unload()
    with cluster(1, 2, processes=False) as client:
        plugin = de.ModelPlugin(de.Embedder(bert))
        client.register_plugin(plugin)
        assert [model.name for model, task in loaded()] == [bert]
        before = loaded()
        dd.from_pandas(FRAME, npartitions=2).ml.embed("text", model=bert).compute(
            scheduler=client.get
        )
        assert loaded() == before  # the same model, which no partition had to load
        client.register_plugin(plugin)  # again, which does nothing
        de.unload()
        client.cluster.scale(2)
        _wait(lambda: len(loaded()) == 1)
        client.cluster.scale(1)
        _wait(lambda: len(client.cluster.workers) == 1)
        assert len(loaded()) == 1  # the other worker of this process goes on
        FRAME.ml.embed("text", model=other)
        client.unregister_worker_plugin(plugin.name)
        assert [model.name for model, task in loaded()] == [other]  # which is nobody's to free


def test_a_plugin_is_checked_before_it_is_sent(bert: str, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="ModelPlugin needs operators"):
        de.ModelPlugin()
    with pytest.raises(TypeError, match=r"takes operators that run a model.*got 'owner/model'"):
        de.ModelPlugin("owner/model")  # type: ignore[arg-type]
    with pytest.raises((ValueError, OSError), match="nowhere"):
        de.ModelPlugin(de.Embedder(str(tmp_path / "nowhere")))
    with pytest.raises(ValueError, match="max_length"):
        de.ModelPlugin(de.Embedder(bert, max_length=100_000))
    one, other = (de.ModelPlugin(de.Embedder(bert, **more)) for more in ({}, {"pooling": "cls"}))
    assert one.name == de.ModelPlugin(de.Embedder(bert)).name != other.name


def _replaced(folder: str, kind: str) -> None:
    """Make a folder what a worker may have in its place: nothing, no files, another model."""
    shutil.rmtree(folder)
    if kind != "gone":
        Path(folder).mkdir()
    if kind == "another":
        tiny.save("distilbert", Path(folder))


@pytest.mark.parametrize("kind", ["gone", "empty", "another"])
def test_a_worker_whose_copy_of_a_model_is_not_the_clients_is_named(kind: str, bert: str) -> None:
    de.unload()
    operator = de.Embedder(bert).pinned()
    _replaced(bert, kind)
    worker = r"worker inproc://\S+ \(.*\)"
    told = {
        "gone": rf"bert', which the job was built with, is not on {worker}; every worker needs",
        "empty": rf"bert', .*, holds no config.json and no modules.json on {worker}; every worker",
        "another": rf"^{worker} has another model in folder .*bert' than the job was built with",
    }[kind]
    with (
        cluster(1, 1, processes=False) as client,
        pytest.raises(ValueError, match=told),
    ):
        client.submit(operator.apply, FRAME).result(60)


@pytest.mark.parametrize("kind", ["gone", "another"])
def test_a_worker_whose_file_of_weights_is_not_the_clients_is_named(
    kind: str, tmp_path: Path
) -> None:
    file = tmp_path / "head.safetensors"
    save_file({"weight": np.eye(3, dtype="float32")}, file)
    head = de.LinearHead(file, column="vector").pinned()
    file.unlink()
    if kind == "another":
        save_file({"weight": np.ones((3, 3), "float32")}, file)
    vectors = pd.DataFrame({"vector": [np.ones(3, "float32")] * 2})
    told = {
        "gone": r"on worker inproc://.* '.*head.safetensors' is no file or folder",
        "another": r"^worker inproc://.* has another file '.*head.safetensors' than the job",
    }[kind]
    with (
        cluster(1, 1, processes=False) as client,
        pytest.raises(ValueError, match=told),
    ):
        client.submit(head.apply, vectors).result(60)


def test_a_model_that_a_worker_lacks_is_told_when_it_starts(bert: str) -> None:
    de.unload()
    plugin = de.ModelPlugin(de.Embedder(bert))
    shutil.rmtree(bert)
    with (
        cluster(1, 1, processes=False) as client,
        pytest.raises((OSError, ValueError), match="bert"),
    ):
        client.register_plugin(plugin)
