"""Masks are filled as transformers' pipeline fills them, and rows keep the dataframe contract."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import dask.dataframe as dd
import pandas as pd
import pytest
from support import headed
from support.contract import DataframeContract, assert_same_values, values_of

import dask_embed as de
from dask_embed.inference.task_head import TaskHead
from dask_embed.operators.spans.mask_filler import MaskFiller

pytestmark = pytest.mark.usefixtures("one_torch_thread")

ARCHITECTURES = ("bert", "roberta", "distilbert", "albert", "mpnet", "deberta-v2", "modernbert")
WAYS = {
    "packed": {},
    "padded": {"attention": "padded"},
    "left": {"attention": "padded", "padding_side": "left", "batch_size": 2},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fill-mask")


def checkpoint(folders: Path, name: str = "bert") -> Path:
    folder = folders / name
    return folder if folder.exists() else headed.save(name, "fill-mask", folder)


def mask_of(folder: Path) -> str:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder).mask_token


def texts_for(mask: str) -> list[str | None]:
    """Unsorted lengths, a repeat, a null, non-ASCII text, a mask at each end."""
    return [
        f"Return the {mask} of a path, or None if there is no such file in any folder.",
        f"{mask} é 漢字 😀",
        None,
        f"The default value is {mask}",
        f"Return the {mask} of a path, or None if there is no such file in any folder.",
        f"an iterator {mask} all of the arguments",
        mask,
        f"Raise {mask} if it fails. " + "More words follow and follow. " * 30,
    ]


def pipeline(folder: Path, texts: list[str | None], **options):
    """What transformers gives, one text at a time; always a list for each mask."""
    from transformers import pipeline

    cut = {"truncation": True, "max_length": 64}
    fill = pipeline("fill-mask", model=str(folder), tokenizer_kwargs=cut, **options)
    found = [None if text is None else fill(text) for text in texts]
    return [fills and (fills if isinstance(fills[0], list) else [fills]) for fills in found]


def frame_of(texts) -> pd.DataFrame:
    return pd.DataFrame({"text": pd.array(texts, "str"), "id": range(len(texts))})


def assert_same_fills(given, expected) -> None:
    for left, right in zip(given, expected, strict=True):
        if right is not None:
            right = [{**fill, "score": float(fill["score"])} for fill in right]
        assert_same_values([left], [right])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_fills_are_those_of_the_pipeline(folders, name, way):
    """Tokens, words, sequences and scores, in order, for texts of one mask."""
    folder = checkpoint(folders, name)
    options = dict(WAYS[way])
    texts = texts_for(mask_of(folder))
    model = de.Model(folder, attention=options.pop("attention", "auto"))
    out = MaskFiller(model, top_k=4, **options)(frame_of(texts))
    expected = [fills and fills[0] for fills in pipeline(folder, texts, top_k=4)]
    assert_same_fills(values_of(out["fills"]), expected)
    found = {tuple(fill["token"] for fill in fills) for fills in expected if fills}
    assert len(found) > 3, "the tiny model fills every text alike"


def test_several_masks(folders):
    """masks="any" gives a list for each mask; in the sequence the others stay."""
    folder = checkpoint(folders)
    texts = ["a [MASK] of [MASK] and [MASK]", None, "one [MASK]", "[MASK][MASK]", "a [PAD] [MASK]"]
    out = MaskFiller(folder, masks="any", top_k=3)(frame_of(texts))
    expected = pipeline(folder, texts, top_k=3)
    assert [fills and len(fills) for fills in expected] == [3, None, 1, 2, 1]
    for left, right in zip(values_of(out["fills"]), expected, strict=True):
        assert_same_values([left], [right])


@pytest.mark.parametrize("targets", [("path", "file", "value", "path"), ("return",)])
def test_targets(folders, targets):
    """Only the targets are given, with their probability among all tokens."""
    folder = checkpoint(folders)
    texts = texts_for("[MASK]")
    out = MaskFiller(folder, targets=targets)(frame_of(texts))
    expected = [
        fills and fills[0] for fills in pipeline(folder, texts, targets=list(targets), top_k=5)
    ]
    assert {len(fills) for fills in expected if fills} == {len(set(targets))}
    assert_same_fills(values_of(out["fills"]), expected)


def test_target_with_a_space(folders):
    """A word behind a space is the token that the tokenizer makes of it, as in the pipeline."""
    folder = checkpoint(folders, "roberta")
    texts = ["Return<mask> value", "The<mask>"]
    targets = (" the", " a", "x")
    out = MaskFiller(folder, targets=targets)(frame_of(texts))
    expected = [fills[0] for fills in pipeline(folder, texts, targets=list(targets))]
    assert " the" in {fill["token_str"] for fill in expected[0]}
    assert_same_fills(values_of(out["fills"]), expected)


def test_rows_that_cannot_be_filled(folders):
    """No mask, a mask that truncation cuts off, or too many: a null and a message each."""
    texts = ["no mask", "cut off " * 60 + "[MASK]", "[MASK] and [MASK]", "good [MASK]", "", None]
    operator = MaskFiller(checkpoint(folders), on_error="null")
    out = operator(frame_of(texts))
    assert out["fills"].isna().tolist() == [True, True, True, False, True, True]
    messages = values_of(out["fills_error"])
    assert messages[0] == "there is no mask token '[MASK]' in its first 64 tokens"
    assert messages[1] == messages[4] == messages[0]
    assert messages[2] == "it has 2 mask tokens; masks='any' fills several"
    assert messages[3] is None
    assert messages[5] is None
    with pytest.raises(ValueError, match=r"row 0 of the partition \(index 0\): there is no mask"):
        replace(operator, on_error="raise")(frame_of(texts))


def test_long_rows(folders):
    """on_long="error" costs one null and one message, of the row that is too long."""
    texts = ["a [MASK] " + "word " * 80, "a [MASK]"]
    out = MaskFiller(checkpoint(folders), on_long="error", on_error="null")(frame_of(texts))
    assert out["fills"].isna().tolist() == [True, False]
    assert values_of(out["fills_error"]) == [
        "it has more than 64 tokens, and on_long='error'",
        None,
    ]


def test_vocabulary_is_computed_at_masks_only(folders, monkeypatch):
    """Of all tokens of the batches the head sees the masked ones."""
    folder = checkpoint(folders)
    operator = MaskFiller(folder, masks="any")
    texts = ["a [MASK] of [MASK] in many more words", "one [MASK] word"]
    operator(frame_of(texts))  # loads and probes
    seen = []
    on_tokens = TaskHead.on_tokens

    def counted(self, hidden):
        seen.append(len(hidden))
        return on_tokens(self, hidden)

    monkeypatch.setattr(TaskHead, "on_tokens", counted)
    operator(frame_of(texts))
    assert sum(seen) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 0}, "top_k must be a positive integer, got 0"),
        ({"top_k": 10_000}, "top_k must be at most"),
        ({"targets": ()}, "one or more words"),
        ({"targets": ("path", "")}, "one or more words"),
        ({"targets": ("pathological",)}, r"'pathological' is 6 of them, such as \['path', '##ol'"),
        ({"targets": ("\ud800",)}, "targets cannot be encoded as UTF-8"),
        ({"targets": ("☃",)}, "single tokens of the vocabulary; '☃'"),
        ({"masks": "all"}, "masks must be one of 'one', 'any'"),
    ],
)
def test_bad_arguments(folders, options, message):
    """They are errors on the client, before any work."""
    ddf = dd.from_pandas(frame_of(["[MASK]"]), npartitions=1)
    with pytest.raises(ValueError, match=message):
        MaskFiller(checkpoint(folders), **options)(ddf)


def test_checkpoints_that_cannot_fill(folders, tmp_path):
    """An architecture without the head, and a tokenizer without a mask token."""
    from support import tiny

    with pytest.raises(ValueError, match="AutoModelForMaskedLM"):
        MaskFiller(tiny.save("llama", tmp_path / "llama")).types()
    folder = headed.save("bert", "fill-mask", tmp_path / "bert")
    settings = folder / "tokenizer_config.json"
    written = json.loads(settings.read_text())
    del written["mask_token"]
    settings.write_text(json.dumps(written))
    with pytest.raises(ValueError, match="has no mask token"):
        MaskFiller(folder).types()


def test_lazy(folders, rows_through_model):
    """`head` fills five rows only, and results that are not used none."""
    texts = [f"Return the [MASK] number {n}" for n in range(20)]
    ddf = dd.from_pandas(frame_of(texts), npartitions=2)
    lazy = MaskFiller(checkpoint(folders))(ddf)
    assert rows_through_model(lambda: lazy.head(5)) == 5
    assert rows_through_model(lambda: lazy["id"].compute()) == 0
    assert rows_through_model(lambda: len(lazy)) == 0


@pytest.fixture(scope="module")
def masked(tmp_path_factory) -> Path:
    """A checkpoint whose tokenizer puts a mask behind every text, so that any text has one."""
    from tokenizers import processors
    from transformers import AutoTokenizer

    folder = headed.save("bert", "fill-mask", tmp_path_factory.mktemp("masked") / "bert")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    special = [(name, tokenizer.convert_tokens_to_ids(name)) for name in ("[CLS]", "[SEP]")]
    special.append(("[MASK]", tokenizer.mask_token_id))
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [MASK] [SEP]", special_tokens=special
    )
    tokenizer.save_pretrained(folder)
    return folder


OPERATORS = {
    "any, padded": {"masks": "any", "top_k": 2, "attention": "padded", "batch_size": 2},
    "targets": {"targets": ("path", "value"), "on_error": "null"},
}


class TestContract(DataframeContract):
    @pytest.fixture(scope="class", params=OPERATORS.values(), ids=OPERATORS)
    @classmethod
    def operator(cls, request, masked):
        options = dict(request.param)
        model = de.Model(masked, attention=options.pop("attention", "auto"))
        return MaskFiller(model, column="body", **options)
