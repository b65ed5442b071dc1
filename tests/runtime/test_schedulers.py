"""The same vectors as sentence-transformers on every scheduler, from one copy of the model."""

from __future__ import annotations

import gc
import threading
import time
import weakref

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from distributed import Client, LocalCluster
from support.contract import assert_same_frame, cut, lazy, shared_tiny_bert

import dask_embed as de
from dask_embed.inference import runner
from dask_embed.runtime import registry

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory):
    return shared_tiny_bert(tmp_path_factory)


@pytest.fixture(scope="module")
def docstrings(docstrings: pd.DataFrame) -> pd.DataFrame:
    """A few hundred of them: they run many times here."""
    return docstrings[:300]


@pytest.fixture(scope="module")
def reference(minilm, docstrings) -> np.ndarray:
    """What sentence-transformers computes for the docstrings, float32, shape (300, 384)."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(minilm, device="cpu")
    return model.encode(docstrings["text"].tolist(), show_progress_bar=False)


@pytest.fixture(scope="module")
def client():
    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.fixture
def unloaded(request):
    """No model in this process, nor in the workers where there are any."""
    de.unload()
    if "client" in request.fixturenames:
        request.getfixturevalue("client").run(de.unload)


def models_held() -> int:
    from dask_embed.runtime import registry

    return len(registry.loaded())


def difference(out: pd.DataFrame, expected: np.ndarray) -> float:
    """Return the largest absolute difference of any value of any vector."""
    vectors = de.to_array(out["embedding"])
    assert vectors.shape == expected.shape
    assert vectors.dtype == np.float32
    return float(np.abs(vectors - expected).max())


def embed(frame: pd.DataFrame, model: str, npartitions: int):
    return dd.from_pandas(frame, npartitions=npartitions, sort=False).ml.embed(model=model)


# Vectors


@pytest.mark.slow
@pytest.mark.parametrize(
    ("npartitions", "options"),
    [(1, {"scheduler": "synchronous"}), (8, {"scheduler": "threads", "num_workers": 4})],
    ids=["synchronous", "threads"],
)
def test_vectors_of_the_reference(minilm, docstrings, reference, npartitions, options):
    """300 docstrings, whole and in partitions, on one thread and on four."""
    out = embed(docstrings, minilm, npartitions)
    assert out.npartitions == npartitions
    assert difference(out.compute(**options), reference) <= TOLERANCE


@pytest.mark.slow
def test_vectors_of_the_reference_on_a_cluster(client, minilm, docstrings, reference):
    """300 docstrings in three partitions on two processes; this process holds no model."""
    de.unload()
    out = embed(docstrings, minilm, 3).compute(scheduler=client)
    assert difference(out, reference) <= TOLERANCE
    pd.testing.assert_frame_equal(
        out.drop(columns="embedding"), docstrings.astype(out["text"].dtype)
    )
    held = client.run(models_held)
    assert len(held) == 2
    assert max(held.values()) == 1
    assert registry.loaded() == []


@pytest.mark.slow
@pytest.mark.parametrize("npartitions", [1, 3, 8])
@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes"])
def test_any_partitioning_on_any_scheduler(
    request, minilm, docstrings, reference, npartitions, scheduler
):
    """The first 64 docstrings, every way; "processes" is the cluster."""
    cluster = scheduler == "processes"
    scheduler = request.getfixturevalue("client") if cluster else scheduler
    out = embed(docstrings[:64], minilm, npartitions).compute(scheduler=scheduler, num_workers=4)
    assert out.index.equals(docstrings.index[:64])
    assert difference(out, reference[:64]) <= TOLERANCE


def test_row_order_on_a_cluster(client, tiny_bert):
    """Partitions of unequal work come back in their places, as the eager frame has them."""
    texts = [f"row {i} " + "long " * (60 if i % 5 == 0 else 1) for i in range(40)]
    frame = pd.DataFrame({"text": pd.Series(texts, dtype="string[pyarrow]")})
    frame = frame.set_axis(range(40, 0, -1))
    out = embed(frame, tiny_bert, 8).compute(scheduler=client)
    assert_same_frame(out, frame.ml.embed(model=tiny_bert))


def test_shuffle_of_vectors_on_a_cluster(client, tiny_bert):
    """A vector column goes through the cluster's own shuffle and keeps its dtype."""
    frame = pd.DataFrame({"key": [4, 1, 3, 1, 0, 2], "text": [f"text {i}" for i in range(6)]})
    frame = frame.astype({"text": "string[pyarrow]"})
    expected = frame.ml.embed(model=tiny_bert).sort_values(["key", "text"])
    shuffled = embed(frame, tiny_bert, 3).shuffle("key")
    out = shuffled.compute(scheduler=client).sort_values(["key", "text"])
    assert_same_frame(out, expected)


# One copy


@pytest.fixture
def loads(monkeypatch):
    """Count the loads of this process, each slowed down so that threads would overlap."""
    real, lock, specs = runner.load, threading.Lock(), []

    def load(spec, task):
        with lock:
            specs.append(spec)
        time.sleep(0.2)
        return real(spec, task)

    monkeypatch.setattr(runner, "load", load)
    return specs


def test_threads_load_once(unloaded, tiny_bert, loads):
    """Four threads that all need the model at once get the same copy, loaded once."""
    frame = pd.DataFrame({"text": [f"text {i}" for i in range(32)]})
    embed(frame, tiny_bert, 8).compute(scheduler="threads", num_workers=4)
    assert len(loads) == 1
    assert len(registry.loaded()) == 1


def test_operators_share_a_model(unloaded, tiny_bert, loads):
    """Operators that differ in anything but the model use one copy of it."""
    ddf = dd.from_pandas(pd.DataFrame({"text": ["one", "two"]}), npartitions=2)
    both = ddf.ml.embed(model=tiny_bert).ml.embed(
        model=tiny_bert, output="second", pooling="cls", max_length=8
    )
    both.compute(scheduler="threads", num_workers=4)
    assert len(loads) == 1


def test_models_that_differ_are_apart(unloaded, tiny_bert, loads):
    """Another data type is another model."""
    frame = pd.DataFrame({"text": ["one", "two"]})
    frame.ml.embed(model=tiny_bert)
    frame.ml.embed(model=de.Model(tiny_bert, dtype="bfloat16"))
    assert len(loads) == 2
    assert len(registry.loaded()) == 2


def test_failed_load_is_tried_again(unloaded, tiny_bert, monkeypatch):
    """A load that fails leaves nothing behind: the next call loads again."""
    frame = pd.DataFrame({"text": ["one"]})
    with monkeypatch.context() as patch:
        patch.setattr(runner, "load", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            frame.ml.embed(model=tiny_bert)
    assert registry.loaded() == []
    assert len(frame.ml.embed(model=tiny_bert)) == 1


# Unloading


def test_unload(unloaded, tiny_bert, loads):
    """unload() gives the model's memory back; a later call loads again, with equal results."""
    frame = pd.DataFrame({"text": ["one", "two"]})
    before = frame.ml.embed(model=tiny_bert)
    held = registry.get_or_build(registry.loaded()[0], lambda: pytest.fail("it is loaded"))
    transformer = weakref.ref(held.loaded.transformer)
    del held
    assert de.unload() == 1
    gc.collect()
    assert transformer() is None
    assert registry.loaded() == []
    assert de.unload() == 0
    assert len(loads) == 1
    assert_same_frame(frame.ml.embed(model=tiny_bert), before)
    assert len(loads) == 2


def test_unload_while_running(unloaded, tiny_bert, monkeypatch):
    """A partition that is running keeps its model to its end."""
    real = runner.Runner.token_vectors

    def unload_first(self, *arguments):
        de.unload()
        return real(self, *arguments)

    monkeypatch.setattr(runner.Runner, "token_vectors", unload_first)
    frame = pd.DataFrame({"text": ["one", "two words", "three short words"]})
    out = de.Embedder(tiny_bert, batch_size=1)(frame)
    monkeypatch.undo()
    assert_same_frame(out, de.Embedder(tiny_bert)(frame))


def test_unload_on_workers(client, unloaded, tiny_bert):
    """client.run(unload) frees the model of each worker; the next computation loads again."""
    frame = pd.DataFrame({"text": pd.Series([f"text {i}" for i in range(16)])})
    out = embed(frame, tiny_bert, 8)
    first = out.compute(scheduler=client)
    held = client.run(models_held)
    assert set(held.values()) <= {0, 1}
    assert client.run(de.unload) == held
    assert set(client.run(models_held).values()) == {0}
    assert registry.loaded() == []
    assert_same_frame(out.compute(scheduler=client), first)
    assert max(client.run(models_held).values()) == 1


def test_persist_on_workers(client, unloaded, tiny_bert):
    """Persisted vectors outlive the model, and computing from them loads none."""
    frame = pd.DataFrame({"text": pd.Series([f"text {i}" for i in range(16)])})
    out = client.persist(embed(frame, tiny_bert, 4))
    assert len(out.compute(scheduler=client)) == 16
    client.run(de.unload)
    assert out["embedding"].notnull().sum().compute(scheduler=client) == 16
    assert set(client.run(models_held).values()) == {0}


def test_error_on_a_worker_names_the_row(client, tiny_bert):
    """The error of a bad row reaches the client as it was raised."""
    frame = pd.DataFrame({"text": pd.Series(["a", "b", 7, "d"], dtype=object)})
    frame = frame.set_axis(list("wxyz"))
    out = lazy(cut(frame, [2])).ml.embed(model=tiny_bert)
    with pytest.raises(ValueError, match=r"row 0 of the partition \(index 'y'\)"):
        out.compute(scheduler=client)


# The registry


def test_two_models_are_built_side_by_side() -> None:
    """Each waits for the other to begin, so that one after the other would never end."""
    meet = threading.Barrier(2, timeout=20)
    every = registry.Registry()

    def build(key: str) -> None:
        every.get_or_build(key, meet.wait)

    threads = [threading.Thread(target=build, args=(key,)) for key in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(every.held()) == ["a", "b"]


def test_the_least_recently_used_goes_first() -> None:
    every = registry.Registry()
    for key in ("a", "b", "c", "a"):
        every.get_or_build(key, object)
    assert every.evict()
    assert every.held() == ["c", "a"]
    assert [every.evict() for _ in range(3)] == [True, True, False]


def test_only_models_are_counted(unloaded, tiny_bert):
    """Not what is made of them, nor tokenizers and arrays of heads; all of it is forgotten."""
    frame = pd.DataFrame({"text": ["one", "two"]})
    vectors = de.Embedder(tiny_bert)(frame)
    de.Tokenizer(tiny_bert)(frame)
    de.Similarity({"a": np.ones(len(vectors.embedding[0]), "float32")})(vectors)
    assert registry.parts.held()
    assert de.unload() == 1
    assert registry.parts.held() == []


def test_memory_that_runs_out_while_a_model_loads(unloaded, tiny_bert, monkeypatch):
    """What the process ran before makes room, once, and the load is tried again."""
    frame = pd.DataFrame({"text": ["one", "two"]})
    frame.ml.embed(model=tiny_bert)
    real, tries = runner.load, []

    def short(*arguments):
        tries.append(len(registry.loaded()))
        if tries[-1]:
            raise MemoryError
        return real(*arguments)

    monkeypatch.setattr(runner, "load", short)
    other = de.Model(tiny_bert, dtype="bfloat16")
    assert len(frame.ml.embed(model=other)) == 2
    assert tries == [1, 0]
    de.unload()
    monkeypatch.setattr(runner, "load", lambda *arguments: bytearray(2**62))
    with pytest.raises(MemoryError):
        frame.ml.embed(model=other)
