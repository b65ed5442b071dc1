"""ZeroShotClassifier: transformers' zero-shot-classification pipeline, as columns."""

from __future__ import annotations

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from support import headed, pairs, tiny
from support.contract import DataframeContract, assert_same_value, values_of

import dask_embed as de
from dask_embed.operators.labels.zero_shot import ZeroShotClassifier

pytestmark = pytest.mark.usefixtures("one_torch_thread")

NLI = {
    "entailment last": ("contradiction", "neutral", "Entailment"),
    "entailment first": ("entailment", "neutral", "contradiction"),
    "two": ("entails", "not_entails"),
}
LABELS = ["tables", "the mean of data", "é"]
TEMPLATE = "This text is about {}."
FRAME = pd.DataFrame({"text": pd.array(pairs.TEXTS, "str")})
ARCHITECTURES = [name for name in tiny.ARCHITECTURES if headed.has_head(name, "classify")]
ATOL = 1e-5


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Return a function that gives the folder of an NLI model, saved on first use."""
    saved = {}

    def folder(name="bert", kind="entailment last"):
        if (name, kind) not in saved:
            path = tmp_path_factory.mktemp(f"{name}-{kind}".replace(" ", "-")) / "model"
            saved[name, kind] = pairs.save(name, path, labels=NLI[kind])
        return saved[name, kind]

    return folder


@pytest.fixture(scope="module")
def reference():
    """Return a function that gives the pipeline's scores, label to score, for each row.

    The pipeline refuses empty texts; those rows are left out of comparisons by `FULL`.
    """
    import transformers

    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    pipelines = {}

    def classify(folder, labels=LABELS, template=TEMPLATE, max_length=64, texts=pairs.TEXTS, **how):
        if folder not in pipelines:
            pipelines[folder] = transformers.pipeline(
                "zero-shot-classification", model=folder, device="cpu"
            )
        pipeline = pipelines[folder]
        pipeline.tokenizer.model_max_length = max_length
        if pipeline.tokenizer.pad_token is None and pipeline.tokenizer.eos_token is None:
            pipeline.tokenizer.pad_token = "!"  # it asks for one, but pads nothing
        results = []
        for text in texts:
            if not text:
                results.append(None)
                continue
            found = pipeline(text, labels, hypothesis_template=template, **how)
            results.append(dict(zip(found["labels"], found["scores"], strict=True)))
        return results

    yield classify
    transformers.logging.set_verbosity_warning()


def in_order(expected, labels=LABELS):
    """Return scores in the order of the labels, as a struct has them."""
    return [row and {label: row[label] for label in labels} for row in expected]


def best(row):
    return row and max(row, key=row.get)


WITHOUT_EMPTY = [row for row, text in enumerate(pairs.TEXTS) if text != ""]


def kept(values):
    """Leave out the empty text, which the pipeline refuses."""
    return [values[row] for row in WITHOUT_EMPTY]


WAYS = {
    "as it likes": ({}, {}),
    "padded left": ({"attention": "padded"}, {"padding_side": "left", "batch_size": 3}),
    "padded right": ({"attention": "padded"}, {"padding_side": "right", "batch_size": 5}),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_equals_the_pipeline(checkpoint, reference, name):
    """Best label, its score and all scores, however batches are run."""
    folder = checkpoint(name)
    expected = reference(folder)
    given = [round(max(row.values()), 4) for row in expected if row]
    assert len(set(given)) >= 5
    assert given != sorted(given)
    assert given != sorted(given, reverse=True)
    for model, options in WAYS.values():
        out = ZeroShotClassifier(
            de.Model(folder, **model),
            labels=LABELS,
            hypothesis_template=TEMPLATE,
            scores="all",
            max_length=64,
            **options,
        )(FRAME)
        assert_same_value(kept(values_of(out["all"])), kept(in_order(expected)), ATOL)
        assert kept(values_of(out["label"])) == kept([best(row) for row in expected])
        assert_same_value(
            kept(values_of(out["label_score"])),
            kept([row and max(row.values()) for row in expected]),
            ATOL,
        )


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("labels", [LABELS, ["only this"]], ids=["three", "one"])
@pytest.mark.parametrize("kind", NLI)
def test_scores_equal_the_pipeline(checkpoint, reference, kind, labels, multi_label):
    """Wherever entailment stands, for one label or several, alone or against each other."""
    folder = checkpoint("roberta", kind)
    expected = reference(folder, labels, multi_label=multi_label)
    classifier = ZeroShotClassifier(
        folder,
        labels=labels,
        hypothesis_template=TEMPLATE,
        multi_label=multi_label,
        scores="all",
        top_k="all",
    )
    out = classifier(FRAME)
    assert_same_value(kept(values_of(out["all"])), kept(in_order(expected, labels)), ATOL)
    assert kept(values_of(out["label"])) == kept([row and list(row) for row in expected])
    assert len({round(row[labels[0]], 4) for row in expected if row}) >= 5
    assert out["label"].dtype == pd.ArrowDtype(pa.list_(pa.string()))


def test_the_default_template_is_the_pipelines(checkpoint, reference):
    folder = checkpoint()
    out = ZeroShotClassifier(folder, labels=LABELS, scores="all")(FRAME)
    expected = reference(folder, template="This example is {}.")
    assert_same_value(kept(values_of(out["all"])), kept(in_order(expected)), ATOL)
    other = reference(folder)
    assert abs(expected[0]["tables"] - other[0]["tables"]) > 1e-3
    assert out["label"].dtype == "str"
    assert out["label_score"].dtype == pd.ArrowDtype(pa.float32())


def test_the_text_is_cut_and_not_the_hypothesis(checkpoint, reference):
    """Truncation "only_first", where it would cut most of both if it cut the longer one."""
    folder = checkpoint()
    longer = [f"{label} or a thing that is said with a great many words" for label in LABELS]
    expected = reference(folder, longer, max_length=48)
    out = ZeroShotClassifier(
        folder, labels=longer, hypothesis_template=TEMPLATE, max_length=48, scores="all"
    )(FRAME)
    assert_same_value(kept(values_of(out["all"])), kept(in_order(expected, longer)), ATOL)


def test_a_hypothesis_without_room_for_the_text(checkpoint, reference):
    """Rows that would lose all of their text are null with a reason; shorter ones are used."""
    folder = checkpoint()
    labels = ["the mean of data and the tables of it", "x"]
    classifier = ZeroShotClassifier(
        folder, labels=labels, max_length=24, on_error="null", scores="all"
    )
    texts = ["a", pairs.LONG]
    out = classifier(pd.DataFrame({"text": texts}))
    expected = reference(folder, labels, "This example is {}.", texts=["a"])
    tokens = len(
        classifier.runner().loaded.tokenizer("a", f"This example is {labels[0]}.").input_ids
    )
    assert 20 < tokens <= 64
    cut = ZeroShotClassifier(
        folder, labels=labels, max_length=tokens, on_error="null", scores="all"
    )
    out = cut(pd.DataFrame({"text": texts}))
    assert_same_value(values_of(out["all"])[:1], in_order(expected, labels), ATOL)
    narrow = ZeroShotClassifier(folder, labels=labels, max_length=tokens - 1, on_error="null")
    with pytest.raises(ValueError, match=rf"max_length must be at least {tokens} tokens"):
        narrow(pd.DataFrame({"text": texts}))


def test_a_label_longer_than_the_model_reads(checkpoint):
    """No row can be used then, so they are not null one by one."""
    labels = ["the mean of data and the tables of it " * 8, "x"]
    operator = ZeroShotClassifier(checkpoint(), labels=labels, on_error="null")
    with pytest.raises(ValueError, match="no row can be used by ZeroShotClassifier"):
        operator(pd.DataFrame({"text": ["a", None]}))


@pytest.mark.parametrize("top_k", [None, 2])
def test_threshold_with_several_labels_at_a_time(checkpoint, reference, top_k):
    """With multi_label, rows get all labels that reach the threshold."""
    folder = checkpoint()
    expected = reference(folder, multi_label=True)
    middle = float(np.median([score for row in expected if row for score in row.values()]))
    out = ZeroShotClassifier(
        folder,
        labels=LABELS,
        hypothesis_template=TEMPLATE,
        multi_label=True,
        threshold=middle - 1e-4,
        top_k=top_k,
    )(FRAME)
    wanted = [
        row and [label for label, score in row.items() if score >= middle - 1e-4][:top_k]
        for row in expected
    ]
    assert len({len(row) for row in wanted if row is not None}) >= 2
    assert kept(values_of(out["label"])) == kept(wanted)


def test_threshold_of_the_best_label(checkpoint, reference):
    """Without multi_label, a best label below the threshold is null."""
    folder = checkpoint()
    expected = reference(folder)
    middle = float(np.median([max(row.values()) for row in expected if row]))
    out = ZeroShotClassifier(
        folder, labels=LABELS, hypothesis_template=TEMPLATE, threshold=middle - 1e-4
    )(FRAME)
    wanted = [best(row) if row and max(row.values()) >= middle - 1e-4 else None for row in expected]
    assert None in kept(wanted)[:3] + kept(wanted)[4:]
    assert kept(values_of(out["label"])) == kept(wanted)


def test_an_empty_text_is_a_text(checkpoint):
    """An empty string is classified by the hypotheses alone, as by a batched tokenizer."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = checkpoint()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    logits = []
    for label in LABELS:
        tokens = tokenizer([""], [TEMPLATE.format(label)], return_tensors="pt")
        with torch.inference_mode():
            logits.append(model(**tokens).logits[0, 2])
    expected = torch.stack(logits).softmax(0).tolist()
    out = ZeroShotClassifier(folder, labels=LABELS, hypothesis_template=TEMPLATE, scores="all")(
        pd.DataFrame({"text": [""]})
    )
    assert_same_value(list(values_of(out["all"])[0].values()), expected, ATOL)


def test_entailment_id(checkpoint, tmp_path, reference):
    """A model that names no entailment needs to be told which label it is."""
    import transformers

    folder = pairs.save("bert", tmp_path / "unnamed", labels=("LABEL_0", "LABEL_1", "LABEL_2"))
    ddf = dd.from_pandas(FRAME, npartitions=2)
    with pytest.raises(ValueError, match=r"label that begins with 'entail'; it has \['LABEL_0'"):
        ZeroShotClassifier(folder, labels=LABELS)(ddf)
    named = pairs.save("bert", tmp_path / "named", labels=("a", "b", "entailment"))
    weights = [transformers.AutoModel.from_pretrained(f).state_dict() for f in (folder, named)]
    assert all(torch_equal(weights[0][name], weights[1][name]) for name in weights[0])
    options = {"labels": LABELS, "hypothesis_template": TEMPLATE, "scores": "all"}
    out = ZeroShotClassifier(folder, entailment_id=2, **options)(FRAME)
    assert_same_value(kept(values_of(out["all"])), kept(in_order(reference(named))), ATOL)
    with pytest.raises(ValueError, match=r"one of at least two labels of model .* has 3; got 3"):
        ZeroShotClassifier(folder, entailment_id=3, labels=LABELS)(ddf)


def torch_equal(left, right):
    return bool((left == right).all())


def test_head_runs_five_rows(checkpoint, rows_through_model):
    """Rows are counted, not the pairs that each of them gives; unused results run nothing."""
    frame = pd.concat([FRAME.dropna()] * 3, ignore_index=True)
    out = ZeroShotClassifier(checkpoint(), labels=LABELS)(
        dd.from_pandas(frame, npartitions=2, sort=False)
    )
    assert rows_through_model(lambda: out.head(5)) == 5
    assert rows_through_model(lambda: out[["text"]].compute()) == 0
    assert rows_through_model(out["label"].compute) == len(frame)


def test_on_long_error(checkpoint):
    """A text that is too long with any of its hypotheses costs one null and one message."""
    out = ZeroShotClassifier(checkpoint(), labels=LABELS, on_long="error", on_error="null")(FRAME)
    messages = values_of(out["label_error"])
    assert [row for row, text in enumerate(messages) if text] == [2]
    assert "more than 64 tokens" in messages[2]
    assert [row for row, label in enumerate(values_of(out["label"])) if label is None] == [2, 3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "labels must be at least one"),
        ({"labels": "a, b"}, "labels must be a list of strings, got 'a, b'"),
        ({"labels": []}, "labels must be at least one"),
        ({"labels": ["a", "b", "a"]}, r"all different; got \['a', 'b', 'a'\]"),
        ({"labels": ["a", 3]}, "labels must be strings that are not empty, got 3"),
        ({"labels": ["a", " "]}, "labels must be strings that are not empty, got ' '"),
        ({"labels": ["a"], "hypothesis_template": "It is."}, "must hold {} in place of the label"),
        ({"labels": ["a"], "hypothesis_template": "It is {"}, "a sentence with one {}"),
        ({"labels": ["a"], "hypothesis_template": "{} is {}"}, "a sentence with one {}"),
        ({"labels": ["a"], "hypothesis_template": "It is {label}"}, "a sentence with one {}"),
        ({"labels": ["a"], "hypothesis_template": 3}, "hypothesis_template must be a string"),
        ({"labels": ["a"], "hypothesis_template": "{0[x]}"}, "a sentence with one {}"),
        ({"labels": ["ab", "ac"], "hypothesis_template": "{:.1}"}, "a sentence of its own"),
        ({"labels": ["\ud800"]}, "labels cannot be encoded as UTF-8"),
        ({"labels": ["a"], "threshold": float("nan")}, "threshold must be a finite number"),
        ({"labels": ["a"], "threshold": 1.5}, "threshold must be from 0 to 1, .*; got 1.5"),
        ({"labels": ["a", "b"], "threshold": -1}, "threshold must be from 0 to 1, .*; got -1"),
        ({"labels": ["a"], "multi_label": 1}, "multi_label must be True or False"),
        ({"labels": ["a"], "entailment_id": True}, "entailment_id must be the number of a label"),
        ({"labels": ["a"], "top_k": 2}, "top_k must be at most 1"),
        ({"labels": ["a"], "column": "txt"}, "'txt' is not in the dataframe"),
    ],
)
def test_errors_before_any_work(checkpoint, options, message):
    ddf = dd.from_pandas(FRAME, npartitions=2)
    with pytest.raises((TypeError, ValueError), match=message):
        ZeroShotClassifier(checkpoint(), **options)(ddf)


def test_checkpoints_that_do_not_fit(tmp_path):
    ddf = dd.from_pandas(FRAME, npartitions=2)
    plain = tiny.save("bert", tmp_path / "plain")
    with pytest.raises(ValueError, match=r"saved as BertModel; .*ForSequenceClassification"):
        ZeroShotClassifier(plain, labels=LABELS)(ddf)
    single = pairs.save("bert", tmp_path / "one", labels=("entailment",))
    with pytest.raises(ValueError, match="one of at least two labels"):
        ZeroShotClassifier(single, labels=LABELS)(ddf)


CONTRACT = {
    "default": {"scores": "all_scores"},
    "multi, null on error": {"multi_label": True, "threshold": 0.5, "on_error": "null"},
}


class TestContract(DataframeContract):
    @pytest.fixture(scope="class", params=CONTRACT.values(), ids=CONTRACT)
    @classmethod
    def operator(cls, request, checkpoint):
        return ZeroShotClassifier(
            checkpoint(), column="body", labels=["x", "lazy"], **request.param
        )
