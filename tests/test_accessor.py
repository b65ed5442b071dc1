"""Options of ``.ml`` that are not there are named, with those that are."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

import dask_embed as de
from dask_embed.accessor import FrameAccessor

FRAME = pd.DataFrame({"text": ["a"]})
METHODS = {
    "embed": "Embedder",
    "classify": "Classifier",
    "classify_zero_shot": "ZeroShotClassifier",
    "classify_tokens": "TokenClassifier",
    "rerank": "Reranker",
    "fill_mask": "MaskFiller",
    "answer": "QuestionAnswerer",
    "score": "Scorer",
    "generate": "Generator",
    "tokenize": "Tokenizer",
    "chunk": "Chunker",
    "linear_head": "LinearHead",
    "similarity": "Similarity",
}
FIRST = {"linear_head": "weights", "similarity": "prototypes"}


def test_every_method_is_tried() -> None:
    assert {name for name in vars(FrameAccessor) if not name.startswith("_")} >= set(METHODS)


@pytest.mark.parametrize(("method", "operator"), METHODS.items())
def test_unknown_options(method: str, operator: str) -> None:
    """Also those that another operator has; nothing is read."""
    given: dict[str, Any] = {FIRST.get(method, "model"): "not there", "on_eror": "null"}
    says = rf"^{operator} has no option 'on_eror' \(did you mean 'on_error'\?\); its options are "
    with pytest.raises(TypeError, match=says) as raised:
        getattr(FRAME.ml, method)(**given)
    named = str(raised.value).partition("its options are ")[2].split(", ")
    assert {"on_error", "column", "output", FIRST.get(method, "model")} <= set(named)
    assert "self" not in named


@pytest.mark.parametrize(
    ("method", "says"),
    [
        ("embedd", r"did you mean 'embed'\?\); its methods are answer, "),
        ("encode", "use embed"),
        ("ner", "use classify_tokens"),
        ("to_parquet", "Dask DataFrame"),
        ("__array__", "its methods are"),
    ],
)
def test_unknown_methods(method: str, says: str) -> None:
    with pytest.raises(AttributeError, match=rf"^\.ml has no method '{method}'.*{says}"):
        getattr(FRAME.ml, method)


def test_a_column_that_is_misspelt() -> None:
    with pytest.raises(TypeError, match=r"'colum' \(did you mean 'column'\?\)"):
        FRAME.ml.embed("text", model="not there", colum="t")


def test_options_of_an_operator_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that it declares, or any where it takes any."""

    class Shorter(de.Tokenizer):
        pass

    class Anything(de.Tokenizer):
        def __init__(self, **options: Any) -> None:
            raise RuntimeError(f"got {options}")

    for name, operator in (("shorter", Shorter), ("anything", Anything)):
        monkeypatch.setattr(FrameAccessor, name, None, raising=False)
        monkeypatch.delattr(FrameAccessor, name)
        de.register_operator(name, operator)
    try:
        with pytest.raises(TypeError, match=r"^Shorter has no option 'max_lenth' \(did you mean"):
            FRAME.ml.shorter("not there", max_lenth=3)
        with pytest.raises(RuntimeError, match=r"got \{'more': 3\}"):
            FRAME.ml.anything(more=3)
    finally:
        del FrameAccessor.shorter, FrameAccessor.anything
