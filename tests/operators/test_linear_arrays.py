"""Linear heads from scikit-learn and from arrays, and prototypes from an array."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import replace

import dask.dataframe as dd
import numpy as np
import pytest
from dask.base import tokenize
from support.contract import values_of
from support.vector_contract import DIMENSION, VECTORS, vector_frame

import dask_embed as de

linear_model = pytest.importorskip("sklearn.linear_model")
svm = pytest.importorskip("sklearn.svm")
CLASSIFIERS = {
    "logistic": linear_model.LogisticRegression(),
    "svc": svm.LinearSVC(),
    "ridge": linear_model.RidgeClassifier(),
    "sgd hinge": linear_model.SGDClassifier(random_state=0),
    "sgd log loss": linear_model.SGDClassifier(loss="log_loss", random_state=0),
    "no intercept": linear_model.LogisticRegression(fit_intercept=False),
}
CLASSES = {"two": np.array([7, 3]), "three": np.array(["b", "a", "c"])}


@pytest.mark.parametrize("on_dask", [False, True], ids=["pandas", "Dask"])
@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_classifiers_of_scikit_learn(kind: str, classes: str, on_dask: bool) -> None:
    """Labels of predict; scores of predict_proba where they are the softmax, else the decision."""
    names = CLASSES[classes]
    random = np.random.default_rng(5)
    given = random.normal(size=(90, DIMENSION)).astype("float32")
    fitted = CLASSIFIERS[kind].fit(given, names[np.arange(90) % len(names)])
    frame = vector_frame(valid=None)
    frame = dd.from_pandas(frame, npartitions=2) if on_dask else frame
    out = frame.ml.linear_head(weights=fitted, scores="all")
    out = out.compute() if on_dask else out
    assert out["label"].tolist() == [str(name) for name in fitted.predict(VECTORS)]
    rows = np.array([list(row.values()) for row in values_of(out["all"])])
    assert list(values_of(out["all"])[0]) == [str(name) for name in fitted.classes_]
    if kind in ("logistic", "no intercept") or (kind, classes) == ("sgd log loss", "two"):
        np.testing.assert_allclose(rows, fitted.predict_proba(VECTORS), atol=1e-5)
    else:
        decision = fitted.decision_function(VECTORS)
        rows = rows[:, 1] if classes == "two" else rows
        np.testing.assert_allclose(rows, decision, atol=1e-4, rtol=1e-4)
    np.testing.assert_array_equal(out["label_score"], out["all"].map(lambda row: max(row.values())))


def test_arrays() -> None:
    """A matrix with and without a bias, by hand; names as they are given."""
    weight, bias = np.eye(2, DIMENSION), [0.5, -0.5]
    logits = VECTORS @ weight.T.astype("float32") + np.float32(bias)
    out = de.LinearHead((weight, bias), labels=("x", "y"), activation="none")(
        vector_frame(valid=None)
    )
    assert out["label"].tolist() == np.array(["x", "y"])[logits.argmax(axis=1)].tolist()
    np.testing.assert_allclose(out["label_score"], logits.max(axis=1), atol=1e-6)
    plain = de.LinearHead(weight.tolist())
    assert list(plain.names()) == ["LABEL_0", "LABEL_1"]


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        (5, TypeError, "weights must be a safetensors file"),
        (None, TypeError, "weights must be a safetensors file"),
        ([["a"]], TypeError, "a fitted classifier with coef_"),
        (([[1.0, 2.0]], [1.0, 2.0]), TypeError, "a tuple of it and a bias"),
        ([[np.nan, 1.0]], ValueError, "NaN or infinite"),
        (np.zeros((600, 512)), ValueError, "1.2 MiB.*save_file"),
    ],
)
def test_what_is_no_linear_layer(weights, error, message: str) -> None:
    with pytest.raises(error, match=message):
        de.LinearHead(weights)


def test_identity() -> None:
    """The content tells operators apart, in every process; it is not printed."""
    weight = np.arange(3.0 * DIMENSION).reshape(3, DIMENSION)
    head, near = de.LinearHead(weight), de.Similarity(weight + 1)
    for operator in (head, near):
        copy = pickle.loads(pickle.dumps(operator))
        assert copy == operator
        assert hash(copy) == hash(operator)
        assert tokenize(copy) == tokenize(operator)
        assert len(repr(operator)) < 300
    assert tokenize(de.LinearHead(weight * 2)) != tokenize(head)
    assert replace(head, weights=weight * 2).pinned().revision != head.pinned().revision
    code = (
        "import numpy as np, dask_embed as de; from dask.base import tokenize;"
        f"print(tokenize(de.LinearHead(np.arange(3.0 * {DIMENSION}).reshape(3, {DIMENSION}))))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == tokenize(head)


def test_prototypes_as_rows_of_an_array() -> None:
    """Named by their numbers, and otherwise as a mapping gives them."""
    array = np.random.default_rng(2).normal(size=(3, DIMENSION))
    named = {str(number): row for number, row in enumerate(array)}
    assert de.Similarity(array) == de.Similarity(array.tolist()) == de.Similarity(named)
    out = de.Similarity(array, measure="dot")(vector_frame(valid=None))
    assert out["nearest"].tolist() == [str(best) for best in (VECTORS @ array.T).argmax(axis=1)]
