"""A linear head gives what scikit-learn and torch give for the same weights."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import torch
from dask.tokenize import tokenize
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch
from sklearn.linear_model import LogisticRegression
from support import tiny
from support.contract import values_of
from support.vector_contract import (
    DIMENSION,
    NULLS,
    VALID,
    VECTORS,
    VectorContract,
    expected_rows,
    rows_of,
    vector_frame,
)

import dask_embed as de
from dask_embed.operators.vectors.linear_head import LinearHead
from dask_embed.operators.vectors.linear_weights import LinearWeights

pytestmark = pytest.mark.usefixtures("one_torch_thread")

LABELS = ("red", "green", "blue", "rot é")


def layer(labels: int = len(LABELS), seed: int = 0) -> torch.nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        linear = torch.nn.Linear(DIMENSION, labels)
        linear.weight.data.mul_(4)
    return linear.requires_grad_(False)


def logits_of(linear: torch.nn.Linear) -> np.ndarray:
    return linear(torch.from_numpy(VECTORS)).numpy()


ACTIVATIONS = {
    "softmax": lambda logits: torch.from_numpy(logits).softmax(-1).numpy(),
    "sigmoid": lambda logits: torch.from_numpy(logits).sigmoid().numpy(),
    "none": lambda logits: logits,
}


@pytest.fixture(scope="session")
def file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("head") / "head.safetensors"
    save_torch(layer().state_dict(), path, metadata={"labels": json.dumps(LABELS)})
    return path


CONFIGURATIONS = {
    "auto": {},
    "all scores": {"scores": "all", "score": "p"},
    "sigmoid": {"activation": "sigmoid", "scores": "all", "on_error": "raise"},
    "none": {"activation": "none"},
}


class TestLinearHead(VectorContract):
    @pytest.fixture(scope="class", params=CONFIGURATIONS.values(), ids=CONFIGURATIONS)
    @classmethod
    def operator(cls, request, file):
        return LinearHead(file, **request.param)

    @pytest.fixture(scope="class")
    @classmethod
    def expected(cls, operator):
        name = "softmax" if operator.activation == "auto" else operator.activation
        scores = ACTIVATIONS[name](logits_of(layer()))
        return expected_rows(list(LABELS), scores, every=operator.scores is not None)


def test_logistic_regression_of_scikit_learn(tmp_path) -> None:
    """Fitted on three classes, its own names of the arrays and its own probabilities."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(90, DIMENSION)).astype("float32")
    y = np.array(["a", "b", "c"])[np.argmax(x[:, :3] + rng.normal(size=(90, 3)) / 3, axis=1)]
    model = LogisticRegression(max_iter=500).fit(x, y)
    arrays = {"coef_": np.ascontiguousarray(model.coef_), "intercept_": model.intercept_}
    save_file(arrays, tmp_path / "any.safetensors")
    head = LinearHead(tmp_path, labels=tuple(model.classes_), scores="all")
    out = head(vector_frame(valid=None))
    assert values_of(out["label"]) == model.predict(VECTORS).tolist()
    assert len(set(model.predict(VECTORS))) == 3
    given = np.array([list(row.values()) for row in values_of(out["all"])])
    np.testing.assert_allclose(given, model.predict_proba(VECTORS), atol=1e-5)


def test_two_classes_of_scikit_learn(tmp_path) -> None:
    """It keeps one row for two classes, that of the second."""
    x = np.random.default_rng(4).normal(size=(60, DIMENSION)).astype("float32")
    model = LogisticRegression().fit(x, x[:, 0] > 0)
    save_file({"coef_": model.coef_, "intercept_": model.intercept_}, tmp_path / "x.safetensors")
    out = LinearHead(tmp_path, labels=("no", "yes"), scores="all")(vector_frame(valid=None))
    given = np.array([[row["no"], row["yes"]] for row in values_of(out["all"])])
    np.testing.assert_allclose(given, model.predict_proba(VECTORS), atol=1e-5)
    assert values_of(out["label"]) == np.where(model.predict(VECTORS), "yes", "no").tolist()
    with pytest.raises(ValueError, match="as its weight has rows, 1; got 2"):
        LinearHead(tmp_path, labels=("no", "yes"), activation="sigmoid")(vector_frame())


@pytest.mark.parametrize(
    ("config", "activation"),
    [
        ({}, "softmax"),
        ({"problem_type": "single_label_classification"}, "softmax"),
        ({"problem_type": "multi_label_classification"}, "sigmoid"),
        ({"problem_type": "regression"}, "none"),
    ],
)
def test_config_beside_the_weights(tmp_path, config, activation) -> None:
    """Labels and the kind of problem as transformers writes them; a prefix, and bfloat16."""
    names = {str(number): name for number, name in enumerate(LABELS)}
    shuffled = dict(sorted(names.items(), reverse=True))
    (tmp_path / "config.json").write_text(json.dumps({"id2label": shuffled, **config}))
    linear = layer().bfloat16()
    state = {f"classifier.{key}": value for key, value in linear.state_dict().items()}
    save_torch(state, tmp_path / "model.safetensors")
    scores = ACTIVATIONS[activation](logits_of(linear.float()))
    head = LinearHead(tmp_path, scores="all")
    given = rows_of(head, head(vector_frame()))
    for row, expected in enumerate(expected_rows(list(LABELS), scores, every=True)):
        assert given[row][0] == expected[0]
        if row not in NULLS:
            assert list(given[row][2].values()) == pytest.approx(scores[row].tolist(), abs=1e-5)


def test_no_bias_and_no_names(tmp_path) -> None:
    weight = layer(3).weight.numpy()
    save_file({"weight": weight}, tmp_path / "w.safetensors")
    out = LinearHead(tmp_path / "w.safetensors", activation="none")(vector_frame())
    logits = VECTORS @ weight.T
    wanted = [f"LABEL_{best}" if ok else None for best, ok in zip(logits.argmax(1), VALID)]  # noqa: B905
    assert values_of(out["label"]) == wanted


def test_single_label_is_sigmoid(tmp_path) -> None:
    linear = layer(1)
    save_torch(linear.state_dict(), tmp_path / "one.safetensors")
    out = LinearHead(tmp_path)(vector_frame(valid=None))
    wanted = ACTIVATIONS["sigmoid"](logits_of(linear))[:, 0]
    np.testing.assert_allclose(values_of(out["label_score"]), wanted, atol=1e-5)


def test_packed_signs_are_refused(tmp_path) -> None:
    """Their type is int8 as well, but of an eighth of the dimension."""
    save_file({"weight": np.ones((2, 16), "float32")}, tmp_path / "w.safetensors")
    packed = vector_frame(np.zeros((9, 2), "int8"))
    with pytest.raises(ValueError, match=r"dimension 2; .* of dimension 16; packed signs"):
        LinearHead(tmp_path)(packed)


@pytest.mark.parametrize(
    ("tensors", "options", "message"),
    [
        ({"other": (2, 6)}, {}, "must hold one tensor `weight`"),
        ({"a.weight": (2, 6), "b.weight": (2, 6)}, {}, "must hold one tensor `weight`"),
        ({"weight": (6,)}, {}, "must hold one tensor `weight`"),
        ({"weight": (2, 6), "bias": (3,)}, {}, "'bias' .* must be of shape"),
        ({"weight": (2, 6)}, {"labels": ("a", "b", "c")}, "as its weight has rows, 2; got 3"),
    ],
)
def test_unfit_files(tmp_path, tensors, options, message) -> None:
    """On the client, before anything runs."""
    arrays = {name: np.ones(shape, "float32") for name, shape in tensors.items()}
    save_file(arrays, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=message):
        LinearHead(tmp_path, **options)(dd.from_pandas(vector_frame(), npartitions=2))


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_numbers_that_are_not_finite(tmp_path, name) -> None:
    """Told on the client; other tensors of the file do not matter."""
    arrays = {"weight": np.ones((2, DIMENSION), "float32"), "bias": np.ones(2, "float32")}
    other = {"other": np.full(3, np.nan, "float32")}
    save_file(arrays | other, tmp_path / "w.safetensors")
    LinearHead(tmp_path)(dd.from_pandas(vector_frame(), npartitions=2))
    arrays[name].flat[1] = np.inf
    save_file(arrays, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=f"tensor '{name}' of .* holds NaN or infinite numbers"):
        LinearHead(tmp_path)(dd.from_pandas(vector_frame(), npartitions=2))


@pytest.mark.parametrize(
    ("metadata", "config", "options", "message"),
    [
        ({"labels": "a, b"}, {}, {}, "must be a json list, got 'a, b'"),
        ({"labels": '["a", "a"]'}, {}, {}, "must be different names"),
        ({}, {"id2label": {"one": "a", "two": "b"}}, {}, "must map numbers to names, got {'one'"),
        ({}, {"id2label": ["a", "b"]}, {}, "must map numbers to names, got .'a'"),
        ({}, {"id2label": {"0": "a", "1": "a"}}, {"scores": "all"}, "two are equal"),
    ],
)
def test_unfit_names(tmp_path, metadata, config, options, message) -> None:
    """Names in the files are looked at on the client."""
    arrays = {"weight": np.ones((2, DIMENSION), "float32")}
    save_file(arrays, tmp_path / "w.safetensors", metadata=metadata)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        LinearHead(tmp_path, **options)(dd.from_pandas(vector_frame(), npartitions=2))


def test_bad_arguments(tmp_path, file) -> None:
    for options, error, message in (
        ({"activation": "relu"}, ValueError, "activation must be one of"),
        ({"labels": ("a", "a")}, ValueError, "labels must be different names"),
        ({"labels": "ab"}, ValueError, "labels must be different names"),
        ({"score": "label"}, ValueError, "output columns must differ"),
        ({"column": 3.5}, TypeError, "column must be the name"),
    ):
        with pytest.raises(error, match=message):
            LinearHead(file, **options)
    with pytest.raises(TypeError, match=r"weights must be a safetensors file or folder, .*got 7"):
        LinearHead(7)
    for place, message in ((tmp_path, "0 of them"), (tmp_path / "none", "no file or folder")):
        with pytest.raises(ValueError, match=message):
            LinearHead(place)(vector_frame())
    (tmp_path / "bad.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="is not a safetensors file"):
        LinearHead(tmp_path)(vector_frame())


def test_pinned_to_its_content(tmp_path, file) -> None:
    """A lazy frame keeps to the weights that it was built with; a changed file is an error."""
    copy = tmp_path / "copy.safetensors"
    shutil.copy(file, copy)
    out = LinearHead(copy)(dd.from_pandas(vector_frame(), npartitions=2))
    save_torch(layer(seed=6).state_dict(), copy)
    de.unload()
    with pytest.raises(ValueError, match=r"has another file .* fingerprint is 'local-.* was ask"):
        out.compute()
    again = LinearHead(copy).pinned()
    assert again.revision != out.expr.operator.revision
    assert replace(again, revision=None).pinned() == again


def test_after_an_embedder(tmp_path, rows_through_model) -> None:
    """On embeddings that are made in the same plan: one forward, kept only where wanted."""
    model = str(tiny.save("bert", tmp_path / "bert"))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        linear = torch.nn.Linear(tiny.HIDDEN, 3).requires_grad_(False)
    save_torch(linear.state_dict(), tmp_path / "head.safetensors")
    texts = ["Return the value.", None, "x", "", "one two three four five", "lists and sets"]
    frame = pd.DataFrame({"id": range(6), "text": pd.Series(texts, dtype="str")})
    embedded = dd.from_pandas(frame, npartitions=2).ml.embed(model=model)
    out = LinearHead(tmp_path / "head.safetensors")(embedded)

    from sentence_transformers import SentenceTransformer

    present = [text for text in texts if text is not None]
    vectors = torch.from_numpy(SentenceTransformer(model, device="cpu").encode(present))
    wanted = linear(vectors).softmax(-1)
    given = []
    assert rows_through_model(lambda: given.append(out[["id", "label_score"]].compute())) == 5
    assert list(given[0].columns) == ["id", "label_score"]
    scores = given[0]["label_score"].dropna()
    np.testing.assert_allclose(scores.astype("float64"), wanted.max(-1).values, atol=1e-5)
    assert rows_through_model(lambda: given.append(out[["id", "embedding"]].compute())) == 5
    assert rows_through_model(lambda: given.append(out[["id"]].compute())) == 0
    assert rows_through_model(lambda: out.head(2)) == 1  # of two rows one is null


def test_provenance_and_plan(file) -> None:
    head = LinearHead(file, scores="all").pinned()
    assert head.provenance() == {
        "operator": "LinearHead",
        "input": ["embedding"],
        "weights": str(file),
        "revision": head.revision,
        "labels": list(LABELS),
        "activation": "softmax",
    }
    assert head.plan()[1] == "4 labels (red, green, blue, rot é), softmax of the logits"


def test_heads_that_show_the_same_have_names_of_their_own() -> None:
    """What Dask names tasks by tells all values, not only those that a head shows."""
    zeros = np.zeros(3, np.float32).tobytes()
    weight = np.eye(3, 4, dtype=np.float32).tobytes()
    heads = [
        de.LinearHead(LinearWeights(weight, zeros, (3, 4), ("a", "b", "c"), probable), column="v")
        for probable in (True, False)
    ]
    assert repr(heads[0]) == repr(heads[1])
    assert tokenize(heads[0]) != tokenize(heads[1])
