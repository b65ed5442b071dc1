"""A Hub that fails, in whatever way, costs seconds: the cache stands in, or one line says why."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pandas as pd
import pytest
from huggingface_hub import constants
from safetensors import safe_open
from support import hub_server, tiny
from test_hub import NEW, add_commit

import dask_embed as de
from dask_embed.models.hub import locate

LIMIT = 0.5  # seconds that the Hub has to answer


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save("bert", tmp_path_factory.mktemp("download") / "bert")


@pytest.fixture(params=hub_server.FAILURES)
def hub(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", LIMIT)
    with hub_server.failing(request.param) as address:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        yield address


@pytest.mark.parametrize("revision", [None, "main", NEW])
def test_the_cache_stands_in(hub, bert: Path, tmp_path: Path, revision: str | None) -> None:
    """A full cache is enough for a branch and for a commit, with the weights."""
    add_commit(tmp_path, "org/name", NEW, bert, refs=("main",))
    model = de.Model("org/name", revision=revision, cache_dir=str(tmp_path))
    began = time.monotonic()
    folder, found = locate(model, weights=True)
    assert time.monotonic() - began < 20 * LIMIT
    assert found == NEW
    with safe_open(folder / "model.safetensors", framework="np") as weights:
        assert list(weights.keys())


def test_an_empty_cache_is_told_in_one_line(hub, tmp_path: Path) -> None:
    model = de.Model("org/name", cache_dir=str(tmp_path))
    began = time.monotonic()
    with pytest.raises(ValueError, match=r"model 'org/name' was not found: .*\(\w+: ") as caught:
        locate(model, weights=False)
    assert time.monotonic() - began < 20 * LIMIT
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_a_commit_whose_files_are_listed_needs_no_hub(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers, which get a commit, ask nobody for what the cache is known to hold whole."""
    from huggingface_hub import HfApi
    from huggingface_hub._tree_cache import TreeCacheEntry, write_tree_cache

    add_commit(tmp_path, "org/name", NEW, bert)
    entries = {
        file.name: TreeCacheEntry(file.stat().st_size, "0" * 40, None, None, None)
        for file in bert.iterdir()
    }
    write_tree_cache(str(tmp_path / "models--org--name"), NEW, entries)

    def ask(*given: object, **options: object) -> None:
        raise AssertionError("the Hub was asked")

    for name in ("repo_info", "list_repo_tree"):
        monkeypatch.setattr(HfApi, name, ask)
    model = de.Model("org/name", revision=NEW, cache_dir=str(tmp_path))
    assert locate(model, weights=True)[1] == NEW


def test_a_name_without_an_owner_gets_one(tmp_path: Path) -> None:
    model = de.Model("all-MiniLM-L6-v2", cache_dir=str(tmp_path), local_files_only=True)
    with pytest.raises(ValueError, match="'sentence-transformers/all-MiniLM-L6-v2'"):
        locate(model, weights=False)


@pytest.mark.parametrize(
    "damage",
    [
        {"data_offsets": [0, 3]},
        {"data_offsets": [0, 2**70]},
        {"data_offsets": [-4, 0]},
        {"data_offsets": ["0", "4"]},
        {"data_offsets": None},
        {"shape": [3]},
        {"shape": "ab"},
        {"shape": [True]},
        {"dtype": ["F32"]},
        "nested",
        [],
        5,
    ],
    ids=str,
)
def test_a_header_that_does_not_fit_its_tensors(bert: Path, tmp_path: Path, damage) -> None:
    """Types, shapes and places of tensors agree, without reading any: else one line, here."""
    if damage == "nested":
        text = "[" * 100_000
    elif isinstance(damage, dict):
        text = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} | damage})
    else:
        text = json.dumps(damage)
    folder = Path(shutil.copytree(bert, tmp_path / "bert"))
    content = text.encode()
    data = len(content).to_bytes(8, "little") + content + bytes(4)
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match="has a header that is no index of tensors"):
        de.Embedder(str(folder))(pd.DataFrame({"text": ["a"]}))
