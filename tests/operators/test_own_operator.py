"""Operators of one's own: the example of the docs, its hooks, and what they may get wrong."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from support.contract import TEXTS, DataframeContract, shared_tiny_bert, values_of
from test_docs import blocks

import dask_embed as de
from dask_embed.accessor import DaskAccessor, FrameAccessor
from dask_embed.inference.forward import Forward
from dask_embed.runtime.stats import totals

pytestmark = pytest.mark.usefixtures("one_torch_thread")

# As an import would, so that copies of the operator find their class again.
exec(compile(blocks("own_operators.md")[0], "own_operators.md", "exec", dont_inherit=True))
KeyTokens: Any = globals()["KeyTokens"]


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return shared_tiny_bert(tmp_path_factory)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Everything(de.ModelOperator):
    """A column of every kind, made from the number of tokens; counts what it is asked."""

    column: str = "text"
    output: str = "count"
    wrong: str = ""

    @property
    def input_columns(self) -> tuple[str, ...]:
        return (self.column,)

    @property
    def result_columns(self) -> tuple[str, ...]:
        return (self.output, "word", "list", "struct", "vector")

    def output_types(self, checkpoint: Any) -> dict[str, pa.DataType]:
        types = (
            *(pa.int64(), pa.string(), pa.list_(pa.int32())),
            pa.struct([("n", pa.int16()), ("names", pa.list_(pa.string()))]),
            pa.list_(pa.float32(), 2),
        )
        return dict(zip(self.result_columns, types, strict=True))

    def forward(self, model: Any, tokens: Any) -> Any:
        lengths = tokens.lengths.tolist()
        return lengths[:-1] if self.wrong == "results" else lengths

    def postprocess(self, model: Any, chunk: Any) -> dict[str, Any]:
        counts = chunk.results
        structs = [{"n": n, "names": [f"{n}", None]} for n in counts]
        columns: tuple[Any, ...] = (
            np.array(counts),
            [f"{n} tokens" for n in counts],
            [list(range(n)) for n in counts],
            structs,
            [[n, -n] for n in counts],
        )
        if self.wrong == "values":
            columns = (counts[:-1], *columns[1:])
        names = self.result_columns[:-1] if self.wrong == "columns" else self.result_columns
        return dict(zip(names, columns, strict=False))


class TestKeyTokens(DataframeContract):
    @pytest.fixture(scope="class")
    @classmethod
    def operator(cls, tiny_bert: str) -> Any:
        return KeyTokens(tiny_bert, column="body")


class TestEverything(DataframeContract):
    @pytest.fixture(scope="class", params=[{"on_error": "null", "batch_size": 2}], ids=str)
    @classmethod
    def operator(cls, request: pytest.FixtureRequest, tiny_bert: str) -> Any:
        return Everything(tiny_bert, column="body", **request.param)


def test_the_example_is_right(tiny_bert: str) -> None:
    """Against transformers, one text at a time."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = (
        AutoTokenizer.from_pretrained(tiny_bert),
        AutoModel.from_pretrained(tiny_bert),
    )
    out = KeyTokens(tiny_bert)(pd.DataFrame({"text": pd.array(TEXTS, "str")}))
    for text, words, mean in zip(
        TEXTS, values_of(out["key_tokens"]), values_of(out["key_tokens_mean"]), strict=True
    ):
        if text is None:
            assert words is mean is None
            continue
        tokens = tokenizer(text, truncation=True, max_length=64, return_tensors="pt")
        with torch.inference_mode():
            vectors = model(**tokens).last_hidden_state[0].numpy()
        np.testing.assert_allclose(mean, vectors.mean(0), rtol=0, atol=1e-5)
        order = np.argsort(-(vectors @ vectors.mean(0)), kind="stable")[:3]
        assert words == tokenizer.convert_ids_to_tokens(tokens["input_ids"][0][order])


def test_load_runs_once(tiny_bert: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """For four partitions and a second frame; the class of every partition is the same."""
    loads = []
    load = KeyTokens.load
    monkeypatch.setattr(KeyTokens, "load", lambda *args: (loads.append(1), load(*args))[1])
    de.unload()
    operator = KeyTokens(tiny_bert)
    ddf = dd.from_pandas(pd.DataFrame({"text": ["some", "words", "in", "rows"]}), npartitions=4)
    operator(ddf).compute(scheduler="threads")
    operator(pd.DataFrame({"text": ["more"]}))
    assert len(loads) == 1


def test_repeats_run_once(tiny_bert: str) -> None:
    before = totals()
    Everything(tiny_bert)(pd.DataFrame({"text": ["a", "b", None, "a", "a"]}))
    after = totals()
    assert (after["rows"] - before["rows"], after["unique_rows"] - before["unique_rows"]) == (4, 2)


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ("results", "forward must give one result per sequence: 2 sequences, 1 results"),
        ("values", "postprocess must give one value per row: 2 rows, but 1 values of 'count'"),
        (
            "columns",
            r"postprocess must give the columns \['count', .*'vector'\], it gave \['count'",
        ),
    ],
)
def test_hooks_that_are_wrong(tiny_bert: str, wrong: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Everything(tiny_bert, wrong=wrong)(pd.DataFrame({"text": ["a", "b"]}))


def test_hooks_that_are_missing(tiny_bert: str) -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Half(de.ModelOperator):
        input_columns = property(lambda self: ("text",))

    with pytest.raises(TypeError, match="Half must define output_types"):
        Half(tiny_bert)(pd.DataFrame({"text": ["a"]}))


def test_three_columns_need_an_encode(tiny_bert: str) -> None:
    """The default takes one text or a pair, and must not drop the rest."""

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Three(Everything):
        input_columns = property(lambda self: ("a", "b", "c"))

    with pytest.raises(TypeError, match="Three reads 3 columns; encode takes one or a pair"):
        Three(tiny_bert)

    class Joined(Three):
        def encode(self, runner: Any, rows: Any) -> Any:
            return super().encode(runner, [(" ".join(row),) for row in rows])

    frame = pd.DataFrame({"a": ["x"], "b": ["y"], "c": ["z"]})
    assert Joined(tiny_bert)(frame)["count"].tolist() == [5]  # and [CLS], [SEP]


def test_too_long_is_one_row(tiny_bert: str) -> None:
    """on_long="error" costs the row that is too long, and names the limit."""
    frame = pd.DataFrame({"text": ["one two", "one " * 20, "two"]})
    out = Everything(tiny_bert, max_length=8, on_long="error", on_error="null")(frame)
    assert out["count"].isna().tolist() == [False, True, False]
    assert out["count_error"][1] == "it has more than 8 tokens, and on_long='error'"
    with pytest.raises(ValueError, match=r"row 1 of the partition .* more than 8 tokens"):
        Everything(tiny_bert, max_length=8, on_long="error")(frame)


@pytest.fixture
def names() -> Any:
    """Take the names that a test registers away again."""
    before = set(vars(FrameAccessor))
    yield
    for name in set(vars(FrameAccessor)) - before:
        delattr(FrameAccessor, name)


def test_register_operator(names: None, tiny_bert: str) -> None:
    """The method takes the operator's arguments as others do, on pandas and, lazily, on Dask."""
    assert de.register_operator("every", Everything) is Everything
    de.register_operator("every", Everything)
    frame = pd.DataFrame({"text": ["a", None, "b c"]})
    expected = Everything(tiny_bert, output="n")(frame)["n"].tolist()
    assert frame.ml.every("text", model=tiny_bert, output="n")["n"].tolist() == expected
    told = [*inspect.signature(frame.ml.every).parameters.values()]
    assert told[0].name == "column"
    assert {each.kind for each in told[1:]} == {told[1].KEYWORD_ONLY}
    with pytest.raises(TypeError, match=r"^\.ml\.every needs model=, as in \.ml\.every\(column, "):
        frame.ml.every("text")
    lazy = dd.from_pandas(frame, npartitions=2).ml.every(model=tiny_bert, output="n")
    assert lazy["n"].compute().tolist() == expected
    assert DaskAccessor.every.__doc__ == Everything.__doc__


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ratio(de.ColumnOperator):
    """Two columns, neither of which comes first, and no model."""

    above: str
    below: str
    output: str = "ratio"

    @property
    def input_columns(self) -> tuple[str, ...]:
        return self.above, self.below

    @property
    def result_columns(self) -> tuple[str, ...]:
        return (self.output,)


def test_an_operator_without_a_column_is_told_by_name(names: None) -> None:
    de.register_operator("ratio", Ratio)
    frame = pd.DataFrame({"a": [1], "b": [2]})
    assert str(inspect.signature(frame.ml.ratio)).startswith("(*, ")
    with pytest.raises(TypeError, match=r"^\.ml\.ratio takes its arguments by name, got 'a' by "):
        frame.ml.ratio("a", below="b")
    with pytest.raises(TypeError, match=r"^\.ml\.ratio needs above=, as in \.ml\.ratio\(above="):
        frame.ml.ratio()


@pytest.mark.parametrize(
    ("name", "operator", "kind", "problem"),
    [
        ("embed", Everything, ValueError, "'embed' is taken"),
        ("to_parquet", Everything, ValueError, "'to_parquet' is taken"),
        ("_frame", Everything, ValueError, "'_frame' is taken"),
        ("two words", Everything, ValueError, "a Python name, got 'two words'"),
        ("class", Everything, ValueError, "a Python name, got 'class'"),
        ("fine", len, TypeError, "a subclass of dask_embed.ModelOperator, got <built-in"),
        ("fine", dict, TypeError, "a subclass of dask_embed.ModelOperator, got <class 'dict'>"),
    ],
)
def test_register_operator_refuses(
    names: None, name: str, operator: Any, kind: type[Exception], problem: str
) -> None:
    with pytest.raises(kind, match=problem):
        de.register_operator(name, operator)


def test_another_class_may_not_take_a_name(names: None) -> None:
    de.register_operator("mine", Everything)
    with pytest.raises(ValueError, match="'mine' is taken"):
        de.register_operator("mine", KeyTokens)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_batches_are_filled_up_where_it_is_said(
    tiny_bert: str, monkeypatch: pytest.MonkeyPatch, side: str
) -> None:
    """`forward` has nothing to do for it."""
    sides = set()
    padded = Forward.padded

    def seen(self: Forward, tokens: Any, side: str = "right", **options: Any) -> Any:
        sides.add(side)
        return padded(self, tokens, side, **options)

    model = de.Model(tiny_bert, attention="padded")
    frame = pd.DataFrame({"text": pd.array(TEXTS, "str")})
    KeyTokens(model)(frame)  # the model is loaded, and tried on both sides
    monkeypatch.setattr(Forward, "padded", seen)
    KeyTokens(model, padding_side=side)(frame)
    assert sides == {side}


def test_equal_sequences_run_once(tiny_bert: str) -> None:
    """Texts of which the tokenizer makes the same; each keeps a result of its own."""
    operator = Everything(tiny_bert)
    texts = ["two words", "two  words", " Two words", "x", None, "two words"]
    before = totals()
    out = operator(pd.DataFrame({"text": pd.array(texts, "str")}))
    after = totals()
    assert [after[name] - before[name] for name in ("rows", "unique_rows")] == [5, 2]
    alone = [operator(pd.DataFrame({"text": [text]}))["count"][0] for text in ("two words", "x")]
    assert values_of(out["count"]) == [*[alone[0]] * 3, alone[1], None, alone[0]]


def test_three_hooks_are_all_there_is() -> None:
    """Of every model operator: none goes a way of its own past the hooks that it inherits."""
    from dask_embed import operators

    classes = [getattr(operators, name) for name in operators.__all__]
    base = de.ModelOperator
    some = [each for each in classes if issubclass(each, base) and each is not base]
    assert len(some) > 8
    for each in some:
        assert each.run is base.run
        assert each.forward is not base.forward
        assert each.postprocess is not base.postprocess


def test_an_operator_that_names_no_column_is_told_when_it_is_made() -> None:
    with pytest.raises(TypeError, match="ModelOperator must define input_columns"):
        de.ModelOperator("no/model")
