"""Sparse vectors are those of `SparseEncoder` of sentence-transformers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
import polars as pl
import pytest
from sentence_transformers import SparseEncoder
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sparse_encoder.modules import SpladePooling
from support import headed, tiny
from support.contract import TEXTS, DataframeContract, values_of

import dask_embed as de

pytestmark = pytest.mark.usefixtures("one_torch_thread")
FRAME = pd.DataFrame({"text": pd.Series(TEXTS, dtype="str")})
GIVEN = [text for text in TEXTS if text is not None]
TOLERANCE = 1e-5
KINDS = {
    "plain": None,
    "max": {"pooling_strategy": "max", "activation_function": "relu"},
    "sum": {"pooling_strategy": "sum", "activation_function": "relu"},
    "log": {"pooling_strategy": "max", "activation_function": "log1p_relu"},
    "log-sum": {"pooling_strategy": "sum", "activation_function": "log1p_relu"},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("sparse")
    found = {"plain": headed.save("bert", "fill-mask", root / "plain")}
    for name, settings in KINDS.items():
        if settings is not None:
            found[name] = root / name
            first = Transformer(str(found["plain"]), transformer_task="fill-mask")
            made = SparseEncoder(modules=[first, SpladePooling(**settings)], device="cpu")
            made.save(str(found[name]))
    found["albert"] = headed.save("albert", "fill-mask", root / "albert")
    found["named"] = root / "named"
    shutil.copytree(found["max"], found["named"])
    file = found["named"] / "config_sentence_transformers.json"
    told = {"prompts": {"query": "what is "}, "default_prompt_name": "query", "max_active_dims": 5}
    file.write_text(json.dumps(json.loads(file.read_text()) | told))
    found["old"] = root / "old"
    shutil.copytree(found["max"], found["old"])
    file = found["old"] / "modules.json"
    kinds = ("MLMTransformer", "SpladePooling")
    listing = [
        entry | {"type": f"sentence_transformers.sparse_encoder.models.{kind}"}
        for entry, kind in zip(json.loads(file.read_text()), kinds, strict=True)
    ]
    file.write_text(json.dumps(listing))
    (found["old"] / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 16}))
    return found


def dense(column: pd.Series, width: int) -> np.ndarray:
    """Return the vectors with their zeros, of rows that have one."""
    rows = [row for row in values_of(column) if row is not None]
    out = np.zeros((len(rows), width), np.float32)
    for row, sparse in enumerate(rows):
        assert sparse["indices"] == sorted(set(sparse["indices"]))
        assert 0 not in sparse["values"]
        out[row, sparse["indices"]] = sparse["values"]
    return out


CASES: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in (*KINDS, "albert", "named", "old")),
    ("max", {"max_active_dims": 3}),
    ("named", {"max_active_dims": 9}),
    ("named", {"prompt": "of "}),
]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_vectors_are_those_of_the_library(
    folders: dict[str, Path], name: str, options: dict[str, Any]
) -> None:
    reference = SparseEncoder(str(folders[name]), device="cpu")
    expected = reference.encode(GIVEN, convert_to_sparse_tensor=False, **options).numpy()
    out = de.SparseEmbedder(folders[name], **options)(FRAME)
    assert out["sparse_embedding"].isna().tolist() == [text is None for text in TEXTS]
    given = dense(out["sparse_embedding"], expected.shape[1])
    np.testing.assert_allclose(given, expected, rtol=0, atol=TOLERANCE)
    assert len({tuple(row.nonzero()[0]) for row in given}) > 3


@pytest.mark.parametrize(("pooling", "activation"), [("sum", "relu"), ("max", "log1p_relu")])
def test_the_operator_says_more_than_the_folder(
    folders: dict[str, Path], pooling: str, activation: str
) -> None:
    given, expected = (
        de.SparseEmbedder(folders[name], **options)(FRAME)["sparse_embedding"]
        for name, options in (
            ("max", {"pooling": pooling, "activation": activation}),
            ({"sum": "sum", "max": "log"}[pooling], {}),
        )
    )
    np.testing.assert_allclose(dense(given, 999), dense(expected, 999), rtol=0, atol=1e-6)


def test_few_tokens_at_a_time(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """So that tokens times vocabulary are never held, which is gigabytes."""
    expected = dense(de.SparseEmbedder(folders["sum"])(FRAME)["sparse_embedding"], 999)
    sizes = []

    def counted(splade: Any, scores: Any) -> Any:
        sizes.append(scores._base.numel() if scores._is_view() else scores.numel())
        return weights(splade, scores)

    from dask_embed.operators.vectors import sparse

    weights = sparse.splade_weights
    monkeypatch.setattr(sparse, "splade_weights", counted)
    width = json.loads((folders["sum"] / "config.json").read_text())["vocab_size"]
    monkeypatch.setattr(sparse, "_NUMBERS_AT_A_TIME", 20 * width)
    given = dense(de.SparseEmbedder(folders["sum"])(FRAME)["sparse_embedding"], 999)
    np.testing.assert_allclose(given, expected, rtol=0, atol=1e-6)
    assert max(sizes) <= tiny.POSITIONS * width  # the longest text, by itself


def test_other_tools_read_it(folders: dict[str, Path], tmp_path: Path) -> None:
    lazy = dd.from_pandas(FRAME, npartitions=3, sort=False)
    out = lazy.ml.embed_sparse("text", model=folders["max"], max_active_dims=4)
    out.ml.to_parquet(tmp_path / "out")
    read = pl.read_parquet(tmp_path / "out" / "*.parquet")["sparse_embedding"]
    expected = values_of(out.compute()["sparse_embedding"])
    indices = [None if row is None else row["indices"] for row in expected]
    assert read.struct.field("indices").to_list() == indices
    back = values_of(de.read_parquet(tmp_path / "out").compute()["sparse_embedding"])
    assert back == expected


def test_tokens_are_shared_with_others(folders: dict[str, Path]) -> None:
    """Beside an operator with the same tokenizer the vectors are the same."""
    lazy = dd.from_pandas(FRAME, npartitions=1, sort=False)
    both = lazy.ml.embed_sparse("text", model=folders["max"]).ml.tokenize(
        "text", model=folders["max"], max_length=tiny.POSITIONS
    )
    alone = de.SparseEmbedder(folders["max"])(FRAME)["sparse_embedding"]
    given = both.compute()["sparse_embedding"]
    np.testing.assert_allclose(dense(given, 999), dense(alone, 999), rtol=0, atol=1e-6)


class TestContract(DataframeContract):
    @pytest.fixture(scope="class")
    @classmethod
    def operator(cls, tmp_path_factory: pytest.TempPathFactory) -> de.SparseEmbedder:
        folder = headed.save("bert", "fill-mask", tmp_path_factory.mktemp("contract") / "model")
        return de.SparseEmbedder(folder, max_active_dims=8)


# ------------------------------------------------------------------------------------------ refused
def _module(kind: str, path: str = "1_Module") -> dict[str, Any]:
    types = "sentence_transformers.sparse_encoder.models"
    return {"idx": 1, "name": "1", "path": path, "type": f"{types}.{kind}"}


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ([_module("Router", "")], "must begin with a Transformer"),
        ([_module("SparseStaticEmbedding", "")], "must begin with a Transformer"),
        ([_module("MLMTransformer", "")], "one SpladePooling module after"),
        ([_module("MLMTransformer", ""), _module("SpladePooling")], "needs its settings"),
        (
            [
                _module("MLMTransformer", ""),
                _module("SpladePooling", "1_SpladePooling"),
                _module("SparseAutoEncoder"),
            ],
            "one SpladePooling module after",
        ),
    ],
)
def test_other_modules(
    folders: dict[str, Path], tmp_path: Path, entries: list[dict[str, Any]], says: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(folders["max"], folder)
    entries = [entry | {"idx": place} for place, entry in enumerate(entries)]
    (folder / "modules.json").write_text(json.dumps(entries))
    with pytest.raises(ValueError, match=says):
        de.SparseEmbedder(folder)(dd.from_pandas(FRAME, npartitions=1))


def test_settings_that_are_not_known(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(folders["max"], folder)
    file = folder / "1_SpladePooling" / "config.json"
    for wrong in ({"activation_function": "gelu"}, {"scale": 2}):
        file.write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match=next(iter(wrong))):
            de.SparseEmbedder(folder)(dd.from_pandas(FRAME, npartitions=1))


@pytest.mark.parametrize(
    "file",
    [
        "1_SpladePooling/config.json",
        "sentence_bert_config.json",
        "config_sentence_transformers.json",
    ],
)
def test_a_setting_of_a_version_to_come(
    folders: dict[str, Path], tmp_path: Path, file: str
) -> None:
    known = {"pooling_strategy", "activation_function", "embedding_dimension"}
    assert set(SpladePooling.config_keys) == known
    folder = Path(shutil.copytree(folders["max"], tmp_path / "model"))
    written = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(written | {"new_setting": 1}))
    with pytest.raises(ValueError, match=r"new_setting=1, which is not known"):
        de.SparseEmbedder(folder)(dd.from_pandas(FRAME, npartitions=1))


def test_dense_and_sparse_are_told_apart(folders: dict[str, Path], tmp_path: Path) -> None:
    lazy = dd.from_pandas(FRAME, npartitions=1)
    with pytest.raises(ValueError, match="use SparseEmbedder"):
        lazy.ml.embed("text", model=folders["max"])
    with pytest.raises(ValueError, match="saved as BertModel"):
        lazy.ml.embed_sparse("text", model=tiny.save("bert", tmp_path / "dense"))
    pooled = tiny.add_modules(headed.save("bert", "fill-mask", tmp_path / "pooled"))
    with pytest.raises(ValueError, match="gives dense vectors"):
        lazy.ml.embed_sparse("text", model=pooled)
