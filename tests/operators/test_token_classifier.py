"""Labelled spans are those of transformers' token classification pipeline."""

from __future__ import annotations

import functools
import itertools
import json
import shutil
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import headed, tiny
from support.contract import LONG, QUICK, TEXTS, DataframeContract, assert_same_values, values_of

import dask_embed as de
from dask_embed.operators.spans.token_classifier import AGGREGATIONS, TokenClassifier

pytestmark = pytest.mark.usefixtures("one_torch_thread")

LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "X-ODD")
NAMES = [name for name in tiny.ARCHITECTURES if headed.has_head(name, "classify-tokens")]
HARD = [
    "Angela Merkel met [SEP] in New-York, U.S.A.",
    "  leading and   trailing  ",
    "tabs\tand\nnew\r\nlines",
    "naïve Ünïcode 漢字 😀👩‍👩‍👧 e\u0301 \u3000 ﬁ İ",
    "\x00 \u200b",
    " ",
    "don't stop-believing (2024)...",
]
texts = st.one_of(
    st.sampled_from([*HARD, *tiny.corpus()[:50]]),
    st.text(max_size=60),
    st.text("abcdefghi ABC,.-'\n", max_size=200),
)


@functools.cache
def _checkpoint(base, name):
    folder = base / f"tags-{name}"
    settings = {"id2label": dict(enumerate(LABELS)), "num_labels": len(LABELS)}
    settings["label2id"] = {label: number for number, label in enumerate(LABELS)}
    headed.save(name, "classify-tokens", folder, **settings)
    _balance(folder)
    return str(folder)


def _balance(folder):
    """Shift the labels' logits to a mean of zero, so that texts get labels of every kind."""
    import torch
    import transformers

    model = transformers.AutoModelForTokenClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = [tokenizer(text).input_ids[: tiny.POSITIONS] for text in tiny.corpus()[:20]]
    with torch.inference_mode():
        logits = torch.cat([model(input_ids=torch.tensor([row])).logits[0] for row in ids])
    head = model.score if hasattr(model, "score") else model.classifier
    head.bias.data -= logits.mean(0)
    model.save_pretrained(folder)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """Return the folder of an architecture, written once."""
    return functools.partial(_checkpoint, tmp_path_factory.getbasetemp())


@functools.cache
def reference(folder, aggregation, stride=None, ignore=("O",)):
    """The pipeline of transformers, on one text at a time."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.model_max_length = tiny.POSITIONS
    if tokenizer.pad_token is None:  # to read windows the pipeline pads, even single ones
        tokenizer.pad_token = next(iter(tokenizer.get_vocab()))
    return transformers.pipeline(
        "token-classification",
        model=transformers.AutoModelForTokenClassification.from_pretrained(folder),
        tokenizer=tokenizer,
        aggregation_strategy=aggregation,
        ignore_labels=list(ignore),
        device="cpu",
        **({} if stride is None else {"stride": stride}),
    )


def expected(folder, text, aggregation, **options):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Tokenizer does not support real words")
        pipe = reference(folder, aggregation, **options)
        if not pipe.tokenizer(text).input_ids:
            return []  # the pipeline fails on no tokens at all
        found = pipe(text)
    spans = []
    for span in found:
        each = {
            "label": span["entity" if aggregation == "none" else "entity_group"],
            "score": float(span["score"]),
            "start": span["start"],
            "end": span["end"],
            "text": text[span["start"] : span["end"]],
        }
        if aggregation == "none":
            each |= {"index": span["index"], "word": span["word"]}
        spans.append(each)
    return spans


def run(operator, rows):
    return values_of(operator(pd.DataFrame({"text": pd.array(rows, "str")}))["entities"])


class TestTokenClassifier(DataframeContract):
    @pytest.fixture(
        scope="class",
        params=[
            ("roberta", {"stride": 5, "on_error": "null"}),
            ("llama", {"aggregation": "average", "stride": 7, "ignore_labels": ()}),
        ],
        ids=["none in windows", "average in windows"],
    )
    @classmethod
    def operator(cls, request, tmp_path_factory):
        name, options = request.param
        return TokenClassifier(
            _checkpoint(tmp_path_factory.getbasetemp(), name), column="body", **options
        )


@pytest.mark.parametrize(
    ("name", "aggregation"),
    [
        *itertools.product(("bert", "roberta", "albert"), AGGREGATIONS),
        *itertools.product(sorted({*NAMES} - {"bert", "roberta", "albert"}), ["none", "average"]),
    ],
)
def test_spans_of_the_pipeline(checkpoint, name, aggregation):
    """All architectures and aggregations, in one partition of mixed texts."""
    folder = checkpoint(name)
    rows = [*HARD, *TEXTS, *tiny.corpus()[3:40:9]]
    known = [None if text is None else expected(folder, text, aggregation) for text in rows]
    given_rows = run(TokenClassifier(folder, aggregation=aggregation), rows)
    _assert_spans(given_rows, known)
    assert len({str(spans) for spans in known}) > 10
    assert len({span["label"] for spans in known if spans for span in spans}) > 2


@pytest.mark.parametrize("aggregation", [name for name in AGGREGATIONS if name != "none"])
@pytest.mark.parametrize("name", ["bert", "albert", "llama"])
def test_windows_of_the_pipeline(checkpoint, name, aggregation):
    """Long texts in windows: what overlaps is merged as by the pipeline with the same stride."""
    folder = checkpoint(name)
    rows = [*HARD, *TEXTS, *tiny.corpus()[3:40:4]]
    known = [
        None if text is None else _once(expected(folder, text, aggregation, stride=9))
        for text in rows
    ]
    given_spans = run(TokenClassifier(folder, aggregation=aggregation, stride=9), rows)
    _assert_spans(given_spans, known)
    assert max(span["end"] for spans in known if spans for span in spans) > 1500


def _once(spans):
    """The spans without the first one's repeat: the pipeline gives one of no width twice."""
    twice = len(spans) > 1 and spans[0] == spans[1] and spans[0]["start"] == spans[0]["end"]
    return spans[1:] if twice else spans


@pytest.mark.parametrize("name", ["bert", "roberta", "albert"])
@settings(QUICK, max_examples=20)
@given(data=st.data())
def test_any_text(checkpoint, name, data):
    """Any text, aggregation, stride and labels to ignore give the pipeline's spans."""
    folder = checkpoint(name)
    rows = data.draw(st.lists(texts, min_size=1, max_size=5), label="texts")
    aggregation = data.draw(st.sampled_from(AGGREGATIONS), label="aggregation")
    strides = st.just(None) if aggregation == "none" else st.sampled_from([None, 0, 1, 20, 40])
    stride = data.draw(strides, label="stride")
    names = ["B-PER", "O"] if aggregation == "none" else ["PER", "ODD", "O"]
    ignore = tuple(data.draw(st.lists(st.sampled_from(names), unique=True), label="ignored"))
    options = {"stride": stride, "ignore": ignore}
    known = [_once(expected(folder, text, aggregation, **options)) for text in rows]
    operator = TokenClassifier(folder, aggregation=aggregation, stride=stride, ignore_labels=ignore)
    _assert_spans(run(operator, rows), known)


@pytest.mark.parametrize("side", ["right", "left"], ids=lambda side: f"cut {side}")
@pytest.mark.parametrize("name", ["bert", "gpt2", "t5"])
def test_every_token_once_in_windows(checkpoint, tmp_path, name, side):
    """Without aggregation each token is labelled by the window where it is farthest from edges."""
    import torch
    import transformers

    folder = _with_tokenizer(checkpoint(name), tmp_path, truncation_side=side)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForTokenClassification.from_pretrained(folder).eval()
    stride, rows = 20, [LONG, "short", "", *tiny.corpus()[:6]]
    operator = TokenClassifier(folder, stride=stride, max_length=50, ignore_labels=())
    for text, spans in zip(rows, run(operator, rows), strict=True):
        whole = tokenizer(text, return_offsets_mapping=True, return_special_tokens_mask=True)
        special = np.array(whole["special_tokens_mask"], bool)
        ids = np.array(whole["input_ids"])
        room = 50 - special.sum()
        count = int((~special).sum())
        best = {}
        for first, last in _windows(count, room, stride, side):
            around = ids.copy()
            cut = around[np.flatnonzero(~special)[first:last]] if count else ids[:0]
            row = _around(ids, special, cut)
            if not len(row):
                continue
            with torch.inference_mode():
                logits = model(input_ids=torch.tensor(row[None])).logits[0].numpy()
            inner = logits[_leading(special) :][: last - first]
            for place in range(first, last):
                margin = min(place - first, last - 1 - place)
                if place not in best or margin > best[place][0]:
                    best[place] = (margin, inner[place - first])
        assert [span["index"] for span in spans] == (np.flatnonzero(~special)).tolist()
        offsets = [o for o, mask in zip(whole["offset_mapping"], special, strict=True) if not mask]
        assert [(span["start"], span["end"]) for span in spans] == offsets
        labels = [LABELS[best[place][1].argmax()] for place in range(count)]
        assert [span["label"] for span in spans] == labels
        scores = [np.exp(best[p][1]).max() / np.exp(best[p][1]).sum() for p in range(count)]
        np.testing.assert_allclose([span["score"] for span in spans], scores, atol=1e-5)


def _windows(count, room, stride, side):
    """First and last token of each window, in the order of the text."""
    if count <= room:
        return [(0, count)]
    found = [(0, room)]
    while found[-1][1] < count:
        first = found[-1][1] - stride
        found.append((first, min(first + room, count)))
    if side == "right":
        return found
    return sorted((count - last, count - first) for first, last in found)


def _leading(special):
    return int(special.argmin()) if not special.all() else len(special) // 2


def _around(ids, special, cut):
    """The special tokens of a text around other tokens."""
    if special.all():
        return ids
    before = _leading(special)
    after = np.argmin(special[::-1])
    return np.concatenate([ids[:before], cut, ids[len(ids) - after :]])


def _with_tokenizer(folder, target, **settings):
    """Copy a checkpoint and change the configuration of its tokenizer."""
    shutil.copytree(folder, target / "copy")
    file = target / "copy" / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    return str(target / "copy")


@pytest.mark.parametrize("name", ["bert", "mpnet", "llama"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_is_packed(checkpoint, name, side):
    """Padding on either side changes nothing, nor do batches of any size."""
    rows = [*HARD, *TEXTS]
    known = [None if text is None else expected(checkpoint(name), text, "average") for text in rows]
    model = de.Model(checkpoint(name), attention="padded")
    for batch_size in (2, None):
        operator = TokenClassifier(
            model, aggregation="average", padding_side=side, batch_size=batch_size
        )
        _assert_spans(run(operator, rows), known)


def test_long_rows_refused(checkpoint):
    """on_long="error": a text of one token too many is null with one message."""
    fits = "a " * 62  # with [CLS] and [SEP] just the 64 tokens of the model
    operator = TokenClassifier(checkpoint("bert"), on_long="error", on_error="null")
    out = operator(pd.DataFrame({"text": [fits + "a", fits, "x"]}))
    assert out["entities"].isna().tolist() == [True, False, False]
    messages = values_of(out["entities_error"])
    assert "more than 64 tokens" in messages[0]
    assert messages[1:] == [None, None]
    assert_same_values(
        values_of(out["entities"])[1:],
        [expected(checkpoint("bert"), text, "none") for text in (fits, "x")],
    )


def test_head_runs_few_rows_and_unused_none(checkpoint, rows_through_model):
    """`head` labels its five rows only; spans that nothing reads are not computed."""
    import dask.dataframe as dd

    frame = pd.DataFrame({"id": range(40), "text": [f"text {i}" for i in range(40)]})
    out = TokenClassifier(checkpoint("bert"))(dd.from_pandas(frame, npartitions=2))
    assert rows_through_model(lambda: out.head(5)) == 5
    assert rows_through_model(lambda: out[["id"]].compute()) == 0


def test_no_head(tmp_path):
    """A checkpoint for texts is refused on the client."""
    folder = headed.save("bert", "classify", tmp_path / "texts", num_labels=3)
    with pytest.raises(ValueError, match="ForTokenClassification"):
        TokenClassifier(str(folder))(pd.DataFrame({"text": ["a"]}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"aggregation": "frist"}, "did you mean 'first'"),
        ({"stride": -1}, "at least 0"),
        ({"stride": True}, "at least 0"),
        ({"stride": 3, "on_long": "error"}, "give one of the two"),
        ({"stride": 64}, "less than max_length, 64"),
        ({"ignore_labels": "O"}, "tuple of names"),
        ({"ignore_labels": ("B-PRE",)}, "did you mean 'B-PER'"),
        ({"ignore_labels": ("B-PER",), "aggregation": "simple"}, "did you mean 'PER'"),
    ],
)
def test_bad_arguments(checkpoint, options, message):
    """What does not fit is an error before any work."""
    with pytest.raises((TypeError, ValueError), match=message):
        TokenClassifier(checkpoint("bert"), **options)(pd.DataFrame({"text": []}, dtype="str"))


def test_windows_without_room(checkpoint):
    """A stride that the special tokens leave no room for is an error, not a panic."""
    with pytest.raises(ValueError, match="less than 62"):
        run(TokenClassifier(checkpoint("bert"), stride=62), ["a"])


def test_ignored_names_need_not_be_o(checkpoint):
    """Labels are ignored by name; the plan and the provenance say how it was done."""
    operator = TokenClassifier(checkpoint("bert"), aggregation="first", ignore_labels=["PER"])
    assert operator.ignore_labels == ("PER",)
    labels = {s["label"] for spans in run(operator, list(tiny.corpus()[:9])) for s in spans}
    assert labels == {"O", "LOC", "ODD"}
    assert operator.provenance()["ignore_labels"] == ["PER"]
    assert "aggregation first" in " ".join(operator.plan())


def _assert_spans(given_spans, wanted):
    assert len(given_spans) == len(wanted)
    for left, right in zip(given_spans, wanted, strict=True):
        if right is None:
            assert left is None
            continue
        assert [_exact(span) for span in left] == [_exact(span) for span in right]
        scores = [span["score"] for span in right]
        np.testing.assert_allclose([span["score"] for span in left], scores, rtol=0, atol=1e-5)


def _exact(span):
    return {key: value for key, value in span.items() if key != "score"}
