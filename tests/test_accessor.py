"""Options of ``.ml`` that are not there are named, with those that are."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
from typing import Any

import accessor_stub
import dask.dataframe as dd
import pandas as pd
import pytest

import dask_embed as de
from dask_embed import operators
from dask_embed.accessor import DaskAccessor, FrameAccessor

FRAME = pd.DataFrame({"text": ["a"]})
OPERATORS = [getattr(operators, name) for name in operators.__all__]
METHODS = {each.method: each.__name__ for each in OPERATORS if getattr(each, "method", "")}
STEPS = [name for name in vars(DaskAccessor) if not name.startswith("_")]
METHODS["chunk"] = "Chunker"
METHODS["score"] = "PerplexityScorer"


def first(method: str) -> str:
    """Return the argument that says what an operator runs."""
    return next(iter(inspect.signature(getattr(de, METHODS[method])).parameters))


def test_every_method_is_tried() -> None:
    assert {name for name in vars(FrameAccessor) if not name.startswith("_")} >= set(METHODS)


def test_stub_for_type_checkers_is_what_the_methods_take() -> None:
    """And Python can read it; mypy does, with the package."""
    ast.parse(accessor_stub.text())
    told = "run `python tests/accessor_stub.py` to write it again"
    assert accessor_stub.STUB.read_text("utf8") == accessor_stub.text(), told


@pytest.mark.parametrize(("method", "operator"), METHODS.items())
def test_unknown_options(method: str, operator: str) -> None:
    """Also those that another operator has; nothing is read."""
    given: dict[str, Any] = {first(method): "not there", "on_eror": "null"}
    says = rf"^{operator} has no option 'on_eror' \(did you mean 'on_error'\?\); its options are "
    with pytest.raises(TypeError, match=says) as raised:
        getattr(FRAME.ml, method)(**given)
    named = str(raised.value).partition("its options are ")[2].split(", ")
    assert {"on_error", "column", "output", first(method)} <= set(named)
    assert "self" not in named


@pytest.mark.parametrize(
    ("method", "says"),
    [
        ("embedd", r"did you mean 'embed'\?\); its methods are answer, "),
        ("encode", "use embed"),
        ("ner", "use classify_tokens"),
        ("cluster", "here; give it a Dask DataFrame"),
        ("to_parquet", "here; give it a Dask DataFrame"),
        ("drop_fuzzy_duplicates", "here; give it a Dask DataFrame"),
        ("__array__", "its methods are"),
    ],
)
def test_unknown_methods(method: str, says: str) -> None:
    with pytest.raises(AttributeError, match=rf"^\.ml has no method '{method}'.*{says}"):
        getattr(FRAME.ml, method)


@pytest.mark.parametrize(
    ("method", "operator"), [each for each in METHODS.items() if each[0] != "score"]
)
def test_signatures_and_docstrings_are_those_of_the_operators(method: str, operator: str) -> None:
    """What Jupyter completes and shows; what the method reads comes first, by place or by name."""
    bound = getattr(FRAME.ml, method)
    told = inspect.signature(bound).parameters
    expected = dict(inspect.signature(getattr(de, operator)).parameters)
    first, *rest = told.values()
    assert first.name == ("prompt" if method == "generate" else "column")
    assert all(each.kind is each.KEYWORD_ONLY for each in rest)
    assert set(expected) <= set(told)
    for name, parameter in expected.items():
        assert told[name].default == parameter.default
        assert told[name].annotation == parameter.annotation
    assert bound.__name__ == method
    assert inspect.getdoc(bound).startswith(inspect.getdoc(getattr(de, operator)).split("\n\n")[0])
    assert "Parameters\n" in inspect.getdoc(bound)


def test_scores_are_one_method_of_three_operators() -> None:
    """It has the options of all; which operator it is, they say, and defaults are that one's."""
    told = inspect.signature(FRAME.ml.score).parameters
    kinds = (de.CandidateScorer, de.PerplexityScorer, de.NextTokenScorer)
    names = set().union(*(inspect.signature(kind).parameters for kind in kinds))
    assert set(told) == names
    for name in ("output", "candidates", "candidates_column", "top_k_next"):
        assert told[name].default is None
        assert "None" in told[name].annotation
    documentation = inspect.getdoc(FRAME.ml.score)
    for name in names - {"model"}:
        assert re.search(rf"^(\w+, )*{name}(, \w+)* : |\b{name}\b", documentation, re.MULTILINE)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"candidates": ["a"], "top_k_next": 2}, "give one of candidates and top_k_next, not both"),
        ({"candidates": ["a"], "stride": 2}, "stride=2 does not apply with candidates="),
        ({"top_k_next": 1, "stride": 2}, "stride=2 does not apply with top_k_next="),
        ({"scores": "s"}, "scores='s' does not apply without candidates= or candidates_column="),
        ({"normalize": "mean"}, "normalize='mean' does not apply without candidates= or "),
    ],
    ids=repr,
)
def test_options_of_another_kind_of_score(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        FRAME.ml.score("text", model="not there", **options)


@pytest.mark.parametrize("kind", ["exact", "fuzzy", "semantic"])
def test_a_step_that_lacks_its_column_names_itself(kind: str) -> None:
    method = f"drop_{kind}_duplicates"
    with pytest.raises(TypeError, match=rf"^{method}\(\) "):
        getattr(dd.from_pandas(FRAME, npartitions=1).ml, method)("text", 0.5)


@pytest.mark.parametrize("method", STEPS)
def test_steps_tell_each_of_their_parameters(method: str) -> None:
    """In the order that they are given in, also those that one leaves to another."""
    bound = getattr(dd.from_pandas(FRAME, npartitions=1).ml, method)
    documentation = inspect.getdoc(bound)
    told = documentation.partition("Parameters\n")[2].partition("\nReturns\n")[0]
    heads = re.findall(r"^(\w[^:\n]*) : ", told, re.MULTILINE)
    kinds = inspect.signature(bound).parameters.values()
    names = [each.name for each in kinds if each.kind is not each.VAR_KEYWORD]
    assert re.findall(r"\w+", " ".join(heads)) == ["frame", *names]
    assert "See `" not in told


def test_late_chunks_are_part_of_the_method() -> None:
    """Its options are those of both operators."""
    told = inspect.signature(FRAME.ml.chunk).parameters
    both = {**inspect.signature(de.Chunker).parameters}
    both |= inspect.signature(de.LateChunkEmbedder).parameters
    assert set(told) == {*both, "late"}
    assert inspect.getdoc(FRAME.ml.chunk).index("late : bool") < inspect.getdoc(
        FRAME.ml.chunk
    ).index("Notes\n")


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda ml: ml.embed("text", "m"), r"write \.ml\.embed\('text', model='m'\)"),
        (lambda ml: ml.similarity("v", [1.0]), r"\.ml\.similarity\('v', prototypes=\[1\.0\]\)"),
        (lambda ml: ml.embed("text"), r"^\.ml\.embed needs model="),
        (lambda ml: ml.linear_head(), r"^\.ml\.linear_head needs weights="),
        (lambda ml: ml.embed("a", column="b", model="m"), "got column twice, 'a' and 'b'"),
        (lambda ml: ml.chunk("text", "m", late=True), r"\.ml\.chunk\('text', model='m'\)"),
    ],
)
def test_arguments_by_place(call: Any, says: str) -> None:
    with pytest.raises(TypeError, match=says):
        call(FRAME.ml)


@pytest.mark.parametrize("frame", [FRAME, dd.from_pandas(FRAME, npartitions=1)], ids=str)
def test_a_column_says_what_to_write(frame: Any) -> None:
    with pytest.raises(AttributeError, match=r"write frame\.ml\.classify\('text', \.\.\.\)"):
        frame["text"].ml.classify(model="m")
    with pytest.raises(AttributeError, match=r"no method 'encode'; .*frame\.ml\.embed\('text'"):
        frame["text"].ml.encode()
    assert "frame.ml.embed('text'" in repr(frame["text"].ml)
    unnamed = frame["text"].rename(None).ml
    assert repr(unnamed).startswith(".ml is of dataframes: write frame.ml.embed(column, ...)")


def test_the_accessor_shows_its_methods() -> None:
    lines = repr(FRAME.ml).splitlines()
    assert lines[0] == f".ml of DataFrame: {len(METHODS)} methods"
    assert {line.split()[0] for line in lines[1:]} == set(METHODS)
    assert all(len(line.split()) > 3 for line in lines[1:])
    assert FRAME.ml._repr_html_().count("<tr>") == len(METHODS)
    lazy = dd.from_pandas(FRAME, npartitions=1).ml
    assert "  to_parquet " in repr(lazy)


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (de.Model("m"), "Model('m')"),
        (de.Model("m", dtype="float32"), "Model('m', dtype='float32')"),
        (de.Embedder("m"), "Embedder('m')"),
        (
            de.Embedder("m", column="a", on_error="null"),
            "Embedder('m', on_error='null', column='a')",
        ),
        (de.Embedder(de.Model("m", device="cpu")), "Embedder(Model('m', device='cpu'))"),
        (de.Similarity({"a": [1.0, 2.0], "b": [0.0, 1.0]}), "Similarity(<2 x 2>)"),
        (de.Classifier("m", top_k=None), "Classifier('m')"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_reprs_show_what_differs_from_the_defaults(made: Any, expected: str) -> None:
    assert repr(made) == expected
    assert made._repr_html_().startswith(f"<table><caption>{type(made).__name__}</caption>")


def test_a_repr_is_escaped_in_html() -> None:
    assert "<b>" not in de.Embedder("m", prompt="<b>")._repr_html_()


def test_a_repr_of_ones_own_stays() -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Own(de.Embedder):
        def __repr__(self) -> str:
            return "mine"

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Heir(Own):
        more: int = 0

    assert [repr(Own("m")), repr(Heir("m"))] == ["mine", "mine"]


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
