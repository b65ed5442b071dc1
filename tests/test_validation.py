"""Values in messages are short and in one line, whatever they are; validators name the argument."""

from __future__ import annotations

import dataclasses
import inspect
import pickle
from collections.abc import Callable
from typing import Any

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from dask.base import tokenize
from support.contract import needed

import dask_embed as de
from dask_embed import _options, _validation, config, operators
from dask_embed._validation import shown


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


class Lines:
    def __repr__(self) -> str:
        return "one\ntwo"


@pytest.mark.parametrize(
    "value",
    [
        "x" * 1000,
        "a\nb\r\x00",
        b"x" * 1000,
        [*range(1000)],
        {str(number): number for number in range(1000)},
        {"a": [[[[[1]]]]]},
        np.full((2, 384), np.nan),
        [np.zeros((9, 9))] * 9,
        pd.Series(range(1000)),
        pd.DataFrame({"a": range(99)}),
        10**6000,
        Unprintable(),
        Lines(),
        "\ud800",
    ],
    ids=lambda value: type(value).__name__,
)
def test_any_value_is_short_and_in_one_line(value: Any) -> None:
    text = shown(value)
    assert 0 < len(text) <= 160
    assert text == " ".join(text.split()) or isinstance(value, str)
    assert not {"\n", "\r", "\x00"} & set(text)


def test_short_values_are_shown_as_they_are() -> None:
    for value in (None, True, 1, 1.5, "text", ["a", "b"], {"a": 1}, np.float32(1.5)):
        assert shown(value) == repr(value)


def test_of_arrays_and_frames_the_shape_is_shown() -> None:
    assert shown(np.zeros((2, 3))) == "numpy.ndarray of shape (2, 3), type float64"
    assert shown(pd.Series(["a"], dtype=object)) == "pandas.Series of shape (1,), type object"
    assert shown(pd.DataFrame({"a": [1]})) == "pandas.DataFrame of shape (1, 1)"


@pytest.mark.parametrize("value", [1, 0, "False", "True", None, np.True_, [True]])
def test_what_is_merely_truthy_is_no_boolean(value: Any) -> None:
    with pytest.raises(TypeError, match=r"^flag must be True or False, got"):
        _validation.boolean("flag", value)


@pytest.mark.parametrize("value", ["text", b"text", None, 5, {"a"}, ["a", 1], np.zeros((2, 2))])
def test_what_is_no_sequence_of_strings_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match=r"^labels must be a sequence of strings, got"):
        _validation.strings("labels", value)


def test_sequences_of_strings_become_tuples() -> None:
    for given in (["a", "b"], ("a", "b"), np.array(["a", "b"]), pd.Series(["a", "b"])):
        assert _validation.strings("labels", given) == ("a", "b")


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("device", "model=dask_embed.Model(name, device=...)"),
        ("dimensions", "the option is called truncate_dim"),
        ("show_progress_bar", "with dask_embed.progress():"),
        ("return_all_scores", "top_k='all'"),
        ("normalize_embeddings", "the option is called normalize"),
        ("token", "HF_TOKEN"),
        ("output_value", "pooling='none'"),
        ("padding", "padding changes no result"),
        ("hf_token", "HF_TOKEN"),
        ("load_in_8bit", "model=dask_embed.Model(name, quantization=...)"),
        ("sort_by_length", "rows keep their order"),
    ],
)
def test_options_of_other_libraries_are_told_ours(option: str, says: str) -> None:
    with pytest.raises(TypeError, match=f"Embedder has no option '{option}'; ") as caught:
        _options.known_options(
            "Embedder", [option], ["model", "truncate_dim", "normalize", "output"]
        )
    assert says in str(caught.value)
    assert "its options are" not in str(caught.value)


@pytest.mark.parametrize(
    ("option", "allowed", "ours"),
    [
        ("max_tokens", ["max_length", "max_new_tokens"], "max_new_tokens"),
        ("max_tokens", ["max_length"], "max_length"),
        ("chunk_overlap", ["max_tokens", "overlap"], "overlap"),
        ("doc_stride", ["max_length", "stride"], "stride"),
        ("model_identifier", ["model", "column"], "model"),
        ("text_field", ["model", "column"], "column"),
        ("embedding_field", ["output"], "output"),
        ("torch_dtype", ["dtype"], "dtype"),
    ],
)
def test_an_option_is_told_the_one_that_the_operator_has(
    option: str, allowed: list[str], ours: str
) -> None:
    with pytest.raises(TypeError, match=f"; the option is called {ours}$"):
        _options.known_options("Operator", [option], allowed)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: de.Embedder("no/model", device="cuda"), "say it of the model"),
        (lambda: de.Embedder("no/model", colum="text"), "did you mean 'column'"),
        (lambda: de.Chunker("no/model", chunk_size=9), "the option is called max_tokens"),
        (lambda: de.LinearHead("no file", device="cpu"), "its options are"),
        (lambda: de.Model("no/model", torch_dtype="float16"), "the option is called dtype"),
        (lambda: de.Model("no/model", hf_token="x"), "HF_TOKEN"),
        (lambda: de.Model("no/model", pooling="mean"), "dask_embed.Embedder(model, pooling=...)"),
        (lambda: de.Model("no/model", max_seq_length=9), "(model, max_length=...)"),
        (lambda: de.describe_model("no/model", device="cpu"), "say it of the model"),
        (lambda: de.quantize(None, "a", "int8", range=0), "did you mean 'ranges'"),
        (lambda: de.Classifier("no/model", candidate_labels=["a"]), "ZeroShotClassifier"),
    ],
)
def test_classes_tell_their_options(call: Callable[[], Any], says: str) -> None:
    with pytest.raises(TypeError, match=r"has no option '\w+'") as caught:
        call()
    assert says in str(caught.value)


def test_options_of_the_model_are_options_of_it() -> None:
    assert set(_options._OF_MODEL) <= {field.name for field in dataclasses.fields(de.Model)}


NO_OPTIONS = {"datasets", "plot", "unload", "read_parquet"}


@pytest.mark.parametrize("name", sorted({*de.__all__} - NO_OPTIONS))
def test_everything_public_tells_its_options(name: str) -> None:
    """Before anything else, and with a signature that is still that of its own arguments."""
    public = getattr(de, name)
    names = list(inspect.signature(public).parameters)
    assert names
    assert not {"args", "options", "self"} & set(names)
    with pytest.raises(TypeError, match=rf"^{name} has no option 'no_such'; its options are ") as e:
        public(no_such=1)
    assert str(e.value).endswith(", ".join(names))


def test_an_operator_with_a_constructor_of_its_own_tells_its_options() -> None:
    class Mine(de.Tokenizer):
        def __init__(self, folder: str, *, speed: int = 1) -> None:
            super().__init__(folder)

    assert list(inspect.signature(Mine).parameters) == ["folder", "speed"]
    with pytest.raises(TypeError, match=r"^Mine has no option 'sped' \(did you mean 'speed'\?\); "):
        Mine("a", sped=2)
    assert Mine("a", speed=2).model == de.Model("a")


def test_a_misspelt_option_is_meant() -> None:
    with pytest.raises(TypeError, match="did you mean 'normalize'") as caught:
        _options.known_options("Embedder", ["normalise"], ["truncate_dim", "normalize"])
    assert "its options are truncate_dim, normalize" in str(caught.value)


def test_labels_with_braces_are_not_the_templates_fault() -> None:
    """The template holds {}; what labels hold is text."""
    classifier = de.ZeroShotClassifier("no/model", labels=["{}", "set {x}"])
    assert classifier.labels == ("{}", "set {x}")


OF_SUBJECTS: dict[str, dict[str, Any]] = {
    "Model": {"name": "x"},
    "KMeans": {},
    **{
        name: {
            **(
                {"model": "x"} if "model" in inspect.signature(getattr(de, name)).parameters else {}
            ),
            **needed(getattr(de, name)),
        }
        for name in operators.__all__
        if not inspect.isabstract(getattr(de, name)) and name not in ("LinearHead", "ModelOperator")
    },
}
NUMBERS = [
    *((3, kind(3)) for kind in (np.int64, np.int8, np.uint16)),
    *((0.5, kind(0.5)) for kind in (np.float64, np.float32, np.float16)),
    ("abc", np.str_("abc")),
]


@pytest.mark.parametrize("name", OF_SUBJECTS)
def test_numbers_of_numpy_are_kept_as_those_of_python(name: str) -> None:
    """What is kept is equal, has the same token, and is pickled and printed as if it were."""
    cls, good = getattr(de, name), OF_SUBJECTS[name]
    tried = 0
    for argument in inspect.signature(cls).parameters:
        for plain, of_numpy in NUMBERS:
            try:
                expected = cls(**{**good, argument: plain})
            except (TypeError, ValueError):
                continue
            made = cls(**{**good, argument: of_numpy})
            assert made == expected
            assert repr(made) == repr(expected)
            assert pickle.dumps(made) == pickle.dumps(expected)
            assert tokenize(made) == tokenize(expected)
            tried += 1
    assert tried


def test_numbers_of_numpy_within_options() -> None:
    given = {"num_hidden_layers": np.int64(2), "rope": (np.float32(0.5), (np.int8(1),))}
    plain = {"num_hidden_layers": 2, "rope": (0.5, (1,))}
    made, expected = de.Model("x", model_kwargs=given), de.Model("x", model_kwargs=plain)
    assert pickle.dumps(made) == pickle.dumps(expected)
    memory = {"device_map": "auto", "max_memory": {np.int64(0): "1GiB"}}
    assert de.Model("x", **memory) == de.Model("x", device_map="auto", max_memory={0: "1GiB"})
    labels = de.ZeroShotClassifier("x", labels=list(np.array(["a", "b"])))
    assert tokenize(labels) == tokenize(de.ZeroShotClassifier("x", labels=["a", "b"]))
    with dask.config.set({"embed.cached-vectors-bytes": np.int64(5)}):
        assert type(config.get("cached-vectors-bytes")) is int


STEPS: dict[str, Callable[..., Any]] = {
    "k": lambda frame, k: frame.ml.nearest(frame, column="v", k=k),
    "n_probe": lambda frame, k: frame.ml.nearest(
        frame, 1, column="v", engine="faiss", n_probe=k, n_lists=k
    ),
    "n_clusters": lambda frame, k: frame.ml.cluster("v", n_clusters=k, seed=k),
    "num_perm": lambda frame, k: frame.ml.mark_fuzzy_duplicates("t", num_perm=64 * k, ngram=k),
    "dropped": lambda frame, k: frame.ml.drop_fuzzy_duplicates("t", threshold=k / 10, ngram=k),
    "threshold": lambda frame, k: frame.ml.mark_semantic_duplicates("v", threshold=k / 10),
}


@pytest.mark.parametrize("step", STEPS)
def test_steps_take_numbers_of_numpy(step: str) -> None:
    vectors = pd.arrays.ArrowExtensionArray(pa.array([[1.0, 2.0]] * 4, pa.list_(pa.float32(), 2)))
    frame = dd.from_pandas(pd.DataFrame({"t": ["a"] * 4, "v": vectors}), npartitions=2)
    assert STEPS[step](frame, np.int64(2))._name == STEPS[step](frame, 2)._name
