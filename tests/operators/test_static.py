"""Tables of token vectors give what `StaticEmbedding` of sentence-transformers gives."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, StaticEmbedding
from support import tiny
from support.contract import TEXTS, DataframeContract
from tokenizers import Tokenizer

import dask_embed as de

FRAME = pd.DataFrame({"text": pd.Series(TEXTS, dtype="str")})
GIVEN = [text for text in TEXTS if text is not None]


def save(folder: Path, dtype: torch.dtype = torch.float32, *after: Any) -> Path:
    """Write a table of 16 dimensions for the words of a tiny tokenizer, and modules after it."""
    words = tiny.save("bert", folder.with_name(f"{folder.name}-words"))
    tokenizer = Tokenizer.from_file(str(words / "tokenizer.json"))
    vectors = torch.randn(
        tokenizer.get_vocab_size(), 16, generator=torch.Generator().manual_seed(3)
    )
    first = StaticEmbedding(tokenizer, embedding_weights=vectors.to(dtype))
    SentenceTransformer(modules=[first, *after], device="cpu").save(str(folder))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("static")
    torch.manual_seed(5)
    found = {
        "plain": save(root / "plain"),
        "normalized": save(root / "normalized", torch.float32, Normalize()),
        "half": save(root / "half", torch.float16),
        "dense": save(root / "dense", torch.float32, Dense(16, 6), Normalize()),
        "prompts": save(root / "prompts", torch.float32, Normalize()),
        "model2vec": save(root / "model2vec", torch.float32, Normalize()),
    }
    (found["prompts"] / "config_sentence_transformers.json").write_text(
        json.dumps({"prompts": {"query": "all of "}, "truncate_dim": 5})
    )
    file = found["model2vec"] / "model.safetensors"
    rows = load_file(file)["embedding.weight"]
    mapping = torch.arange(len(rows)) % 50
    weights = torch.linspace(0.1, 2, len(rows), dtype=torch.float64)
    save_file({"embeddings": rows[:50].clone(), "mapping": mapping, "weights": weights}, file)
    (found["model2vec"] / "config.json").write_text(json.dumps({"model_type": "model2vec"}))
    return found


CASES: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ("plain", {}, {}, {}),
    ("normalized", {}, {}, {}),
    ("half", {}, {}, {}),
    ("dense", {}, {}, {}),
    ("model2vec", {}, {}, {}),
    ("prompts", {}, {}, {}),
    ("prompts", {"prompt_name": "query"}, {}, {"prompt_name": "query"}),
    ("normalized", {"truncate_dim": 4}, {"truncate_dim": 4}, {}),
    ("normalized", {"prompt": "a b "}, {}, {"prompt": "a b "}),
    ("plain", {"normalize": True}, {}, {"normalize_embeddings": True}),
    ("normalized", {"precision": "binary"}, {}, {"precision": "binary"}),
]


@pytest.mark.parametrize(("name", "ours", "made", "called"), CASES)
def test_vectors_are_those_of_the_library(
    folders: dict[str, Path], name: str, ours: Any, made: Any, called: Any
) -> None:
    reference = SentenceTransformer(str(folders[name]), device="cpu", **made)
    expected = reference.encode(GIVEN, **called)
    out = de.Embedder(folders[name], **ours)(FRAME)
    assert out["embedding"].isna().tolist() == [text is None for text in TEXTS]
    given = np.stack(out["embedding"].dropna().to_numpy())
    if name == "half":  # the library adds up half-precision numbers, here they are float32
        np.testing.assert_allclose(given, expected.astype("f4"), rtol=0, atol=2e-3)
    else:
        np.testing.assert_allclose(given, expected, rtol=0, atol=1e-6)


def test_a_lazy_frame_reads_the_weights_with_the_first_row(
    folders: dict[str, Path], rows_through_model: Any
) -> None:
    de.unload()
    lazy = dd.from_pandas(FRAME, npartitions=3, sort=False)
    out = lazy.ml.embed("text", model=folders["normalized"])
    assert rows_through_model(lambda: out.compute()) == len(GIVEN)
    assert rows_through_model(lambda: out.head(1)) == 1


def test_limits(folders: dict[str, Path]) -> None:
    """There is none, as in the library; one that is asked for cuts tokens, or rows."""
    model = folders["plain"]
    table = load_file(model / "model.safetensors")["embedding.weight"].numpy()
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    ids = tokenizer.encode(GIVEN[0], add_special_tokens=False).ids
    out = de.to_array(de.Embedder(model, max_length=3)(FRAME)["embedding"])
    np.testing.assert_allclose(out[0], table[ids[:3]].mean(0), atol=1e-6)
    quiet = de.Embedder(model, max_length=3, on_long="error", on_error="null")(FRAME)
    lengths = [len(tokenizer.encode(t, add_special_tokens=False).ids) for t in GIVEN]
    assert quiet["embedding"].notna().sum() == sum(length <= 3 for length in lengths)
    assert "more than 3 tokens" in quiet["embedding_error"][0]


def test_embedders_side_by_side(folders: dict[str, Path]) -> None:
    lazy = dd.from_pandas(FRAME, npartitions=2, sort=False)
    both = lazy.ml.embed("text", model=folders["plain"]).ml.embed(
        "text", model=folders["dense"], output="other"
    )
    alone = de.Embedder(folders["dense"], output="other")(FRAME)
    pd.testing.assert_series_equal(both.compute()["other"], alone["other"])


@pytest.mark.slow
class TestContract(DataframeContract):
    @pytest.fixture(scope="class")
    @classmethod
    def operator(cls, tmp_path_factory: pytest.TempPathFactory) -> de.Embedder:
        folder = save(
            tmp_path_factory.mktemp("static-contract") / "model", torch.float32, Normalize()
        )
        return de.Embedder(folder)


# ------------------------------------------------------------------------------------------ refused
REFUSED: list[tuple[Any, str]] = [
    (lambda m, ml: ml.embed("text", model=m, pooling="max"), "whose pooling is the mean; got"),
    (lambda m, ml: ml.embed("text", model=m, pooling="none"), "whose pooling is the mean; got"),
    (lambda m, ml: ml.embed("text", model=m, truncate_dim=17), "at most the model's dimension 16"),
    (lambda m, ml: ml.embed("text", model=m, chat=True), "no chat template"),
    (
        lambda m, ml: ml.embed("text", model=de.Model(m, quantization="int8")),
        "quantization='int8' does not apply",
    ),
    (
        lambda m, ml: ml.embed("text", model=de.Model(m, dtype="float16")),
        "dtype='float16' does not apply",
    ),
    (lambda m, ml: ml.classify("text", model=m), "no transformer, which Classifier needs"),
    (lambda m, ml: ml.chunk("text", model=m, late=True), "gives one vector of a text"),
    (lambda m, ml: de.describe_model(m), "a table of"),
]


@pytest.mark.parametrize(("call", "says"), REFUSED)
def test_what_a_table_cannot_do(folders: dict[str, Path], call: Any, says: str) -> None:
    """It is told on the client."""
    with pytest.raises(ValueError, match=says) as caught:
        call(str(folders["plain"]), dd.from_pandas(FRAME, npartitions=1).ml)
    assert "\n" not in str(caught.value)


def _without_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def _cut_short(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def _of_another_model(folder: Path) -> None:
    save_file({"weight": torch.zeros(3, 3)}, folder / "model.safetensors")


def _too_few_rows(folder: Path) -> None:
    save_file({"embedding.weight": torch.zeros(7, 16)}, folder / "model.safetensors")


def _pooled(folder: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    pooling = {"idx": 1, "name": "1", "path": "1_Pooling"}
    modules.append(pooling | {"type": "sentence_transformers.models.Pooling"})
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": "mean"}))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_without_tokenizer, "tokenizer"),
        (_cut_short, "fetch it again"),
        (_of_another_model, "holds no table of vectors"),
        (_too_few_rows, "gives tokens up to 399, but"),
        (_pooled, "none after a StaticEmbedding"),
    ],
)
def test_damaged_folders(folders: dict[str, Path], tmp_path: Path, damage: Any, says: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(folders["plain"], folder)
    damage(folder)
    with pytest.raises(ValueError, match=says) as caught:
        dd.from_pandas(FRAME, npartitions=1).ml.embed("text", model=folder)
    assert "\n" not in str(caught.value)


def test_vectors_that_are_no_numbers(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(folders["plain"], folder)
    table = load_file(folder / "model.safetensors")["embedding.weight"]
    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode("x", add_special_tokens=False)
    table[ids.ids[0]] = float("nan")
    save_file({"embedding.weight": table}, folder / "model.safetensors")
    out = de.Embedder(folder, on_error="null")(pd.DataFrame({"text": ["a", "x"]}))
    assert out["embedding"].isna().tolist() == [False, True]
    assert "no finite number" in out["embedding_error"][1]
