"""Vectors of tokens are those of `MultiVectorEncoder` of sentence-transformers."""

from __future__ import annotations

import json
import shutil
import string
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import torch
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.multi_vector_encoder.modules import (
    HierarchicalTokenPooling,
    MultiVectorMask,
)
from support import tiny
from support.contract import TEXTS, DataframeContract, values_of

import dask_embed as de

pytestmark = pytest.mark.usefixtures("one_torch_thread")
FRAME = pd.DataFrame({"text": pd.Series([*TEXTS, "a, b; c. d?"], dtype="str")})
GIVEN = FRAME["text"].dropna().tolist()
TOLERANCE = 1e-5
TOKENS = "token_embeddings"


def save(folder: Path, base: Path, *after: Any, **settings: Any) -> Path:
    """Write a multi-vector model on a transformer with these settings."""
    modules = [Transformer(str(base), **settings), *after]
    MultiVectorEncoder(modules=modules, device="cpu").save(str(folder))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("multi-vector")
    bert = tiny.save("bert", root / "base")
    torch.manual_seed(4)
    identity = torch.nn.Identity()
    dense = Dense(tiny.HIDDEN, 8, False, identity, module_input_name=TOKENS)
    second = Dense(8, 8, module_input_name=TOKENS, use_residual=True)
    unit, marks = Normalize(TOKENS), list(string.punctuation)
    fill = {"strategy": "fixed", "length": 12}
    found = {
        "plain": save(root / "plain", bert, MultiVectorMask()),
        "colbert": save(
            root / "colbert",
            bert,
            dense,
            unit,
            MultiVectorMask(marks),
            query_expansion=fill,
            document_length=20,
        ),
        "attends": save(
            root / "attends",
            bert,
            dense,
            second,
            MultiVectorMask(marks, skiplist_tasks=["query", "document"]),
            unit,
            query_expansion={"strategy": "min", "length": 12, "attend": True, "token": "[PAD]"},
            query_length=30,
        ),
        "min": save(
            root / "min",
            bert,
            dense,
            MultiVectorMask(keep_only_token_ids=list(range(40, 80))),
            query_expansion={"strategy": "min", "length": 9},
        ),
        "lengths": save(
            root / "lengths", bert, MultiVectorMask(), query_length=7, document_length=11
        ),
    }
    for name, prompts in (
        ("prompts", {"query": "what is ", "document": "it is "}),
        ("one-prompt", {"query": "what is ", "other": "any "}),
    ):
        found[name] = Path(shutil.copytree(found["colbert"], root / name))
        file = found[name] / "config_sentence_transformers.json"
        told = {"prompts": prompts, "default_prompt_name": "query"}
        file.write_text(json.dumps(json.loads(file.read_text()) | told))
    return found


NAMES = ("plain", "colbert", "attends", "min", "lengths", "prompts", "one-prompt")
CASES = [(name, side, {}) for name in NAMES for side in ("document", "query")]
CASES += [
    ("prompts", "query", {"prompt": "all of "}),
    ("one-prompt", "document", {"prompt_name": "other"}),
]


@pytest.mark.parametrize(("name", "side", "options"), CASES)
def test_vectors_are_those_of_the_library(
    folders: dict[str, Path], name: str, side: str, options: dict[str, Any]
) -> None:
    reference = MultiVectorEncoder(str(folders[name]), device="cpu")
    encode = getattr(reference, f"encode_{side}")
    expected = encode(GIVEN, convert_to_numpy=True, **options)
    out = de.MultiVectorEmbedder(folders[name], side=side, **options)(FRAME)
    assert out["token_embeddings"].isna().tolist() == FRAME["text"].isna().tolist()
    given = [row for row in values_of(out["token_embeddings"]) if row is not None]
    assert [len(row) for row in given] == [len(row) for row in expected]
    for row, vectors in zip(given, expected, strict=True):
        if len(vectors):
            np.testing.assert_allclose(np.array(row), vectors, rtol=0, atol=TOLERANCE)


def test_maxsim_finds_the_text_of_a_query(folders: dict[str, Path]) -> None:
    """Queries and documents of one frame each, as a search would have them."""
    documents = de.MultiVectorEmbedder(folders["colbert"])(FRAME).dropna()
    queries = de.MultiVectorEmbedder(folders["colbert"], side="query")(FRAME).dropna()
    reference = MultiVectorEncoder(str(folders["colbert"]), device="cpu")
    expected = reference.similarity(reference.encode_query(GIVEN), reference.encode_document(GIVEN))
    for row, query in enumerate(values_of(queries["token_embeddings"])):
        for column, document in enumerate(values_of(documents["token_embeddings"])):
            if document:
                scores = np.array(query) @ np.array(document).T
                assert scores.max(1).sum() == pytest.approx(float(expected[row, column]), abs=1e-4)


@pytest.mark.slow
class TestDocuments(DataframeContract):
    @pytest.fixture(scope="class")
    @classmethod
    def operator(cls, folders: dict[str, Path]) -> de.MultiVectorEmbedder:
        return de.MultiVectorEmbedder(folders["colbert"])


@pytest.mark.parametrize("npartitions", [1, 3])
def test_queries_do_not_depend_on_their_partition(
    folders: dict[str, Path], npartitions: int
) -> None:
    operator = de.MultiVectorEmbedder(folders["min"], side="query", batch_size=2)
    lazy = operator(dd.from_pandas(FRAME, npartitions=npartitions, sort=False))
    given = values_of(lazy.compute()["token_embeddings"])
    for row, value in zip(FRAME.itertuples(), given, strict=True):
        alone = values_of(operator(FRAME.iloc[row.Index : row.Index + 1])["token_embeddings"])[0]
        assert (value is None) == (alone is None)
        if value is not None:
            np.testing.assert_allclose(np.array(value), np.array(alone), rtol=0, atol=1e-5)


# ------------------------------------------------------------------------------------------ refused
def edited(folder: Path, to: Path, file: str, change: Any) -> Path:
    copy = Path(shutil.copytree(folder, to))
    path = copy / file
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    return copy


WHOLE, TRANSFORMER = "config_sentence_transformers.json", "sentence_bert_config.json"
REFUSED: list[tuple[str, Any, str]] = [
    (WHOLE, lambda c: c | {"model_type": "ColBERT"}, "model_type='ColBERT'"),
    (WHOLE, lambda c: c | {"query_prefix": "[Q] "}, "query_prefix"),
    (TRANSFORMER, lambda c: c | {"query_expansion": {"strategy": "all"}}, "strategy='all'"),
    (TRANSFORMER, lambda c: c | {"query_expansion": {"strategy": "fixed"}}, "strategy and length"),
    (
        TRANSFORMER,
        lambda c: c | {"query_expansion": {"strategy": "min", "length": 9, "token": "nowhere"}},
        "filled up with 'nowhere'",
    ),
    (TRANSFORMER, lambda c: c | {"query_length": 5}, "query_length=5, and fills"),
    (
        "modules.json",
        lambda c: [each for each in c if "Mask" not in each["type"]],
        "module_input_name='token_embeddings'",
    ),
    (
        "modules.json",
        lambda c: [
            *c,
            c[-1] | {"idx": 9, "type": c[-1]["type"].replace("MultiVectorMask", "LayerNorm")},
        ],
        "LayerNorm.*cannot be run in a multi-vector model",
    ),
]


@pytest.mark.parametrize(("file", "change", "says"), REFUSED)
def test_what_is_not_run_is_refused(
    folders: dict[str, Path], tmp_path: Path, file: str, change: Any, says: str
) -> None:
    folder = edited(folders["colbert"], tmp_path / "model", file, change)
    with pytest.raises(ValueError, match=says) as caught:
        dd.from_pandas(FRAME, npartitions=1).ml.embed_multi_vector(
            "text", model=folder, side="query"
        )
    assert "\n" not in str(caught.value)


def test_a_setting_of_a_version_to_come(folders: dict[str, Path], tmp_path: Path) -> None:
    known = {"skiplist_words", "skiplist_tasks", "keep_only_token_ids"}
    assert set(MultiVectorMask.config_keys) == known
    masks = [path.name for path in folders["colbert"].glob("*_MultiVectorMask")]
    files = (f"{masks[0]}/config.json", WHOLE, TRANSFORMER)
    for number, file in enumerate(files):
        changed = edited(
            folders["colbert"], tmp_path / str(number), file, lambda c: c | {"new_setting": 1}
        )
        with pytest.raises(ValueError, match=r"new_setting=1, which is not known"):
            de.MultiVectorEmbedder(changed)(FRAME)


def test_token_pooling_is_refused(tmp_path: Path) -> None:
    base = tiny.save("bert", tmp_path / "base")
    folder = save(tmp_path / "model", base, MultiVectorMask(), HierarchicalTokenPooling())
    with pytest.raises(ValueError, match="HierarchicalTokenPooling"):
        de.MultiVectorEmbedder(folder)(FRAME)


def test_kinds_of_models_are_told_apart(folders: dict[str, Path], tmp_path: Path) -> None:
    lazy = dd.from_pandas(FRAME, npartitions=1)
    with pytest.raises(ValueError, match="use MultiVectorEmbedder"):
        lazy.ml.embed("text", model=folders["colbert"])
    with pytest.raises(ValueError, match="no multi-vector model"):
        lazy.ml.embed_multi_vector("text", model=tiny.save("bert", tmp_path / "dense"))
    with pytest.raises(ValueError, match="queries of exactly 12 tokens"):
        lazy.ml.embed_multi_vector("text", model=folders["colbert"], side="query", max_length=9)
    with pytest.raises(ValueError, match="side must be"):
        lazy.ml.embed_multi_vector("text", model=folders["colbert"], side="doc")
