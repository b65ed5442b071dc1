"""Where sentences and paragraphs begin, by rules."""

from __future__ import annotations

import re

_PARAGRAPH = re.compile(r"\n[^\S\n]*\n\s*|\u2029\s*")
_END = re.compile(
    r"(?P<spaced>[.!?\u2026\u203c\u2047-\u2049\u061f\u06d4\u0964\u0965\u0589\u104b\u1362]+"
    r"[\"'\u201d\u2019\u00bb)\]]*)\s+"
    r"|[\u3002\uff01\uff1f\uff61\uff0e]+[\u300d\u300f\u201d\u2019\uff09\u3011\u300b\u3009\"')]*\s*"
    r"|(?P<line>\n)\s*"
)
_LAST_WORD = re.compile(r"(?:^|(?<=[\s(\[\"'\u201c\u2018]))[^\s(\[\"'\u201c\u2018]+$")
_NUMBER_OF_LIST = re.compile(r"(?:^|\n)[^\S\n]*\d{1,3}\.$")
_ABBREVIATIONS = frozenset(
    {
        *("mr", "mrs", "ms", "dr", "prof", "sr", "jr", "gen", "gov", "sen", "rep", "hon"),
        *("vs", "etc", "e.g", "i.e", "cf", "al", "approx", "ca", "resp", "fig", "figs", "eq"),
        *("vol", "pp", "jan", "feb", "apr", "aug", "sept", "oct", "nov", "dec"),
    }
)
_LONGEST_WORD = 40


def sentence_starts(text: str) -> list[int]:
    """Return the first character of each sentence but the first.

    A sentence ends at ``.``, ``!``, ``?`` and their like of other scripts, closing quotes and
    brackets included, where white space follows, at the full-width ``。！？`` also where none does,
    and at the end of a line. Not at a period after an initial, a number of a list or a common
    English abbreviation, and, except for the full-width ones, not before a lower-case letter.

    Notes
    -----
    These are rules, not a model: sentences that begin in lower case are not told apart, other
    languages' abbreviations are, and scripts that mark no sentences (Thai) have none.
    """
    starts = []
    for found in _END.finditer(text):
        start = found.end()
        if start >= len(text):
            break
        if found["spaced"] is None and found["line"] is None:
            starts.append(start)
        elif found["line"] is not None:
            if "\n" in text[found.start() + 1 : start] or not text[start].islower():
                starts.append(start)
        elif _ends_sentence(text, found.start(), found["spaced"], start):
            starts.append(start)
    return starts


def _ends_sentence(text: str, stop: int, mark: str, start: int) -> bool:
    """Return whether `mark`, which stands at `stop`, ends a sentence before `start`."""
    if _PARAGRAPH.search(text, stop, start):
        return True
    if text[start].islower():
        return False
    if mark != ".":
        return True
    before = text[max(0, stop - _LONGEST_WORD) : stop]
    if _NUMBER_OF_LIST.search(before + "."):
        return False
    word = _LAST_WORD.search(before)
    if word is None:
        return True
    is_initial = len(word[0]) == 1 and word[0].isupper()
    return not is_initial and word[0].lower() not in _ABBREVIATIONS


def paragraph_starts(text: str) -> list[int]:
    """Return the first character of each paragraph but the first: empty lines part them."""
    return [found.end() for found in _PARAGRAPH.finditer(text) if found.end() < len(text)]
