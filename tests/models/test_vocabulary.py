"""Ids for which a model has no embedding: told on the client, else a failed row, never a crash."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from support import headed, tiny

import dask_embed as de
from dask_embed.models import vocabulary

pytestmark = pytest.mark.usefixtures("one_torch_thread")

ODD = "<odd>"
FRAME = pd.DataFrame(
    {
        "text": ["the mean of a sample", f"return {ODD} value", "x", "for each value"],
        "other": ["a value", "x", "the sample", "return"],
    },
    index=["a", "b", "c", "d"],
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Checkpoints whose tokenizer has a special token more than they have embeddings."""
    root = tmp_path_factory.mktemp("vocabulary")
    known: dict[tuple[str, str], Path] = {}

    def save(name: str, task: str) -> Path:
        if (name, task) not in known:
            folder = root / f"{name}-{task}"
            if task == "embed":
                tiny.save(name, folder)
            else:
                headed.save(name, task, folder, num_labels=2)
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
            rows = transformers.AutoConfig.from_pretrained(folder).vocab_size
            fill = [f"<fill{number}>" for number in range(rows - len(tokenizer))]
            tokenizer.add_tokens([*fill, ODD], special_tokens=True)
            assert tokenizer.convert_tokens_to_ids(ODD) >= rows
            tokenizer.save_pretrained(folder)
            known[name, task] = folder
        return known[name, task]

    return save


OPERATORS: list[tuple[str, str, Callable[..., Any]]] = [
    ("bert", "embed", lambda model, **o: de.Embedder(model, column="text", **o)),
    ("t5", "embed", lambda model, **o: de.Embedder(model, column="text", **o)),
    ("llama", "embed", lambda model, **o: de.Embedder(model, column="text", pooling="none", **o)),
    ("bert", "classify", lambda model, **o: de.Classifier(model, column="text", **o)),
    ("bert", "classify-tokens", lambda model, **o: de.TokenClassifier(model, column="text", **o)),
    (
        "bert",
        "answer",
        lambda model, **o: de.QuestionAnswerer(model, question_column="other", **o),
    ),
    ("bert", "fill-mask", lambda model, **o: de.MaskFiller(model, column="text", **o)),
    ("llama", "causal-lm", lambda model, **o: de.Generator(model, max_new_tokens=3, **o)),
    ("t5", "seq2seq-lm", lambda model, **o: de.Generator(model, max_new_tokens=3, **o)),
    (
        "llama",
        "causal-lm",
        lambda model, **o: de.CandidateScorer(model, candidates=["x", "the"], **o),
    ),
    (
        "t5",
        "seq2seq-lm",
        lambda model, **o: de.CandidateScorer(model, candidates=["x", "the"], **o),
    ),
]


def _texts(task: str, frame: pd.DataFrame) -> pd.DataFrame:
    mask = "[MASK] " if task == "fill-mask" else ""
    return frame.assign(text=mask + frame["text"])


@pytest.mark.parametrize(("name", "task", "build"), OPERATORS)
def test_a_row_without_an_embedding_fails(
    name: str, task: str, build: Callable[..., Any], saved: Callable[..., Path]
) -> None:
    """The others are as if it were not there."""
    model, frame = saved(name, task), _texts(task, FRAME)
    given = build(model, on_error="null")(frame)
    errors = given.columns[given.columns.str.endswith("_error")][0]
    assert "it has the token id" in given.loc["b", errors]
    assert given[errors].drop("b").isna().all()
    others = build(model, on_error="null")(frame.drop("b"))
    pd.testing.assert_frame_equal(given.drop("b"), others)
    lazy = build(model)(dd.from_pandas(frame, npartitions=1))
    with pytest.raises(ValueError, match=r"row 1 of the partition \(index 'b'\): it has the token"):
        lazy.compute(scheduler="sync")


@pytest.mark.parametrize(("name", "task", "build"), OPERATORS)
def test_a_vocabulary_beyond_the_table_is_refused(
    name: str, task: str, build: Callable[..., Any], tmp_path: Path
) -> None:
    """By another checkpoint's tokenizer that was copied beside the weights, say."""
    save = tiny.save if task == "embed" else lambda name, to: headed.save(name, task, to)
    folder = save(name, tmp_path / "model")
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    rows = transformers.AutoConfig.from_pretrained(folder).vocab_size
    learned = content["model"]["vocab"]
    more = [f"more{number}" for number in range(rows - len(learned) + 1)]
    if isinstance(learned, dict):
        learned |= {word: len(learned) + place for place, word in enumerate(more)}
    else:
        learned += [[word, -20.0] for word in more]
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"tokens up to {rows}, but .* up to {rows - 1}"):
        build(folder)(dd.from_pandas(_texts(task, FRAME), npartitions=1))


def test_special_tokens_around_every_text_need_embeddings(tmp_path: Path) -> None:
    folder = tiny.save("roberta", tmp_path / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    rows = transformers.AutoConfig.from_pretrained(folder).vocab_size
    content = json.loads((folder / "tokenizer.json").read_text())
    last = max(tokenizer.get_vocab().values())
    named = {"id": rows, "content": "<new>", "special": True, "single_word": False}
    named |= {"lstrip": False, "rstrip": False, "normalized": False}
    fill = [named | {"id": place, "content": f"<fill{place}>"} for place in range(last + 1, rows)]
    content["added_tokens"] += [*fill, named]
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "<new>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [
            {"Sequence": {"id": "A", "type_id": 0}},
            {"Sequence": {"id": "B", "type_id": 0}},
        ],
        "special_tokens": {"<new>": {"id": "<new>", "ids": [rows], "tokens": ["<new>"]}},
    }
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"tokens up to {rows}"):
        de.Embedder(folder, column="text")(FRAME)


@pytest.mark.parametrize("name", ["bert", "llama", "t5", "gpt2", "albert"])
def test_files_say_what_the_tokenizer_has(name: str, tmp_path: Path) -> None:
    folder = tiny.save(name, tmp_path / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["ordinary"])
    tokenizer.add_tokens(["<special>"], special_tokens=True)
    tokenizer.save_pretrained(folder)
    found = vocabulary.token_ids(folder, "any", de.Model(folder))
    special = {place for place, each in tokenizer.added_tokens_decoder.items() if each.special}
    word = tokenizer.convert_tokens_to_ids("ordinary")
    expected = max(set(tokenizer.get_vocab().values()) - special - {word})
    assert (found.learned, found.added) == (expected, word)
    assert found.around == max(tokenizer("")["input_ids"], default=-1)


def test_token_types_beyond_the_table(tmp_path: Path) -> None:
    """A tokenizer that gives the second text type 1, and a model that has type 0 alone."""
    folder = headed.save("bert", "classify", tmp_path / "model", num_labels=1, type_vocab_size=1)
    frame = FRAME.drop("b")
    with pytest.raises(ValueError, match=r"index 'a'\): it has the token type 1, .* up to 0"):
        de.Reranker(folder, query="other", column="text")(frame)
    assert de.Embedder(folder, column="text")(frame)["embedding"].notna().all()


@pytest.mark.parametrize("padding", [-1, None])
def test_a_padding_id_without_an_embedding(padding: int | None, tmp_path: Path) -> None:
    """Padding is masked, so any id does; the texts are as they are alone."""
    folder = tiny.save("llama", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"pad_token_id": padding}))
    model = de.Model(folder, attention="padded")
    frame = FRAME.drop("b")
    given = np.stack(de.Embedder(model, column="text")(frame)["embedding"])
    reference = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for text, vector in zip(frame["text"], given, strict=True):
        with torch.inference_mode():
            hidden = reference(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        np.testing.assert_allclose(vector, hidden.mean(0).numpy(), rtol=0, atol=1e-5)


def test_a_decoder_that_begins_beyond_the_table(tmp_path: Path) -> None:
    folder = headed.save("t5", "seq2seq-lm", tmp_path / "model")
    file = folder / "generation_config.json"
    settings = json.loads(file.read_text()) | {"decoder_start_token_id": 99_999}
    file.write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"token 99999 \(decoder_start_token_id\)"):
        de.Generator(folder)(FRAME)


class Words(torch.nn.Module):
    """Logits of texts from few embeddings."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(config.rows, config.num_labels)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return (self.words(input_ids) * attention_mask[..., None]).sum(1)


def test_a_factory_with_fewer_embeddings_than_tokens(tmp_path: Path) -> None:
    from safetensors.torch import save_model

    folder = tiny.save("bert", tmp_path / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    highest = [max(tokenizer(text)["input_ids"]) for text in FRAME["text"]]
    rows = sorted(highest)[2]
    (folder / "config.json").write_text(json.dumps({"rows": rows}))
    module = Words(transformers.PretrainedConfig(rows=rows, num_labels=2))
    save_model(module, str(folder / "model.safetensors"))
    model = de.Model(folder, factory=Words, labels=("a", "b"))
    given = de.Classifier(model, column="text", on_error="null")(FRAME)
    beyond = [token >= rows for token in highest]
    assert given["label"].isna().tolist() == beyond
    assert 0 < sum(beyond) < len(beyond)
