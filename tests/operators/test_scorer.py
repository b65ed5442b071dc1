"""The scorer on dataframes: log-likelihoods are those of transformers called by hand."""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
import transformers
from support import contract, headed, tiny
from support.contract import DataframeContract, values_of

import dask_embed as de
from dask_embed.inference.scoring.loaded import scoring_of
from dask_embed.operators import CandidateScorer, NextTokenScorer, PerplexityScorer
from dask_embed.operators.language.chosen import chosen_scorer

pytestmark = pytest.mark.usefixtures("one_torch_thread")

CAUSAL = ("llama", "nemotron", "qwen3", "gpt2", "mistral", "gemma3")
CANDIDATES = ("yes", "no way at all", "it returns a list", "ünïcode 漢字")
PROMPTS = (
    "Return the mean of the values:",
    None,
    "x",
    "Parse the arguments of a command. " * 4 + "Answer:",
    "Return the mean of the values:",
    "a",
    "Ünïcode 漢字 in\na path?",
)
ROWS = [row for row, text in enumerate(PROMPTS) if text is not None]
PATHS = {
    "shared": {},
    "padded": {"attention": "padded"},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Return a function that gives the checkpoint of an architecture, written once."""
    root = tmp_path_factory.mktemp("scorer")

    def folder(name):
        if (root / name).exists():
            return root / name
        if name == "bart":
            return _bart(root / name)
        task = "seq2seq-lm" if name == "t5" else "causal-lm"
        return headed.save(name, task, root / name)

    return folder


def _bart(folder):
    tokenizer = tiny._roberta_tokenizer()
    sizes = {"encoder_layers": 2, "decoder_layers": 2, "d_model": 32}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    widths = {"encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 64}
    ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    config = transformers.BartConfig(
        vocab_size=len(tokenizer), forced_eos_token_id=None, **sizes, **heads, **widths, **ids
    )
    torch.manual_seed(3)
    model = transformers.BartForConditionalGeneration(config).eval()
    tiny.enlarge(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def reference():
    """Return a function that loads model and tokenizer with transformers, once."""
    kept = {}

    def load(folder):
        if folder not in kept:
            auto = transformers.AutoModelForCausalLM
            if transformers.AutoConfig.from_pretrained(folder).is_encoder_decoder:
                auto = transformers.AutoModelForSeq2SeqLM
            model = auto.from_pretrained(folder).eval()
            kept[folder] = model, transformers.AutoTokenizer.from_pretrained(folder)
        return kept[folder]

    return load


def frame(texts=PROMPTS, **columns):
    return pd.DataFrame({"text": pd.Series(texts, dtype="str"), **columns})


def prompt_ids(tokenizer, text, room=None):
    """Special tokens in front, then the end of the text."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    whole = tokenizer(text)["input_ids"]
    before = whole[: whole.index(ids[0])] if ids else []
    if room is not None and len(before) + len(ids) > room:
        ids = ids[len(before) + len(ids) - room :]
    return [*before, *ids]


def candidate_ids(tokenizer, text, separator=" "):
    """What a candidate adds to a text that ends with a colon."""
    begin = tokenizer("so:", add_special_tokens=False)["input_ids"]
    whole = tokenizer(f"so:{separator}{text}", add_special_tokens=False)["input_ids"]
    assert whole[: len(begin)] == begin
    return whole[len(begin) :]


def token_log_probabilities(model, given, candidate):
    """Sum of log-softmax by hand: the whole sequence through the model, alone."""
    ids = torch.tensor([[*given, *candidate]])
    with torch.inference_mode():
        logits = model(input_ids=ids).logits[0].float()
    chosen = torch.log_softmax(logits, -1)[len(given) - 1 : -1]
    return chosen.gather(1, torch.tensor(candidate)[:, None])[:, 0].double().numpy()


def causal_scores(loaded, text, candidates=CANDIDATES, limit=tiny.POSITIONS):
    model, tokenizer = loaded
    ids = [candidate_ids(tokenizer, candidate) for candidate in candidates]
    prompt = prompt_ids(tokenizer, text, limit - max(map(len, ids)))
    return [token_log_probabilities(model, prompt, each) for each in ids]


def assert_close(given, expected):
    np.testing.assert_allclose(given, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", CAUSAL)
def test_candidates_have_their_log_likelihood(folders, reference, name, path):
    """Scores, best candidate and probabilities of every row are those computed by hand."""
    folder = folders(name)
    scorer = CandidateScorer(
        de.Model(folder, **PATHS[path]), candidates=CANDIDATES, scores="s", probabilities="p"
    )
    assert scoring_of(scorer.runner()).shares == (path == "shared")
    out = scorer(frame())
    assert out["candidate"].isna().tolist() == [text is None for text in PROMPTS]
    best = set()
    for row in ROWS:
        scores = [each.sum() for each in causal_scores(reference(folder), PROMPTS[row])]
        assert_close(list(out["s"][row].values()), scores)
        weights = np.exp(scores - np.max(scores))
        assert_close(list(out["p"][row].values()), weights / weights.sum())
        assert list(out["p"][row]) == list(CANDIDATES)
        assert out["candidate"][row] == CANDIDATES[int(np.argmax(scores))]
        assert_close(out["candidate_score"][row], np.max(scores))
        best.add(tuple(np.round(scores, 2)))
    assert len(best) == len(ROWS) - 1  # one prompt is there twice


@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize("path", PATHS)
def test_mean_per_token(folders, reference, path, padding_side):
    """normalize="mean" divides by the tokens of the candidate, and may choose another one."""
    folder = folders("mistral")
    model = de.Model(folder, **PATHS[path])
    options = {"candidates": CANDIDATES, "scores": "s", "padding_side": padding_side}
    out = CandidateScorer(model, normalize="mean", **options)(frame())
    sums = CandidateScorer(model, **options)(frame())
    for row in ROWS:
        scores = [each.mean() for each in causal_scores(reference(folder), PROMPTS[row])]
        assert_close(list(out["s"][row].values()), scores)
        assert out["candidate"][row] == CANDIDATES[int(np.argmax(scores))]
    assert out["candidate"].tolist() != sums["candidate"].tolist()


@pytest.mark.parametrize("name", ["llama", "qwen3", "mistral"])
def test_candidates_have_the_tokens_of_the_joint_text(folders, reference, name):
    """Behind a prompt that ends with a word or a sign, prompt and candidate are as one text."""
    model, tokenizer = reference(folders(name))
    text = "Return the mean:"
    out = CandidateScorer(folders(name), candidates=CANDIDATES[:3], scores="s")(frame([text]))
    for candidate in CANDIDATES[:3]:
        prompt = prompt_ids(tokenizer, text)
        whole = prompt_ids(tokenizer, f"{text} {candidate}")
        assert whole[: len(prompt)] == prompt
        expected = token_log_probabilities(model, prompt, whole[len(prompt) :]).sum()
        assert_close(out["s"][0][candidate], expected)


@pytest.mark.parametrize("options", [{"separator": ""}, {"separator": "\n"}], ids=repr)
def test_separator(folders, reference, options):
    """The separator is part of the candidate."""
    model, tokenizer = reference(folders("gpt2"))
    out = CandidateScorer(folders("gpt2"), candidates=CANDIDATES, scores="s", **options)(frame())
    ids = {text: candidate_ids(tokenizer, text, options["separator"]) for text in CANDIDATES}
    room = tiny.POSITIONS - max(map(len, ids.values()))
    for row in ROWS:
        prompt = prompt_ids(tokenizer, PROMPTS[row], room)
        for candidate in CANDIDATES:
            expected = token_log_probabilities(model, prompt, ids[candidate]).sum()
            assert_close(out["s"][row][candidate], expected)


def test_end_of_candidates(folders, reference):
    """candidate_end=True scores the end of sequence, too."""
    model, tokenizer = reference(folders("llama"))
    out = CandidateScorer(folders("llama"), candidates=CANDIDATES, candidate_end=True, scores="s")(
        frame(["Return the mean:"])
    )
    for candidate in CANDIDATES:
        ids = [*candidate_ids(tokenizer, candidate), tokenizer.eos_token_id]
        prompt = prompt_ids(tokenizer, "Return the mean:")
        assert_close(out["s"][0][candidate], token_log_probabilities(model, prompt, ids).sum())


def test_prompts_with_special_tokens_of_their_own(folders, reference):
    """add_special_tokens=False leaves the prompt's tokens as they are."""
    model, tokenizer = reference(folders("llama"))
    scorer = CandidateScorer(folders("llama"), candidates=("yes", "no"), add_special_tokens=False)
    with_own = scorer(frame(["<|begin|>Return:", "Return:"]))
    usual = CandidateScorer(folders("llama"), candidates=("yes", "no"))(
        frame(["Return:", "Return:"])
    )
    assert_close(with_own["candidate_score"][0], usual["candidate_score"][0])
    ids = tokenizer("Return:", add_special_tokens=False)["input_ids"]
    expected = [
        token_log_probabilities(model, ids, candidate_ids(tokenizer, text)).sum()
        for text in ("yes", "no")
    ]
    assert_close(with_own["candidate_score"][1], max(expected))
    assert abs(with_own["candidate_score"][0] - max(expected)) > 1e-3


LISTS = (
    ["yes", "no way at all"],
    None,
    [],
    ["it returns a list", "yes", "it returns a list"],
    ["yes"],
    ["no", "yes", "ünïcode 漢字", "it", "no way at all"],
    ["a", "b"],
)
LIST_TYPES = {
    "object": object,
    "arrow": pd.ArrowDtype(pa.list_(pa.string())),
    "large": pd.ArrowDtype(pa.large_list(pa.large_string())),
}
PROMPTS_OF_LISTS = ("Return:", "x", "y", *PROMPTS[2:4], "Return:", None)


def list_frame(kind="object", lists=LISTS):
    return frame(PROMPTS_OF_LISTS[: len(lists)], choices=pd.Series(lists, dtype=LIST_TYPES[kind]))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", LIST_TYPES)
def test_column_of_candidates(folders, reference, kind, path):
    """Each row has candidates of its own; nulls and empty lists give nulls, repeats the same."""
    scorer = CandidateScorer(
        de.Model(folders("llama"), **PATHS[path]),
        candidates_column="choices",
        scores="s",
        probabilities="p",
    )
    out = scorer(list_frame(kind))
    given = values_of(out["s"])
    assert [value is None for value in given] == [False, True, True, False, False, False, True]
    assert out["candidate"].isna().tolist() == [value is None for value in given]
    for row in (0, 3, 4, 5):
        expected = causal_scores(reference(folders("llama")), PROMPTS_OF_LISTS[row], LISTS[row])
        scores = [each.sum() for each in expected]
        assert_close(given[row], scores)
        assert out["candidate"][row] == LISTS[row][int(np.argmax(scores))]
        assert_close(sum(out["p"][row]), 1)
    assert given[3][0] == given[3][2]
    assert out["s"].dtype == pd.ArrowDtype(pa.list_(pa.float32()))


def test_column_of_candidates_on_dask(folders):
    """Partitions give what one frame gives, in the order of the rows, with the announced types."""
    import dask.dataframe as dd

    scorer = CandidateScorer(folders("llama"), candidates_column="choices", scores="s")
    whole = scorer(list_frame("arrow"))
    ddf = dd.from_pandas(list_frame("arrow"), npartitions=3, sort=False)
    out = scorer(ddf)
    computed = out.compute()
    assert list(computed.dtypes) == list(out.dtypes)
    assert computed["candidate"].fillna("").tolist() == whole["candidate"].fillna("").tolist()
    for given, expected in zip(values_of(computed["s"]), values_of(whole["s"]), strict=True):
        assert (given is None) == (expected is None)
        if given is not None:
            assert_close(given, expected)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("yes", "str is not a list of strings"),
        ([1, 2], "int is not text"),
        (["a", None], "NoneType is not text"),
        (["a", ""], "a candidate is empty"),
    ],
    ids=repr,
)
def test_unusable_lists(folders, value, reason):
    """A row whose candidates are no strings is named, or null with its message."""
    lists = [["yes", "no"], value, ["a", "b"]]
    scorer = CandidateScorer(folders("llama"), candidates_column="choices")
    with pytest.raises(ValueError, match=rf"row 1 .*'choices'.*{reason}"):
        scorer(list_frame("object", lists))
    out = CandidateScorer(folders("llama"), candidates_column="choices", on_error="null")(
        list_frame("object", lists)
    )
    assert out["candidate"].isna().tolist() == [False, True, False]
    assert reason in out["candidate_error"][1]


def test_lists_that_became_strings(folders):
    """A column of another type is an error that says what Dask does."""
    with pytest.raises(TypeError, match=r"'choices'.*lists of strings.*convert-string"):
        CandidateScorer(folders("llama"), candidates_column="choices")(frame(choices=["['a']"] * 7))


def test_template_over_columns(folders):
    """A prompt made of columns gives what the same text in a column gives."""
    rows = frame(["Mean", "Sum", "Mean"], unit=pd.Series(["cm", None, "km"], dtype="str"))
    out = CandidateScorer(folders("llama"), prompt="{text} in {unit}:", candidates=("yes", "no"))(
        rows
    )
    plain = CandidateScorer(folders("llama"), candidates=("yes", "no"))(
        frame(["Mean in cm:", None, "Mean in km:"])
    )
    pd.testing.assert_series_equal(out["candidate_score"], plain["candidate_score"])
    assert out["candidate_score"].nunique() == 2


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("path", PATHS)
def test_long_prompts_lose_their_beginning(folders, reference, name, path):
    """What does not fit beside the longest candidate is cut on the left, or an error."""
    text = "Parse the arguments of a command and return them. " * 8 + "Answer:"
    model = de.Model(folders(name), **PATHS[path])
    for limit in (24, tiny.POSITIONS):
        out = CandidateScorer(model, candidates=CANDIDATES, max_length=limit, scores="s")(
            frame([text])
        )
        expected = causal_scores(reference(folders(name)), text, CANDIDATES, limit)
        assert_close(list(out["s"][0].values()), [each.sum() for each in expected])
    strict = CandidateScorer(model, candidates=CANDIDATES, on_long="error", on_error="null")
    out = strict(frame(["Return:", text, "x"]))
    assert out["candidate"].isna().tolist() == [False, True, False]
    assert "besides its candidates, and on_long='error'" in out["candidate_error"][1]


def test_candidates_that_leave_no_room(folders):
    """A candidate as long as a sequence may be fails its row with its number of tokens."""
    scorer = CandidateScorer(folders("llama"), candidates_column="c", max_length=4, on_error="null")
    lists = pd.Series([["it returns a list"], None], dtype=object)
    out = scorer(frame(["Return:", None], c=lists))
    assert out["candidate"].isna().all()
    message = out["candidate_error"][0]
    assert "tokens with its separator, which leave none of 4 for its prompt" in message
    assert pd.isna(out["candidate_error"][1])


def test_prompts_without_tokens(folders):
    """An empty prompt is the beginning of a text; where there is none it fails."""
    scored = CandidateScorer(folders("llama"), candidates=("yes", "no"))(frame(["", "<|begin|>"]))
    bare = CandidateScorer(folders("llama"), candidates=("yes", "no"), add_special_tokens=False)
    assert_close(scored["candidate_score"][0], bare(frame([""]))["candidate_score"][0])
    out = CandidateScorer(folders("gpt2"), candidates=("yes", "no"), on_error="null")(
        frame(["", "x"])
    )
    assert out["candidate"].isna().tolist() == [True, False]
    assert "no tokens" in out["candidate_error"][0]


# Encoders with a decoder


@pytest.mark.parametrize("shares", [True, False])
@pytest.mark.parametrize("end", [None, False])
@pytest.mark.parametrize("name", ["t5", "bart"])
def test_encoder_decoder(folders, reference, monkeypatch, name, end, shares):
    """Candidates are labels: log-softmax of the logits that transformers gives with them."""
    model, tokenizer = reference(folders(name))
    scorer = CandidateScorer(folders(name), candidates=CANDIDATES, candidate_end=end, scores="s")
    scoring = scoring_of(scorer.runner())
    assert scoring.shares
    monkeypatch.setattr(scoring, "shares", shares)
    out = scorer(frame())
    results = set()
    for row in ROWS:
        text = tokenizer(PROMPTS[row])["input_ids"]
        for candidate in CANDIDATES:
            ids = tokenizer(candidate, add_special_tokens=end is None)["input_ids"]
            with torch.inference_mode():
                logits = model(input_ids=torch.tensor([text]), labels=torch.tensor([ids])).logits
            chosen = torch.log_softmax(logits[0], -1)[range(len(ids)), ids]
            assert_close(out["s"][row][candidate], chosen.double().sum().item())
        results.add(round(out["candidate_score"][row], 3))
    assert len(results) == len(ROWS) - 1


@pytest.mark.parametrize("truncation_side", ["right", "left"])
@pytest.mark.parametrize("name", ["t5", "bart"])
def test_encoder_loses_what_its_tokenizer_cuts(folders, reference, tmp_path, name, truncation_side):
    """A long input is cut as transformers' tokenizer cuts it: at its end, unless it says left."""
    folder = folders(name)
    model, _ = reference(folder)
    if truncation_side == "left":
        folder = shutil.copytree(folder, tmp_path / name)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, truncation_side="left")
        tokenizer.save_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert tokenizer.truncation_side == truncation_side
    text = "Parse the arguments of a command and return them. " * 8 + "Answer:"
    out = CandidateScorer(folder, candidates=CANDIDATES, max_length=24, scores="s")(frame([text]))
    given = tokenizer(text, truncation=True, max_length=24, return_tensors="pt")["input_ids"]
    assert given.shape == (1, 24)
    for candidate in CANDIDATES:
        ids = tokenizer(candidate)["input_ids"]
        with torch.inference_mode():
            logits = model(input_ids=given, labels=torch.tensor([ids])).logits
        chosen = torch.log_softmax(logits[0], -1)[range(len(ids)), ids]
        assert_close(out["s"][0][candidate], chosen.double().sum().item())


def test_next_tokens_of_a_decoder(folders, reference):
    """The first token of an answer."""
    model, tokenizer = reference(folders("t5"))
    out = NextTokenScorer(folders("t5"), top_k_next=3)(frame())
    for row in ROWS:
        ids = torch.tensor([tokenizer(PROMPTS[row])["input_ids"]])
        with torch.inference_mode():
            logits = model(input_ids=ids, decoder_input_ids=torch.tensor([[0]])).logits[0, -1]
        best = torch.log_softmax(logits, -1).topk(3)
        assert [each["token"] for each in out["next_tokens"][row]] == best.indices.tolist()
        assert_close([each["logprob"] for each in out["next_tokens"][row]], best.values.tolist())


# Texts and next tokens


def windowed(model, ids, length, stride, first):
    """The guide of transformers on perplexity: log-likelihood and number of tokens."""
    total, count, previous = 0.0, 0, 0
    for begin in range(0, len(ids), stride):
        end = min(begin + length, len(ids))
        window = torch.tensor([ids[begin:end]])
        with torch.inference_mode():
            scores = torch.log_softmax(model(input_ids=window).logits[0], -1)
        for place in range(max(previous, first), end):
            total += scores[place - begin - 1, ids[place]].double().item()
            count += 1
        previous = end
        if end == len(ids):
            break
    return total, count


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("llama", {}),
        ("gpt2", {}),
        ("gpt2", {"max_length": 20, "stride": 19}),
        ("mistral", {"max_length": 24, "stride": 7}),
    ],
    ids=repr,
)
def test_likelihood_of_texts(folders, reference, name, options, path):
    """Every token but the first is scored once, long texts in windows as in transformers' guide."""
    model, tokenizer = reference(folders(name))
    texts = [*PROMPTS, "Parse the arguments of a command. " * 20, "", "a"]
    out = PerplexityScorer(de.Model(folders(name), **PATHS[path]), **options)(frame(texts))
    length = options.get("max_length", tiny.POSITIONS)
    counts = []
    for row, text in enumerate(texts):
        if text is None:
            assert (
                out.loc[
                    row, ["log_likelihood", "log_likelihood_tokens", "log_likelihood_perplexity"]
                ]
                .isna()
                .all()
            )
            continue
        ids = prompt_ids(tokenizer, text)
        total, count = windowed(model, ids, length, options.get("stride", length // 2), 1)
        assert out["log_likelihood_tokens"][row] == count
        assert_close(out["log_likelihood"][row], total)
        if count:
            assert_close(out["log_likelihood_perplexity"][row], np.exp(-total / count))
        else:
            assert pd.isna(out["log_likelihood_perplexity"][row])
        counts.append(count)
    assert max(counts) > 2 * length
    assert 0 in counts


def test_long_texts_may_be_an_error(folders):
    """on_long="error" without candidates fails a text of more than one window."""
    scorer = PerplexityScorer(folders("llama"), on_long="error", on_error="null")
    out = scorer(frame(["Return:", "Parse the arguments. " * 40]))
    assert out["log_likelihood"].isna().tolist() == [False, True]
    assert "more than 64 tokens" in out["log_likelihood_error"][1]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_next_tokens(folders, reference, name, path):
    """The likeliest tokens behind a prompt, over the whole vocabulary."""
    model, tokenizer = reference(folders(name))
    out = NextTokenScorer(de.Model(folders(name), **PATHS[path]), top_k_next=5)(frame())
    assert out["next_tokens"].isna().tolist() == [text is None for text in PROMPTS]
    seen = set()
    for row in ROWS:
        ids = torch.tensor([prompt_ids(tokenizer, PROMPTS[row], tiny.POSITIONS)])
        with torch.inference_mode():
            best = torch.log_softmax(model(input_ids=ids).logits[0, -1], -1).topk(5)
        given = out["next_tokens"][row]
        assert [each["token"] for each in given] == best.indices.tolist()
        assert [each["token_str"] for each in given] == [
            tokenizer.decode([token]) for token in best.indices.tolist()
        ]
        assert_close([each["logprob"] for each in given], best.values.tolist())
        seen.add(tuple(best.indices.tolist()))
    assert len(seen) > 2


# What is asked for


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"candidates": "yes"}, TypeError, "tuple of strings"),
        ({"candidates": ("yes", 3)}, TypeError, "candidates must be a string, got 3"),
        ({"candidates": ()}, ValueError, "not empty"),
        ({"candidates": ("yes", "")}, ValueError, "not empty"),
        ({"candidates": ("yes", "yes")}, ValueError, "must differ"),
        ({"candidates": ("a",), "candidates_column": "b"}, ValueError, "got both"),
        ({"candidates": ("a",), "top_k_next": 2}, ValueError, "not both"),
        ({"candidates": ("a",), "stride": 2}, ValueError, "does not apply with candidates"),
        ({"scores": "s"}, ValueError, "does not apply without candidates"),
        ({"candidates": ("a",), "normalize": "median"}, ValueError, "'sum', 'mean'"),
        ({"candidates": ("a",), "scores": "candidate"}, ValueError, "must differ"),
        ({"candidates_column": "text"}, ValueError, "different columns"),
        ({"top_k_next": 0}, ValueError, "positive"),
        ({"prompt": "{", "candidates": ("a",)}, ValueError, "template"),
        ({"candidates": ("a",), "separator": 3}, TypeError, "separator"),
        ({"candidates": ("a", "\ud800")}, ValueError, "candidates cannot be encoded as UTF-8"),
        ({"prompt": "\ud800{text}"}, ValueError, "prompt cannot be encoded as UTF-8"),
        ({"candidates_column": ["a"]}, TypeError, "candidates_column must be the name"),
    ],
    ids=repr,
)
def test_bad_arguments(options, error, message):
    """They are named where the operator is made."""
    with pytest.raises(error, match=message):
        frame().ml.score("text", model="some/model", **options)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("bert", {}, "reads texts from both sides"),
        ("distilbert", {"candidates": ("a",)}, "reads texts from both sides"),
        ("t5", {}, "give candidates"),
        ("llama", {"top_k_next": 10_000}, "top_k_next must be at most"),
        ("llama", {"stride": 64}, "less than the 64 tokens"),
        ("gpt2", {"candidates": ("a",), "candidate_end": True}, "no token for the end of a"),
    ],
)
def test_unfit_checkpoints(folders, tmp_path, name, options, message):
    """A checkpoint that cannot do it is an error before any work."""
    folder = tiny.save(name, tmp_path / name) if "bert" in name else folders(name)
    kind, options = chosen_scorer(options)
    with pytest.raises(ValueError, match=message):
        kind(folder, **options).meta(frame().iloc[:0])


def test_model_that_sees_what_follows(tmp_path):
    """A language model without causal attention is found out when it is loaded."""
    folder = headed.save("gemma3-bidirectional", "causal-lm", tmp_path / "both")
    with pytest.raises(ValueError, match="lets tokens see those that follow"):
        CandidateScorer(folder, candidates=("a", "b"))(frame())


def test_only_rows_that_are_asked_for_run(folders, rows_through_model):
    """`head` scores its rows, an unused result none."""
    import dask.dataframe as dd

    texts = [f"Return number {row}:" for row in range(40)]
    ddf = dd.from_pandas(frame(texts), npartitions=2, sort=False)
    scored = CandidateScorer(folders("llama"), candidates=("yes", "no"))(ddf)
    assert rows_through_model(lambda: scored.head(5)) == 5
    assert rows_through_model(lambda: scored[["text"]].compute()) == 0
    assert rows_through_model(lambda: scored["candidate"].compute()) == 40


# The dataframe contract


@pytest.fixture(scope="module")
def _relative():
    """Compare sums over tokens to their size: 1e-6 of it is all that float32 holds."""
    original = contract.assert_same_values

    def flat(value):
        if isinstance(value, dict):
            value = list(value.values())
        return (
            [part for each in value for part in flat(each)] if isinstance(value, list) else [value]
        )

    def compare(given, expected):
        pairs = list(zip(flat(list(given)), flat(list(expected)), strict=True))
        for left, right in pairs:
            if isinstance(right, float):
                assert left == pytest.approx(right, rel=2e-6, abs=1e-6, nan_ok=False)
            else:
                assert left == right

    contract.assert_same_values = compare
    yield
    contract.assert_same_values = original


OPERATORS = {
    "candidates": {
        "candidates": ("yes", "no way"),
        "scores": "s",
        "probabilities": "p",
        "on_error": "null",
        "batch_size": 3,
    },
    "texts": {"max_length": 24},
    "encoder and decoder": {"candidates": ("yes", "no way"), "normalize": "mean", "name": "t5"},
}


@pytest.mark.usefixtures("_relative")
def test_names_of_columns_say_what_is_scored():
    """Each of the three modes by a name of its own, so that their columns fit into one frame."""
    candidates = CandidateScorer("some/model", candidates=("a", "b"))
    names = ("candidate", "candidate_score", "candidate_probability")
    assert candidates.result_columns == names
    assert NextTokenScorer("some/model", top_k_next=2).result_columns == ("next_tokens",)
    texts = PerplexityScorer("some/model", on_error="null")
    assert texts.result_columns[::2] == ("log_likelihood", "log_likelihood_perplexity")
    assert texts.error_column == "log_likelihood_error"
    assert PerplexityScorer("some/model", output="x").result_columns[0] == "x"


class TestScorer(DataframeContract):
    @pytest.fixture(scope="class", params=OPERATORS.values(), ids=OPERATORS)
    @classmethod
    def operator(cls, request, folders):
        options = dict(request.param)
        folder = folders(options.pop("name", "llama"))
        kind, options = chosen_scorer(options)
        return kind(folder, column="body", **options)
