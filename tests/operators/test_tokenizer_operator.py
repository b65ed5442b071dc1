"""Token columns are what the checkpoint's tokenizer gives when it is called."""

from __future__ import annotations

import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import dask.dataframe as dd
import pandas as pd
import pytest
from support import tiny
from support.contract import DataframeContract, shared_tiny_bert, values_of

import dask_embed as de
from dask_embed.models import patterns
from dask_embed.operators.tokens.tokenizer import Tokenizer
from dask_embed.runtime import registry

NAMES = ("bert", "roberta", "t5", "llama", "mistral")
LONG = "a long text about lazy tables and eager models " * 6
TEXTS = [
    "Dask reads a table lazily.",
    "x",
    None,
    LONG,
    "",
    "Dask reads a table lazily.",
    "ünïcode 漢字 😀\tand\nspace",
    "  two  words ",
]
PAIRS = ["and its pair", LONG, "lonely", "short", "", None, "漢字", "b"]
FRAME = pd.DataFrame({"text": pd.array(TEXTS, "str"), "other": pd.array(PAIRS, "str")})


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Checkpoints without their weights, and one whose tokenizer is in Python."""
    root = tmp_path_factory.mktemp("tokenizers")
    found = {name: tiny.save(name, root / name) for name in NAMES}
    for folder in found.values():
        (folder / "model.safetensors").unlink()
    return {**found, "python": _python_tokenizer(root)}


def _python_tokenizer(root: Path) -> Path:
    """The tokenizer of ByT5: bytes, in Python, with a class of its own."""
    from transformers import ByT5Tokenizer, T5Config

    folder = root / "python"
    ByT5Tokenizer(model_max_length=64).save_pretrained(folder)
    T5Config(d_model=32, num_layers=1, num_heads=4).save_pretrained(folder)
    return folder


def reference(folder: Path):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("limit", [None, 12])
@pytest.mark.parametrize("name", [*NAMES, "python"])
def test_ids_of_texts(folders, name, limit, special):
    """Ids and their number, whole or cut, with and without special tokens."""
    tokenizer = reference(folders[name])
    out = Tokenizer(folders[name], max_length=limit, special_tokens=special)(FRAME)
    expected = [
        None
        if text is None
        else tokenizer(
            text, truncation=limit is not None, max_length=limit, add_special_tokens=special
        )["input_ids"]
        for text in TEXTS
    ]
    assert values_of(out["tokens"]) == expected
    assert values_of(out["tokens_count"]) == [ids if ids is None else len(ids) for ids in expected]
    assert max(map(len, filter(None, expected))) == (limit or len(expected[3]))


@pytest.mark.parametrize("truncation", ["longest_first", "only_first", "only_second"])
@pytest.mark.parametrize("name", ["bert", "roberta", "llama", "python"])
def test_ids_of_pairs(folders, name, truncation):
    """A pair is one sequence; `truncation` says which of the two is cut."""
    if name == "python" and truncation != "longest_first":
        pytest.skip("it warns about texts that are shorter than what has to go")
    tokenizer = reference(folders[name])
    frame = FRAME.iloc[[0, 4, 5, 6, 7]] if truncation != "longest_first" else FRAME
    out = Tokenizer(folders[name], pair="other", max_length=40, truncation=truncation)(frame)
    rows = list(zip(values_of(frame["text"]), values_of(frame["other"]), strict=True))
    expected = [
        None
        if None in row
        else tokenizer([row[0]], [row[1]], truncation=truncation, max_length=40)["input_ids"][0]
        for row in rows
    ]
    assert values_of(out["tokens"]) == expected
    assert sum(ids is None for ids in expected) in (1, 2)


@pytest.mark.parametrize("name", ["bert", "roberta", "t5", "llama"])
def test_offsets(folders, name):
    """Offsets are the tokenizer's; parts tell special tokens, text and pair apart."""
    tokenizer = reference(folders[name])
    out = Tokenizer(folders[name], pair="other", offsets="spans", max_length=30)(FRAME)
    for text, pair, spans in zip(TEXTS, PAIRS, values_of(out["spans"]), strict=True):
        if text is None or pair is None:
            assert spans is None
            continue
        encoded = tokenizer(
            [text], [pair], truncation=True, max_length=30, return_offsets_mapping=True
        )
        assert [(s["start"], s["end"]) for s in spans] == encoded["offset_mapping"][0]
        parts = [-1 if part is None else part for part in encoded.sequence_ids()]
        assert [s["part"] for s in spans] == parts


@pytest.mark.parametrize("stride", [0, 3])
@pytest.mark.parametrize("name", ["bert", "roberta", "t5", "mistral"])
def test_windows(folders, name, stride):
    """What does not fit goes on in further lists, as return_overflowing_tokens gives them."""
    tokenizer = reference(folders[name])
    operator = Tokenizer(
        folders[name], max_length=9, stride=stride, windows=True, offsets="spans", count="n"
    )
    out = operator(FRAME)
    rows = zip(TEXTS, values_of(out["tokens"]), values_of(out["spans"]), strict=True)
    for (text, windows, spans), count in zip(rows, values_of(out["n"]), strict=True):
        if text is None:
            assert (windows, spans, count) == (None, None, None)
            continue
        encoded = tokenizer(
            text,
            truncation=True,
            max_length=9,
            stride=stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        assert windows == encoded["input_ids"]
        given = [[(s["start"], s["end"]) for s in window] for window in spans]
        assert given == encoded["offset_mapping"]
        assert count == sum(map(len, encoded["input_ids"]))
    assert len(values_of(out["tokens"])[3]) > 10


def test_windows_of_pairs(folders):
    """The question stays whole in every window, its context goes on."""
    tokenizer = reference(folders["bert"])
    frame = pd.DataFrame({"text": ["who reads?", "x"], "other": [LONG, "short"]})
    operator = Tokenizer(
        folders["bert"], pair="other", max_length=30, windows=True, truncation="only_second"
    )
    expected = [
        tokenizer(*row, truncation="only_second", max_length=30, return_overflowing_tokens=True)[
            "input_ids"
        ]
        for row in zip(frame["text"], frame["other"], strict=True)
    ]
    assert values_of(operator(frame)["tokens"]) == expected
    assert [len(windows) > 1 for windows in expected] == [True, False]


def test_checkpoint_that_lowercases(tmp_path):
    """do_lower_case of sentence-transformers counts, as it does there."""
    from sentence_transformers import SentenceTransformer

    bases = tiny.save_bases(tmp_path)
    folder = tiny.SENTENCE_TRANSFORMERS["lower-case"](tmp_path / "lower", bases)
    texts = ["Dask READS", "plain"]
    expected = SentenceTransformer(str(folder), device="cpu").tokenize(texts)
    given = values_of(Tokenizer(folder)(pd.DataFrame({"text": texts}))["tokens"])
    mask = expected["attention_mask"].bool()
    assert given == [ids[m].tolist() for ids, m in zip(expected["input_ids"], mask, strict=True)]


@pytest.mark.parametrize("options", [{}, {"offsets": "spans"}, {"special_tokens": False}])
def test_long_rows(folders, options):
    """on_long="error" costs one null and one message of each row that is too long."""
    limit = 30
    operator = Tokenizer(
        folders["bert"], max_length=limit, on_long="error", on_error="null", **options
    )
    out = operator(FRAME)
    assert out["tokens"].isna().tolist() == [n in (2, 3) for n in range(8)]
    message = f"it has more than {limit} tokens, and on_long='error'"
    expected = [message if n == 3 else None for n in range(8)]
    assert values_of(out["tokens_error"]) == expected
    with pytest.raises(ValueError, match=rf"row 3 .*more than {limit} tokens"):
        replace(operator, on_error="raise")(FRAME)


def test_no_weights_and_no_model(folders):
    """Only a tokenizer is held by the process, one for each way to use it."""
    de.unload()
    for _ in range(2):
        Tokenizer(folders["bert"])(FRAME)
    assert registry.loaded() == []
    assert [key[0] for key in registry.parts.held()] == ["tokenizer"]
    with pytest.raises(ValueError, match="holds no weights"):
        de.Embedder(folders["bert"])(FRAME)


def test_a_tokenizer_that_panics_fails_one_row(tmp_path, monkeypatch):
    """A panic in Rust is no Exception: here an expression that gives a text up."""
    monkeypatch.setattr(patterns, "takes_long", lambda _: False)
    from tokenizers import Regex, pre_tokenizers

    tokenizer = tiny.wordpiece()
    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("(a|aa)+b"), "isolated")
    folder = tmp_path / "model"
    tiny.save("bert", folder)
    tokenizer.save_pretrained(folder)
    frame = pd.DataFrame({"text": ["one", "a" * 60, "two"]})
    for operator in (Tokenizer(folder, on_error="null"), de.Chunker(folder, on_error="null")):
        out = operator(frame)
        assert out[operator.output_columns[-1]].notna().tolist() == [False, True, False]


@pytest.mark.parametrize("name", ["bert", "python"])
def test_threads(folders, name):
    """Partitions on many threads at once give what one gives."""
    operator = Tokenizer(folders[name], max_length=20)
    expected = values_of(operator(FRAME)["tokens"])
    de.unload()
    results: list[object] = []

    def work() -> None:
        results.extend(values_of(operator(FRAME)["tokens"]) == expected for _ in range(5))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 40
    assert len(registry.parts.held()) == 1


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("bert", {"max_length": 1}, "max_length must be at least 2"),
        ("bert", {"max_length": 2, "windows": True}, "max_length must be at least 3"),
        ("bert", {"windows": True}, "windows=True needs max_length"),
        ("bert", {"stride": 2}, "stride=2 is for windows=True"),
        ("bert", {"stride": 6, "windows": True, "max_length": 8}, "stride must be less than 6"),
        ("bert", {"pair": "other", "windows": True, "max_length": 8}, "windows of a pair"),
        ("bert", {"truncation": "first"}, "truncation must be one of"),
        ("bert", {"count": "tokens"}, "output columns must differ"),
        ("python", {"offsets": "spans"}, "offsets needs a tokenizer in Rust"),
        ("python", {"windows": True, "max_length": 9}, "windows needs a tokenizer in Rust"),
    ],
)
def test_bad_arguments(folders, name, options, message):
    """They are errors on the client, before any work."""
    ddf = dd.from_pandas(FRAME, npartitions=2)
    with pytest.raises(ValueError, match=message):
        Tokenizer(folders[name], **options)(ddf)


def test_folder_without_tokenizer(folders, tmp_path):
    """The error names what is missing."""
    folder = tmp_path / "bare"
    folder.mkdir()
    shutil.copy(folders["bert"] / "config.json", folder)
    with pytest.raises(ValueError, match="holds no tokenizer"):
        Tokenizer(folder)(FRAME)


def test_lazy(folders, rows_through_model):
    """`head` tokenizes five rows only, and results that are not used none."""
    frame = pd.DataFrame({"text": [f"row {n}" for n in range(20)], "id": range(20)})
    lazy = Tokenizer(folders["bert"])(dd.from_pandas(frame, npartitions=2))
    assert rows_through_model(lambda: lazy.head(5)) == 5
    assert rows_through_model(lambda: lazy["id"].compute()) == 0
    assert rows_through_model(lambda: len(lazy)) == 0


def test_explained(folders):
    """The plan and the provenance name the tokenizer and its settings."""
    operator = Tokenizer(folders["bert"], max_length=7).pinned()
    assert operator.plan()[1] == "token ids with special tokens, at most 7 tokens"
    assert json.loads(json.dumps(operator.provenance()))["max_length"] == 7


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory):
    return shared_tiny_bert(tmp_path_factory)


OPERATORS = {
    "windows": {"windows": True, "max_length": 10, "stride": 2, "offsets": "spans"},
    "cut, null on error": {"max_length": 12, "special_tokens": False, "on_error": "null"},
}


class TestContract(DataframeContract):
    @pytest.fixture(scope="class", params=OPERATORS.values(), ids=OPERATORS)
    @classmethod
    def operator(cls, request, tiny_bert):
        return Tokenizer(tiny_bert, column="body", **request.param)
