"""A checkpoint is found where it lies and pinned to what it holds.

A Hub id becomes a commit of the cache, a local folder its fingerprint; whatever cannot be found
or is not what was asked for is a ``ValueError`` of one line. Nothing here asks the network.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file, save_file
from support import tiny

import dask_embed as de
from dask_embed.models.fingerprint import fingerprint
from dask_embed.models.hub import locate
from dask_embed.runtime.registry import loaded

pytestmark = pytest.mark.usefixtures("one_torch_thread")

OLD, NEW = "1" * 40, "2" * 40


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save("bert", tmp_path_factory.mktemp("hub") / "bert")


@pytest.fixture
def copied(bert: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bert, tmp_path / "copied"))


@pytest.fixture
def cache(bert: Path, tmp_path: Path) -> Path:
    """A Hub cache with two commits of ``org/name``; the branch stands at the newer one."""
    cache = tmp_path / "hub"
    add_commit(cache, "org/name", OLD, bert)
    changed = shutil.copytree(bert, tmp_path / "changed")
    change_weight(changed / "model.safetensors")
    add_commit(cache, "org/name", NEW, Path(changed), refs=("main", "v2"))
    return cache


def add_commit(cache: Path, name: str, sha: str, folder: Path, refs: tuple[str, ...] = ()) -> None:
    """Lay out the files of `folder` as huggingface_hub does: blobs, and links by commit."""
    repository = cache / ("models--" + name.replace("/", "--"))
    snapshot = repository / "snapshots" / sha
    for part in (repository / "blobs", repository / "refs", snapshot):
        part.mkdir(parents=True, exist_ok=True)
    for file in folder.iterdir():
        blob = repository / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        shutil.copyfile(file, blob)
        (snapshot / file.name).symlink_to(os.path.relpath(blob, snapshot))
    for ref in refs:
        (repository / "refs" / ref).write_text(sha)


def change_weight(file: Path, by: float = 1.0) -> None:
    weights = load_file(file)
    weights["encoder.layer.2.output.LayerNorm.bias"][3] += by
    save_file(weights, file, metadata={"format": "pt"})


def from_hub(cache: Path, **settings: Any) -> de.Model:
    return de.Model(
        "org/name", cache_dir=str(cache), local_files_only=True, device="cpu", **settings
    )


def embed(model: Any) -> np.ndarray:
    frame = pd.DataFrame({"text": ["Return the lines.", "x"]})
    return de.to_array(de.Embedder(model, column="text")(frame)["embedding"])


# --------------------------------------------------------------------------------------- the Hub
def test_a_hub_id_is_loaded_from_the_cache(cache: Path, bert: Path, tmp_path: Path) -> None:
    assert locate(from_hub(cache), weights=True) == (
        cache / "models--org--name" / "snapshots" / NEW,
        NEW,
    )
    np.testing.assert_array_equal(
        embed(from_hub(cache)), embed(de.Model(str(tmp_path / "changed"), device="cpu"))
    )
    np.testing.assert_array_equal(
        embed(from_hub(cache, revision=OLD)), embed(de.Model(str(bert), device="cpu"))
    )
    assert not np.array_equal(embed(from_hub(cache)), embed(from_hub(cache, revision=OLD)))


@pytest.mark.parametrize(
    ("revision", "commit"), [(None, NEW), ("main", NEW), ("v2", NEW), (NEW, NEW), (OLD, OLD)]
)
def test_the_revision_is_pinned_to_the_commit(
    cache: Path, revision: str | None, commit: str
) -> None:
    pinned = de.Embedder(from_hub(cache, revision=revision), column="text").pinned()
    assert pinned.model.revision == commit
    assert pinned.model.name == "org/name"
    assert pinned.pinned() == pinned


def test_a_branch_that_moves_on_does_not_move_a_pinned_operator(cache: Path) -> None:
    embedder = de.Embedder(from_hub(cache), column="text")
    before = embedder.pinned()
    (cache / "models--org--name" / "refs" / "main").write_text(OLD)
    assert embedder.pinned().model.revision == OLD
    assert before.pinned().model.revision == NEW


@pytest.mark.parametrize(
    ("name", "settings", "wanted"),
    [
        ("org/other", {}, "'org/other'"),
        ("nobody", {}, "'nobody'"),
        ("org/name", {"revision": "v3"}, "'org/name' at 'v3'"),
        ("org/name", {"revision": "3" * 40}, f"'org/name' at '{'3' * 40}'"),
    ],
)
def test_what_the_cache_does_not_hold_is_an_error_of_one_line(
    cache: Path, name: str, settings: dict[str, str], wanted: str
) -> None:
    model = de.Model(name, cache_dir=str(cache), local_files_only=True, **settings)
    with pytest.raises(ValueError, match="was not found") as caught:
        de.Embedder(model, column="text")(pd.DataFrame({"text": ["x"]}))
    assert wanted in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_an_adapter_on_the_hub_is_no_model(cache: Path, bert: Path, tmp_path: Path) -> None:
    alone, beside = tmp_path / "alone", Path(shutil.copytree(bert, tmp_path / "beside"))
    alone.mkdir()
    written = json.dumps({"peft_type": "LORA", "base_model_name_or_path": "org/name"})
    for folder in (alone, beside):
        (folder / "adapter_config.json").write_text(written)
        add_commit(cache, f"org/{folder.name}", OLD, folder, refs=("main",))
    frame = pd.DataFrame({"text": ["x"]})
    for name, message in (
        ("alone", r"'org/alone' is a PEFT adapter of 'org/name' .*adapter='org/alone'\)"),
        ("beside", r"'org/beside' holds a PEFT adapter beside .*adapter='org/beside'\)"),
    ):
        model = dataclasses.replace(from_hub(cache), name=f"org/{name}")
        with pytest.raises(ValueError, match=message) as caught:
            de.Embedder(model, column="text")(frame)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a b", "/no/such/folder", "./none", "org/name/more", "~/none"])
def test_what_is_neither_folder_nor_id_is_an_error_of_one_line(name: str) -> None:
    with pytest.raises(ValueError, match="neither an existing folder nor a Hub id") as caught:
        locate(de.Model(name, local_files_only=True), weights=False)
    assert repr(name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_cache_without_weights_serves_the_client_only(cache: Path) -> None:
    """A client builds the graph; the worker says what it misses."""
    (cache / "models--org--name" / "snapshots" / NEW / "model.safetensors").unlink()
    embedder = de.Embedder(from_hub(cache), column="text")
    meta = embedder.meta(pd.DataFrame({"text": ["x"]}).iloc[:0])
    assert meta["embedding"].dtype.pyarrow_dtype.list_size == tiny.HIDDEN
    with pytest.raises(ValueError, match="holds no weights"):
        embed(from_hub(cache))


# ---------------------------------------------------------------------------------- local folders
def test_the_fingerprint_is_that_of_the_content(bert: Path, copied: Path) -> None:
    os.utime(copied / "model.safetensors", (1, 1))
    (copied / "README.md").write_text("no part of the model")
    assert fingerprint(copied) == fingerprint(bert)
    folder, revision = locate(de.Model(str(copied)), weights=True)
    assert folder == copied
    assert revision == fingerprint(bert)


def test_names_of_files_need_not_be_utf_8(bert: Path, copied: Path) -> None:
    (copied / os.fsdecode(b"caf\xe9.json")).write_text("{}")
    assert fingerprint(copied) != fingerprint(bert)


def test_one_changed_weight_changes_the_fingerprint(bert: Path, copied: Path) -> None:
    change_weight(copied / "model.safetensors", by=1e-6)
    assert (copied / "model.safetensors").stat().st_size == (
        bert / "model.safetensors"
    ).stat().st_size
    assert fingerprint(copied) != fingerprint(bert)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_changed_small_file_changes_the_fingerprint(bert: Path, copied: Path, name: str) -> None:
    text = (copied / name).read_text()
    (copied / name).write_text(text.replace("a", "b", 1))
    assert fingerprint(copied) != fingerprint(bert)


def test_a_renamed_or_added_file_changes_the_fingerprint(bert: Path, copied: Path) -> None:
    (copied / "model.safetensors").rename(copied / "other.safetensors")
    renamed = fingerprint(copied)
    (copied / "1_Pooling").mkdir()
    (copied / "1_Pooling" / "config.json").write_text("{}")
    assert len({renamed, fingerprint(copied), fingerprint(bert)}) == 3


def test_trained_weights_of_a_large_file_change_the_fingerprint(tmp_path: Path) -> None:
    """Large files are sampled: a few more training steps show, wherever the samples lie."""
    import torch

    weights = torch.randn(3_000_000)
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir()
        save_file({"weight": weights + number * 1e-4}, folder / "model.safetensors")
    assert fingerprint(tmp_path / "0") != fingerprint(tmp_path / "1")


def test_a_linear_probe_saved_again_changes_the_fingerprint(tmp_path: Path) -> None:
    """The head is a few numbers of a file of many: all are read, up to 64 MiB."""
    import torch

    weights = {"score.weight": torch.zeros(8, 384), "table": torch.zeros(28_000, 384)}
    found = []
    for value in (0.0, 1e-3):
        weights["score.weight"][5, 200] = value
        save_file(weights, tmp_path / "model.safetensors")
        found.append(fingerprint(tmp_path))
    assert found[0] != found[1]


SIZES = {"scale": 1, "score.weight": 768, "bias": 5000, "query": 60_000, "table": 2_000_000}
SIZES |= {"wide": 1_500_000, "up": 1_100_000}


@pytest.mark.parametrize("place", ["first", "middle", "last"])
@pytest.mark.parametrize("name", SIZES)
def test_a_changed_value_of_any_tensor_changes_the_fingerprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, place: str
) -> None:
    """Of tensors that are too large to be read whole, too."""
    import torch

    monkeypatch.setattr("dask_embed.models.fingerprint._WHOLE_BYTES", 1 << 20)
    weights = {name: torch.zeros(size) for name, size in SIZES.items()}
    save_file(weights, tmp_path / "model.safetensors")
    before = fingerprint(tmp_path)
    size = SIZES[name]
    weights[name][{"first": 0, "middle": size // 2, "last": size - 1}[place]] = 1e-3
    save_file(weights, tmp_path / "model.safetensors")
    assert fingerprint(tmp_path) != before


@pytest.mark.parametrize("shards", [1, 3])
def test_many_tensors_beyond_what_is_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shards: int
) -> None:
    """Every one of them is sampled; and another order of them in the file shows in its header."""
    import torch

    monkeypatch.setattr("dask_embed.models.fingerprint._WHOLE_BYTES", 1 << 16)
    monkeypatch.setattr("dask_embed.models.fingerprint._BLOCKS", 12)
    names = [f"layer.{number}" for number in range(15)]

    def save(changed: str | None, first: float = 0.0) -> str:
        for shard in range(shards):
            weights = {name: torch.full((9000,), first) for name in names[shard::shards]}
            if changed in weights:
                weights[changed][4500] = 1e-3
            save_file(weights, tmp_path / f"model-{shard}.safetensors")
        return fingerprint(tmp_path)

    assert len({save(name) for name in (None, *names)}) == 16


def test_pickled_weights_are_told_apart_by_their_checksums(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr("dask_embed.models.fingerprint._WHOLE_BYTES", 1 << 20)
    weights = {"table": torch.zeros(8_000_000)}
    weights |= {f"layer.{number}.bias": torch.zeros(8) for number in range(200)}
    found = set()
    for place in (None, 0, 1_000_003, 3_456_789, 7_999_999):
        weights["table"].zero_()
        if place is not None:
            weights["table"][place] = 1e-3
        torch.save(weights, tmp_path / "pytorch_model.bin")
        found.add(fingerprint(tmp_path))
    assert len(found) == 5


def test_a_large_vocabulary_counts_in_full(tmp_path: Path) -> None:
    words = [f"word{number:07}" for number in range(400_000)]
    found = set()
    for place in (None, 3, 123_457, 399_999):
        changed = words if place is None else [*words[:place], "other000000", *words[place + 1 :]]
        (tmp_path / "vocab.txt").write_text("\n".join(changed))
        found.add(fingerprint(tmp_path))
    assert len(found) == 4


def test_an_unchanged_file_is_read_once(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And one that was saved again is read anew, though its size and time are as before."""
    file = copied / "model.safetensors"
    for path in copied.iterdir():
        os.utime(path, (1_000_000_000, 1_000_000_000))
    read: list[Path] = []
    opened = Path.open

    def counted(path: Path, *arguments: Any, **options: Any) -> Any:
        read.append(path)
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", counted)
    before = fingerprint(copied)
    assert file in read
    read.clear()
    assert fingerprint(copied) == before
    assert read == []
    change_weight(file)
    os.utime(file, (1_000_000_000, 1_000_000_000))
    assert fingerprint(copied) != before
    assert set(read) == {file}


def test_another_revision_of_a_folder_is_an_error(bert: Path, copied: Path) -> None:
    pinned = de.Embedder(str(copied), column="text").pinned()
    assert pinned.model.revision == fingerprint(bert)
    assert pinned.model.name == str(copied)
    change_weight(copied / "model.safetensors")
    with pytest.raises(ValueError, match=r"machine .* has another model in .* asked for") as caught:
        pinned(pd.DataFrame({"text": ["x"]}))
    assert str(copied) in str(caught.value)
    assert fingerprint(bert) in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"a local folder on .* no revision 'main'"):
        locate(de.Model(str(copied), revision="main"), weights=False)


def test_a_changed_folder_is_loaded_anew(copied: Path) -> None:
    before = embed(de.Model(str(copied), device="cpu"))
    change_weight(copied / "model.safetensors")
    after = embed(de.Model(str(copied), device="cpu"))
    shift = np.zeros(tiny.HIDDEN)
    shift[3] = 1
    np.testing.assert_allclose(after, before + shift, rtol=0, atol=1e-5)


def test_a_model_is_held_once(copied: Path) -> None:
    """A folder and its pinned revision, on pandas and on Dask, are one copy in memory."""
    de.unload()
    embedder = de.Embedder(de.Model(str(copied), device="cpu"), column="text")
    frame = pd.DataFrame({"text": ["Return the lines.", "x"]})
    embedder(frame)
    embedder(dd.from_pandas(frame, npartitions=1)).compute()
    embedder.pinned()(frame)
    assert len(loaded()) == 1


def test_a_folder_that_is_no_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no config\.json and no modules\.json"):
        locate(de.Model(str(tmp_path)), weights=False)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="not valid json"):
        de.Embedder(str(tmp_path), column="text")(pd.DataFrame({"text": ["x"]}))


def test_a_home_folder_is_expanded(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(copied.parent))
    folder, _ = locate(de.Model("~/copied"), weights=False)
    assert folder == copied
