"""Fuzzy duplicates: brute force over all pairs, datasketch and theory are the judges."""

from __future__ import annotations

import functools
import itertools
import re
from pathlib import Path
from typing import Any

import cloudpickle
import dask
import dask.dataframe as dd
import datasketch
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import transformers
from datasketch.lsh import _optimal_param
from support.clusters import cluster
from support.jaccard import Pairs, alike, kept, word_ngrams
from support.tiny import save

import dask_embed as de
from dask_embed.curation.candidates import FIRST, NEAR, candidate_pairs
from dask_embed.curation.minhash import Banding, band_hashes, banding, signatures
from dask_embed.curation.ngrams import Lists, jaccard, ngrams, offsets_of, sets, token_ngrams
from dask_embed.curation.signing import _name_of

TEXTS = [
    "one two three four five six",
    "one two three four five seven",
    *("a", "a b", "b a", "", None, "a b a b a"),
    "Ünïcode, çødé; foo_bar x1.  y",
]


def corpus(docstrings: pd.DataFrame, rows: int, seed: int) -> pd.DataFrame:
    """Return docstrings, some of them again with a word more or less, with ids in no order."""
    random = np.random.default_rng(seed)
    texts = docstrings.text.head(rows).tolist()
    for place in random.choice(rows, rows // 3, replace=False).tolist():
        words = texts[place].split(" ")
        words.insert(int(random.integers(len(words) + 1)), "inserted")
        texts.append(" ".join(words))
    return pd.DataFrame({"id": random.permutation(len(texts)), "text": texts})


@pytest.fixture(scope="module")
def docstrings() -> pd.DataFrame:
    return de.datasets.docstrings(["dask"], rows=450).compute(scheduler="sync")


@pytest.fixture(scope="module")
def frame(docstrings: pd.DataFrame) -> pd.DataFrame:
    return corpus(docstrings, 450, 0)


@pytest.fixture(scope="module")
def pairs(frame: pd.DataFrame) -> Pairs:
    return alike(word_ngrams(frame.text, 5), 0.8)


def test_rows_and_similarities_are_those_of_brute_force(frame: pd.DataFrame, pairs: Pairs) -> None:
    marked = dd.from_pandas(frame, npartitions=3).ml.mark_fuzzy_duplicates("text", id="id")
    got = marked.compute()
    assert len(pairs) > 80
    assert set(got.id[got.fuzzy_kept]) == kept(frame.id.tolist(), pairs)
    place = {row.id: row.Index for row in frame.itertuples()}
    for row in got[~got.fuzzy_kept].itertuples():
        ends = sorted([place[row.id], place[row.fuzzy_duplicate_of]])
        assert row.fuzzy_similarity == pairs[tuple(ends)]
        assert place[row.fuzzy_duplicate_of] not in set(got.index[~got.fuzzy_kept])


@pytest.mark.parametrize("npartitions", [1, 4, 16])
def test_the_same_rows_in_any_order_and_partitions(
    frame: pd.DataFrame, pairs: Pairs, npartitions: int
) -> None:
    mixed = frame.sample(frac=1, random_state=npartitions).reset_index(drop=True)
    ddf = dd.from_pandas(mixed, npartitions=npartitions)
    got = ddf.ml.drop_fuzzy_duplicates("text", id="id").id.compute()
    assert set(got) == kept(frame.id.tolist(), pairs)


def test_groups_are_components_of_the_pairs(frame: pd.DataFrame, pairs: Pairs) -> None:
    got = dd.from_pandas(frame, npartitions=2).ml.mark_fuzzy_duplicates("text", id="id").compute()
    for one, other in pairs:
        assert got.fuzzy_group[one] == got.fuzzy_group[other]
    members = got[got.fuzzy_group.notna()]
    assert set(members.index) == set(itertools.chain(*pairs))
    assert (members.groupby("fuzzy_group").id.transform("min") == members.fuzzy_group).all()


def test_a_higher_threshold_is_a_filter_on_similarities(frame: pd.DataFrame) -> None:
    ddf = dd.from_pandas(frame, npartitions=2)
    low = ddf.ml.mark_fuzzy_duplicates("text", threshold=0.6, id="id").compute()
    left = set(low.id[low.fuzzy_kept | (low.fuzzy_similarity < 0.8)])
    wide = alike(word_ngrams(frame.text, 5), 0.6)
    first = kept(frame.id.tolist(), wide)
    nearest = dict.fromkeys(set(frame.id) - first, 0.0)
    for pair, similarity in wide.items():
        better, worse = sorted(frame.id[list(pair)])
        if better in first and worse in nearest:
            nearest[worse] = max(nearest[worse], similarity)
    assert left == first | {id for id, similarity in nearest.items() if similarity < 0.8}
    assert len(first) < len(left) < len(frame)


@pytest.mark.parametrize("ngram", [1, 2, 5])
def test_ngrams_are_sets_of_words_and_of_characters(ngram: int) -> None:
    plain = [text or "" for text in TEXTS]
    characters = [{text[i : i + ngram] for i in range(len(text) - ngram + 1)} for text in plain]
    characters = [
        found or ({text} if text else set()) for found, text in zip(characters, plain, strict=False)
    ]
    for unit, want in (("word", word_ngrams(plain, ngram)), ("char", characters)):
        got = sets(ngrams(TEXTS, ngram, unit))
        assert got.lengths.tolist() == [len(each) for each in want]
        ends = np.array([*itertools.product(range(len(TEXTS)), repeat=2)]).T
        similarity = jaccard(got, got, (ends[0], ends[1])).tolist()
        assert similarity == [
            len(want[i] & want[j]) / max(len(want[i] | want[j]), 1) for i, j in ends.T
        ]


def test_ngrams_of_tokens_are_those_of_words_with_these_numbers() -> None:
    words = [(text or "").split() for text in TEXTS]
    numbers = {word: i for i, word in enumerate(sorted({*itertools.chain(*words)}))}
    lists = [[numbers[word] for word in each] for each in words]
    values = np.array([*itertools.chain(*lists)], np.int32)
    got = sets(token_ngrams(Lists(values, offsets_of(np.array([*map(len, lists)]))), 2))
    want = [{tuple(ids[i : i + 2]) for i in range(len(ids) - 1)} or {tuple(ids)} for ids in lists]
    assert got.lengths.tolist() == [len(each - {()}) for each in want]


def random_sets(similarity: float, pairs: int, size: int, seed: int) -> Lists:
    """Return sets, each second of which is so similar to the one before it."""
    random = np.random.default_rng(seed)
    shared = round(size * 2 * similarity / (1 + similarity))
    values = random.integers(2**64, size=(pairs, 2 * size - shared), dtype=np.uint64)
    both = np.stack([values[:, :size], values[:, size - shared :]], axis=1).reshape(-1, size)
    return Lists(np.sort(both, axis=1).ravel(), np.arange(len(both) + 1) * size)


def test_signatures_estimate_the_similarity_as_theory_says() -> None:
    for similarity in (0.2, 0.5, 0.8):
        lists = random_sets(similarity, 200, 200, 3)
        true = jaccard(lists, lists, (np.arange(0, 400, 2), np.arange(1, 400, 2)))
        signed = signatures(lists, 128, 1)
        errors = (signed[::2] == signed[1::2]).mean(axis=1) - true
        deviation = np.sqrt(similarity * (1 - similarity) / 128)
        assert abs(errors.mean()) < 4 * deviation / np.sqrt(200)
        assert errors.std() < 1.2 * deviation


@pytest.mark.parametrize(("bands", "rows"), [(21, 6), (16, 8)])
def test_candidates_follow_the_s_curve(bands: int, rows: int) -> None:
    chosen = Banding(bands, rows)
    for similarity in (0.4, 0.6, 0.7, 0.8, 0.9):
        lists = random_sets(similarity, 1000, 100, 5)
        (true,) = set(jaccard(lists, lists, (np.array([0]), np.array([1]))))
        hashes = band_hashes(signatures(lists, 128, 1), bands, rows)
        found = (hashes[::2] == hashes[1::2]).any(axis=1).mean()
        chance = float(chosen.chance(true))
        assert abs(found - chance) < 4 * np.sqrt(chance * (1 - chance) / 1000) + 0.001


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9, 0.95])
def test_bands_are_those_of_datasketch_or_find_99_of_100(threshold: float) -> None:
    chosen = banding(threshold, 128, False)
    assert (chosen.bands, chosen.rows) == _optimal_param(threshold, 128, 0.5, 0.5)
    verified = banding(threshold, 128, True)
    assert verified.chance(threshold) >= 0.99
    more = verified.rows + 1
    assert Banding(128 // more, more).chance(threshold) < 0.99


def test_estimates_are_near_those_of_datasketch(docstrings: pd.DataFrame) -> None:
    texts = [text for text in docstrings.text.head(60) for _ in range(2)]
    texts = [t if i % 2 else t.replace(" the ", " a ") for i, t in enumerate(texts)]
    theirs = []
    for grams in word_ngrams(texts, 3):
        minhash = datasketch.MinHash(128)
        minhash.update_batch([" ".join(gram).encode() for gram in grams])
        theirs.append(minhash)
    expected = [one.jaccard(other) for one, other in zip(theirs[::2], theirs[1::2], strict=True)]
    signed = signatures(ngrams(texts, 3, "word"), 128, 1)
    estimated = (signed[::2] == signed[1::2]).mean(axis=1)
    assert np.abs(estimated - expected).mean() < 0.05
    assert np.abs(estimated - expected).max() < 0.25


def test_unverified_candidates_are_duplicates_with_an_estimate(
    frame: pd.DataFrame, pairs: Pairs
) -> None:
    ddf = dd.from_pandas(frame, npartitions=3)
    options: dict[str, Any] = {"id": "id", "bands": 16, "rows": 8}
    got = ddf.ml.mark_fuzzy_duplicates("text", verify=False, **options).compute()
    checked = ddf.ml.mark_fuzzy_duplicates("text", verify=True, **options).compute()
    assert got.fuzzy_kept.sum() <= checked.fuzzy_kept.sum() < len(frame)
    place = {row.id: row.Index for row in frame.itertuples()}
    grams = word_ngrams(frame.text, 5)
    dropped = got[~got.fuzzy_kept]
    true = [
        len(grams[row.Index] & grams[place[row.fuzzy_duplicate_of]])
        / len(grams[row.Index] | grams[place[row.fuzzy_duplicate_of]])
        for row in dropped.itertuples()
    ]
    assert np.abs(dropped.fuzzy_similarity.to_numpy() - true).mean() < 0.05


def test_pairs_that_are_compared_are_counted(frame: pd.DataFrame, pairs: Pairs) -> None:
    before = len(de.stats())
    dd.from_pandas(frame, npartitions=3).ml.drop_fuzzy_duplicates("text", id="id").compute()
    records = de.stats().iloc[before:]
    assert records.operator.unique().tolist() == ["Fuzzy"]
    assert records.alike.sum() == len(pairs)  # each once, although several bands find it
    assert len(pairs) < records.pairs.sum() < len(frame) * (len(frame) - 1) // 4
    assert records.rows.sum() == 0  # none of a model


def test_a_bucket_over_the_limit_keeps_one_of_equal_rows() -> None:
    """Boilerplate: pairs grow with the number of rows, not with its square."""
    rows = 300
    banded = pd.DataFrame({"row": range(rows), "bucket": 1, "rank0": [*range(rows, 0, -1)]})
    got = candidate_pairs(banded, ["rank0", "row"], 50)
    assert len(got) <= rows * (FIRST + NEAR)
    best = set(got[got.other == rows - 1].row)
    assert best == set(range(rows - 1))  # the best row is compared with all
    assert len(candidate_pairs(banded, ["row"], 300)) == rows * (rows - 1) // 2
    words = ["the", "licence", "of", "this", "file", "is", "that", "of", "all", "files", "here"]
    texts = [" ".join([*words, str(i)]) for i in range(rows)]
    values = pd.DataFrame({"text": texts, "quality": np.random.default_rng(0).permutation(rows)})
    ddf = dd.from_pandas(values, npartitions=3)
    options: dict[str, Any] = {"ngram": 2, "bucket_limit": 20, "keep": ("quality", "max")}
    left = ddf.ml.drop_fuzzy_duplicates("text", **options).compute()
    assert left.quality.tolist() == [rows - 1]


def test_pairs_of_small_buckets_are_all_of_them_without_two_old_rows() -> None:
    banded = pd.DataFrame({"row": [5, 3, -1, -2, 8, 9, 7], "bucket": [1, 1, 1, 1, 2, 2, 3]})
    got = candidate_pairs(banded, ["row"], 100)
    assert set(got.itertuples(index=False, name=None)) == {
        *((-1, 3), (-1, 5), (-2, 3), (-2, 5), (3, 5), (8, 9))
    }


def test_only_new_rows_are_judged_against_an_older_corpus(
    frame: pd.DataFrame, pairs: Pairs
) -> None:
    old = frame.index < 300
    older, newer = (
        dd.from_pandas(frame[where].reset_index(drop=True), npartitions=n)
        for where, n in ((old, 3), (~old, 2))
    )
    got = newer.ml.mark_fuzzy_duplicates("text", id="id", against=older).compute()
    between = {pair: s for pair, s in pairs.items() if not (old[pair[0]] and old[pair[1]])}
    ranks = np.where(old, -1, frame.id).tolist()  # all older rows come first, and stay
    beside: dict[int, list[int]] = {}
    for one, other in between:
        beside.setdefault(one, []).append(other)
        beside.setdefault(other, []).append(one)
    stays = set(frame.index[old])
    for row in np.argsort(ranks, kind="stable").tolist():
        if not old[row] and not stays & set(beside.get(row, ())):
            stays.add(row)
    assert set(got.id[got.fuzzy_kept]) == set(frame.id[sorted(stays)]) - set(frame.id[old])
    older_ones = got.fuzzy_duplicate_of.isin(frame.id[old])
    assert (got.fuzzy_reason[older_ones] == "duplicate of an older row").all()
    assert older_ones.sum() > 10


def test_stored_signatures_stand_for_an_older_corpus(frame: pd.DataFrame, tmp_path: Path) -> None:
    nothing = pd.DataFrame({"id": [5000, 5001], "text": ["", None]})
    old, new = pd.concat([frame[:300], nothing]), frame[300:].reset_index(drop=True)
    older, newer = (dd.from_pandas(each, npartitions=2, sort=False) for each in (old, new))
    older.ml.fuzzy_signatures("text", id="id").ml.to_parquet(str(tmp_path / "signed"))
    signed = de.read_parquet(str(tmp_path / "signed"))
    assert list(signed.columns) == ["id", "fuzzy_bands", "fuzzy_ngrams", "fuzzy_made"]
    got, want = (
        newer.ml.mark_fuzzy_duplicates("text", id="id", against=each).compute()
        for each in (signed, older)
    )
    pd.testing.assert_frame_equal(got, want)
    assert (got.fuzzy_reason == "duplicate of an older row").sum() > 10
    with pytest.raises(ValueError, match="against has signatures that were made by '5-grams of"):
        newer.ml.drop_fuzzy_duplicates("text", id="id", ngram=4, against=signed).compute()
    with pytest.raises(ValueError, match="verify=False does not go with stored signatures"):
        newer.ml.drop_fuzzy_duplicates("text", id="id", verify=False, against=signed)


def test_signatures_tell_functions_of_one_name_apart() -> None:
    """And know them again in another process, which gets them pickled."""

    def without(mark: str) -> Any:
        return lambda text: text.replace(mark, "")

    functions: list[Any] = [
        *(lambda text: text.lower(), lambda text: text.upper(), without("a"), without("b")),
        *(functools.partial(re.sub, "a", "b"), functools.partial(re.sub, "a", "c")),
        *(str.lower, str.upper, "a".join, "b".join, re.escape),
    ]
    names = [_name_of(each) for each in functions]
    assert len(set(names)) == len(names)
    assert [_name_of(cloudpickle.loads(cloudpickle.dumps(each))) for each in functions] == names
    assert _name_of(without("a")) == _name_of(without("a"))
    assert names[-1] == "re.escape"


def test_tokens_that_a_plan_has_are_compared(frame: pd.DataFrame) -> None:
    """As numbers of words they give what words give."""
    numbers = {word: i for i, word in enumerate({w for t in frame.text for w in t.split()})}
    lists = [[numbers[word] for word in text.split()] for text in frame.text]
    tokens = pd.Series(pd.arrays.ArrowExtensionArray(pa.array(lists, pa.list_(pa.int32()))))
    ddf = dd.from_pandas(frame.assign(tokens=tokens), npartitions=3)
    got = ddf.ml.drop_fuzzy_duplicates("tokens", unit="token", id="id").id.compute()
    spaced = [{tuple(ids[i : i + 5]) for i in range(len(ids) - 4)} or {tuple(ids)} for ids in lists]
    assert set(got) == kept(frame.id.tolist(), alike(spaced, 0.8))


def test_a_plan_that_tokenizes_tokenizes_once(frame: pd.DataFrame, tmp_path: Path) -> None:
    """The signatures are made of the tokens that the operator below made of each text."""
    model = str(save("bert", tmp_path / "bert"))
    ddf = dd.from_pandas(frame, npartitions=3).ml.tokenize("text", model=model)
    before = de.stats().query("operator == 'Tokenizer'").rows.sum()
    got = ddf.ml.drop_fuzzy_duplicates("tokens", unit="token", id="id").id.compute()
    assert de.stats().query("operator == 'Tokenizer'").rows.sum() - before == len(frame)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    lists = tokenizer(frame.text.tolist())["input_ids"]
    spaced = [{tuple(ids[i : i + 5]) for i in range(len(ids) - 4)} or {tuple(ids)} for ids in lists]
    assert set(got) == kept(frame.id.tolist(), alike(spaced, 0.8))


def test_nulls_and_texts_without_words_are_kept() -> None:
    texts = [None, None, "", "", "...", "?!", "a", "a"]
    ddf = dd.from_pandas(pd.DataFrame({"text": texts}), npartitions=2)
    got = ddf.ml.mark_fuzzy_duplicates("text").compute()
    assert got.fuzzy_kept.tolist() == [True] * 7 + [False]


def test_both_at_once_sign_once(frame: pd.DataFrame) -> None:
    seen: list[str] = []

    def spy(text: str) -> str:
        seen.append(text)
        return text

    ddf = dd.from_pandas(frame, npartitions=2)
    marked = ddf.ml.mark_fuzzy_duplicates("text", normalize=spy)
    dropped = ddf.ml.drop_fuzzy_duplicates("text", normalize=spy)
    assert not seen
    alone = len(marked.compute()) and len(seen)
    seen.clear()
    both, left = dask.compute(marked, dropped)
    assert len(seen) == alone
    assert len(left) == both.fuzzy_kept.sum()


@pytest.mark.slow
def test_workers_of_a_cluster_agree(frame: pd.DataFrame, pairs: Pairs) -> None:
    ddf = dd.from_pandas(frame, npartitions=4)
    exact = ddf.ml.drop_exact_duplicates("text", id="id")
    with cluster(2, 1, processes=True) as client:
        got = client.compute(exact.ml.drop_fuzzy_duplicates("text", id="id")).result()
    assert set(got.id) == kept(frame.id.tolist(), pairs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 0}, "threshold must be above 0, at most 1; got 0"),
        ({"threshold": "0.8"}, "threshold must be a number above 0"),
        ({"unit": "words"}, "did you mean 'word'"),
        ({"unit": "token"}, "unit='token' takes lists of token ids"),
        ({"ngram": 0}, "ngram must be"),
        ({"bands": 3}, "give both bands and rows, or neither"),
        ({"bands": 30, "rows": 6}, r"must be at most num_perm=128, got 30 \* 6"),
        ({"column": "id"}, "column 'id' has dtype int64, text is needed"),
        ({"num_perm": 0}, "num_perm must be"),
        ({"verify": None}, "verify must be True or False"),
        ({"num_hashes": 3}, "its options are"),
    ],
)
def test_bad_arguments_are_told_on_the_client(
    frame: pd.DataFrame, options: dict[str, Any], message: str
) -> None:
    ddf = dd.from_pandas(frame, npartitions=2)
    for method in (ddf.ml.mark_fuzzy_duplicates, ddf.ml.drop_fuzzy_duplicates):
        with pytest.raises((TypeError, ValueError), match=message):
            method(**{"column": "text", **options})


def test_what_is_missing_is_told_before_any_work(
    frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "rensa", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'dask-embed\[curation\]'"):
        dd.from_pandas(frame, npartitions=2).ml.mark_fuzzy_duplicates("text")
