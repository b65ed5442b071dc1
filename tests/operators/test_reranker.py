"""Reranker: scores of sentence-transformers' CrossEncoder, as a column."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from support import headed, pairs, tiny
from support.contract import DataframeContract, assert_same_value, values_of

import dask_embed as de
from dask_embed.operators.labels.classifier import Classifier
from dask_embed.operators.labels.reranker import Reranker

pytestmark = pytest.mark.usefixtures("one_torch_thread")

QUERY = "How is a table read?"
FRAME = pd.DataFrame({"text": pd.array(pairs.TEXTS, "str"), "query": pd.array(pairs.OTHERS, "str")})
ARCHITECTURES = [name for name in tiny.ARCHITECTURES if headed.has_head(name, "classify")]
# CrossEncoder pads every batch, and transformers' decoders then need a token to pad with
PADDING = [name for name in ARCHITECTURES if name not in ("llama", "nemotron", "gpt2", "mistral")]
ATOL = 1e-5


def cross_encoder(folder, **options):
    from sentence_transformers import CrossEncoder

    return CrossEncoder(str(folder), device="cpu", **options)


def predict(folder, frame=FRAME, query=None, **options):
    """Return CrossEncoder's score of each row, one row at a time; None where a text is null."""
    how = {name: options.pop(name) for name in ("prompt", "prompt_name") if name in options}
    how |= {name: options.pop(name) for name in ("activation_fn",) if name in options}
    model = cross_encoder(folder, **options)
    scores = []
    for text, own in zip(frame["text"], frame["query"], strict=True):
        asked = own if query is None else query
        missing = pd.isna(text) or pd.isna(asked)
        given = None if missing else model.predict([(asked, text)], show_progress_bar=False, **how)
        scores.append(None if given is None else given[0].tolist())
    return scores


def assert_visibly_different(scores, most=2e-3):
    present = [score for score in scores if score is not None]
    assert len(np.unique(np.round(present, 4))) >= 5
    assert present != sorted(present)
    assert present != sorted(present, reverse=True)
    assert np.ptp(present) > most


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Return a function that gives a folder with a head of `labels` labels; limit 64 tokens."""
    saved = {}

    def folder(name="bert", labels=1):
        if (name, labels) not in saved:
            path = tmp_path_factory.mktemp(f"{name}-{labels}") / "model"
            pairs.save(name, path, num_labels=labels)
            pairs.edit_json(path / "tokenizer_config.json", model_max_length=64)
            saved[name, labels] = str(path)
        return saved[name, labels]

    return folder


@pytest.fixture(scope="module")
def saved_as(tmp_path_factory, checkpoint):
    """Return a function that saves the checkpoint through CrossEncoder; gives the folder."""

    def save(labels=1, **options):
        folder = tmp_path_factory.mktemp("cross-encoder") / "model"
        model = cross_encoder(checkpoint("bert", labels), **options)
        model.save(str(folder))
        return str(folder)

    return save


WAYS = {
    "as it likes": ({}, {}),
    "padded left": ({"attention": "padded"}, {"padding_side": "left", "batch_size": 3}),
    "padded right": ({"attention": "padded"}, {"padding_side": "right", "batch_size": 4}),
}


@pytest.mark.parametrize("name", PADDING)
def test_every_architecture_equals_cross_encoder(checkpoint, name):
    """One query a row, and one for all rows, however batches are run."""
    folder = checkpoint(name)
    of_rows, of_all = predict(folder), predict(folder, query=QUERY)
    assert_visibly_different(of_rows)
    for model, options in WAYS.values():
        spec = de.Model(folder, **model)
        out = Reranker(spec, query_column="query", **options)(FRAME)
        assert_same_value(values_of(out["rerank_score"]), of_rows, ATOL)
        out = Reranker(spec, query=QUERY, output="score", **options)(FRAME)
        assert_same_value(values_of(out["score"]), of_all, ATOL)
        assert out["score"].dtype == pd.ArrowDtype(pa.float32())


def test_batches_of_cross_encoder_give_the_same(checkpoint):
    """Also of many rows at a time, which CrossEncoder sorts and pads."""
    folder = checkpoint()
    frame = FRAME.dropna()
    given = list(zip(frame["query"], frame["text"], strict=True))
    expected = cross_encoder(folder).predict(given, show_progress_bar=False).tolist()
    out = Reranker(folder, query_column="query")(frame)
    assert_same_value(values_of(out["rerank_score"]), expected, ATOL)


def test_ranks_as_cross_encoder(checkpoint):
    """`nlargest` of the scores gives the documents of `CrossEncoder.rank`."""
    folder = checkpoint()
    texts = [text for text in dict.fromkeys(pairs.TEXTS) if text]
    ranked = cross_encoder(folder).rank(QUERY, texts, top_k=4, show_progress_bar=False)
    ddf = dd.from_pandas(pd.DataFrame({"text": texts}), npartitions=3, sort=False)
    best = Reranker(folder, query=QUERY)(ddf).nlargest(4, "rerank_score").compute()
    assert best["text"].tolist() == [texts[entry["corpus_id"]] for entry in ranked]
    assert_same_value(best["rerank_score"].tolist(), [e["score"] for e in ranked], ATOL)


def test_several_labels_give_vectors(checkpoint):
    """A model of three labels has no activation by default, and a vector for each row."""
    folder = checkpoint("bert", 3)
    out = Reranker(folder, query_column="query")(FRAME)
    expected = predict(folder)
    assert_same_value(values_of(out["rerank_score"]), expected, ATOL)
    assert out["rerank_score"].dtype == pd.ArrowDtype(pa.list_(pa.float32(), 3))
    assert min(min(row) for row in expected if row) < 0


ACTIVATIONS = {
    "identity": torch.nn.Identity,
    "sigmoid": torch.nn.Sigmoid,
    "softmax": lambda: torch.nn.Softmax(dim=-1),
    "tanh": torch.nn.Tanh,
}


@pytest.mark.parametrize("labels", [1, 3])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_equal_cross_encoder(checkpoint, name, labels):
    folder = checkpoint("bert", labels)
    expected = predict(folder, activation_fn=ACTIVATIONS[name]())
    out = Reranker(folder, query_column="query", activation=name)(FRAME)
    assert_same_value(values_of(out["rerank_score"]), expected, ATOL)


@pytest.mark.parametrize("labels", [1, 3])
@pytest.mark.parametrize("activation", [None, torch.nn.Identity(), torch.nn.Softplus()], ids=str)
def test_folders_of_cross_encoder(saved_as, activation, labels):
    """The activation that was saved is applied, and the limit of tokens kept."""
    folder = saved_as(labels, activation_fn=activation, max_length=30)
    assert (Path(folder) / "modules.json").is_file()
    out = Reranker(folder, query_column="query")(FRAME)
    assert_same_value(values_of(out["rerank_score"]), predict(folder), ATOL)
    longer = Reranker(folder, query_column="query", max_length=64)(FRAME)
    assert values_of(longer["rerank_score"])[1] != values_of(out["rerank_score"])[1]


@pytest.mark.parametrize("place", ["version 4", "version 3", "both", "null"])
def test_activations_of_older_versions(checkpoint, tmp_path, place):
    """They stand in config.json, under two names; the newer one counts."""
    folder = shutil.copytree(checkpoint(), tmp_path / "old")
    tanh, identity = "torch.nn.modules.activation.Tanh", "torch.nn.modules.linear.Identity"
    written = {
        "version 4": {"sentence_transformers": {"activation_fn": tanh, "version": "4.1.0"}},
        "version 3": {"sbert_ce_default_activation_function": identity},
        "both": {
            "sentence_transformers": {"activation_fn": tanh},
            "sbert_ce_default_activation_function": identity,
        },
        "null": {"sentence_transformers": {"version": "4.1.0"}},
    }[place]
    pairs.edit_json(folder / "config.json", **written)
    out = Reranker(folder, query_column="query")(FRAME)
    expected = predict(folder)
    assert_same_value(values_of(out["rerank_score"]), expected, ATOL)
    plain = predict(checkpoint())
    assert (expected == plain) == (place == "null")


@pytest.mark.parametrize(
    "options", [{}, {"prompt_name": "question"}, {"prompt": "Asked: "}, {"prompt": ""}], ids=str
)
def test_prompts_equal_cross_encoder(saved_as, options):
    """Prompts stand before the query; the checkpoint's default is used unless told otherwise."""
    prompts = {"query": "Search for: ", "question": "An answer to "}
    folder = saved_as(prompts=prompts, default_prompt_name="query")
    expected = predict(folder, **options)
    out = Reranker(folder, query_column="query", **options)(FRAME)
    assert_same_value(values_of(out["rerank_score"]), expected, ATOL)
    without = Reranker(folder, query_column="query", prompt="")(FRAME)
    same = values_of(without["rerank_score"])[0] == values_of(out["rerank_score"])[0]
    assert same == (options == {"prompt": ""})
    with pytest.raises(ValueError, match=r"one of the checkpoint's prompts .*did you mean 'query'"):
        Reranker(folder, query=QUERY, prompt_name="qery")(FRAME)


def test_folders_of_cross_encoder_serve_other_operators(saved_as, checkpoint):
    """Their transformer classifies and embeds as the folder that they were made from."""
    folder, plain = saved_as(3), checkpoint("bert", 3)
    for operator in (Classifier, de.Embedder):
        name = operator(plain).output
        given, expected = operator(folder)(FRAME)[name], operator(plain)(FRAME)[name]
        assert_same_value(values_of(given), values_of(expected), 1e-6)


def test_head_runs_five_rows(checkpoint, rows_through_model):
    frame = pd.concat([FRAME.dropna()] * 3, ignore_index=True)
    ddf = dd.from_pandas(frame, npartitions=2, sort=False)
    out = Reranker(checkpoint(), query_column="query")(ddf)
    assert rows_through_model(lambda: out.head(5)) == 5
    assert rows_through_model(lambda: out[["text"]].compute()) == 0
    assert rows_through_model(out["rerank_score"].compute) == len(frame)


def test_through_parquet(checkpoint, tmp_path):
    """Scores and vectors are the same after writing and reading; scores filter lazily."""
    ddf = dd.from_pandas(FRAME, npartitions=2, sort=False)
    out = Reranker(checkpoint(), query=QUERY)(ddf)
    out = Reranker(checkpoint("bert", 3), query=QUERY, output="vector")(out)
    expected = out.compute()
    out.ml.to_parquet(tmp_path / "out")
    read = pd.read_parquet(tmp_path / "out", dtype_backend="pyarrow")
    for name in ("rerank_score", "vector"):
        assert_same_value(values_of(read[name]), values_of(expected[name]), 0)
    middle = float(expected["rerank_score"].median())
    above = out[out.rerank_score > middle].compute()
    assert above["text"].tolist() == [
        text
        for text, score in zip(expected["text"], expected["rerank_score"], strict=True)
        if score is not pd.NA and score > middle
    ]
    assert len(above) >= 2


def test_on_long_error(checkpoint):
    """A pair that is too long costs one null and one message."""
    reranker = Reranker(checkpoint(), query_column="query", on_long="error", on_error="null")
    out = reranker(FRAME)
    messages = values_of(out["rerank_score_error"])
    assert [row for row, text in enumerate(messages) if text] == [1, 2]
    assert "more than 64 tokens" in messages[1]
    assert out["rerank_score"].isna().tolist() == [row in (1, 2, 3, 8) for row in range(len(FRAME))]


def test_pairs_without_tokens_are_null(checkpoint):
    """GPT-2 adds no special token: two empty strings are nothing to score."""
    frame = pd.DataFrame({"text": ["", "a", ""], "query": ["", "", "b"]})
    for labels in (1, 3):
        out = Reranker(checkpoint("gpt2", labels), query_column="query")(frame)
        assert out["rerank_score"].isna().tolist() == [True, False, False]


# Checkpoints and arguments that do not fit


def test_activations_that_are_not_torchs(saved_as):
    """A class of anything but torch.nn is imported only where code is trusted."""
    folder = saved_as()
    settings = Path(folder) / "config_sentence_transformers.json"
    pairs.edit_json(settings, activation_fn="os.getcwd")
    ddf = dd.from_pandas(FRAME, npartitions=2)
    with pytest.raises(ValueError, match=r"activation 'os.getcwd'; without .*trust_remote_code"):
        Reranker(folder, query=QUERY)(ddf)
    chosen = Reranker(folder, query=QUERY, activation="tanh")(FRAME)
    assert_same_value(
        values_of(chosen["rerank_score"]),
        predict(folder, query=QUERY, activation_fn=torch.nn.Tanh()),
        ATOL,
    )
    pairs.edit_json(settings, activation_fn="torch.nn.functional.tanh")
    with pytest.raises(ValueError, match=r"class of torch modules, got 'torch.nn.functional.tanh'"):
        Reranker(folder, query=QUERY)(ddf)
    pairs.edit_json(settings, activation_fn="torch.nn.Tahn")
    with pytest.raises(ValueError, match=r"class of torch modules, got 'torch.nn.Tahn'"):
        Reranker(folder, query=QUERY)(ddf)
    pairs.edit_json(settings, activation_fn="transformers.activations.QuickGELUActivation")
    trusted = Reranker(de.Model(folder, trust_remote_code=True), query=QUERY)(FRAME)
    expected = predict(folder, query=QUERY, trust_remote_code=True)
    assert_same_value(values_of(trusted["rerank_score"]), expected, ATOL)
    pairs.edit_json(settings, activation_fn=["torch.nn.Tanh"])
    with pytest.raises(ValueError, match="must be the path of a class, got"):
        Reranker(folder, query=QUERY)(ddf)


def test_rerankers_that_answer_in_words(tmp_path):
    """A language model has no score of a pair: that is said, with its class or module."""
    ddf = dd.from_pandas(FRAME, npartitions=2)
    causal = headed.save("qwen3", "causal-lm", tmp_path / "causal")
    with pytest.raises(ValueError, match=r"saved as Qwen3ForCausalLM; .*ForSequenceClassification"):
        Reranker(causal, query=QUERY)(ddf)
    modules = [
        {"idx": 0, "path": "", "type": "sentence_transformers.base.modules.Transformer"},
        {
            "idx": 1,
            "path": "1_LogitScore",
            "type": "sentence_transformers.cross_encoder.modules.logit_score.LogitScore",
        },
    ]
    (causal / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ValueError, match=r"LogitScore', which cannot be run here"):
        Reranker(causal, query=QUERY)(ddf)


@pytest.mark.parametrize("place", ["config", "file", "modality"])
def test_chat_templates_are_refused(saved_as, checkpoint, tmp_path, place):
    """CrossEncoder would write a chat from query and text, which would give other scores."""
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    folder = Path(shutil.copytree(checkpoint(), tmp_path / "chat"))
    if place == "config":
        pairs.edit_json(folder / "tokenizer_config.json", chat_template=template)
    elif place == "file":
        (folder / "chat_template.jinja").write_text(template)
    if place == "modality":
        folder = Path(saved_as())
        kinds = {"message": {"method": "forward", "method_output_name": "logits"}}
        pairs.edit_json(folder / "sentence_bert_config.json", modality_config=kinds)
    else:
        assert "message" in cross_encoder(folder)[0].modality_config
    with pytest.raises(ValueError, match="through a chat template"):
        Reranker(folder, query=QUERY)(dd.from_pandas(FRAME, npartitions=2))


def test_transformers_alone_without_a_head(tmp_path):
    """Modules that are a bare transformer are still refused, as is a folder without a head."""
    ddf = dd.from_pandas(FRAME, npartitions=2)
    plain = tiny.save("bert", tmp_path / "plain")
    with pytest.raises(ValueError, match=r"saved as BertModel; .*ForSequenceClassification"):
        Reranker(plain, query=QUERY)(ddf)
    alone = [{"idx": 0, "path": "", "type": "sentence_transformers.base.modules.Transformer"}]
    (plain / "modules.json").write_text(json.dumps(alone))
    with pytest.raises(ValueError, match="must have one Pooling module"):
        de.Embedder(plain)(ddf)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give query, one text for all rows, or query_column"),
        ({"query": "a", "query_column": "query"}, "give query, one text for all rows, or"),
        ({"query": 3}, "query must be a string, got 3"),
        ({"query": "a", "activation": "sigmod"}, "did you mean 'sigmoid'"),
        ({"query": "a", "prompt": "a", "prompt_name": "b"}, "give prompt or prompt_name, not both"),
        ({"query": "a", "prompt_name": "b"}, "prompt_name='b': the checkpoint has no prompts; "),
        ({"query_column": "qery"}, "'qery' is not in the dataframe .did you mean 'query'"),
        ({"query": "a", "column": "txt"}, "'txt' is not in the dataframe"),
        ({"query": "a", "max_length": 65}, "max_length must be at most 64"),
    ],
)
def test_errors_before_any_work(checkpoint, options, message):
    ddf = dd.from_pandas(FRAME, npartitions=2)
    with pytest.raises((TypeError, ValueError), match=message):
        Reranker(checkpoint(), **options)(ddf)


CONTRACT = {
    "one query": (1, {"query": QUERY, "on_error": "null"}),
    "a query a row, vectors": (3, {"query_column": "query", "batch_size": 2}),
}


class TestContract(DataframeContract):
    @pytest.fixture(scope="class", params=CONTRACT.values(), ids=CONTRACT)
    @classmethod
    def operator(cls, request, checkpoint):
        labels, options = request.param
        return Reranker(checkpoint("bert", labels), column="body", **options)
