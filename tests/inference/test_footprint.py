"""What a worker needs for a model is told before it loads, and a worker with less is warned of."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import dask
import dask.dataframe as dd
import pandas as pd
import pytest
import torch
import transformers
from support import headed, tiny
from support.clusters import cluster

import dask_embed as de
from dask_embed.inference import footprint as footprints
from dask_embed.inference import workers
from dask_embed.inference.footprint import MIB, PROCESS, footprint
from dask_embed.runtime import registry

pytestmark = pytest.mark.usefixtures("one_torch_thread")

FRAME = pd.DataFrame({"text": ["the mean of a sample", "x"]})
# Loads and runs a model, and prints the most that was resident, in bytes.
RUN = r"""
import re, sys
import distributed, pandas as pd, torch
torch.set_num_threads(1)
import dask_embed as de
frame = pd.DataFrame({"text": ["the mean of a sample " * (7 * n) for n in range(8)]})
frame.ml.embed(model=sys.argv[1])
# what getrusage tells begins with the memory of the process that started this one
highest = re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())
print(int(highest[1]) * 1024)
"""


def _weights(folder: Path, dtype: str = "float32") -> int:
    model = transformers.AutoModel.from_pretrained(folder)
    return sum(w.numel() for w in model.parameters()) * (4 if dtype == "float32" else 2)


@pytest.mark.parametrize("name", ["bert", "llama", "gpt2"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_are_those_of_the_model(name: str, dtype: str, tmp_path: Path) -> None:
    folder = tiny.save(name, tmp_path / "model")
    told = footprint(de.Model(folder), "embed", 1024, 2, dtype=dtype)
    assert told is not None
    assert told.weights == _weights(folder, dtype)
    assert told.reading == (0 if dtype == "float32" else _weights(folder))
    assert told.process >= PROCESS + told.weights + 2 * told.batch
    wider = footprint(de.Model(folder), "embed", 4096, 2, dtype=dtype)
    assert wider is not None
    assert wider.batch == 4 * told.batch


def test_weights_that_are_not_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As of a model of the Hub, whose weights only workers have: from its configuration."""
    folder = headed.save("bert", "classify", tmp_path / "model", num_labels=3)
    here = footprint(de.Model(folder), "classify", 1024, 1)
    monkeypatch.setattr(footprints, "_sizes", lambda *args: None)
    assert footprint(de.Model(folder), "classify", 1024, 1) == here


def test_described(tmp_path: Path) -> None:
    folder = headed.save("gpt2", "causal-lm", tmp_path / "model")
    given = de.describe_model(folder)
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert given.weights_mib == round(reference.num_parameters() * 4 / MIB)
    assert given.worker_mib is not None
    assert given.batch_mib is not None
    assert given.worker_mib >= PROCESS / MIB + given.weights_mib + given.batch_mib


def test_generation_keeps_keys_and_values(tmp_path: Path) -> None:
    """Two layers of keys and values of 32 numbers, for each of the tokens that are planned."""
    folder = headed.save("gpt2", "causal-lm", tmp_path / "model")
    config = transformers.AutoConfig.from_pretrained(folder)
    kept = 2 * config.n_layer * config.n_embd * 4
    found = de.Generator(folder).footprint(1)
    assert found is not None
    assert found.batch > 16 * 1024 * kept
    assert de.Generator(folder, engine="continuous").footprint(1) is None


# -------------------------------------------------------------------------------------- warnings
def _told(model: object) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        de.Embedder(model, column="text")(dd.from_pandas(FRAME, npartitions=1))  # type: ignore[arg-type]
    return [str(each.message) for each in caught if "in a worker process" in str(each.message)]


def test_a_client_warns_of_small_workers(tmp_path: Path) -> None:
    folder = tiny.save("bert", tmp_path / "model")
    assert _told(folder) == []  # no client
    with cluster(2, 1, processes=False, memory_limit="300MiB"):
        (message,) = _told(folder)
    assert str(folder) in message
    assert "2 workers have 300 MiB" in message
    assert f"{PROCESS // MIB} for libraries" in message


@pytest.mark.parametrize("limit", ["20GiB", 0])
def test_no_warning_where_memory_suffices(limit: str | int, tmp_path: Path) -> None:
    folder = tiny.save("bert", tmp_path / "model")
    with cluster(1, 1, processes=False, memory_limit=limit):
        assert _told(folder) == []


def test_a_worker_warns_when_the_model_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the frame was made before there was a client."""
    monkeypatch.setattr(footprints, "PROCESS", 2**40)  # this process has to go on
    folder = tiny.save("bert", tmp_path / "model")
    lazy = de.Embedder(folder, column="text")(dd.from_pandas(FRAME, npartitions=1))
    with (
        cluster(1, 1, processes=False, memory_limit="20GiB"),
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        lazy.compute()
    messages = [str(each.message) for each in caught]
    assert any(str(folder) in each and "has 20480 MiB" in each for each in messages)


def test_a_worker_makes_room_for_another_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By forgetting what it ran before, the oldest first, and only as far as that is needed."""
    model = de.Model(tiny.save("bert", tmp_path / "model"), device="cpu")
    needed = footprint(model, "embed", 2048, 1)
    assert needed is not None
    held = ["old", "new"]
    usable = needed.process + 150 * MIB  # beside one of the two, which take 100 MiB each
    worker = SimpleNamespace(
        address="inproc://1",
        memory_manager=SimpleNamespace(memory_limit=usable / 0.8),
        monitor=SimpleNamespace(get_process_memory=lambda: PROCESS + len(held) * 100 * MIB),
        state=SimpleNamespace(nthreads=1),
    )
    monkeypatch.setattr(workers, "_this_worker", lambda: worker)
    monkeypatch.setattr(registry, "evict", lambda: bool(held) and bool(held.pop(0)))
    with dask.config.set({"embed.tokens-per-batch": {"cpu": 2048, "cuda": 2048}}):
        workers.make_room_on_worker(model, "embed")
    assert held == ["new"]


# --------------------------------------------------------------------------------------- measured
@pytest.mark.alone
@pytest.mark.parametrize("dtype", [None, torch.float32, torch.float16])
def test_the_estimate_is_right_to_a_quarter(dtype: torch.dtype | None, tmp_path: Path) -> None:
    """A tiny model, one of 160 MiB, and the same stored in half the bytes."""
    folder = tiny.save("bert", tmp_path / "model")
    if dtype is not None:
        config = transformers.AutoConfig.from_pretrained(folder)
        sizes = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 6}
        config.update({**sizes, "num_attention_heads": 12})
        transformers.AutoModel.from_config(config).to(dtype).save_pretrained(folder)
    told = footprint(de.Model(folder), "embed", 1024, 1)
    assert told is not None
    measured = int(
        subprocess.run(
            [sys.executable, "-c", RUN, str(folder)], check=True, capture_output=True, text=True
        ).stdout.split()[-1]
    )
    assert 0.8 < told.process / measured < 1.25, (told, measured / MIB)
