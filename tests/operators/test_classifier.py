"""Classifier: labels and scores of transformers' text-classification pipeline, as columns."""

from __future__ import annotations

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from support import headed, pairs, tiny
from support.contract import DataframeContract, assert_same_value, values_of

import dask_embed as de
from dask_embed.operators.labels.classifier import Classifier, apply_function

pytestmark = pytest.mark.usefixtures("one_torch_thread")

LABELS = ("negative", "neutral", "positive")
KINDS = {
    "single": {"labels": LABELS},
    "one": {"num_labels": 1},
    "multi": {"labels": LABELS, "problem_type": "multi_label_classification"},
    "regression": {"num_labels": 1, "problem_type": "regression"},
    "regressions": {"labels": LABELS, "problem_type": "regression"},
}
ARCHITECTURES = [name for name in tiny.ARCHITECTURES if headed.has_head(name, "classify")]
FRAME = pd.DataFrame({"text": pd.array(pairs.TEXTS, "str"), "other": pd.array(pairs.OTHERS, "str")})
ATOL = 1e-5


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Return a function that gives the folder of a classifier, saved on first use."""
    saved = {}

    def folder(name="bert", kind="single"):
        if (name, kind) not in saved:
            path = tmp_path_factory.mktemp(f"{name}-{kind}") / "model"
            saved[name, kind] = pairs.save(name, path, **KINDS[kind])
        return saved[name, kind]

    return folder


@pytest.fixture(scope="module")
def reference():
    """Return a function that gives the pipeline's list of labels and scores for each row.

    None for rows without text or without tokens.
    """
    import transformers

    transformers.logging.set_verbosity_error()
    pipelines = {}

    def classify(folder, frame=FRAME, pair=None, max_length=tiny.POSITIONS, **options):
        if folder not in pipelines:
            pipelines[folder] = transformers.pipeline(
                "text-classification", model=folder, device="cpu"
            )
        pipeline = pipelines[folder]
        cut = {"truncation": True, "max_length": max_length}
        results = []
        for text, other in zip(frame["text"], frame[pair or "text"], strict=True):
            if pd.isna(text) or pd.isna(other):
                results.append(None)
                continue
            given = {"text": text} if pair is None else {"text": text, "text_pair": other}
            if not pipeline.tokenizer(**given)["input_ids"]:
                results.append(None)
                continue
            one = text if pair is None else given
            found = pipeline(one, **{"top_k": None, **options}, **cut)
            results.append(found[0] if isinstance(found[0], list) else found)
        return results

    yield classify
    transformers.logging.set_verbosity_warning()


def rows_of(out, output="label"):
    """Return what the pipeline's list of dicts would be for list columns."""
    labels, scores = values_of(out[output]), values_of(out[f"{output}_score"])
    return [
        None
        if names is None
        else [{"label": n, "score": s} for n, s in zip(names, values, strict=True)]
        for names, values in zip(labels, scores, strict=True)
    ]


def assert_same(given, expected, atol=ATOL):
    """Compare lists of labels and scores; labels may change places where scores are equal."""
    assert_same_value(
        [row and [entry["score"] for entry in row] for row in given],
        [row and [entry["score"] for entry in row] for row in expected],
        atol,
    )
    assert [row and [entry["label"] for entry in row] for row in given] == [
        row and [entry["label"] for entry in row] for row in expected
    ]


def assert_visibly_different(expected):
    """The tiny model tells texts apart, and its scores are not sorted by accident."""
    scores = [row[0]["score"] for row in expected if row is not None]
    assert len(np.unique(np.round(scores, 4))) >= 5
    assert scores != sorted(scores)
    assert scores != sorted(scores, reverse=True)


WAYS = {
    "as it likes": ({}, {}),
    "padded left": ({"attention": "padded"}, {"padding_side": "left", "batch_size": 3}),
    "padded right": ({"attention": "padded"}, {"padding_side": "right", "batch_size": 4}),
}


@pytest.mark.parametrize("pair", [None, "other"], ids=["texts", "pairs"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_equals_the_pipeline(checkpoint, reference, name, pair):
    """All labels and scores of texts and of pairs, however batches are run."""
    folder = checkpoint(name)
    expected = reference(folder, pair=pair)
    assert_visibly_different(expected)
    for model, options in WAYS.values():
        classifier = Classifier(
            de.Model(folder, **model), pair=pair, top_k="all", max_length=64, **options
        )
        assert_same(rows_of(classifier(FRAME)), expected)


@pytest.mark.parametrize("function", ["auto", "softmax", "sigmoid", "none"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["bert", "llama"])
def test_functions_equal_the_pipeline(checkpoint, reference, name, kind, function):
    """Scores of every kind of head under every function."""
    folder = checkpoint(name, kind)
    given = {} if function == "auto" else {"function_to_apply": function}
    expected = reference(folder, **given)
    classifier = Classifier(folder, function_to_apply=function, top_k="all", scores="all")
    out = classifier(FRAME)
    assert_same(rows_of(out), expected)
    by_name = [row and {entry["label"]: entry["score"] for entry in row} for row in expected]
    names = list(LABELS) if kind not in ("one", "regression") else ["LABEL_0"]
    assert [field.name for field in out["all"].dtype.pyarrow_dtype] == names
    assert_same_value(
        values_of(out["all"]), [row and {n: row[n] for n in names} for row in by_name], ATOL
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_best_label_equals_the_pipeline(checkpoint, reference, kind):
    """By default one label a row, as str, and its score, as float32."""
    folder = checkpoint("distilbert", kind)
    out = Classifier(folder, output="mood", score="how much")(FRAME)
    expected = reference(folder)
    assert_visibly_different(expected)
    assert values_of(out["mood"]) == [row and row[0]["label"] for row in expected]
    assert_same_value(
        values_of(out["how much"]), [row and row[0]["score"] for row in expected], ATOL
    )
    assert out["mood"].dtype == "str"
    assert out["how much"].dtype == pd.ArrowDtype(pa.float32())


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_top_k_equals_the_pipeline(checkpoint, reference, top_k):
    folder = checkpoint("roberta")
    out = Classifier(folder, top_k=top_k)(FRAME)
    assert_same(rows_of(out), reference(folder, top_k=top_k))
    assert out["label"].dtype == pd.ArrowDtype(pa.list_(pa.string()))
    assert out["label_score"].dtype == pd.ArrowDtype(pa.list_(pa.float32()))


def test_short_limits_equal_the_pipeline(checkpoint, reference):
    """Pairs that are too long lose tokens of the longer text, with the right token types."""
    folder = checkpoint("bert")
    for max_length in (8, 21):
        expected = reference(folder, pair="other", max_length=max_length)
        out = Classifier(folder, pair="other", top_k="all", max_length=max_length)(FRAME)
        assert_same(rows_of(out), expected)


def test_token_types_of_pairs_count(checkpoint, reference):
    """Swapping the texts of a pair gives other scores, as the pipeline does."""
    folder = checkpoint("bert")
    swapped = FRAME.rename(columns={"text": "other", "other": "text"})
    out = rows_of(Classifier(folder, pair="other", top_k="all")(swapped))
    assert_same(out, reference(folder, swapped, pair="other"))
    straight = rows_of(Classifier(folder, pair="other", top_k="all")(FRAME))
    assert abs(out[0][0]["score"] - straight[0][0]["score"]) > 1e-3


@pytest.mark.parametrize(("dtype", "atol"), [("bfloat16", 0.05), ("float16", 0.01)])
def test_half_precision(checkpoint, reference, dtype, atol):
    """Scores of a model in 16 bits are float32 and near to those of 32."""
    folder = checkpoint("modernbert")
    out = Classifier(de.Model(folder, dtype=dtype), scores="all")(FRAME)
    expected = [row and {e["label"]: e["score"] for e in row} for row in reference(folder)]
    ordered = [row and {name: row[name] for name in LABELS} for row in expected]
    assert_same_value(values_of(out["all"]), ordered, atol)
    assert out["label_score"].dtype == pd.ArrowDtype(pa.float32())


# Thresholds


def test_threshold_of_one_of_several_labels(checkpoint, reference):
    """A best label below the threshold is null, and so is its score; all scores stay."""
    folder = checkpoint("bert")
    expected = reference(folder)
    middle = float(np.median([row[0]["score"] for row in expected if row]))
    out = Classifier(folder, threshold=middle, scores="all")(FRAME)
    kept = [row[0] if row and row[0]["score"] >= middle - 1e-6 else None for row in expected]
    assert 2 < sum(entry is not None for entry in kept) < len(kept) - 2
    assert values_of(out["label"]) == [entry and entry["label"] for entry in kept]
    assert_same_value(
        values_of(out["label_score"]), [entry and entry["score"] for entry in kept], ATOL
    )
    assert out["all"].isna().tolist() == [row is None for row in expected]


@pytest.mark.parametrize("top_k", [None, "all", 2])
def test_threshold_of_several_labels_at_a_time(checkpoint, reference, top_k):
    """A multi-label model gives all labels that reach it, none or several."""
    folder = checkpoint("bert", "multi")
    out = Classifier(folder, threshold=0.5, top_k=top_k)(FRAME)
    most = 2 if top_k == 2 else 3
    expected = [
        row and [entry for entry in row if entry["score"] >= 0.5][:most]
        for row in reference(folder)
    ]
    assert {len(row) for row in expected if row is not None} >= {1, 2}
    assert_same(rows_of(out), expected)


def test_a_threshold_that_no_label_reaches(checkpoint):
    """Empty lists for several labels at a time, null for one of several; both have their type."""
    multi = Classifier(checkpoint("bert", "multi"), threshold=1)(FRAME)
    nulls = FRAME["text"].isna().tolist()
    assert values_of(multi["label"]) == [None if null else [] for null in nulls]
    single = Classifier(checkpoint("bert"), threshold=1.0)(FRAME)
    assert single["label"].isna().all()
    assert single["label"].dtype == "str"


def test_a_threshold_of_logits_is_any_number(checkpoint):
    """They are no probabilities: the best ones of this model lie between -1 and 2."""
    folder = checkpoint("bert")
    every = Classifier(folder, function_to_apply="none", threshold=-1)(FRAME)
    none = Classifier(folder, function_to_apply="none", threshold=2)(FRAME)
    assert every["label"].isna().tolist() == FRAME["text"].isna().tolist()
    assert none["label"].isna().all()


def test_a_multi_label_model_without_a_threshold_gives_its_best_label(checkpoint):
    out = Classifier(checkpoint("bert", "multi"))(FRAME)
    assert out["label"].dtype == "str"


# Lazy use


def test_filters_and_parquet(checkpoint, reference, tmp_path):
    """Labels and scores filter lazily, before writing and after reading."""
    folder = checkpoint("bert")
    ddf = dd.from_pandas(FRAME, npartitions=3, sort=False)
    out = Classifier(folder, scores="all")(ddf)
    expected = reference(folder)
    best = [row[0] if row else {"label": None, "score": 0.0} for row in expected]
    label = next(entry["label"] for entry in best if entry["label"])
    chosen = [i for i, entry in enumerate(best) if entry["label"] == label]
    sure = [i for i in chosen if best[i]["score"] > 0.5]
    assert 0 < len(chosen) < len(FRAME) - 1
    assert out[out.label == label].compute().index.tolist() == chosen
    both = out[(out.label == label) & (out.label_score > 0.5)]
    assert both.compute().index.tolist() == sure
    out.ml.to_parquet(tmp_path / "out")
    read = dd.read_parquet(tmp_path / "out")
    again = read[read.label == label].compute()
    assert again["text"].tolist() == FRAME["text"].iloc[chosen].tolist()
    scores = read[read.label_score > 0.5]["label_score"].compute()
    assert_same_value(
        sorted(scores.tolist()), sorted(e["score"] for e in best if e["score"] > 0.5), ATOL
    )
    assert_same_value(
        pd.read_parquet(tmp_path / "out")["all"].tolist()[0],
        {name: {e["label"]: e["score"] for e in expected[0]}[name] for name in LABELS},
        ATOL,
    )


def test_list_columns_through_parquet(checkpoint, tmp_path):
    """Lists of labels and scores are the same after writing and reading."""
    out = Classifier(checkpoint("bert", "multi"), threshold=0.5)(
        dd.from_pandas(FRAME, npartitions=2, sort=False)
    )
    out.ml.to_parquet(tmp_path / "out")
    read = pd.read_parquet(tmp_path / "out", dtype_backend="pyarrow")
    expected = out.compute()
    for name in ("label", "label_score"):
        assert_same_value(values_of(read[name]), values_of(expected[name]), 0)
    assert any(len(row) > 1 for row in values_of(expected["label"]) if row is not None)


def test_head_runs_five_rows_and_the_unused_none(checkpoint, rows_through_model):
    frame = pd.concat([FRAME.dropna()] * 3, ignore_index=True)
    out = Classifier(checkpoint("bert"))(dd.from_pandas(frame, npartitions=2, sort=False))
    assert rows_through_model(lambda: out.head(5)) == 5
    assert rows_through_model(lambda: out[["text"]].compute()) == 0
    assert rows_through_model(lambda: len(out)) == 0
    assert rows_through_model(out["label"].compute) == len(frame)


# Rows that cannot be used


def test_on_long_error(checkpoint, reference):
    """A text or pair longer than max_length costs one null and one message."""
    folder = checkpoint("bert")
    for pair, long in ((None, [2]), ("other", [1, 2])):
        classifier = Classifier(folder, pair=pair, on_long="error", on_error="null", top_k="all")
        out = classifier(FRAME)
        messages = values_of(out["label_error"])
        assert [row for row, text in enumerate(messages) if text] == long
        assert "more than 64 tokens" in messages[2]
        expected = reference(folder, pair=pair)
        assert_same(rows_of(out), [None if i in long else row for i, row in enumerate(expected)])
    with pytest.raises(ValueError, match=r"row 2 of the partition .*more than 64 tokens"):
        Classifier(folder, on_long="error")(FRAME)


def test_text_without_tokens_is_null(checkpoint):
    """GPT-2 adds no special token: an empty string has nothing to classify."""
    frame = pd.DataFrame({"text": ["", "a text", ""]})
    out = Classifier(checkpoint("gpt2"), scores="all")(frame)
    assert out[["label", "label_score", "all"]].isna().all(axis=1).tolist() == [True, False, True]
    listed = Classifier(checkpoint("gpt2"), top_k=2)(frame)
    assert listed["label"].isna().tolist() == [True, False, True]


# Arguments and checkpoints that do not fit


def test_checkpoint_without_the_head(tmp_path):
    folder = tiny.save("bert", tmp_path / "plain")
    with pytest.raises(ValueError, match=r"saved as BertModel; .*ForSequenceClassification"):
        Classifier(folder)(dd.from_pandas(FRAME, npartitions=2))


def test_labels_with_one_name(tmp_path, checkpoint):
    """Two labels of one name are two entries of a list, but cannot be two fields of a struct."""
    folder = pairs.save("bert", tmp_path / "twice", labels=("a", "b", "a"))
    listed = Classifier(folder, top_k="all")(FRAME)
    assert sorted(values_of(listed["label"])[0]) == ["a", "a", "b"]
    with pytest.raises(ValueError, match="two labels are called 'a'"):
        Classifier(folder, scores="all")(FRAME)


def test_odd_names_of_labels(tmp_path, reference):
    """Names that are not strings become strings; dots, spaces and empty ones stay."""
    folder = pairs.save("bert", tmp_path / "odd", labels=(1, "", "a.b c", "é", True))
    out = Classifier(folder, scores="all", top_k="all")(FRAME)
    assert_same(
        rows_of(out),
        [
            row and [{"label": str(e["label"]), "score": e["score"]} for e in row]
            for row in reference(folder)
        ],
    )
    fields = [field.name for field in out["all"].dtype.pyarrow_dtype]
    assert fields == ["1", "", "a.b c", "é", "True"]


def test_labels_without_a_name(tmp_path):
    from pathlib import Path

    folder = pairs.save("bert", tmp_path / "gap", num_labels=3)
    pairs.edit_json(Path(folder) / "config.json", id2label={"0": "a", "2": "b", "5": "c"})
    with pytest.raises(ValueError, match=r"name every label in id2label, from 0 on; it has \[0, 2"):
        Classifier(folder)(FRAME)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 0}, "top_k must be a positive integer"),
        ({"top_k": 4}, "top_k must be at most 3"),
        ({"top_k": "every"}, "top_k must be one of 'all'; got 'every'"),
        ({"top_k": True}, "top_k must be a positive integer, got True"),
        ({"threshold": "high"}, "threshold must be a number, got 'high'"),
        ({"threshold": float("nan")}, "threshold must be a finite number, got nan"),
        ({"threshold": float("inf")}, "threshold must be a finite number, got inf"),
        ({"threshold": 2}, "threshold must be from 0 to 1, as scores of softmax are; got 2"),
        (
            {"threshold": -0.1, "function_to_apply": "sigmoid"},
            "threshold must be from 0 to 1, as scores of sigmoid are; got -0.1",
        ),
        ({"function_to_apply": "sofmax"}, "did you mean 'softmax'"),
        ({"score": "label"}, "output columns must differ"),
        ({"scores": "label_score"}, "output columns must differ"),
        ({"scores": "label_error", "on_error": "null"}, "output columns must differ"),
        ({"score": ""}, "score must not be empty, got ''"),
        ({"column": "txt"}, "'txt' is not in the dataframe .did you mean 'text'"),
        ({"pair": "missing"}, "'missing' is not in the dataframe"),
        ({"max_length": 65}, "max_length must be at most 64"),
    ],
)
def test_errors_before_any_work(checkpoint, options, message):
    """Every bad argument is named on the client, also of a Dask DataFrame."""
    ddf = dd.from_pandas(FRAME, npartitions=2)
    with pytest.raises((TypeError, ValueError), match=message):
        Classifier(checkpoint("bert"), **options)(ddf)


def test_large_logits():
    """No overflow: the sigmoid of -1000 is 0, the softmax of equal giants is a half."""
    given = np.array([[-1000.0, 1000.0]], np.float32)
    assert apply_function("sigmoid", given).tolist() == [[0.0, 1.0]]
    assert apply_function("softmax", given).tolist() == [[0.0, 1.0]]
    assert apply_function("softmax", np.full((1, 2), 1000.0)).tolist() == [[0.5, 0.5]]


def test_explain(checkpoint, capsys):
    """The plan says what the model's labels are, and what becomes of its logits."""
    de.explain(Classifier(checkpoint("bert"), top_k=2)(dd.from_pandas(FRAME, npartitions=2)))
    plan = capsys.readouterr().out
    assert "3 labels (negative, neutral, positive), softmax of the logits" in plan


CONTRACT = {
    "default": ("single", {"scores": "all_scores", "on_error": "null"}),
    "pair, all labels": ("multi", {"pair": "other", "threshold": 0.3, "batch_size": 2}),
}


class TestContract(DataframeContract):
    @pytest.fixture(scope="class", params=CONTRACT.values(), ids=CONTRACT)
    @classmethod
    def operator(cls, request, checkpoint):
        kind, options = request.param
        return Classifier(checkpoint("bert", kind), column="body", **options)
