"""Regular expressions that come with a checkpoint: matched within a time, or not at all.

Python's `re` and the tokenizers in Rust go on for as long as an expression takes, which may be
for ever, and nothing can interrupt them.
"""

from __future__ import annotations

import functools
import json
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import regex

from dask_embed._validation import shown
from dask_embed.models.written import entries

_LONGEST_PATTERN, _SECONDS = 20_000, 2.0
# Counted repeats are written out when an expression is compiled.
_MOST_COUNTED = 10_000
# How an expression is tried out: lengths of a run, characters taken from it, and how many seconds a
# run may take: those of common tokenizers take less than one in a thousand.
_RUNS, _OWN_CHARACTERS, _SECONDS_OF_A_RUN = (50, 100, 200, 400, 800), 40, 0.02
_OF_EACH_KIND = ("a", "A", "0", " ", "\n", "\t", "-", "'", "\u00e9", "\u7684", "\u0301")
_BRACES, _NUMBER = re.compile(r"\{[\d,]+\}"), re.compile(r"\d+")
# What a step of a tokenizer writes into every text: those in use write a character or two.
_LONGEST_TEXT, _MOST_PARTS = 1_000, 1_000
_COUNTED = re.compile(r"\{(\d*),(\d*)\}")


def compiled_pattern(pattern: str, name: str) -> Any:
    """Return a regular expression that can be matched with a time limit.

    Raises
    ------
    ValueError
        If it is none, or longer than any in use.
    """
    if len(pattern) > _LONGEST_PATTERN:
        raise ValueError(
            f"{name} must have at most {_LONGEST_PATTERN:,} characters, got {len(pattern):,}"
        )
    counts = (map(int, _NUMBER.findall(each[:40])) for each in _BRACES.findall(pattern))
    if math.prod(max([1, *count]) for count in counts) > _MOST_COUNTED:
        raise ValueError(f"{name} must not repeat anything very often, got {shown(pattern)}")
    try:
        return regex.compile(pattern)
    except (regex.error, RecursionError, OverflowError) as error:
        raise ValueError(
            f"{name} must be a regular expression, got {shown(pattern)}: {error}"
        ) from None


def matching(pattern: str, names: Iterable[str], name: str) -> list[str]:
    """Return those of `names` that a regular expression matches as a whole.

    Raises
    ------
    ValueError
        If that takes more than two seconds.
    """
    compiled, ends = compiled_pattern(pattern, name), time.monotonic() + _SECONDS
    found = []
    try:
        for each in names:
            left = ends - time.monotonic()
            if left <= 0:
                raise TimeoutError
            if compiled.fullmatch(each, timeout=left):
                found.append(each)
    except TimeoutError:
        raise ValueError(
            f"{name} must be a regular expression that ends in time; {shown(pattern)} took more "
            f"than {_SECONDS:g} s. Write the names of the modules as a list instead"
        ) from None
    return found


def repeats_nest(pattern: str) -> bool:
    """Return whether a regular expression repeats what is repeated in it, as ``(a+)+`` does.

    Such a one may take a time that doubles with each character.
    """
    groups, last, at = [False], False, 0
    while at < len(pattern):
        step, closed = 1, False
        if pattern[at] == "\\":
            step = 2
        elif pattern[at] == "[":
            step = _class_length(pattern, at)
        elif pattern[at] == "(":
            groups.append(False)
        elif pattern[at] == ")" and len(groups) > 1:
            last, closed = groups.pop(), True
            groups[-1] |= last
        elif found := _varying(pattern, at):
            if last:
                return True
            groups[-1], step = True, found
        last = last and closed
        at += step
    return False


def _class_length(pattern: str, start: int) -> int:
    """Return how long a class of characters is, classes within it included."""
    depth, at = 0, start
    while at < len(pattern):
        if pattern[at] == "\\":
            at += 1
        elif pattern[at] == "[":
            depth += 1
        elif pattern[at] == "]" and at > start + 1:
            depth -= 1
            if not depth:
                return at + 1 - start
        at += 1
    return at - start


def _varying(pattern: str, at: int) -> int:
    """Return the length of a repeat of no fixed count at a place, 0 where there is none."""
    if pattern[at] in "*+":
        return 1
    found = _COUNTED.match(pattern, at)
    return len(found[0]) if found and found[1] != found[2] else 0


@functools.lru_cache(maxsize=256)
def takes_long(pattern: str) -> bool:
    """Return whether tokenizers take long for a regular expression on some run of a character.

    So they do where it parts a run in many ways before none fits, as ``a*a*b`` or ``(a|aa)+b``.
    Tried with the characters that stand in it and others of each kind, on runs that double in
    length for as long as they take next to no time.
    """
    from tokenizers import Regex, pre_tokenizers

    try:
        split = pre_tokenizers.Split(Regex(pattern), "removed")
    except Exception:  # tokenizers raise bare exceptions; what is no expression is told elsewhere
        return False
    own = list(dict.fromkeys(pattern))
    # behind the run, what an engine looks for before it begins
    end = "\0\n" + "".join(own)
    for each in dict.fromkeys([*own[:_OWN_CHARACTERS], *_OF_EACH_KIND]):
        for length in _RUNS:
            start = time.thread_time()
            try:
                split.pre_tokenize_str(each * length + end)
            except BaseException as error:
                if type(error).__name__ != "PanicException":
                    raise
                return True  # the engine gave up
            if time.thread_time() - start > _SECONDS_OF_A_RUN:
                return True
    return False


def require_patterns_that_end(tokenizer: Any, source: str) -> None:
    """Raise ValueError if the regular expressions of a tokenizer in Rust may take for ever.

    They are matched against every text, by code that nothing can interrupt.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        step = getattr(backend, part, None)
        for name, pattern in entries(state_of(step)):
            if name != "Regex" or not isinstance(pattern, str):
                continue
            if repeats_nest(pattern) or takes_long(pattern):
                raise ValueError(
                    f"{source} has the regular expression {shown(pattern)} in its {part}, which "
                    "tries the same characters in many ways: it may take for ever, and is not run"
                )


def require_short_texts(tokenizer: Any, source: str) -> None:
    """Raise ValueError if the steps of a tokenizer in Rust hold texts or lists longer than any.

    What a step puts before a text, in place of others or around it, each text is longer by.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        for name, value in _contents(state_of(getattr(backend, part, None))):
            most = _LONGEST_TEXT if isinstance(value, str) else _MOST_PARTS
            if len(value) > most:
                kind = "characters" if isinstance(value, str) else "parts"
                raise ValueError(
                    f"{source} has a {name!r} of {len(value):,} {kind} in its {part}; at most "
                    f"{most:,} are run, since they may come with each text"
                )


def _contents(state: Any) -> Iterator[tuple[str, Any]]:
    """Yield each text, list and object in a state with its name, but expressions and tables."""
    # expressions have their own bound, and a table of characters is written nowhere
    for name, value in entries(state, "list of steps", ("Regex", "precompiled_charsmap")):
        if isinstance(value, str | list | dict):
            yield name, value


def state_of(step: Any) -> Any:
    """Return what a step of a tokenizer in Rust is made of as a json value, None of others."""
    read: Callable[[], Any] | None = getattr(step, "__getstate__", None)
    state = read() if step is not None and read is not None else None
    try:
        return json.loads(state) if isinstance(state, str | bytes) else None
    except ValueError:  # of a step in Python
        return None
