"""Operators on the same column run in one pass: tokenized once, and one forward where it serves.

What ran is counted; results are those of transformers, or of each operator on a frame of its own.
"""

from __future__ import annotations

import io
import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cloudpickle
import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from support import headed, tiny
from support.contract import QUICK, assert_same_frame, cut, lazy, values_of
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

import dask_embed as de
from dask_embed.lazy.append import AppendColumns, Settled
from dask_embed.models.checkpoint import read_checkpoint
from dask_embed.models.tokenizer_files import tokenizer_fingerprint
from dask_embed.operators.fused import Together, parts_of
from dask_embed.operators.vectors.linear_head import LinearHead
from dask_embed.operators.vectors.similarity import Similarity
from dask_embed.runtime.stats import records, totals

pytestmark = pytest.mark.usefixtures("one_torch_thread")

# Unsorted lengths, a repeat in another partition and one in the same, nulls, an empty string.
TEXTS = [
    *("Return the value.", None, "x", "Return the value.", "", "one two three four five"),
    *("ünïcode 漢字 tables", "x", None, "lists, sets and dicts of them", "x", "a decimal"),
]
PRESENT = [text for text in TEXTS if text is not None]
UNIQUE = list(dict.fromkeys(PRESENT))


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, str]:
    """Two encoders and a classifier with one tokenizer; another encoder with its own."""
    folder = tmp_path_factory.mktemp("models")
    made = {
        "first": tiny.save("bert", folder / "first"),
        "second": headed.save("bert", "classify", folder / "second", num_labels=3),
        "regression": headed.save("bert", "classify", folder / "one", num_labels=2, seed=4),
        "roberta": tiny.save("roberta", folder / "roberta"),
    }
    return {name: str(path) for name, path in made.items()}


@pytest.fixture
def frame() -> pd.DataFrame:
    count = len(TEXTS)
    return pd.DataFrame(
        {
            "id": range(count),
            "lang": ["en", "de"] * (count // 2),
            "text": TEXTS,
        }
    ).astype({"lang": "string[pyarrow]", "text": "string[pyarrow]"})


@pytest.fixture
def ddf(frame) -> dd.DataFrame:
    return dd.from_pandas(frame, npartitions=1)


def ran(work: Any) -> dict[str, int]:
    """Compute and return what was counted meanwhile, and the result."""
    before = totals()
    result = work()
    counts = {name: count - before[name] for name, count in totals().items()}
    return {**counts, "result": result}


def applied(frame: Any, operators: Any) -> Any:
    for operator in operators:
        frame = operator(frame)
    return frame


def operators_of(frame: dd.DataFrame) -> list[list[str]]:
    """The outputs of each operator that runs, first step first."""
    plan = frame.optimize(fuse=False).expr
    nodes = list(plan.find_operations(AppendColumns))
    return [[part.output for part in parts_of(node.operator)] for node in reversed(nodes)]


def tokens_of(model: str, texts: list[str]) -> int:
    return sum(map(len, AutoTokenizer.from_pretrained(model)(texts)["input_ids"]))


# ------------------------------------------------------------------------------------ one forward
def test_two_poolings_from_one_forward(models, ddf) -> None:
    """Both are transformers' own, and the model saw each distinct text once."""
    out = applied(
        ddf,
        [
            de.Embedder(models["first"], output="mean", pooling="mean"),
            de.Embedder(models["first"], output="cls", pooling="cls", normalize=True),
        ],
    )
    assert operators_of(out) == [["mean", "cls"]]
    found = ran(out.compute)
    assert found["tokens"] == tokens_of(models["first"], UNIQUE)
    assert found["rows"] == len(PRESENT)
    assert found["unique_rows"] == found["tokenized"] == len(UNIQUE)
    assert list(found["result"].columns) == ["id", "lang", "text", "mean", "cls"]
    tokenizer = AutoTokenizer.from_pretrained(models["first"])
    model = AutoModel.from_pretrained(models["first"]).eval()
    for text, mean, cls in zip(TEXTS, *(found["result"][c] for c in ("mean", "cls")), strict=True):
        if text is None:
            assert mean is cls is pd.NA
            continue
        with torch.inference_mode():
            hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        np.testing.assert_allclose(mean, hidden.mean(0), atol=1e-5)
        np.testing.assert_allclose(cls, hidden[0] / hidden[0].norm(), atol=1e-5)


EMBEDDERS = {
    "mean": {},
    "cls": {"pooling": "cls"},
    "short": {"truncate_dim": 8},
    "signs": {"precision": "binary"},
    "small": {"precision": "float16"},
    "int8": {"precision": "int8", "ranges": [[-3.0] * 32, [3.0] * 32]},
    "max": {"pooling": ("max", "mean"), "batch_size": 2},
    "quiet": {"on_error": "null", "tokens_per_batch": 64},
    "again": {},
}


def test_every_reduction_from_one_forward(models, ddf, frame) -> None:
    """Batches, precision and what becomes of errors may differ; equal vectors are shared."""
    embedders = [
        de.Embedder(models["first"], output=name, **{"normalize": True, **options})
        for name, options in EMBEDDERS.items()
    ]
    out = applied(ddf, embedders)
    assert operators_of(out) == [list(EMBEDDERS)]
    found = ran(out.compute)
    assert found["tokens"] == tokens_of(models["first"], UNIQUE)
    assert list(found["result"].columns) == list(out.columns)
    assert_same_frame(found["result"], applied(frame, embedders))
    same = [found["result"][name].array._pa_array.chunk(0) for name in ("mean", "again")]
    addresses = [array.values.buffers()[1].address for array in same]
    assert addresses[0] == addresses[1]


@pytest.mark.parametrize(
    "other",
    [
        {"max_chars": 3},
        {"prompt": "query: "},
        {"max_length": 5},
        {"on_long": "error"},
        {"column": "lang"},
        {"model": "roberta"},
    ],
    ids=str,
)
def test_what_has_other_tokens_runs_apart(models, ddf, frame, other) -> None:
    """Another text, limit, tokenizer or column: two operators, each as on its own."""
    options = dict(other)
    second = de.Embedder(models[options.pop("model", "first")], output="second", **options)
    operators = [de.Embedder(models["first"]), second]
    out = applied(ddf, operators)
    assert operators_of(out) == [["embedding"], ["second"]]
    assert_same_frame(out.compute(), applied(frame, operators))


def test_token_vectors_share_tokens_but_no_forward(models, ddf, frame) -> None:
    operators = [
        de.Embedder(models["first"], output="all", pooling="none"),
        de.Embedder(models["first"], output="mean"),
    ]
    found = ran(applied(ddf, operators).compute)
    assert found["tokenized"] == len(UNIQUE)
    assert found["rows"] == 2 * len(PRESENT)
    assert_same_frame(found["result"], applied(frame, operators))


# ------------------------------------------------------------------------------------ tokens once
def test_a_classifier_uses_the_tokens_of_an_embedder(models, ddf) -> None:
    """Tokenized once, two forward passes; labels and vectors are those of transformers."""
    operators = [de.Embedder(models["first"]), de.Classifier(models["second"], scores="all")]
    out = applied(ddf, operators)
    assert operators_of(out) == [["embedding", "label"]]
    found = ran(out.compute)
    assert found["tokenized"] == len(UNIQUE)
    assert found["tokens"] == 2 * tokens_of(models["first"], UNIQUE)
    tokenizer = AutoTokenizer.from_pretrained(models["second"])
    model = AutoModelForSequenceClassification.from_pretrained(models["second"]).eval()
    labels = set()
    for text, label, score in zip(
        TEXTS, values_of(found["result"]["label"]), found["result"]["label_score"], strict=True
    ):
        if text is None:
            assert label is None
            continue
        with torch.inference_mode():
            scores = model(**tokenizer(text, return_tensors="pt")).logits[0].softmax(-1)
        assert label == model.config.id2label[int(scores.argmax())]
        assert score == pytest.approx(float(scores.max()), abs=1e-5)
        labels.add(label)
    assert len(labels) > 1


def test_every_operator_is_recorded(models, ddf) -> None:
    """Each forward pass has its record; the second has tokenized nothing."""
    operators = [
        de.Embedder(models["first"], output="a"),
        de.Classifier(models["second"]),
        de.Embedder(models["first"], output="b", pooling="cls"),
    ]
    before = len(records())
    applied(ddf, operators).compute()
    kept = [(each.operator, each.model, each.tokenized) for each in records()[before:]]
    assert kept == [
        ("Embedder", models["first"], len(UNIQUE)),
        ("Classifier", models["second"], 0),
    ]


ANY_ORDER = {
    "mean": lambda m: de.Embedder(m["first"], output="mean"),
    "cls": lambda m: de.Embedder(m["first"], output="cls", pooling="cls"),
    "label": lambda m: de.Classifier(m["second"]),
    "lang": lambda m: de.Embedder(m["first"], output="lang_vector", column="lang"),
}


# Every order of those that share, the other one at any place among them.
ORDERS = [
    [*order[: number % 4], "lang", *order[number % 4 :]]
    for number, order in enumerate(itertools.permutations(["mean", "cls", "label"]))
]


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_the_order_of_appending_does_not_matter(models, ddf, frame, order) -> None:
    """Whatever stands between them: the same work, and the columns in the order asked for."""
    operators = [ANY_ORDER[name](models) for name in order]
    out = applied(ddf, operators)
    found = ran(out.compute)
    assert found["tokenized"] == len(UNIQUE) + len(frame)  # languages are a column of their own
    each = tokens_of(models["first"], UNIQUE)
    assert found["tokens"] == 2 * each + tokens_of(models["first"], ["en", "de"])
    assert_same_frame(found["result"], applied(frame, operators))
    assert len(operators_of(out)) == 2
    once = out.optimize(fuse=False)
    assert once.optimize(fuse=False)._name == once._name


def test_an_operator_between_that_reads_one(models, ddf, frame, tmp_path) -> None:
    """A head on the first vectors, then other vectors: still one forward pass."""
    linear = torch.nn.Linear(tiny.HIDDEN, 3).requires_grad_(False)
    save_file(linear.state_dict(), tmp_path / "head.safetensors")
    operators = [
        de.Embedder(models["first"]),
        LinearHead(tmp_path, output="kind"),
        Similarity({"a": range(32), "b": [1] * 32}),
        de.Embedder(models["first"], output="cls", pooling="cls"),
        LinearHead(tmp_path, output="other", column="cls"),
    ]
    out, expected = applied(ddf, operators), applied(frame, operators)
    assert operators_of(out)[0] == ["embedding", "cls"]
    found = ran(out.compute)
    assert found["tokens"] == tokens_of(models["first"], UNIQUE)
    assert_same_frame(found["result"], expected)
    wanted = ["id", "kind", "other", "nearest"]
    found = ran(out[wanted].compute)
    assert found["tokens"] == tokens_of(models["first"], UNIQUE)
    assert_same_frame(found["result"], expected[wanted])


# --------------------------------------------------------------------- nothing runs that need not
def three(models: dict[str, str], frame: Any) -> Any:
    return applied(frame, [ANY_ORDER[name](models) for name in ("mean", "label", "cls")])


def test_only_what_is_wanted_runs(models, ddf, frame) -> None:
    out, expected = three(models, ddf), three(models, frame)
    each = tokens_of(models["first"], UNIQUE)
    for wanted, tokens, tokenized in (
        (["id"], 0, 0),
        (["id", "mean"], each, len(PRESENT)),  # an embedder alone tells repeats by their tokens
        (["label"], each, len(UNIQUE)),
        (["cls", "mean"], each, len(UNIQUE)),
        (["label_score", "cls"], 2 * each, len(UNIQUE)),
    ):
        found = ran(out[wanted].compute)
        assert found["tokens"] == tokens
        assert found["tokenized"] == tokenized
        assert_same_frame(found["result"], expected[wanted])


def test_head_and_partitions(models, frame) -> None:
    out = three(models, dd.from_pandas(frame, npartitions=3, sort=False))
    found = ran(lambda: out.head(3))
    assert found["tokenized"] == 2  # of three rows one is null
    assert_same_frame(found["result"], three(models, frame).head(3))
    found = ran(out.partitions[1].compute)
    assert_same_frame(found["result"], three(models, frame).iloc[4:8])


def test_a_plan_that_is_optimized_already(models, ddf, frame) -> None:
    """A result that is taken from it afterwards runs its own part alone."""
    once = three(models, ddf).optimize(fuse=False)
    assert [type(node.operator) for node in once.expr.find_operations(Settled)] == [Together]
    each = tokens_of(models["first"], UNIQUE)
    for wanted, tokens in ((["label"], each), (["id", "cls", "mean"], each), (["id"], 0)):
        found = ran(once[wanted].compute)
        assert found["tokens"] == tokens
        assert_same_frame(found["result"], three(models, frame)[wanted])
    kept = once[once.lang == "en"]
    assert_same_frame(kept.compute(), three(models, frame)[frame.lang == "en"])


def test_a_frame_that_others_use_is_not_computed_twice(models, ddf, frame) -> None:
    """The lower operator is a result of its own: it runs once for both, and is not joined."""
    embedded = de.Embedder(models["first"])(ddf)
    both = de.Classifier(models["second"])(embedded)
    found = ran(lambda: dask.compute(embedded, both))
    assert found["tokens"] == 2 * tokens_of(models["first"], UNIQUE)
    assert_same_frame(found["result"][0], de.Embedder(models["first"])(frame))
    assert_same_frame(found["result"][1][embedded.columns], found["result"][0])


def test_a_filter_by_the_first_result_keeps_them_apart(models, ddf, frame) -> None:
    """The second model runs only the rows that are left."""

    def filtered(frame: Any) -> Any:
        labelled = de.Classifier(models["second"])(frame)
        return de.Embedder(models["first"])(labelled[labelled.label == "LABEL_0"])

    expected = filtered(frame)
    assert 0 < len(expected) < len(PRESENT)
    found = ran(filtered(ddf).compute)
    assert found["rows"] == len(PRESENT) + len(expected)
    assert_same_frame(found["result"], expected)


def test_a_filter_above_goes_below_both(models, ddf, frame) -> None:
    out, expected = three(models, ddf), three(models, frame)
    english = [text for text in frame.text[frame.lang == "en"] if isinstance(text, str)]
    found = ran(out[out.lang == "en"].compute)
    assert found["tokenized"] == len(set(english))
    assert_same_frame(found["result"], expected[expected.lang == "en"])


@settings(QUICK, max_examples=10)
@given(
    rows=st.lists(st.sampled_from([*TEXTS, " ", "x" * 300]), min_size=1, max_size=9),
    places=st.lists(st.integers(0, 9), max_size=3),
    names=st.permutations(list(ANY_ORDER)),
    wanted=st.sets(st.sampled_from(["id", "mean", "cls", "label", "label_score"]), min_size=1),
)
def test_any_frame(models, rows, places, names, wanted) -> None:
    """Any texts, partitions, order and selection give what each operator gives by itself."""
    data = {"id": range(len(rows)), "lang": "en", "text": pd.Series(rows, dtype="str")}
    frame = pd.DataFrame(data).astype({"lang": "str"})
    operators = [ANY_ORDER[name](models) for name in names]
    parts = cut(frame, [min(place, len(rows)) for place in places])
    out, expected = applied(lazy(parts), operators), applied(frame, operators)
    assert_same_frame(out.compute(), expected)
    assert_same_frame(out[sorted(wanted)].compute(), expected[sorted(wanted)])


# ---------------------------------------------------------------------------------- rows that fail
def test_bad_rows_are_treated_by_each_operator(models) -> None:
    """One of them raises: so does the whole; none does: each has its messages."""
    frame = pd.DataFrame({"text": pd.Series(["one", 7, None, "two"], dtype=object)})
    quiet = [
        de.Embedder(models["first"], on_error="null"),
        de.Classifier(models["second"], on_error="null"),
        de.Embedder(models["first"], output="cls", pooling="cls", on_error="null"),
    ]
    out = applied(lazy(cut(frame, [])), quiet)
    assert operators_of(out) == [["embedding", "label", "cls"]]
    found, expected = (f.drop(columns="text") for f in (out.compute(), applied(frame, quiet)))
    assert_same_frame(found, expected)
    for name in ("embedding_error", "label_error", "cls_error"):
        assert [text is None for text in values_of(found[name])] == [True, False, True, True]
    raising = applied(lazy(cut(frame, [])), [*quiet[:2], replace(quiet[2], on_error="raise")])
    with pytest.raises(ValueError, match=r"row 1 of the partition .* int is not text"):
        raising.compute()


def test_long_rows_are_failures_of_both(models) -> None:
    options: Any = {"max_length": 6, "on_long": "error", "on_error": "null"}
    frame = pd.DataFrame({"text": ["x", "one two three four five six seven", "y"]})
    operators = [
        de.Embedder(models["first"], **options),
        de.Embedder(models["first"], output="cls", pooling="cls", **options),
        de.Classifier(models["second"], **options),
    ]
    found = ran(applied(lazy([frame]), operators).compute)
    assert found["tokenized"] == 3
    for operator in operators:
        assert found["result"][operator.output].isna().tolist() == [False, True, False]
        message = values_of(found["result"][operator.error_column])[1]
        assert message == "it has more than 6 tokens, and on_long='error'"


def test_repeats_in_other_partitions(models, frame) -> None:
    """Vectors of several reductions are kept for other partitions, as those of one are."""
    operators = [ANY_ORDER[name](models) for name in ("mean", "cls")]
    operators.append(de.Embedder(models["first"], output="signs", precision="binary"))
    de.unload()
    with dask.config.set({"embed.cached-vectors-bytes": 2**20}):
        found = ran(applied(dd.from_pandas(frame, npartitions=4), operators).compute)
        assert found["unique_rows"] == len(UNIQUE)
    de.unload()
    assert_same_frame(found["result"], applied(frame, operators))


# ------------------------------------------------------------------------------------------- words
def explained(frame: dd.DataFrame) -> list[str]:
    out = io.StringIO()
    de.explain(frame, file=out)
    return [line.strip() for line in out.getvalue().splitlines()]


def test_explain(models, ddf) -> None:
    both = applied(ddf, [de.Embedder(models["first"], output="a"), de.Classifier(models["second"])])
    assert (
        "2. run Embedder on text -> a and Classifier on text -> label, label_score in one pass: "
        "texts are tokenized once"
    ) in explained(both[["a", "label"]])
    all_three = de.Embedder(models["first"], output="b", pooling="cls")(both)
    lines = explained(all_three)
    assert (
        "2. run Embedder on text -> a and Classifier on text -> label, label_score and Embedder "
        "on text -> b in one pass: texts are tokenized once, a and b come from one forward pass"
    ) in lines
    revision = de.Embedder(models["first"]).pinned().spec.revision
    assert lines.count(f"model {models['first']} at revision {revision}") == 1
    assert not any(line.startswith("not run") for line in lines)
    assert "not run: Embedder on text -> b, no result column is used" in explained(
        all_three[["a", "label"]]
    )


def test_names_and_plain_values(models, ddf) -> None:
    """A dashboard shows both operators; the name is the same each time, also after pickling."""
    out = three(models, ddf)
    (node,) = out.optimize(fuse=False).expr.find_operations(Settled)
    assert node._name.startswith("embedder-classifier-")
    assert dask.utils.key_split(node._name) == "embedder-classifier"
    copy = cloudpickle.loads(cloudpickle.dumps(node.operator))
    assert copy == node.operator
    assert dask.base.tokenize(copy) == dask.base.tokenize(node.operator)
    assert three(models, ddf).optimize(fuse=False)._name == out.optimize(fuse=False)._name


def test_provenance_of_each_column(models, ddf, tmp_path) -> None:
    three(models, ddf).ml.to_parquet(tmp_path / "out")
    (file,) = Path(tmp_path / "out").glob("*.parquet")
    columns = json.loads(pq.read_schema(file).metadata[b"dask_embed"])["columns"]
    assert {name: told["operator"] for name, told in columns.items()} == {
        "mean": "Embedder",
        "cls": "Embedder",
        "label": "Classifier",
        "label_score": "Classifier",
    }
    assert columns["cls"]["pooling"] == ["cls"]
    assert columns["mean"]["pooling"] == ["mean"]


def test_which_tokenizers_are_the_same(models, tmp_path) -> None:
    """Copies are; other vocabularies, and lowercasing, are not."""

    def fingerprint(model: str, **options: Any) -> str:
        spec = de.Model(model, **options)
        return tokenizer_fingerprint(spec, read_checkpoint(spec))

    assert fingerprint(models["first"]) == fingerprint(models["second"])
    assert fingerprint(models["first"]) != fingerprint(models["roberta"])
    cased = tiny.save("bert", tmp_path / "cased", lowercase=False)
    assert fingerprint(str(cased)) != fingerprint(models["first"])
    settings = Path(models["second"], "tokenizer_config.json")
    told = json.loads(settings.read_text())
    copied = tiny.save("bert", tmp_path / "copied")
    for change, same in (({"model_max_length": 12}, True), ({"truncation_side": "left"}, False)):
        (copied / "tokenizer_config.json").write_text(json.dumps({**told, **change}))
        assert (fingerprint(str(copied)) == fingerprint(models["first"])) is same
