"""Whatever an operator can run is described, with the head that it was saved with or another."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_model
from support import headed, tiny

import dask_embed as de

pytestmark = pytest.mark.usefixtures("one_torch_thread")

KINDS = [
    *[("bert", task) for task in ("classify", "classify-tokens", "answer", "fill-mask")],
    *[("gpt2", task) for task in ("classify", "causal-lm")],
    *[("t5", task) for task in ("classify", "seq2seq-lm")],
]


class Texts(torch.nn.Module):
    """Logits of texts, or of tokens, from embeddings alone."""

    per_text = True

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(config.words, config.num_labels)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        vectors = self.words(input_ids) * attention_mask[..., None]
        return vectors.sum(1) if self.per_text else vectors


class Tokens(Texts):
    per_text = False


@pytest.fixture(scope="module")
def custom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a model that transformers does not know."""
    base = tiny.save("bert", tmp_path_factory.mktemp("custom") / "bert")
    for file in ("config.json", "model.safetensors"):
        (base / file).unlink()
    (base / "config.json").write_text(json.dumps({"words": 400}))
    module = Texts(transformers.PretrainedConfig(words=400, num_labels=2))
    save_model(module, str(base / "model.safetensors"))
    return base


@pytest.mark.parametrize(("name", "task"), KINDS)
def test_the_head_that_was_saved(name: str, task: str, tmp_path: Path) -> None:
    folder = headed.save(name, task, tmp_path / "model")
    given = de.describe_model(folder)
    reference = getattr(transformers, headed.CLASSES[task]).from_pretrained(folder)
    assert (given.task, given.architecture) == (task, type(reference).__name__)
    assert given.parameters == reference.num_parameters()


def test_another_head_than_the_saved(tmp_path: Path) -> None:
    folder = headed.save("bert", "fill-mask", tmp_path / "model")
    given = de.describe_model(folder, "embed")
    assert (given.task, given.architecture) == ("embed", "BertModel")
    with pytest.raises(ValueError, match="ForSequenceClassification"):
        de.describe_model(folder, "classify")
    with pytest.raises(ValueError, match="task must be one of"):
        de.describe_model(folder, "score")


@pytest.mark.parametrize(("factory", "task"), [(Texts, "classify"), (Tokens, "classify-tokens")])
@pytest.mark.parametrize("told", [False, True])
def test_a_factory(custom: Path, factory: Any, task: str, told: bool) -> None:
    model = de.Model(custom, factory=factory, labels=("a", "b"))
    given = de.describe_model(model, task if told else None)
    assert (given.task, given.architecture) == (task, factory.__name__)
    assert (given.parameters, given.hidden_size) == (800, None)


def test_a_factory_that_fits_no_weights(custom: Path, tmp_path: Path) -> None:
    shutil.copytree(custom, tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text(json.dumps({"words": 300}))
    with pytest.raises(ValueError, match=r"words.weight of shape \(400, 2\)"):
        de.describe_model(de.Model(tmp_path / "model", factory=Texts, labels=("a", "b")))


@pytest.mark.parametrize(("saved", "expected"), [(None, 48), (20, 20), (1000, tiny.POSITIONS)])
def test_the_limit_in_force(saved: int | None, expected: int, tmp_path: Path) -> None:
    """The tokenizer's, or in its place that of sentence-transformers; never beyond positions."""
    folder = tiny.save("bert", tmp_path / "model")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"model_max_length": 48}))
    if saved is not None:
        sentence = tiny.add_modules(folder) / "sentence_bert_config.json"
        sentence.write_text(json.dumps({"max_seq_length": saved}))
    assert de.describe_model(folder).max_length == expected
