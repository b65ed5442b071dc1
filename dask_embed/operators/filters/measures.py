"""What corpora are filtered by: the measures of a text, with their definitions.

Sources: Gopher (Rae et al. 2021, arXiv:2112.11446, appendix A.1.1 and table A1), C4 (Raffel et al.
2020, JMLR 21/140, section 2.2), FineWeb (Penedo et al. 2024, arXiv:2406.17557, section 3.6) and the
heuristic filters of NeMo Curator. They name the measures; what is a word, a line, a paragraph they
leave to their code, and these differ. Here a *word* is a run of characters that are no white space,
a *line* what stands between line breaks (``\\n``, ``\\r\\n``, ``\\r``), without white space at its
ends and not blank, a *paragraph* what stands between blank lines. A share of nothing is 0.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dask_embed.operators.filters.ngrams import repeated_words, top_words
from dask_embed.operators.filters.pieces import Texts, Words, as_numbers, share
from dask_embed.text.sentences import sentence_starts

# Gopher's, of English.
STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
SHORT_LINE = 30
_AROUND_WORDS = "\"'`.,;:!?()[]{}<>*_-\u2013\u2014\u2018\u2019\u201c\u201d\u2026"
_TERMINAL = r"[.?!\"']$"
_ELLIPSIS = r"\.\.\.|\x{2026}"
_BULLETS = (
    r"\x{2022}\x{2023}\x{2043}\x{204c}\x{204d}\x{2219}"
    r"\x{25cb}\x{25cf}\x{25d8}\x{25e6}\x{29be}\x{29bf}"
)
_BULLET = rf"^(?:[{_BULLETS}]|[-*]\s)"
_SPACE = r"\p{Z}\t-\r\x1c-\x1f\x85"
_CITATION = r"\[\d*\]|\[edit\]|\[citation needed\]"
_POLICIES = (
    *("terms of use", "privacy policy", "cookie policy"),
    *("uses cookies", "use of cookies", "use cookies"),
)
_LONGEST_WORD_OF_C4 = 1000
_FEWEST_WORDS_OF_C4 = 3


class Measure(NamedTuple):
    """A number of each text: its type, what it is in words, and how it is taken."""

    dtype: pa.DataType
    says: str
    take: Callable[[Texts], np.ndarray]


def mean_word_length(texts: Texts) -> np.ndarray:
    return share(texts.words.totals(), texts.words.counts)


def stop_words(texts: Texts) -> np.ndarray:
    words = pc.utf8_trim(texts.words.values, characters=_AROUND_WORDS)
    places = pc.index_in(words, pa.array(STOP_WORDS, words.type)).fill_null(-1).to_numpy()
    seen = np.zeros((len(texts), len(STOP_WORDS)), bool)
    seen[texts.words.owners[places >= 0], places[places >= 0]] = True
    return seen.sum(axis=1)


def longest_line(texts: Texts) -> np.ndarray:
    longest = np.zeros(len(texts), np.int64)
    np.maximum.at(longest, texts.lines.owners, texts.lines.lengths)
    return longest


def c4_sentences(texts: Texts) -> np.ndarray:
    """Count the sentences of the lines that C4 keeps, without its citations."""
    lines = texts.lines
    cleaned = pc.utf8_rtrim_whitespace(pc.replace_substring_regex(lines.values, _CITATION, ""))
    words = pc.count_substring_regex(lines.values, rf"[^{_SPACE}]+").to_numpy()
    kept = (
        (words >= _FEWEST_WORDS_OF_C4)
        & _matches(cleaned, _TERMINAL)
        & ~_matches(cleaned, r"\.\.\.$")
        & ~_matches(cleaned, "(?i)javascript|" + "|".join(_POLICIES))
    )
    for place in np.flatnonzero(lines.lengths > _LONGEST_WORD_OF_C4).tolist():
        kept[place] &= max(map(len, lines.values[place].as_py().split())) <= _LONGEST_WORD_OF_C4
    sentences = np.zeros(len(kept), np.int64)
    for place in np.flatnonzero(kept).tolist():
        sentences[place] = 1 + len(sentence_starts(cleaned[place].as_py()))
    return lines.totals(sentences).astype(np.int64)


def _matches(values: pa.Array, pattern: str) -> np.ndarray:
    return as_numbers(pc.match_substring_regex(values, pattern))


def _characters(pattern: str) -> Callable[[Texts], np.ndarray]:
    return lambda texts: share(texts.counted(pattern), texts.characters)


def _per_word(pattern: str) -> Callable[[Texts], np.ndarray]:
    return lambda texts: share(texts.counted(pattern), texts.words.counts)


def _lines(pattern: str) -> Callable[[Texts], np.ndarray]:
    return lambda texts: texts.lines.share(_matches(texts.lines.values, pattern))


def _of_ngrams(words: Callable[[Words, int], np.ndarray], n: int) -> Callable[[Texts], np.ndarray]:
    return lambda texts: texts.words.share_of_characters(words(texts.words, n))


_share = functools.partial(Measure, pa.float32())
_count = functools.partial(Measure, pa.int32())

MEASURES: dict[str, Measure] = {
    "characters": _count("Unicode characters", lambda texts: texts.characters),
    "words": _count("words", lambda texts: texts.words.counts),
    "lines": _count("lines", lambda texts: texts.lines.counts),
    "mean_word_length": _share("characters of a word, the mean", mean_word_length),
    "letters": _share(
        "share of characters that are letters or their marks (Unicode L, M)",
        lambda texts: 1 - _characters(r"[^\p{L}\p{M}]")(texts) - (texts.characters == 0),
    ),
    "digits": _share("share of characters that are numbers (Unicode N)", _characters(r"\p{N}")),
    "symbols": _share(
        "share of characters that are no letters, numbers or white space",
        _characters(rf"[^\p{{L}}\p{{M}}\p{{N}}{_SPACE}]"),
    ),
    "alphabetic_words": _share(
        "share of words with a letter",
        lambda texts: texts.words.share(_matches(texts.words.values, r"\p{L}")),
    ),
    "hashes_per_word": _share("hash signs for each word", _per_word("#")),
    "ellipses_per_word": _share(
        "ellipses (``...`` or its one character) for each word", _per_word(_ELLIPSIS)
    ),
    "line_breaks_per_word": _share("line breaks for each word", _per_word(r"\r\n|\r|\n")),
    "stop_words": _count(
        f"how many of {', '.join(STOP_WORDS)} there are, in lower case; punctuation around a word "
        "is none of it",
        stop_words,
    ),
    "punctuated_lines": _share(
        "share of lines that end in one of ``. ? ! \" '``", _lines(_TERMINAL)
    ),
    "bullet_lines": _share(
        "share of lines that begin with a bullet, or ``-`` or ``*`` and white space",
        _lines(_BULLET),
    ),
    "ellipsis_lines": _share("share of lines that end in an ellipsis", _lines(f"(?:{_ELLIPSIS})$")),
    "short_lines": _share(
        f"share of lines of at most {SHORT_LINE} characters",
        lambda texts: texts.lines.share(texts.lines.lengths <= SHORT_LINE),
    ),
    "longest_line": _count("characters of the longest line", longest_line),
    "duplicate_lines": _share(
        "share of lines that are equal to an earlier one",
        lambda texts: texts.lines.share(texts.lines.repeated),
    ),
    "duplicate_line_characters": _share(
        "share of the characters of all lines that is in these",
        lambda texts: texts.lines.share_of_characters(texts.lines.repeated),
    ),
    "duplicate_paragraphs": _share(
        "share of paragraphs that are equal to an earlier one",
        lambda texts: texts.paragraphs.share(texts.paragraphs.repeated),
    ),
    "duplicate_paragraph_characters": _share(
        "share of the characters of all paragraphs that is in these",
        lambda texts: texts.paragraphs.share_of_characters(texts.paragraphs.repeated),
    ),
    **{
        f"top_{n}_gram": _share(
            f"share of the characters of all words that is in the most frequent {n}-gram, "
            "if it stands there twice",
            _of_ngrams(top_words, n),
        )
        for n in (2, 3, 4)
    },
    **{
        f"duplicate_{n}_grams": _share(
            f"share of the characters of all words that is in {n}-grams equal to an earlier one",
            _of_ngrams(repeated_words, n),
        )
        for n in range(5, 11)
    },
    "lorem_ipsum": _count(
        "how often ``lorem ipsum`` is said", lambda t: t.counted("(?i)lorem ipsum")
    ),
    "curly_brackets": _count("curly brackets", lambda texts: texts.counted(r"[{}]")),
    "c4_sentences": _count(
        "sentences of the lines that C4 keeps: at least 3 words, none over 1000 characters, that "
        "end in punctuation but no ellipsis, and speak neither of JavaScript nor of cookies, "
        "privacy policies and terms of use",
        c4_sentences,
    ),
}
