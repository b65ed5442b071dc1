"""Settings with which no row could pass are errors, on the client or of the first partition.

They are never a column of nulls; rows that fail by what they hold still are.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import pandas as pd
import pytest
from support import headed, tiny
from support.contract import lazy

import dask_embed as de
from dask_embed.operators import rehearsal
from dask_embed.operators.language.chosen import chosen_scorer

pytestmark = pytest.mark.usefixtures("one_torch_thread")

FRAME = pd.DataFrame({"text": ["alpha beta", None, "gamma", "delta"], "other": list("abcd")})
CHAT = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    root = tmp_path_factory.mktemp("models")

    @functools.cache
    def saved(name: str, task: str = "embed") -> Path:
        folder = root / f"{name}-{task}"
        if task == "embed":
            return tiny.save(name, folder)
        return headed.save(name, task, folder, num_labels=2)  # start and end of an answer

    return saved


def copied(folder: Path, target: Path, change: Callable[[dict[str, Any]], Any], file: str) -> str:
    """Copy a checkpoint with one of its json files changed."""
    shutil.copytree(folder, target)
    written = json.loads((target / file).read_text())
    change(written)
    (target / file).write_text(json.dumps(written))
    return str(target)


def without_words(tokenizer: dict[str, Any]) -> None:
    """Leave nothing but special tokens, and none for what is unknown."""
    special = [token for token in tokenizer["model"]["vocab"] if token.startswith("[")]
    special.remove("[UNK]")
    numbers = {token: tokenizer["model"]["vocab"][token] for token in special}
    tokenizer["model"]["vocab"] = numbers
    added = [token for token in tokenizer["added_tokens"] if token["content"] != "[UNK]"]
    tokenizer["added_tokens"] = added


def chinese_only(tokenizer: dict[str, Any]) -> None:
    unknown = tokenizer["model"]["vocab"]["[UNK]"]
    without_words(tokenizer)
    tokenizer["model"]["vocab"]["的"] = unknown


OPERATORS: dict[str, tuple[type, str, dict[str, Any]]] = {
    "embed": (de.Embedder, "embed", {}),
    "embed with a prompt": (de.Embedder, "embed", {"prompt": "query: "}),
    "classify": (de.Classifier, "classify", {}),
    "classify pairs": (de.Classifier, "classify", {"pair": "other"}),
    "rerank": (de.Reranker, "classify", {"query_column": "other"}),
    "answer": (de.QuestionAnswerer, "answer", {"question": "的"}),
    "tokens": (de.TokenClassifier, "classify-tokens", {}),
    "mask": (de.MaskFiller, "fill-mask", {}),
    "tokenize": (de.Tokenizer, "embed", {}),
    "chunk": (de.Chunker, "embed", {}),
    "late chunk": (de.LateChunkEmbedder, "embed", {}),
}


@pytest.mark.parametrize("kind", OPERATORS)
def test_tokenizer_that_takes_no_text(
    folders: Callable, tmp_path: Path, rows_through_model: Callable, kind: str
) -> None:
    """On the client as the operator is applied, whatever is asked of rows that fail."""
    cls, task, options = OPERATORS[kind]
    model = copied(folders("bert", task), tmp_path / "model", without_words, "tokenizer.json")
    frame = dd.from_pandas(FRAME, npartitions=2)

    def apply() -> None:
        for on_error in ("raise", "null"):
            with pytest.raises(ValueError, match=r"no row can be used by.*UNK") as caught:
                cls(model, on_error=on_error, **options)(frame)
            assert "\n" not in str(caught.value)

    assert rows_through_model(apply) == 0


@pytest.mark.parametrize("kind", OPERATORS)
def test_partition_whose_rows_all_fail(folders: Callable, tmp_path: Path, kind: str) -> None:
    """Where no client tried it: one row that fails like any other is no row of nulls."""
    cls, task, options = OPERATORS[kind]
    model = copied(folders("bert", task), tmp_path / "model", without_words, "tokenizer.json")
    operator = cls(model, on_error="null", **options)
    for frame in (FRAME, FRAME.iloc[1:3]):
        with pytest.raises(Exception, match="UNK"):  # of the row, or of what all rows need
            operator(frame)


def test_tokenizer_of_another_language(folders: Callable, tmp_path: Path) -> None:
    """It takes some texts, so that others are bad rows, also where a partition has no good one."""
    model = copied(
        folders("bert", "classify-tokens"), tmp_path / "model", chinese_only, "tokenizer.json"
    )
    tagged = dd.from_pandas(FRAME, npartitions=2)
    tagged = tagged.ml.classify_tokens(model=model, on_error="null")
    assert tagged["entities"].compute().isna().all()
    errors = tagged["entities_error"].compute()
    assert errors.notna().tolist() == [True, False, True, True]


TEMPLATES = {
    "no system role": (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role here') }}"
        "{% endif %}" + CHAT,
        {"system": "Be brief"},
        "no system role here",
    ),
    "syntax": ("{% for m in messages %}{{ m['content' }}{% endfor %}", {}, "unexpected '}'"),
    "missing variable": ("{{ nothing.of.that }}", {}, "'nothing' is undefined"),
}


@pytest.mark.parametrize("kind", TEMPLATES)
def test_chat_template_that_fails(folders: Callable, tmp_path: Path, kind: str) -> None:
    template, options, message = TEMPLATES[kind]

    def change(settings: dict[str, Any]) -> None:
        settings["chat_template"] = template

    base = folders("llama", "causal-lm")
    model = copied(base, tmp_path / "model", change, "tokenizer_config.json")
    operator = de.Generator(model, prompt="{text}", chat=True, on_error="null", **options)
    for frame in (dd.from_pandas(FRAME, npartitions=2), FRAME):
        with pytest.raises(ValueError, match=rf"no row can be used by Generator.*{message}"):
            operator(frame)


@pytest.mark.parametrize("kind", ["generate", "candidates", "candidates of rows", "next"])
def test_limit_of_the_checkpoint_without_room(folders: Callable, tmp_path: Path, kind: str) -> None:
    def change(settings: dict[str, Any]) -> None:
        settings["model_max_length"] = 1

    base = folders("llama", "causal-lm")
    model = copied(base, tmp_path / "model", change, "tokenizer_config.json")
    options: dict[str, Any] = {
        "generate": {"max_new_tokens": 1},
        "candidates": {"candidates": ("yes", "no")},
        "candidates of rows": {"candidates_column": "lists"},
        "next": {"top_k_next": 2, "on_long": "error"},
    }[kind]
    cls: Any = de.Generator
    if kind != "generate":
        cls, options = chosen_scorer(options)
    frame = FRAME.assign(lists=pd.Series([["a", "b"]] * 4, dtype=object))
    with pytest.raises(ValueError, match=r"no row can be used|must be less than 1, the tokens"):
        cls(model, on_error="null", **options)(lazy([frame]))


def test_embedder_with_a_saved_limit_of_one(folders: Callable, tmp_path: Path) -> None:
    def change(settings: dict[str, Any]) -> None:
        settings["model_max_length"] = 1

    model = copied(folders("bert"), tmp_path / "model", change, "tokenizer_config.json")
    with pytest.raises(ValueError, match=r"no row can be used by.*at least 2, the special tokens"):
        dd.from_pandas(FRAME, npartitions=2).ml.embed(model=model, on_error="null")


def test_rows_that_fail_by_what_they_hold(folders: Callable) -> None:
    """All of a partition too long, or none of it text: others could pass, so they are null."""
    model = str(folders("bert"))
    strict = de.Embedder(model, max_length=4, on_long="error", on_error="null")
    long = pd.DataFrame({"text": ["one two three four five six"] * 3})
    out = strict(dd.from_pandas(long, npartitions=2)).compute()
    assert out["embedding_error"].str.contains("more than 4 tokens").all()
    out = strict(pd.DataFrame({"text": pd.Series([b"raw", 3], dtype=object)}))
    assert out["embedding_error"].str.contains("is not text").all()


def test_statistics_count_rows_that_failed(folders: Callable) -> None:
    from dask_embed.runtime.stats import records, totals

    strict = {"max_length": 4, "on_long": "error", "on_error": "null"}
    texts = pd.Series(["a", 7, None, "one two three four five six", "a"], dtype=object)
    frame = pd.DataFrame({"text": texts})
    bert = str(folders("bert"))
    for operator in (
        de.Embedder(bert, **strict),
        de.Tokenizer(bert, **strict),
        de.Classifier(str(folders("bert", "classify")), **strict),
    ):
        before = totals()["failed"]
        operator(frame)
        assert records()[-1].failed == 2
        assert totals()["failed"] - before == 2
    de.Chunker(bert, on_error="null")(frame)
    assert records()[-1].failed == 1
    failed = de.stats()["failed"]
    assert failed.tail(4).tolist() == [2, 2, 2, 1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Refusing(de.Embedder):
    """An operator of one's own that encodes in its own way."""

    reason: str = "nothing suits it"
    weights: bool = False

    def encode(self, runner: Any, rows: list[Any]) -> Any:
        if self.weights and runner.loaded.model.config.hidden_size:
            return super().encode(runner, rows)
        raise ValueError(self.reason)


def test_encoding_of_ones_own(folders: Callable) -> None:
    """What it refuses is told on the client; what takes weights is not tried there."""
    model, frame = str(folders("bert")), dd.from_pandas(FRAME, npartitions=2)
    with pytest.raises(ValueError, match=r"no row can be used by Refusing.*nothing suits it"):
        Refusing(model)(frame)
    out = Refusing(model, weights=True)(frame).compute(scheduler="sync")
    assert out["embedding"].isna().tolist() == [False, True, False, False]


def test_an_operator_is_tried_once(folders: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Applied again, also as a copy or for another column, it loads none; other settings do."""
    loaded = []
    fresh = rehearsal.fresh_tokenizer
    monkeypatch.setattr(
        rehearsal, "fresh_tokenizer", lambda *given: loaded.append(given) or fresh(*given)
    )
    frame = dd.from_pandas(FRAME, npartitions=2)
    for output in ("first", "second", "first"):
        de.Embedder(str(folders("bert")), output=output)(frame)
    assert len(loaded) == 1
    de.Embedder(str(folders("bert")), max_length=9)(frame)
    assert len(loaded) == 2
