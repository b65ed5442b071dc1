"""A `max_length` that leaves no room is an error on the client, and the next larger one runs."""

from __future__ import annotations

import dask.dataframe as dd
import pandas as pd
import pyarrow as pa
import pytest
import transformers
from support import headed, pairs, tiny
from transformers.models.canine import tokenization_canine

import dask_embed as de
from dask_embed.inference import runner
from dask_embed.operators import CandidateScorer, NextTokenScorer, PerplexityScorer, checkpointed

pytestmark = pytest.mark.usefixtures("one_torch_thread")

FRAME = pd.DataFrame({"text": ["a", "b"], "other": ["[MASK]", "[MASK]"]}, dtype="str")
FRAME["lists"] = pd.arrays.ArrowExtensionArray(pa.array([["a"], ["b"]]))
TASKS = {
    "classify": (
        "bert",
        {"label2id": {"entailment": 0, "b": 1}, "id2label": {0: "entailment", 1: "b"}},
    ),
    "classify-tokens": ("bert", {}),
    "answer": ("bert", {}),
    "fill-mask": ("bert", {}),
    "causal-lm": ("llama", {}),
    "seq2seq-lm": ("t5", {}),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Return a function that gives the checkpoint with a head, its tokenizer made for pairs."""
    root = tmp_path_factory.mktemp("limits")

    def folder(task):
        name, settings = TASKS[task]
        if not (root / task).exists():
            headed.save(name, task, root / task, **settings)
            if name == "bert":
                pairs.join_pairs(root / task)
        return str(root / task)

    return folder


@pytest.fixture
def _no_weights(monkeypatch):
    def fail(*args):
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(runner, "load", fail)


QUESTION, CANDIDATES = "what is it", ("yes", "it returns a list")
TOPICS = {"labels": ("a", "tables and lists")}
HYPOTHESES = ["This example is a.", "This example is tables and lists."]
# Operator, its task and arguments; special tokens; the texts of which the longest has to fit, as
# the model reads them; further tokens; and what the message calls these parts.
CASES = {
    "embed": (de.Embedder, "classify", {}, 2, (), 0, "2 special"),
    "classify": (de.Classifier, "classify", {}, 2, (), 0, "2 special"),
    "classify pairs": (de.Classifier, "classify", {"pair": "other"}, 3, (), 0, "3 special"),
    "rerank": (de.Reranker, "classify", {"query": "x"}, 3, (), 0, "3 special"),
    "rerank a column": (de.Reranker, "classify", {"query_column": "other"}, 3, (), 0, "3 special"),
    "zero-shot": (
        *(de.ZeroShotClassifier, "classify", TOPICS, 3, HYPOTHESES, 1),
        "of the longest hypothesis, 1 of the text",
    ),
    "tokens": (de.TokenClassifier, "classify-tokens", {}, 2, (), 0, "2 special"),
    "answers": (
        *(de.QuestionAnswerer, "answer", {"question": QUESTION}, 3, (), 4),
        "3 special, 3 that windows share, 1 of the text",
    ),
    "answers in one piece": (
        *(de.QuestionAnswerer, "answer", {"question": QUESTION, "on_long": "error"}),
        *(3, [QUESTION], 1, "of the question, 1 of the text"),
    ),
    "masks": (de.MaskFiller, "fill-mask", {"column": "other"}, 2, (), 1, "1 for the mask"),
    "score candidates": (
        *(
            CandidateScorer,
            "causal-lm",
            {"candidates": CANDIDATES},
            1,
            [f" {c}" for c in CANDIDATES],
            1,
        ),
        "of the longest candidate, 1 of the prompt",
    ),
    "score a column": (
        *(CandidateScorer, "causal-lm", {"candidates_column": "lists"}, 1, (), 2),
        "1 special, 1 of the longest candidate, 1 of the prompt",
    ),
    "score next tokens": (
        NextTokenScorer,
        "causal-lm",
        {"top_k_next": 2},
        1,
        (),
        1,
        "1 of the prompt",
    ),
}


def least_of(name, folder):
    """The special tokens and those of the longest text, by transformers' tokenizer, and more."""
    import transformers

    _, _, _, special, texts, more, _ = CASES[name]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    counts = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
    return special + max(counts, default=0) + more


@pytest.mark.usefixtures("_no_weights")
@pytest.mark.parametrize("name", CASES)
def test_too_short_is_an_error_on_the_client(folders, name):
    """On Dask and in memory, with what takes the room and what was given."""
    cls, task, options, *_, parts = CASES[name]
    least = least_of(name, folders(task))
    operator = cls(folders(task), max_length=least - 1, on_error="null", **options)
    for given in (FRAME, dd.from_pandas(FRAME, npartitions=2)):
        with pytest.raises(ValueError, match="max_length must be at least") as caught:
            operator(given)
        assert f"max_length must be at least {least} tokens (" in str(caught.value)
        assert f"{parts}); got {least - 1}" in str(caught.value)


@pytest.mark.parametrize("name", CASES)
def test_the_least_length_runs(folders, name):
    """What is not refused gives results of rows that fit."""
    cls, task, options, *_ = CASES[name]
    least = least_of(name, folders(task))
    operator = cls(folders(task), max_length=least, **options)
    out = operator(FRAME)
    assert out[operator.result_columns[0]].notna().all()


@pytest.mark.usefixtures("_no_weights")
def test_room_for_new_tokens(tmp_path):
    """Special tokens, new ones and nothing else is the least for a causal model."""
    folder = headed.save("gemma3-bidirectional", "causal-lm", tmp_path / "two")  # <s> and </s>
    with pytest.raises(ValueError, match=r"at least 5 tokens \(2 special, 3 new\); got 4"):
        de.Generator(folder, max_new_tokens=3, max_length=4).types()
    assert de.Generator(folder, max_new_tokens=3, max_length=5).types()
    assert de.Generator(folder, max_new_tokens=3, max_length=4, add_special_tokens=False).types()


@pytest.mark.usefixtures("_no_weights")
def test_room_of_encoders_and_decoders(folders):
    """Prompt and candidate have the limit each; of texts, a token needs one before it."""
    with pytest.raises(ValueError, match=r"at least \d+ tokens, those of the longest candidate"):
        CandidateScorer(folders("seq2seq-lm"), candidates=CANDIDATES, max_length=3).types()
    with pytest.raises(ValueError, match=r"at least 2 tokens \(1 special, 1 of the prompt\)"):
        NextTokenScorer(folders("seq2seq-lm"), top_k_next=1, max_length=1).types()
    with pytest.raises(ValueError, match="at least 2, a token and the one before it; got 1"):
        PerplexityScorer(folders("causal-lm"), max_length=1).types()
    assert PerplexityScorer(folders("causal-lm"), max_length=2).types()


@pytest.mark.usefixtures("_no_weights")
@pytest.mark.parametrize(
    ("cls", "task", "special", "options"),
    [
        (de.TokenClassifier, "classify-tokens", 2, {}),
        (de.QuestionAnswerer, "answer", 3, {"question": QUESTION}),
    ],
)
def test_windows_that_share_all_they_have(folders, cls, task, special, options):
    """A stride has to leave a token besides special ones, of any length of the window."""
    for length, limit in ((8, 8), (None, tiny.POSITIONS)):
        most = limit - special
        with pytest.raises(ValueError, match=f"stride must be less than {most}, .*; got {most}"):
            cls(folders(task), max_length=length, stride=most, **options).types()
        assert cls(folders(task), max_length=length, stride=most - 1, **options).types()


def test_the_tokenizer_is_read_only_where_it_matters(folders, monkeypatch):
    """Neither the default limit nor one with room for any special tokens needs it."""
    read = []
    monkeypatch.setattr(checkpointed, "tokenizer_of", lambda spec: read.append(spec))
    for options in ({}, {"max_length": 64}, {"max_length": 32}):
        assert de.Embedder(folders("classify"), **options).types()
    assert not read
    with pytest.raises(AttributeError):
        de.Embedder(folders("classify"), max_length=8).types()
    assert len(read) == 1


@pytest.mark.usefixtures("_no_weights")
@pytest.mark.parametrize(
    ("operator", "name"),
    [
        (de.TokenClassifier, "CanineForTokenClassification"),
        (de.QuestionAnswerer, "CanineForQuestionAnswering"),
    ],
)
def test_tokenizers_in_python_have_no_spans(tmp_path, monkeypatch, operator, name):
    """They do not say where tokens come from."""
    # it lists all characters, each time: those to its last special one are enough
    monkeypatch.setattr(tokenization_canine, "UNICODE_VOCAB_SIZE", 0xE100)
    config = transformers.CanineConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=4)
    getattr(transformers, name)(config).save_pretrained(tmp_path)
    transformers.CanineTokenizer(model_max_length=64).save_pretrained(tmp_path)
    options = {"question": QUESTION} if operator is de.QuestionAnswerer else {}
    message = f"{operator.__name__} needs a tokenizer in Rust .* is CanineTokenizer, in Python"
    with pytest.raises(ValueError, match=message):
        operator(str(tmp_path), **options)(dd.from_pandas(FRAME, npartitions=1))
