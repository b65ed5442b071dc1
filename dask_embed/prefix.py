"""The part of a long text that truncation can keep, so that the rest is not tokenized.

A text may be cut at a single space between two letters or digits if nothing that the tokenizer
does reaches over such a space: no piece of its pre-tokenizer, or, where there is none, no token of
its vocabulary. Then the tokens before the space are the same whatever follows it.
"""

from __future__ import annotations

import json
import re
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
)


def cut_after(text: str, characters: int) -> str:
    """Return the beginning of `text` up to the first boundary after so many characters.

    The whole text is returned if it is shorter, or has no boundary nearby.
    """
    if len(text) <= characters:
        return text
    found = _BOUNDARY.search(text, characters, characters + _SEARCHED_CHARACTERS)
    return text[: found.start()] if found else text


def cuts_at_spaces(backend: Any) -> bool:
    """Return whether the tokens before a boundary do not depend on what follows it.

    Parameters
    ----------
    backend : tokenizers.Tokenizer
        Anything in it that is not known to keep to boundaries gives False.
    """
    written = json.loads(backend.to_str())
    if any(_BOUNDARY.search(token["content"]) for token in written["added_tokens"]):
        return False
    if not all(_keeps_boundaries(part) for part in _parts(written["normalizer"], "normalizers")):
        return False
    parts = list(_parts(written["pre_tokenizer"], "pretokenizers"))
    if any(_splits_at_spaces(part) for part in parts):
        return True
    if any(part["type"] == "Split" for part in parts) and _splits_samples(backend):
        return True
    return _no_token_spans(written["model"])


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
        return pattern.get("Regex") == " {2,}" or " " not in pattern.get("String", "x y").strip()
    return normalizer["type"] in _NORMALIZERS


def _splits_at_spaces(pre_tokenizer: dict[str, Any]) -> bool:
    if pre_tokenizer["type"] == "Metaspace":
        return pre_tokenizer.get("split", True)
    if pre_tokenizer["type"] == "ByteLevel":
        return pre_tokenizer.get("use_regex", True)
    return pre_tokenizer["type"] in _SPLITS_AT_SPACES


def _splits_samples(backend: Any) -> bool:
    """Return whether no piece of the samples reaches over a boundary."""
    for text in _SAMPLES:
        pieces = backend.pre_tokenizer.pre_tokenize_str(text)
        for boundary in _BOUNDARY.finditer(text):
            place = boundary.start()
            if any(start < place < stop for _, (start, stop) in pieces):
                return False
    return True


def _no_token_spans(model: dict[str, Any]) -> bool:
    """Return whether no token holds a space behind anything else."""
    if model["type"] == "Unigram":
        tokens = [token for token, _ in model["vocab"]]
    elif model["type"] == "BPE" and not model.get("dropout"):
        tokens = list(model["vocab"])
    else:
        return False
    return not any(re.search(r"[^▁Ġ\s][▁Ġ\s]", token) for token in tokens)
