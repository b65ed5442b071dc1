"""Answers are the best spans by definition: plain loops over the logits of transformers."""

from __future__ import annotations

import functools
import json
import math
import shutil

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import headed, shrunk, tiny
from support.contract import LONG, QUICK, DataframeContract, values_of

import dask_embed as de
from dask_embed.operators.spans.question_answerer import QuestionAnswerer

pytestmark = pytest.mark.usefixtures("one_torch_thread")

NAMES = [name for name in tiny.ARCHITECTURES if headed.has_head(name, "answer")]
PAIRS = {  # how texts and pairs are put together, by the special tokens of the vocabulary
    "[CLS]": "[CLS] $A [SEP] $B:1 [SEP]:1",
    "<s>": "<s> $A </s> </s> $B </s>",
    "<|begin|>": "<|begin|> $A $B:1",
    "</s>": "$A </s> $B </s>",
}
QUESTION = "Who wrote it, and when?"
CONTEXTS = [
    "Ada Lovelace wrote it\tin 1843, naïvely,  in Łondon 漢字 😀.",
    "",
    "  \n ",
    "x",
    LONG[:700],
    *tiny.corpus()[2:30:6],
]


@functools.cache
def _checkpoint(base, name):
    import tokenizers

    folder = base / f"answers-{name}"
    headed.save(name, "answer", folder, seed=3)
    file = folder / "tokenizer.json"
    tokenizer = tokenizers.Tokenizer.from_file(str(file))
    vocabulary = tokenizer.get_vocab()
    pair = next((kind for token, kind in PAIRS.items() if token in vocabulary), "$A $B:1")
    if name == "mistral":  # begins with <s> and closes nothing
        pair = "<s> $A $B:1"
    single = pair.split("$B")[0].strip() if name != "gpt2" else "$A"
    names = {piece.split(":")[0] for piece in pair.split() if not piece.startswith("$")}
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[(n, vocabulary[n]) for n in sorted(names)]
    )
    tokenizer.save(str(file))
    return str(folder)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """Return the folder of an architecture, written once, its tokenizer made for pairs."""
    return functools.partial(_checkpoint, tmp_path_factory.getbasetemp())


@functools.cache
def reference(folder):
    import transformers

    model = transformers.AutoModelForQuestionAnswering.from_pretrained(folder).eval()
    return transformers.AutoTokenizer.from_pretrained(folder), model


@functools.cache
def windows(folder, question, context, *, first=True, limit=tiny.POSITIONS, stride=32):
    """Each window as transformers gives it: ids, part, offset and word of tokens, and logits."""
    import torch

    tokenizer, model = reference(folder)
    pair = (question, context) if first else (context, question)
    encoded = tokenizer(
        *([text] for text in pair),
        truncation="only_second" if first else "only_first",
        max_length=limit,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    found = []
    for number, ids in enumerate(encoded["input_ids"]):
        names = [n for n in ("input_ids", "token_type_ids") if n in encoded]
        if not ids:
            continue
        with torch.inference_mode():
            out = model(**{n: torch.tensor([encoded[n][number]]) for n in names})
        logits = out.start_logits[0].tolist(), out.end_logits[0].tolist()
        one = encoded.encodings[number]
        found.append((ids, one.sequence_ids, one.offsets, one.word_ids, *logits))
    return found


def brute_force(folder, question, context, *, first=True, longest=15, align=True, **options):
    """Score of every answer by its characters, and of there being none."""
    tokenizer, _ = reference(folder)
    part = int(first)
    scores, nothing = {}, 1.0
    for ids, parts, offsets, words, start, end in windows(
        folder, question, context, first=first, **options
    ):
        null = _null_place(tokenizer, ids, parts, part)
        inside = [place for place, kind in enumerate(parts) if kind == part]
        chosen = [*inside, *([] if null is None else [null])]
        if not chosen:
            continue
        start_sum = sum(math.exp(start[place]) for place in chosen)
        end_sum = sum(math.exp(end[place]) for place in chosen)
        if null is None:
            nothing = 0.0
        else:
            here = math.exp(start[null]) / start_sum * math.exp(end[null]) / end_sum
            nothing = min(nothing, here)
        edges = {
            i: _word(context, words, offsets, inside, i) if align else offsets[i] for i in inside
        }
        for i in inside:
            for j in inside:
                if not i <= j < i + longest:
                    continue
                a, b = edges[i][0], edges[j][1]
                while a < b and context[a].isspace():
                    a += 1
                while a < b and context[b - 1].isspace():
                    b -= 1
                if a >= b:
                    continue
                score = math.exp(start[i]) / start_sum * math.exp(end[j]) / end_sum
                scores[a, b] = max(score, scores.get((a, b), 0.0))
    return scores, nothing


def _null_place(tokenizer, ids, parts, part):
    for wanted in (tokenizer.cls_token_id, tokenizer.bos_token_id):
        for place, token in enumerate(ids):
            if wanted is not None and token == wanted and parts[place] is None:
                return place
    return 0 if ids and parts[0] != part else None


def _word(context, words, offsets, inside, place):
    """First and last character of the word, going from its token to both sides."""

    def joined(left, right):
        start = offsets[right][0]
        blank = context[slice(*offsets[left])].isspace()
        apart = context[max(start - 1, 0) : start].isspace() and not blank
        apart = apart or context[start : start + 1].isspace()
        return words[left] == words[right] and not apart

    left = right = place
    while left - 1 in inside and joined(left - 1, left):
        left -= 1
    while right + 1 in inside and joined(right, right + 1):
        right += 1
    return offsets[left][0], offsets[right][1]


def ranked(folder, question, context, *, null=False, **options):
    """The answers from the best on, as (score, start, end, answer)."""
    scores, nothing = brute_force(folder, question, context, **options)
    found = [(score, a, b, context[a:b]) for (a, b), score in scores.items()]
    found.sort(key=lambda answer: (-answer[0], answer[1], answer[2]))
    if null:
        found = sorted([*found, (nothing, 0, 0, "")], key=lambda answer: -answer[0])
    return found


def run(operator, contexts, **columns):
    frame = pd.DataFrame({"text": pd.array(contexts, "str"), **columns})
    out = operator(frame)
    names = ("answer_score", "answer_start", "answer_end", "answer")
    return list(zip(*(values_of(out[name]) for name in names), strict=True))


def assert_best(given_answers, known):
    """Compare the best answers; where several score alike, any of them is right."""
    for (score, start, end, answer), found in zip(given_answers, known, strict=True):
        best = found[0] if found else (0.0, 0, 0, "")
        assert score == pytest.approx(best[0], abs=1e-5)
        near = [each[1:] for each in found if each[0] > best[0] - 1e-6] or [best[1:]]
        assert (start, end, answer) in near


class TestQuestionAnswerer(DataframeContract):
    @pytest.fixture(
        scope="class",
        params=[
            ("roberta", {"question_column": "question", "top_k": 3, "null_answer": True}),
            ("llama", {"question": "When?", "question_first": False, "on_error": "null"}),
        ],
        ids=["column of questions", "decoder, one question"],
    )
    @classmethod
    def operator(cls, request, tmp_path_factory):
        name, options = request.param
        folder = _checkpoint(tmp_path_factory.getbasetemp(), name)
        return QuestionAnswerer(folder, column="body", **options)


@pytest.mark.parametrize("null", [False, True], ids=["answers", "or none"])
@pytest.mark.parametrize("name", NAMES)
def test_best_of_all_spans(checkpoint, name, null):
    """All architectures, texts of one and of many windows."""
    folder = checkpoint(name)
    known = [ranked(folder, QUESTION, text, null=null) for text in CONTEXTS]
    operator = QuestionAnswerer(folder, question=QUESTION, null_answer=null)
    assert_best(run(operator, CONTEXTS), known)
    assert null or len({found[0][3] for found in known if found}) > 3


@pytest.mark.parametrize("name", ["bert", "albert", "gpt2"])
@settings(QUICK, max_examples=25)
@given(data=st.data())
def test_any_text(checkpoint, name, data):
    """Any text and options, one question of its own for each row."""
    folder = checkpoint(name)
    some = st.one_of(
        st.text("ab c.\n-é😀", max_size=80), st.text(max_size=40), st.sampled_from(CONTEXTS)
    )
    contexts = data.draw(st.lists(some, min_size=1, max_size=4), label="contexts")
    asked = data.draw(st.lists(st.text(max_size=8), min_size=len(contexts), max_size=len(contexts)))
    options = {
        "longest": data.draw(st.sampled_from([1, 2, 15, 100]), label="longest"),
        "align": data.draw(st.booleans(), label="align"),
        "first": data.draw(st.booleans(), label="first"),
        "stride": data.draw(st.sampled_from([0, 3, 20]), label="stride"),
        "null": data.draw(st.booleans(), label="null"),
    }
    known = [ranked(folder, q, text, **options) for q, text in zip(asked, contexts, strict=True)]
    operator = QuestionAnswerer(
        folder,
        question_column="asked",
        max_answer_length=options["longest"],
        align_to_words=options["align"],
        question_first=options["first"],
        stride=options["stride"],
        null_answer=options["null"],
    )
    assert_best(run(operator, contexts, asked=pd.array(asked, "str")), known)


@pytest.mark.parametrize("top_k", [1, 4, 5000])
def test_top_k(checkpoint, top_k):
    """Lists of the best answers of all windows, each stretch of text once."""
    folder = checkpoint("roberta")
    known = [ranked(folder, QUESTION, text, null=True)[:top_k] for text in CONTEXTS]
    operator = QuestionAnswerer(folder, question=QUESTION, top_k=top_k, null_answer=True)
    for row, found in zip(run(operator, CONTEXTS), known, strict=True):
        scores, starts, ends, answers = row
        np.testing.assert_allclose(scores, [each[0] for each in found], rtol=0, atol=1e-5)
        assert scores == sorted(scores, reverse=True)
        assert len(set(zip(starts, ends, strict=True))) == len(found)
        if top_k < 10:
            assert [list(column) for column in zip(*found, strict=True)][1:] == [
                *(starts, ends, answers)
            ]
        assert ("" in answers) == any(each[1:3] == (0, 0) for each in found)


def test_nothing_to_answer_with(checkpoint):
    """Without a span the answer is empty with score 0, of several none; or certainly none."""
    folder = checkpoint("bert")
    rows = ["", " \n"]
    assert run(QuestionAnswerer(folder, question="a"), rows) == [(0.0, 0, 0, "")] * 2
    assert run(QuestionAnswerer(folder, question="a", top_k=2), rows) == [([], [], [], [])] * 2
    operator = QuestionAnswerer(folder, question="a", null_answer=True)
    assert run(operator, rows) == [(1.0, 0, 0, "")] * 2


@pytest.mark.parametrize("name", ["bert", "mpnet", "llama"])
def test_no_padding_in_the_result(checkpoint, tmp_path, name):
    """Padded on either side, by argument or by the tokenizer's own: the same answers."""
    folder = checkpoint(name)
    known = [ranked(folder, QUESTION, text) for text in CONTEXTS]
    model = de.Model(folder, attention="padded")
    for side in ("left", "right"):
        operator = QuestionAnswerer(model, question=QUESTION, padding_side=side, batch_size=3)
        assert_best(run(operator, CONTEXTS), known)
    shutil.copytree(folder, tmp_path / "left")
    file = tmp_path / "left" / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"padding_side": "left"}))
    assert_best(run(QuestionAnswerer(str(tmp_path / "left"), question=QUESTION), CONTEXTS), known)


def test_rows_in_any_shape(checkpoint):
    """Nulls of either column, repeats, and questions of each row."""
    folder = checkpoint("bert")
    contexts = [CONTEXTS[0], None, CONTEXTS[4], CONTEXTS[0], "x", CONTEXTS[0]]
    asked = ["Who?", "Who?", "Why?", "Where was it?", None, "Who?"]
    operator = QuestionAnswerer(folder, question_column="asked")
    rows = run(operator, contexts, asked=pd.array(asked, "str"))
    assert [row[3] is None for row in rows] == [False, True, False, False, True, False]
    some = [place for place, row in enumerate(rows) if row[3] is not None]
    known = [ranked(folder, asked[place], contexts[place]) for place in some]
    assert_best([rows[place] for place in some], known)
    assert rows[0] == rows[5]
    assert rows[0] != rows[3]


def test_long_questions_are_cut(checkpoint):
    """What leaves less than the stride and a token for the text is cut at a token."""
    folder = checkpoint("bert")
    tokenizer, _ = reference(folder)
    room = tiny.POSITIONS - 3 - 20 - 1
    offsets = tokenizer(LONG, add_special_tokens=False, return_offsets_mapping=True)
    cut = LONG[: offsets["offset_mapping"][room - 1][1]]
    assert len(tokenizer(cut, add_special_tokens=False)["input_ids"]) == room
    known = [ranked(folder, cut, text, stride=20) for text in CONTEXTS]
    assert_best(run(QuestionAnswerer(folder, question=LONG, stride=20), CONTEXTS), known)


def test_long_rows_refused(checkpoint):
    """on_long="error": a row of several windows is null with one message."""
    operator = QuestionAnswerer(
        checkpoint("bert"), question="who", on_long="error", on_error="null"
    )
    frame = pd.DataFrame({"text": ["a short text", LONG, "x"]})
    out = operator(frame)
    assert out["answer"].isna().tolist() == [False, True, False]
    assert "more than 64 tokens" in out["answer_error"][1]
    assert out["answer_error"].isna().tolist() == [True, False, True]
    known = [ranked(checkpoint("bert"), "who", text) for text in ("a short text", "x")]
    kept = [
        out.loc[row, ["answer_score", "answer_start", "answer_end", "answer"]] for row in (0, 2)
    ]
    assert_best([tuple(row) for row in kept], known)


def test_head_runs_few_rows_and_unused_none(checkpoint, rows_through_model):
    """`head` answers its five rows only; answers that nothing reads are not computed."""
    import dask.dataframe as dd

    frame = pd.DataFrame({"id": range(40), "text": [f"text {i}" for i in range(40)]})
    out = QuestionAnswerer(checkpoint("bert"), question="who")(dd.from_pandas(frame, npartitions=2))
    assert rows_through_model(lambda: out.head(5)) == 5
    assert rows_through_model(lambda: out[["id"]].compute()) == 0


@pytest.mark.parametrize("kind", ["xlnet", "flaubert"])
def test_heads_of_two_kinds(tmp_path, kind):
    """One gives a start and an end for each token, the other searches with beams."""
    import tokenizers
    import torch
    import transformers

    tokenizer = tiny.wordpiece()
    ids = [(name, tokenizer.convert_tokens_to_ids(name)) for name in ("[CLS]", "[SEP]")]
    pair = "[CLS] $A [SEP] $B:1 [SEP]:1"
    if kind == "xlnet":
        pair = "$A:0 [SEP]:0 $B:1 [SEP]:1 [CLS]:2"
    tokenizer.backend_tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single=pair.replace(" $B:1 [SEP]:1", ""), pair=pair, special_tokens=ids
    )
    config_class = transformers.CONFIG_MAPPING[kind]
    config = shrunk.shrunk(config_class, tokenizer, shrunk.ATTEMPTS[0])
    known = transformers.MODEL_FOR_QUESTION_ANSWERING_MAPPING[config_class]
    torch.manual_seed(0)
    model = known(config)
    tiny.enlarge(model, 0.1)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    folder = str(tmp_path)
    found = [
        ranked(folder, QUESTION, text, limit=384, stride=128) for text in (CONTEXTS[0], CONTEXTS[5])
    ]
    assert_best(run(QuestionAnswerer(folder, question=QUESTION), [CONTEXTS[0], CONTEXTS[5]]), found)
    other = known.__name__.removesuffix("Simple")
    written = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(written | {"architectures": [other]}))
    with pytest.raises(ValueError, match=f"saved as {other}, whose head is another"):
        run(QuestionAnswerer(folder, question=QUESTION), CONTEXTS[:1])


def test_no_head(tmp_path):
    """A checkpoint for texts is refused on the client."""
    folder = headed.save("bert", "classify", tmp_path / "texts", num_labels=3)
    with pytest.raises(ValueError, match="ForQuestionAnswering"):
        QuestionAnswerer(str(folder), question="a")(pd.DataFrame({"text": ["a"]}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either question="),
        ({"question": "a", "question_column": "b"}, "either question="),
        ({"question": 3}, "question must be a string"),
        ({"question": "\ud800"}, "question cannot be encoded as UTF-8"),
        ({"question": "a", "top_k": 0}, "top_k"),
        ({"question": "a", "max_answer_length": None}, "max_answer_length"),
        ({"question": "a", "null_answer": 1}, "null_answer must be True or False"),
        ({"question": "a", "stride": -1}, "at least 0"),
        ({"question": "a", "stride": 1, "on_long": "error"}, "give one of the two"),
        ({"question": "a", "stride": 64}, "less than max_length, 64"),
        ({"question": "a", "max_length": 65}, "at most 64"),
    ],
)
def test_bad_arguments(checkpoint, options, message):
    """What does not fit is an error before any work."""
    with pytest.raises((TypeError, ValueError), match=message):
        QuestionAnswerer(checkpoint("bert"), **options)(pd.DataFrame({"text": []}, dtype="str"))


def test_windows_without_room(checkpoint):
    """A stride that special tokens leave no room for is an error of the whole partition."""
    with pytest.raises(ValueError, match="less than 61"):
        run(QuestionAnswerer(checkpoint("bert"), question="a", stride=61), ["a"])


def test_defaults_of_the_pipeline(checkpoint):
    """Windows of 384 tokens that share 128; half of the model's limit where that is less."""
    operator = QuestionAnswerer(checkpoint("bert"), question="a")
    assert "windows of 64 tokens that share 32" in " ".join(operator.plan())
    assert operator.provenance()["stride"] == 32
    longer = QuestionAnswerer(checkpoint("t5"), question="a")
    checkpoint_without_limit = de.models.checkpoint.read_checkpoint(longer.spec)
    config = json.loads((checkpoint_without_limit.folder / "tokenizer_config.json").read_text())
    assert config["model_max_length"] == 64
    assert longer.limit(checkpoint_without_limit) == 64
