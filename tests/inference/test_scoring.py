"""Scoring below the dataframe: branches, the vocabulary in portions, and which way is taken."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from support import headed, tiny

import dask_embed as de
from dask_embed.inference.attention import LayerSettings, NotPackableError
from dask_embed.inference.branches import BranchedTokens
from dask_embed.inference.runner import runner_for
from dask_embed.inference.scoring import encoding as scoring_encoding
from dask_embed.inference.scoring import vocabulary as scoring_vocabulary
from dask_embed.inference.scoring.base import FIRST, GIVEN, REST
from dask_embed.inference.scoring.causal import CausalScoring
from dask_embed.inference.scoring.loaded import scoring_of
from dask_embed.inference.scoring.seq2seq import Seq2SeqScoring
from dask_embed.operators import CandidateScorer
from dask_embed.tokens.lists import TokenLists

pytestmark = pytest.mark.usefixtures("one_torch_thread")

# Trunk and branches of each sequence: neighbours of one shape, a bare trunk, a trunk of one.
SHAPES = ((12, (3, 1, 2)), (12, (3, 1, 2)), (5, ()), (1, (2, 4)), (9, (1,)))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("scoring")
    names = {"llama": "causal-lm", "mistral": "causal-lm", "t5": "seq2seq-lm"}
    return {name: headed.save(name, task, root / name) for name, task in names.items()}


def branched(seed=0, words=200):
    draw = np.random.default_rng(seed)
    lengths = [trunk + sum(sizes) for trunk, sizes in SHAPES]
    lists = TokenLists.of([draw.integers(5, words, length).tolist() for length in lengths])
    branch = [np.repeat(np.arange(len(sizes) + 1), [trunk, *sizes]) for trunk, sizes in SHAPES]
    return BranchedTokens(lists.values, lists.offsets, branch=np.concatenate(branch))


@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_branches_have_the_vectors_that_they_have_alone(folders, name):
    """Every trunk and every branch behind its trunk, against single sequences, windows included."""
    runner = runner_for(de.Model(str(folders[name])), "causal-lm")
    tokens = branched()
    given = runner.token_vectors(tokens)
    for row, (trunk, sizes) in enumerate(SHAPES):
        start = int(tokens.offsets[row])
        ids, begin = tokens[row].tolist(), trunk
        alone = runner.token_vectors(TokenLists.of([ids[:trunk]]))
        torch.testing.assert_close(given[start : start + trunk], alone, rtol=0, atol=1e-5)
        for size in sizes:
            one = TokenLists.of([ids[:trunk] + ids[begin : begin + size]])
            expected = runner.token_vectors(one)[trunk:]
            found = given[start + begin : start + begin + size]
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
            begin += size
    assert SHAPES[0][0] > tiny.WINDOW


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2)], ids=str)
def test_attention_of_branches(window, heads):
    """Against softmax by hand over what each token may see."""
    tokens = branched()
    count = len(tokens.values)
    draw = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(1, number, count, 8, generator=draw)
        for number in (heads[0], heads[1], heads[1])
    )
    sequence = np.repeat(np.arange(len(tokens)), tokens.lengths)
    position = tokens.positions
    same = sequence[:, None] == sequence[None]
    own = (tokens.branch[None] == 0) | (tokens.branch[:, None] == tokens.branch[None])
    distance = position[:, None] - position[None]
    seen = same & own & (distance >= 0)
    if window is not None:
        seen &= distance < window
    key, value = (part.repeat_interleave(heads[0] // heads[1], 1) for part in (key, value))
    scores = (query @ key.transpose(2, 3)) / 8**0.5
    weights = scores.masked_fill(~torch.from_numpy(seen), -torch.inf).softmax(-1)
    fewer = heads[0] // heads[1]
    given = tokens.attend(query, key[:, ::fewer], value[:, ::fewer], LayerSettings(True, window))
    torch.testing.assert_close(given, (weights @ value).transpose(1, 2), rtol=0, atol=1e-5)
    assert position[tokens.offsets[0] + 12] == 12
    assert position[tokens.offsets[0] + 15] == 12


def test_branches_need_causal_attention():
    """A trunk that saw its branches would not be the same for all."""
    parts = [torch.zeros(1, 1, len(branched().values), 4)] * 3
    with pytest.raises(NotPackableError, match="causal"):
        branched().attend(*parts, LayerSettings(causal=False))


def sequences(lists):
    """Prompts and candidates as the scoring takes them."""
    ids, roles = [], []
    for prompt, candidates in lists:
        ids.append([*prompt, *(token for own in candidates for token in own)])
        marks = [role for own in candidates for role in (FIRST, *[REST] * (len(own) - 1))]
        roles.append([GIVEN] * len(prompt) + marks)
    return TokenLists.of(ids, roles)


LISTS = (
    ([7, 8, 9, 10], [[11], [12, 13, 14], [12, 13]]),
    ([20], [[21, 22]]),
    ([30, 31], []),
    ([40, 41, 42], [[43], [44]]),
)


def expected_sums(model, prompt, candidates):
    sums = []
    for own in candidates:
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([[*prompt, *own]])).logits[0]
        chosen = torch.log_softmax(logits, -1)[range(len(prompt) - 1, len(prompt) + len(own) - 1)]
        sums.append(sum(chosen[step, token].item() for step, token in enumerate(own)))
    return sums


@pytest.mark.parametrize("most", [1, 1000, 2**24])
def test_vocabulary_in_portions(folders, monkeypatch, most):
    """However many logits are held at a time, sums are those of the whole, for mixed sequences."""
    import transformers

    monkeypatch.setattr(scoring_vocabulary, "MOST_LOGITS", most)
    model = transformers.AutoModelForCausalLM.from_pretrained(folders["llama"]).eval()
    scoring = scoring_of(runner_for(de.Model(str(folders["llama"])), "causal-lm"))
    given = scoring.log_likelihoods(sequences(LISTS))
    for sums, (prompt, candidates) in zip(given, LISTS, strict=True):
        np.testing.assert_allclose(sums, expected_sums(model, prompt, candidates), rtol=1e-5)
    assert scoring.next_tokens(sequences(LISTS[2:3]), 3)[0][0].shape == (3,)


@pytest.mark.parametrize("change", ["room", "few"])
def test_candidates_in_several_sequences(folders, monkeypatch, change):
    """Many candidates, or prompts near the length that was tried, part into more sequences."""
    candidates = tuple(
        f"return {word}" for word in ["one", "two", "three", "four", "five", "six", "seven"]
    )
    frame = pd.DataFrame({"text": ["Parse the arguments:", "x", "Parse the arguments. " * 4 + ":"]})
    scorer = CandidateScorer(folders["llama"], candidates=candidates, scores="s", max_length=48)
    whole = [list(row.values()) for row in scorer(frame)["s"]]
    runner = scorer.runner()
    if change == "few":
        monkeypatch.setattr(scoring_encoding, "_SHARED_TOKENS", 10)
    else:
        tried = dataclasses.replace(runner.verdict, up_to=36)
        monkeypatch.setattr(runner, "verdict", tried)
    encoded = scorer.encode(runner, [(text,) for text in frame["text"]])
    per_row = np.bincount(encoded.rows)
    assert per_row.max() > 1
    parted = [list(row.values()) for row in scorer(frame)["s"]]
    np.testing.assert_allclose(parted, whole, rtol=1e-5)


def test_what_differs_is_not_shared(folders, monkeypatch):
    """Where random tokens show another result, or an error, every candidate runs whole."""
    runner = runner_for(de.Model(str(folders["llama"])), "causal-lm")
    assert CausalScoring(runner).reason == ""
    with monkeypatch.context() as patch:
        patch.setattr(
            BranchedTokens, "positions", property(lambda tokens: np.arange(len(tokens.values)))
        )
        differing = CausalScoring(runner)
    assert not differing.shares
    assert "differ from those behind a prompt of their own" in differing.reason

    def refuse(*args):
        raise NotPackableError("no such thing")

    with monkeypatch.context() as patch:
        patch.setattr(BranchedTokens, "attend", refuse)
        assert CausalScoring(runner).reason == "NotPackableError: no such thing"
    padded = runner_for(de.Model(str(folders["llama"]), attention="padded"), "causal-lm")
    assert "attention='padded' was asked for" in CausalScoring(padded).reason


def test_encoder_whose_scores_differ_runs_alone(folders, monkeypatch):
    """Scores of a padded batch that are not those of single candidates are not used."""
    runner = runner_for(de.Model(str(folders["t5"])), "seq2seq-lm")
    assert Seq2SeqScoring(runner).shares
    together = Seq2SeqScoring._together
    monkeypatch.setattr(Seq2SeqScoring, "_together", lambda *args: together(*args) * 1.001)
    differing = Seq2SeqScoring(runner)
    assert not differing.shares
    assert "differ from those of single candidates" in differing.reason
