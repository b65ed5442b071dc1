"""The part of a long text that truncation can keep, so that the rest is not tokenized.

A text may be cut at a single space between two letters or digits if nothing that the tokenizer
does reaches over such a space: no piece of its pre-tokenizer, or, where there is none, no token of
its vocabulary. Then the tokens before the space are the same whatever follows it.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from typing import Any

_BOUNDARY = re.compile(r"(?<=[^\W_]) (?=[^\W_])")
# How far behind the wanted length a boundary is looked for; without one the text stays whole.
_SEARCHED_CHARACTERS = 1000
_SPLITS_AT_SPACES = frozenset({"BertPreTokenizer", "Whitespace", "WhitespaceSplit"})
_NORMALIZERS = frozenset(
    {
        *("BertNormalizer", "ByteLevel", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Nmt"),
        *("Precompiled", "Prepend", "Strip", "StripAccents"),
    }
)
_SAMPLES = (
    "two words and three more",
    "1 000 000 costs 5 eur or 7e5 x 3",
    "Été à Łódź Ωμέγα мир ok 日本 語",
    "don't stop, i.e. (now) it's 10 pm",
    "في كل يوم שלום לכל नमस्ते दुनिया สวัสดี ชาวโลก 안녕 세상 ১ ২ ა ბ ա բ አ በ 𐤀 𐤁",
)


def cut_after(text: str, characters: int) -> str:
    """Return the beginning of `text` up to the first boundary after so many characters.

    The whole text is returned if it is shorter, or has no boundary nearby.
    """
    if len(text) <= characters:
        return text
    stop = characters + _SEARCHED_CHARACTERS
    for found in _BOUNDARY.finditer(text, characters, stop):
        # a letter that normalizing turns into a space or a mark (U+FE70, U+FF9E) ends no word
        if unicodedata.normalize("NFKD", text[found.start() - 1])[0].isalnum():
            return text[: found.start()]
    return text


def cuts_at_spaces(backend: Any) -> bool:
    """Return whether the tokens before a boundary do not depend on what follows it.

    Parameters
    ----------
    backend : tokenizers.Tokenizer
        Anything in it that is not known to keep to boundaries gives False.
    """
    written = json.loads(backend.to_str())
    if not all(_keeps_boundaries(part) for part in _parts(written["normalizer"], "normalizers")):
        return False
    if any(_added_token_spans(backend, token["content"]) for token in written["added_tokens"]):
        return False
    parts = list(_parts(written["pre_tokenizer"], "pretokenizers"))
    splits = bool(parts) and _splits_samples(backend)
    if splits and any(_splits_at_spaces(part) for part in parts):
        return True
    model = written["model"]
    # what is done to a whole piece depends on where the piece ends
    whole_pieces = model.get("ignore_merges") or model.get("end_of_word_suffix")
    if model["type"] == "BPE" and not splits and whole_pieces:
        return False
    return all(_marks_spaces(part) for part in parts) and _no_token_spans(model)


def _added_token_spans(backend: Any, content: str) -> bool:
    """Return whether an added token holds a space behind anything else, also once normalized."""
    forms = {content}
    if backend.normalizer is not None:
        forms.add(backend.normalizer.normalize_str(content))
    return any(re.search(r"[^▁\s][▁\s]", form) for form in forms)


def _marks_spaces(pre_tokenizer: dict[str, Any]) -> bool:
    """Return whether spaces stay as they are, or become the mark that vocabularies have."""
    return pre_tokenizer["type"] != "Metaspace" or pre_tokenizer["replacement"] == "▁"


def _parts(written: dict[str, Any] | None, members: str) -> Iterator[dict[str, Any]]:
    """Yield the steps of a normalizer or pre-tokenizer, sequences unfolded."""
    if written is None:
        return
    if written["type"] != "Sequence":
        yield written
        return
    for part in written[members]:
        yield from _parts(part, members)


def _keeps_boundaries(normalizer: dict[str, Any]) -> bool:
    if normalizer["type"] == "Replace":
        pattern = normalizer["pattern"]
        if pattern.get("String") == " ":
            return normalizer["content"] == "▁"
        return pattern.get("Regex") == " {2,}" or " " not in pattern.get("String", " ")
    return normalizer["type"] in _NORMALIZERS


def _splits_at_spaces(pre_tokenizer: dict[str, Any]) -> bool:
    if pre_tokenizer["type"] == "Metaspace":
        return pre_tokenizer.get("split", True)
    if pre_tokenizer["type"] == "ByteLevel":
        return pre_tokenizer.get("use_regex", True)
    return pre_tokenizer["type"] in _SPLITS_AT_SPACES


def _splits_samples(backend: Any) -> bool:
    """Return whether no piece of the samples depends on what follows a boundary."""
    for text in _SAMPLES:
        whole = _pieces(backend, text)
        for boundary in _BOUNDARY.finditer(text):
            before = _pieces(backend, text[: boundary.start()])
            if whole[: len(before)] != before:
                return False
    return True


def _pieces(backend: Any, text: str) -> list[str]:
    if backend.normalizer is not None:
        text = backend.normalizer.normalize_str(text)
    return [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str(text)]


def _no_token_spans(model: dict[str, Any]) -> bool:
    """Return whether no token holds a space behind what may be a letter, a digit or a mark.

    A byte-level vocabulary writes a space as ``Ġ`` and the bytes of other scripts as ``¡`` to
    ``ÿ`` and ``Ģ`` to ``Ń``.
    """
    if model["type"] == "Unigram":
        tokens = [token for token, _ in model["vocab"]]
    elif model["type"] == "BPE" and not model.get("dropout"):
        tokens = list(model["vocab"])
    else:
        return False
    spans = re.compile(r"[^\W_\u0100-\u0121][Ġ]|[^\x00-/:-@\[-`{-~▁Ġ][▁ Ġ]|[¡-ÿĢ-Ń]Ġ")
    return not any(spans.search(token) for token in tokens)
