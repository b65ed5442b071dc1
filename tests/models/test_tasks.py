"""Which heads a checkpoint has, as its configuration tells: what transformers would not find."""

from __future__ import annotations

import json

import pytest
import transformers
from support import headed, tiny

import dask_embed as de
from dask_embed.inference import runner
from dask_embed.models.tasks import TASKS
from dask_embed.operators import CandidateScorer

OPERATORS = {
    "classify": lambda folder: de.Classifier(folder),
    "classify-tokens": lambda folder: de.TokenClassifier(folder),
    "answer": lambda folder: de.QuestionAnswerer(folder, question="a"),
    "fill-mask": lambda folder: de.MaskFiller(folder),
    "causal-lm": lambda folder: CandidateScorer(folder, candidates=("a", "b")),
    "seq2seq-lm": lambda folder: de.Generator(folder),
}
# Architecture, the task it is saved for (None: the bare model), the task it is asked to do.
CASES = [
    *(("bert", None, task) for task in ("classify", "classify-tokens", "answer", "fill-mask")),
    ("roberta", None, "fill-mask"),
    ("bert", "classify", "fill-mask"),
    ("bert", "fill-mask", "fill-mask"),
    ("llama", None, "causal-lm"),
    ("llama", "classify", "causal-lm"),
    ("llama", "causal-lm", "causal-lm"),
    ("gpt2", None, "causal-lm"),
    ("gpt2", "classify", "causal-lm"),
    ("t5", None, "seq2seq-lm"),
    ("t5", "seq2seq-lm", "seq2seq-lm"),
]


@pytest.fixture(autouse=True)
def _no_weights(monkeypatch):
    def fail(*args):
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(runner, "load", fail)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Return a function that saves an architecture, with the head of a task or without."""
    root = tmp_path_factory.mktemp("heads")

    def folder(name, task):
        path = root / f"{name}-{task}"
        if not path.exists():
            tiny.save(name, path) if task is None else headed.save(name, task, path)
        return path

    return folder


@pytest.mark.parametrize(("name", "saved", "task"), CASES)
def test_heads_are_missed_where_transformers_misses_them(folders, name, saved, task):
    """An error on the client where, and only where, weights of the head would be random."""
    folder = folders(name, saved)
    auto = getattr(transformers, TASKS[task].auto_class)
    _, info = auto.from_pretrained(folder, output_loading_info=True)
    operator = OPERATORS[task](folder)
    if not info["missing_keys"]:
        assert operator.types()
        return
    with pytest.raises(ValueError, match=r"was saved as .*; a checkpoint of a class") as caught:
        operator.types()
    (architecture,) = json.loads((folder / "config.json").read_text())["architectures"]
    assert f"was saved as {architecture}; " in str(caught.value)


@pytest.mark.parametrize("architectures", [None, ["BertForPreTraining"], ["BertLMHeadModel"]])
def test_other_names_are_left_to_loading(tmp_path, architectures):
    """Other classes have the head of masked tokens too, and some files name none."""
    folder = headed.save("bert", "fill-mask", tmp_path / "other")
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"architectures": architectures}))
    assert de.MaskFiller(folder).types()


def test_a_head_of_its_own_needs_no_name(folders):
    """What a factory builds is not in the configuration of the checkpoint."""
    model = de.Model(folders("bert", None), factory=tiny.save, labels=("a", "b"))
    assert de.Classifier(model).types()


@pytest.mark.parametrize("task", ["embed", "answer", "fill-mask", "causal-lm"])
def test_labels_where_nothing_is_labelled_are_an_error(folders, task):
    name = "llama" if task == "causal-lm" else "bert"
    model = de.Model(folders(name, None if task == "embed" else task), labels=("a", "b"))
    operator = {**OPERATORS, "embed": de.Embedder}[task](model)
    with pytest.raises(ValueError, match=rf"labels=\('a', 'b'\) .* has no effect .* '{task}'"):
        operator.types()
