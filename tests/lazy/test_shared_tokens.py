"""Operators of different kinds on one column share its tokens where they tokenize alike.

What a tokenizer was given is counted; results are those of each operator on a frame of its own,
and of transformers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from support import headed, tiny
from support.contract import assert_same_frame, lazy, values_of
from support.pairs import join_pairs
from test_sharing import applied, explained, operators_of, ran

import dask_embed as de
from dask_embed.lazy.append import AppendColumns
from dask_embed.operators.fused import parts_of, tokens_key
from dask_embed.operators.model import ModelOperator

pytestmark = pytest.mark.usefixtures("one_torch_thread")

LONG = "lists, sets and dicts of tables, lazily read; " * 4
# Unsorted lengths, repeats, nulls, an empty string, a text of several windows.
TEXTS = ["Return the value.", None, "x", LONG, "Return the value.", "", "ünïcode 漢字", None, "x"]
OTHERS = ["a", "b", "", LONG, "a", "c", None, "d", ""]
UNIQUE = list(dict.fromkeys(text for text in TEXTS if text is not None))
LIMIT = 12
LABELS = ["O", "B-one", "I-one", "B-two"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Checkpoints of all heads with one tokenizer, of most two; two language models with theirs."""
    folder = tmp_path_factory.mktemp("models")
    ids: Any = dict(enumerate(LABELS))
    nli = {0: "contradiction", 1: "entailment"}
    made = {"embed": tiny.save("bert", folder / "embed")}
    for seed in (0, 1):
        for task, settings in {
            "classify-tokens": {"id2label": ids},
            "classify": {"id2label": nli, "label2id": {name: n for n, name in nli.items()}},
            "answer": {},
            "fill-mask": {},
        }.items():
            name = f"{task} {seed}"
            made[name] = headed.save("bert", task, folder / name, seed=seed, **settings)
        made[f"lm {seed}"] = headed.save("llama", "causal-lm", folder / f"lm {seed}", seed=seed)
    for path in made.values():
        if "lm" not in path.name:
            join_pairs(path)
    return {name: str(path) for name, path in made.items()}


def frame_of() -> pd.DataFrame:
    texts, others = (pd.array(column, "string[pyarrow]") for column in (TEXTS, OTHERS))
    return pd.DataFrame({"id": range(len(TEXTS)), "text": texts, "other": others})


def spans(models: Any, number: int, **options: Any) -> de.TokenClassifier:
    options = {"max_length": LIMIT, "stride": 3, "output": f"spans {number}", **options}
    return de.TokenClassifier(models[f"classify-tokens {number}"], **options)


def zero_shot(models: Any, number: int, **options: Any) -> de.ZeroShotClassifier:
    options = {"labels": ["red", "blue"], "output": f"topic {number}", **options}
    return de.ZeroShotClassifier(models[f"classify {number}"], **options)


def answer(models: Any, number: int, **options: Any) -> de.QuestionAnswerer:
    options = {"question": "who?", "max_length": 20, "stride": 4, **options}
    return de.QuestionAnswerer(models[f"answer {number}"], output=f"answer {number}", **options)


WINDOWS: Any = {"windows": True, "stride": 3, "offsets": "places", "max_length": LIMIT}
PAIRED = len({pair for pair in zip(TEXTS, OTHERS, strict=True) if None not in pair})

# Name to operators that share, and how many texts or pairs are tokenized.
SHARING: dict[str, tuple[Callable[[Any], list[Any]], int]] = {
    "ids and vectors": (
        lambda m: [
            de.Tokenizer(m["classify 0"], max_length=LIMIT),
            de.Embedder(m["embed"], max_length=LIMIT),
        ],
        len(UNIQUE),
    ),
    "whole ids": (
        lambda m: [de.Tokenizer(m["embed"]), de.Tokenizer(m["answer 0"], output="again")],
        len(UNIQUE),
    ),
    "labels, ids and fills": (
        lambda m: [
            de.Classifier(m["classify 0"], max_length=LIMIT),
            de.Tokenizer(m["embed"], max_length=LIMIT),
            de.MaskFiller(m["fill-mask 0"], max_length=LIMIT, on_error="null"),
        ],
        len(UNIQUE),
    ),
    "windows": (lambda m: [spans(m, 0), spans(m, 1, aggregation="average")], len(UNIQUE)),
    "windows and ids": (
        lambda m: [de.Tokenizer(m["embed"], **WINDOWS), spans(m, 0, aggregation="simple")],
        len(UNIQUE),
    ),
    "offsets": (
        lambda m: [
            spans(m, 0, stride=None),
            de.Tokenizer(m["embed"], offsets="places", max_length=LIMIT),
        ],
        len(UNIQUE),
    ),
    "hypotheses": (
        lambda m: [zero_shot(m, 0), zero_shot(m, 1, labels=["blue", "red"], multi_label=True)],
        2 * len(UNIQUE),
    ),
    "answers": (lambda m: [answer(m, 0), answer(m, 1, top_k=2)], len(UNIQUE) + 1),
    "perplexity": (
        lambda m: [
            de.PerplexityScorer(m["lm 0"], output="first", stride=5),
            de.NextTokenScorer(m["lm 1"], output="second", top_k_next=2, on_error="null"),
            de.Tokenizer(m["lm 0"], special_tokens=False),
        ],
        len(UNIQUE),
    ),
    "prompts": (
        lambda m: [
            de.PerplexityScorer(m["lm 0"], output="first", prompt="{other}: {text}"),
            de.PerplexityScorer(m["lm 1"], output="second", prompt="{other}: {text}"),
        ],
        PAIRED,
    ),
    "pairs": (
        lambda m: [
            de.Classifier(m["classify 0"], pair="other", output="first"),
            de.Classifier(m["classify 1"], pair="other", output="second"),
        ],
        PAIRED,
    ),
    "ranks": (
        lambda m: [
            de.Reranker(m["classify 0"], query="which?", output="first"),
            de.Reranker(m["classify 1"], query="which?", output="second"),
        ],
        len(UNIQUE),
    ),
}


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("name", SHARING)
def test_what_is_alike_is_tokenized_once(models, name, backwards) -> None:
    """Every operator gives what it gives alone, and each text was tokenized for the first."""
    build, tokenized = SHARING[name]
    operators = build(models)[:: -1 if backwards else 1]
    frame = frame_of()
    expected = applied(frame, operators)  # also builds the tokenizers, some of which try theirs
    out = applied(dd.from_pandas(frame, npartitions=1), operators)
    assert operators_of(out) == [[operator.output for operator in operators]]
    found = ran(out.compute)
    assert found["tokenized"] == tokenized
    assert_same_frame(found["result"], expected)
    (line,) = [line for line in explained(out) if line.startswith("2. run")]
    assert line.endswith("in one pass: texts are tokenized once")
    assert all(f"{type(operator).__name__} on " in line for operator in operators)


# What is no way to share: of each pair the tokens differ.
APART: dict[str, Callable[[Any], list[Any]]] = {
    "special tokens": lambda m: [
        de.Embedder(m["embed"]),
        de.Tokenizer(m["embed"], max_length=tiny.POSITIONS, special_tokens=False),
    ],
    "limit": lambda m: [de.Embedder(m["embed"]), de.Tokenizer(m["embed"])],
    "what is too long": lambda m: [
        de.Embedder(m["embed"], max_length=LIMIT),
        de.Tokenizer(m["embed"], max_length=LIMIT, on_long="error", on_error="null"),
    ],
    "prompt": lambda m: [
        de.Embedder(m["embed"], prompt="a "),
        de.Tokenizer(m["embed"], max_length=tiny.POSITIONS),
    ],
    "stride": lambda m: [spans(m, 0), spans(m, 1, stride=2)],
    "no windows": lambda m: [spans(m, 0), spans(m, 1, stride=None)],
    "no offsets": lambda m: [spans(m, 0), de.Tokenizer(m["embed"], **{**WINDOWS, "offsets": None})],
    "labels": lambda m: [zero_shot(m, 0), zero_shot(m, 1, labels=["red", "green"])],
    "template": lambda m: [zero_shot(m, 0), zero_shot(m, 1, hypothesis_template="It is {}.")],
    "question": lambda m: [answer(m, 0), answer(m, 1, question="what?")],
    "query": lambda m: [
        de.Reranker(m["classify 0"], query="which?", output="first"),
        de.Reranker(m["classify 1"], query="where?", output="second"),
    ],
    "prompts": lambda m: [
        de.PerplexityScorer(m["lm 0"], output="first", prompt="{text}"),
        de.PerplexityScorer(m["lm 1"], output="second", prompt="It is {text}"),
    ],
    "empty pairs": lambda m: [
        de.Classifier(m["classify 0"], pair="other"),
        de.Tokenizer(m["embed"], pair="other", max_length=tiny.POSITIONS),
    ],
}


@pytest.mark.parametrize("name", APART)
def test_what_is_not_alike_runs_apart(models, name) -> None:
    operators, frame = APART[name](models), frame_of()
    out = applied(dd.from_pandas(frame, npartitions=1), operators)
    assert operators_of(out) == [[operator.output] for operator in operators]
    assert_same_frame(out.compute(), applied(frame, operators))


# -------------------------------------------------------------------------------------- references
def test_ids_and_vectors_are_those_of_transformers(models) -> None:
    """Through the accessor, as one would write it."""
    model, frame = models["embed"], frame_of()
    ddf = dd.from_pandas(frame, npartitions=1)
    out = ddf.ml.tokenize("text", model=model, max_length=LIMIT).ml.embed(
        "text", model=model, max_length=LIMIT
    )
    found = ran(out.compute)
    assert found["tokenized"] == len(UNIQUE)
    result = found["result"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    reference = transformers.AutoModel.from_pretrained(model).eval()
    rows = zip(TEXTS, values_of(result["tokens"]), values_of(result["embedding"]), strict=True)
    for text, ids, vector in rows:
        if text is None:
            assert ids is vector is None
            continue
        tokens = tokenizer(text, truncation=True, max_length=LIMIT, return_tensors="pt")
        assert ids == tokens["input_ids"][0].tolist()
        with torch.inference_mode():
            expected = reference(**tokens).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(vector, expected, atol=1e-5)


def test_windows_are_those_of_transformers(models) -> None:
    """Ids, offsets, and the spans of its pipeline, from windows that were cut once."""
    operators = [
        spans(models, 0, aggregation="simple", output="first"),
        de.Tokenizer(models["embed"], **WINDOWS),
        spans(models, 1, aggregation="simple", output="second"),
    ]
    found = ran(applied(dd.from_pandas(frame_of(), npartitions=1), operators).compute)
    assert found["tokenized"] == len(UNIQUE)
    result = found["result"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(models["embed"])
    options: Any = {"truncation": True, "max_length": LIMIT, "stride": 3}
    for text, ids, places in zip(
        TEXTS, values_of(result["tokens"]), values_of(result["places"]), strict=True
    ):
        if text is None:
            assert ids is places is None
            continue
        encoded = tokenizer(
            text, return_overflowing_tokens=True, return_offsets_mapping=True, **options
        )
        assert ids == encoded["input_ids"]
        given = [[(each["start"], each["end"]) for each in window] for window in places]
        assert given == encoded["offset_mapping"]
        assert (len(ids) > 3) is (text == LONG)
    for number, name in enumerate(("first", "second")):
        folder = models[f"classify-tokens {number}"]
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, model_max_length=LIMIT)
        model = transformers.AutoModelForTokenClassification.from_pretrained(folder).eval()
        pipeline = transformers.pipeline(
            "token-classification",
            model=model,
            tokenizer=tokenizer,
            aggregation_strategy="simple",
            stride=3,
        )
        assert _places(result[name]) == [
            None if text is None else [(e["entity_group"], e["start"], e["end"]) for e in row]
            for text, row in zip(TEXTS, [t and pipeline(t) for t in TEXTS], strict=True)
        ]


def _places(column: pd.Series) -> list[Any]:
    return [
        row if row is None else [(e["label"], e["start"], e["end"]) for e in row]
        for row in values_of(column)
    ]


# ---------------------------------------------------------------------- nothing runs that need not
@pytest.mark.parametrize("name", ["ids and vectors", "windows and ids", "answers"])
def test_one_that_is_not_wanted_does_not_run(models, name) -> None:
    """The other runs by itself, and shares with nobody."""
    build, _ = SHARING[name]
    operators, frame = build(models), frame_of()
    out = applied(dd.from_pandas(frame, npartitions=1), operators)
    for operator in operators:
        wanted = out[["id", operator.output]]
        assert operators_of(wanted) == [[operator.output]]
        (node,) = wanted.optimize(fuse=False).expr.find_operations(AppendColumns)
        assert type(node.operator) is type(operator)
        assert_same_frame(wanted.compute(), applied(frame, [operator])[wanted.columns])


def test_a_filter_between_keeps_them_apart(models) -> None:
    """The second sees only the rows that are left."""

    def filtered(frame: Any) -> Any:
        counted = de.Tokenizer(models["embed"], max_length=LIMIT)(frame)
        kept = counted[counted.tokens_count > 3]
        return de.Embedder(models["embed"], max_length=LIMIT)(kept)

    expected = filtered(frame_of())
    out = filtered(dd.from_pandas(frame_of(), npartitions=1))
    assert operators_of(out) == [["tokens"], ["embedding"]]
    found = ran(out.compute)
    assert 0 < len(expected) < len(UNIQUE)
    assert found["tokenized"] == len(UNIQUE) + len(expected)
    assert_same_frame(found["result"], expected)


# ---------------------------------------------------------------------------------- rows that fail
LONG_ROWS: Any = {"max_length": LIMIT, "on_long": "error"}


def failing(models: Any, name: str, on_error: str) -> list[Any]:
    options: Any = {**LONG_ROWS, "on_error": on_error}
    if name == "texts":
        return [de.Tokenizer(models["embed"], **options), de.Embedder(models["embed"], **options)]
    return [
        spans(models, 0, stride=None, **options),
        de.Tokenizer(models["embed"], offsets="places", **options),
        spans(models, 1, stride=None, **options),
    ]


@pytest.mark.parametrize("name", ["texts", "offsets"])
def test_rows_that_fail(models, name) -> None:
    """What is no text, and what is too long: messages in each, or the whole raises."""
    texts = pd.Series(["x", 7, None, LONG, "two", LONG], dtype=object)
    frame = pd.DataFrame({"text": texts})
    quiet = failing(models, name, "null")
    out = applied(lazy([frame]), quiet)
    assert operators_of(out) == [[operator.output for operator in quiet]]
    found = ran(out.compute)
    assert found["tokenized"] == 3
    result = found["result"].drop(columns="text")
    assert_same_frame(result, applied(frame, quiet).drop(columns="text"))
    long = f"it has more than {LIMIT} tokens, and on_long='error'"
    for operator in quiet:
        assert result[operator.output].isna().tolist() == [False, True, True, True, False, True]
        messages = values_of(result[operator.error_column])
        assert [messages[row] for row in (0, 2, 3, 4, 5)] == [None, None, long, None, long]
        assert "int is not text" in messages[1]
    good = lazy([frame.drop(1)])
    for number in range(len(quiet)):
        mixed = [*quiet]
        mixed[number] = dataclasses.replace(quiet[number], on_error="raise")
        with pytest.raises(ValueError, match=rf"row 2 of the partition .*: {long} \(2 such rows\)"):
            applied(good, mixed).compute()


# --------------------------------------------------------------------------- operators of one's own
class Plain(ModelOperator):
    """It encodes as all do."""

    @property
    def input_columns(self) -> tuple[str, ...]:
        return ("text",)


class OwnEncode(de.Classifier):
    def encode(self, runner: Any, rows: Any) -> Any:
        return super().encode(runner, [(row[0].upper(),) for row in rows])


class UpperCase:
    """No operator: its `encode` comes before that of the operator that it is put before."""

    def encode(self, runner: Any, rows: Any) -> Any:
        return de.Classifier.encode(self, runner, [(row[0].upper(),) for row in rows])


class Mixed(UpperCase, de.Classifier):
    pass


class OwnRun(de.Embedder):
    def run(self, columns: Any, **options: Any) -> Any:
        return super().run(columns, **options)


class OwnRead(de.Tokenizer):
    def read(self, series: Any) -> Any:
        return super().read(series.str.upper())


class OwnKey(OwnEncode):
    def tokens_key(self) -> Any:
        return "upper case"


def test_a_key_that_is_inherited_does_not_speak_of_what_is_not(models) -> None:
    """An operator that reads or encodes in a way of its own says what it shares, or nothing."""
    plain = tokens_key(Plain(models["embed"]))
    assert plain is not None
    assert plain == tokens_key(de.Embedder(models["embed"]))
    assert tokens_key(OwnEncode(models["classify 0"])) is None
    assert tokens_key(Mixed(models["classify 0"])) is None
    assert tokens_key(OwnRead(models["embed"])) is None
    assert tokens_key(OwnKey(models["classify 0"])) == "upper case"
    assert tokens_key(OwnRun(models["embed"])) == plain
    assert de.Embedder(models["embed"]).forward_key() is not None
    assert OwnRun(models["embed"]).forward_key() is None
    lists = de.CandidateScorer(models["lm 0"], candidates_column="lists")
    assert tokens_key(lists) is None
    operators = [de.Classifier(models["classify 0"]), OwnEncode(models["classify 1"], output="own")]
    out = applied(dd.from_pandas(frame_of(), npartitions=1), operators)
    nodes = out.optimize(fuse=False).expr.find_operations(AppendColumns)
    assert [len(parts_of(node.operator)) for node in nodes] == [1, 1]
    assert_same_frame(out.compute(), applied(frame_of(), operators))
