"""Similarities to prototypes are those of sentence-transformers' util."""

from __future__ import annotations

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import save_file
from sentence_transformers import SentenceTransformer, util
from support import tiny
from support.contract import values_of
from support.vector_contract import (
    DIMENSION,
    VECTORS,
    VectorContract,
    expected_rows,
    rows_of,
    vector_frame,
)

import dask_embed as de
from dask_embed.operators.vectors.similarity import Similarity

pytestmark = pytest.mark.usefixtures("one_torch_thread")

NAMES = ["north", "east", "süd", "west"]
PROTOTYPES = np.random.default_rng(2).normal(size=(4, DIMENSION)).astype("float32")
REFERENCE = {"cosine": util.cos_sim, "dot": util.dot_score, "euclidean": util.euclidean_sim}


def given_prototypes() -> dict[str, np.ndarray]:
    return dict(zip(NAMES, PROTOTYPES, strict=True))


CONFIGURATIONS = {
    "cosine": {},
    "dot": {"measure": "dot", "scores": "all", "score": "product"},
    "euclidean": {"measure": "euclidean", "scores": "all"},
}


class TestSimilarity(VectorContract):
    @pytest.fixture(scope="class", params=CONFIGURATIONS.values(), ids=CONFIGURATIONS)
    @classmethod
    def operator(cls, request):
        return Similarity(given_prototypes(), **request.param)

    @pytest.fixture(scope="class")
    @classmethod
    def expected(cls, operator):
        scores = REFERENCE[operator.measure](VECTORS, PROTOTYPES).numpy()
        return expected_rows(NAMES, scores, every=operator.scores is not None)


def test_small_distances_keep_their_digits() -> None:
    """Far from the origin, a distance by way of products would have none left."""
    far = np.array([[1000, 1000, 1000]], "float32")
    near = far + np.array([[0.003, 0, 0.004]], "float32")
    out = Similarity({"a": far[0], "b": [0, 0, 0]}, measure="euclidean")(vector_frame(near, None))
    wanted = -np.linalg.norm(near.astype("float64") - far.astype("float64"))
    assert out["nearest_score"][0] == pytest.approx(wanted, rel=1e-5)


def test_prototypes_of_a_file(tmp_path) -> None:
    """One tensor a name; a lazy frame keeps to the content that it was built with."""
    path = tmp_path / "prototypes.safetensors"
    save_file(given_prototypes(), path)
    for place in (path, str(path), tmp_path):
        out = Similarity(place, measure="euclidean")(vector_frame())
        assert values_of(out["nearest"]) == values_of(
            Similarity(given_prototypes(), measure="euclidean")(vector_frame())["nearest"]
        )
    lazy = Similarity(path)(dd.from_pandas(vector_frame(), npartitions=2))
    save_file({"other": PROTOTYPES[0]}, path)
    de.unload()
    with pytest.raises(ValueError, match=r"has another file .* than the job was built with"):
        lazy.compute()
    save_file({"a": PROTOTYPES[0], "b": PROTOTYPES[0, :3].copy()}, path)
    with pytest.raises(ValueError, match="prototypes must be vectors of one dimension"):
        Similarity(path)(vector_frame())


@pytest.mark.parametrize("kind", ["list", "tuple", "array", "tensor", "pairs"])
def test_any_sequence_of_numbers(kind) -> None:
    """However prototypes are given, the operator is the same plain value."""
    make = {"list": list, "tuple": tuple, "array": np.asarray, "tensor": torch.tensor}
    given = {name: make.get(kind, list)(vector) for name, vector in given_prototypes().items()}
    if kind == "pairs":
        given = tuple(given.items())
    assert Similarity(given) == Similarity(given_prototypes())
    assert hash(Similarity(given)) == hash(Similarity(given_prototypes()))


@pytest.mark.parametrize(
    ("prototypes", "options", "error", "message"),
    [
        ({}, {}, TypeError, "prototypes must map names to vectors"),
        ({"a": "text"}, {}, TypeError, "prototypes must map names to vectors"),
        ({3: [1.0]}, {}, TypeError, "prototypes must map names to vectors"),
        ({"a": [[1.0]]}, {}, TypeError, "prototypes must map names to vectors"),
        (
            {"north": [1.0, 2.0], "east": [np.nan, 8.125]},
            {},
            ValueError,
            "^prototype 'east' holds NaN or infinite numbers$",
        ),
        ({"a": [np.inf]}, {"measure": "dot"}, ValueError, "^prototype 'a' holds NaN or infinite"),
        (
            {"a": [1.0], "zero": [0.0]},
            {},
            ValueError,
            "^prototype 'zero' is zero, so it has no cos",
        ),
        ({"a": [1.0], "tiny": [1e-20]}, {}, ValueError, "^prototype 'tiny' is zero, so it has no"),
        (7, {}, TypeError, "prototypes must map names to vectors|not iterable"),
        ({"a": [1.0], "b": [1.0, 2.0]}, {}, ValueError, "must be of one dimension"),
        ({"a": []}, {}, ValueError, "must be of one dimension"),
        ([("a", [1.0]), ("a", [2.0])], {}, ValueError, "different names, got .'a', 'a'"),
        ({"a": [1.0]}, {"measure": "manhattan"}, ValueError, "measure must be one of"),
        ({"a": [1.0]}, {"revision": "local-1"}, ValueError, "revision is of a file"),
    ],
)
def test_bad_arguments(prototypes, options, error, message) -> None:
    with pytest.raises(error, match=message):
        Similarity(prototypes, **options)


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_files_of_numbers_that_are_not_finite(tmp_path, number) -> None:
    """Told on the client, with the name."""
    vectors = {"north": np.ones(DIMENSION, "float32"), "east": np.ones(DIMENSION, "float32")}
    vectors["east"][1] = number
    save_file(vectors, tmp_path / "p.safetensors")
    with pytest.raises(ValueError, match=r"tensor 'east' of .*p.safetensors' holds NaN or infinit"):
        Similarity(tmp_path)(dd.from_pandas(vector_frame(), npartitions=2))


def test_zero_prototypes(tmp_path) -> None:
    """They have no cosine, also those of a file; dot product and distance they have."""
    known = {"zero": np.zeros(DIMENSION, "float32"), **given_prototypes()}
    save_file(known, tmp_path / "p.safetensors")
    with pytest.raises(ValueError, match=r"tensor 'zero' of .*p.safetensors' is zero, so it has"):
        Similarity(tmp_path)(dd.from_pandas(vector_frame(), npartitions=2))
    for measure in ("dot", "euclidean"):
        from_file = Similarity(tmp_path, measure=measure)(vector_frame())
        given = Similarity(known, measure=measure)(vector_frame())
        assert values_of(from_file["nearest_score"]) == values_of(given["nearest_score"])


def test_prototypes_of_another_dimension() -> None:
    message = "'embedding' holds vectors of dimension 6; for the prototypes they must be of dimen"
    with pytest.raises(ValueError, match=message):
        Similarity({"a": [1.0]})(vector_frame())


def test_after_an_embedder(tmp_path, rows_through_model) -> None:
    """Prototypes of texts, vectors made in the same plan, and stored as float16."""
    model = str(tiny.save("bert", tmp_path / "bert"))
    reference = SentenceTransformer(model, device="cpu")
    known = dict(zip("abc", reference.encode(["x", "lists and sets", "four"]), strict=True))
    texts = ["Return the value.", "x", "one two three four five", "sets and lists", "four"]
    frame = pd.DataFrame({"id": range(5), "text": pd.Series(texts, dtype="str")})
    scores = util.cos_sim(reference.encode(texts), np.stack(list(known.values()))).numpy()
    assert len(set(scores.argmax(1))) == 3
    for precision, atol in (("float32", 1e-5), ("float16", 2e-3)):
        embedded = dd.from_pandas(frame, npartitions=2).ml.embed(model=model, precision=precision)
        operator = Similarity(known)
        given = []
        wanted = operator(embedded)[list(operator.result_columns)]
        assert rows_through_model(lambda: given.append(wanted.compute())) == 5  # noqa: B023
        rows = rows_of(operator, given[0])
        assert [row[0] for row in rows] == ["abc"[best] for best in scores.argmax(1)]
        np.testing.assert_allclose([row[1] for row in rows], scores.max(1), atol=atol)


def test_provenance_and_plan(tmp_path) -> None:
    operator = Similarity(given_prototypes(), measure="dot")
    told = operator.provenance()
    assert told.pop("prototypes").startswith("token-")
    assert told == {
        "operator": "Similarity",
        "input": ["embedding"],
        "measure": "dot",
        "names": NAMES,
        "revision": None,
    }
    assert operator.plan() == ["the prototypes", "dot to 4 prototypes (north, east, süd, west)"]
    save_file(given_prototypes(), tmp_path / "p.safetensors")
    told = Similarity(tmp_path).pinned().provenance()
    assert told["prototypes"] == str(tmp_path / "p.safetensors")
    assert told["revision"].startswith("local-")
    assert told["names"] == sorted(NAMES)
