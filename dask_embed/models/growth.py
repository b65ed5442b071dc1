"""How much longer the steps of a tokenizer make a text, told from what they write before any runs.

A step that writes two characters for one is harmless, and forty of them in a row never end.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import regex

from dask_embed.models.patterns import state_of

# As many as a text that one step writes may have.
_MOST_CHARACTERS = 1_000
# Characters that one may become in steps of Unicode and of bytes. The former change nothing the
# second time, so that a run of them counts once: the longest is U+FDFA.
_OF_UNICODE = {
    **dict.fromkeys(("NFKC", "NFKD"), 18),
    **dict.fromkeys(("NFC", "NFD", "BertNormalizer"), 4),
    "Lowercase": 2,
}
_OF_BYTES = {"ByteLevel": 5, "Metaspace": 2}
# What may match where there is no character: so many more places than characters are there.
_BETWEEN = regex.compile(r"[\^$]|\\[bBAGKZz]|\(\?<?[=!]")


@dataclass
class _Weights:
    """How many characters each character becomes in the steps that follow, and what is put before.

    Steps are taken from the last to the first: of what one writes, the later ones are known.
    """

    others: float = 1.0
    known: dict[str, float] = field(default_factory=dict)
    before: float = 0.0
    run: float = 1.0  # of the steps of Unicode that the last one is of

    def of(self, text: str) -> float:
        return sum(self.known.get(letter, self.others) for letter in text)

    @property
    def most(self) -> float:
        return max([self.others, *self.known.values()])

    def pass_step(self, step: dict[str, Any]) -> None:
        """Go back over one step."""
        kind = step.get("type")
        unicode = _longest_mapped(step) if kind == "Precompiled" else _OF_UNICODE.get(str(kind), 0)
        if unicode:
            self._multiply(max(1.0, unicode / self.run))
            self.run = max(self.run, unicode)
            return
        if kind == "Replace":
            self._replace(step["pattern"], self.of(step["content"]))
        elif kind == "Prepend":
            self.before += self.of(step["prepend"])
        elif kind in _OF_BYTES:
            self._multiply(_OF_BYTES[kind])
        else:
            return
        self.run = 1.0

    def _multiply(self, by: float) -> None:
        self.others, self.known = self.most * by, {}

    def _replace(self, pattern: dict[str, str], written: float) -> None:
        if text := pattern.get("String"):
            for letter in text:
                share = max(self.of(letter), written / len(text))
                self.known[letter] = share
            return
        between = written if _matches_between(pattern.get("Regex", "")) else 0.0
        self.others = max(self.others, written) + between
        self.known = {each: max(now, written) + between for each, now in self.known.items()}


def growth(*parts: Any) -> float:
    """Return how many characters one character may become, or may come with a text.

    Parameters
    ----------
    *parts
        Normalizer, pre-tokenizer or decoder of a tokenizer in Rust, in the order in which they run.

    Notes
    -----
    A bound and no measurement: a character is taken to be in the place where most becomes of it.
    """
    weights = _Weights()
    for step in reversed([step for part in parts for step in _steps(state_of(part))]):
        weights.pass_step(step)
        if weights.most > _MOST_CHARACTERS:  # before it is no number any more
            break
    return max(weights.most, weights.before)


def require_bounded_growth(tokenizer: Any, source: str) -> None:
    """Raise ValueError if the steps of a tokenizer in Rust may make a text much longer together."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    for names in (("normalizer", "pre_tokenizer"), ("decoder",)):
        times = growth(*(getattr(backend, name, None) for name in names))
        if times > _MOST_CHARACTERS:
            raise ValueError(
                f"{source} may write {_MOST_CHARACTERS:,} characters or more for one, step after "
                f"step of its {' and '.join(names)}, in which each writes what a later one makes "
                "longer; it is not run, since a text may never end"
            )
    written = max(
        map(_tokens_around, _steps(state_of(getattr(backend, "post_processor", None)))), default=0
    )
    if written > _MOST_CHARACTERS:
        raise ValueError(
            f"{source} writes {written:,} tokens around each text in its post_processor; at most "
            f"{_MOST_CHARACTERS:,} are run"
        )


def _tokens_around(step: dict[str, Any]) -> int:
    """Return how many tokens a template puts around a text."""
    tokens = step.get("special_tokens") if step.get("type") == "TemplateProcessing" else None
    named = [
        part["SpecialToken"]["id"] for part in step.get("single", ()) if "SpecialToken" in part
    ]
    return sum(len(tokens[name]["ids"]) for name in named) if tokens else 0


def _steps(state: Any) -> Iterator[dict[str, Any]]:
    """Yield the steps of a part in the order in which they run, sequences within it opened."""
    if not isinstance(state, dict):
        return
    within = [each for each in state.values() if isinstance(each, list)]
    if state.get("type") != "Sequence":
        yield state
    for step in within[0] if state.get("type") == "Sequence" and within else ():
        yield from _steps(step)


def _matches_between(pattern: str) -> bool:
    """Return whether an expression may match where there is no character."""
    try:
        return bool(_BETWEEN.search(pattern)) or bool(regex.compile(pattern).fullmatch(""))
    except (regex.error, RecursionError, OverflowError):
        return True


def _longest_mapped(step: dict[str, Any]) -> int:
    """Return of how many characters the longest text is that a table of characters writes."""
    table = base64.b64decode(step.get("precompiled_charsmap") or "")
    texts = table[4 + int.from_bytes(table[:4], "little") :].split(b"\0")
    return max((len(text.decode("utf-8", "replace")) for text in texts), default=1) or 1
