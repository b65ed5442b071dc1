"""What must not be kept: an operator's options reach graphs, Dask keys, logs and files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence, Set, ValuesView
from typing import Any
from urllib.parse import unquote

from dask_embed._secret_names import SHORT_FORMS, TOKEN, names_a_secret, words_of

# What stands between :// and @, of bounded length: texts may be long. `Path` leaves one slash.
# A user alone is a secret of the web only: ``abfs://container@account`` is a place.
_USER_IN_URL = re.compile(
    r":/{1,2}[^/\s:@]{0,256}:[^/\s@]{1,512}@"
    r"|(?:(?<=\bhttps)|(?<=\bhttp)):/{1,2}[^/\s?#@]{1,512}@"
)
# The same without a scheme, where a host follows: one with a dot or a port, or as a whole text.
# Addresses of mail follow their kind in the same way.
_USER_ALONE = re.compile(
    r"(?P<start>\A)?(?<![\w.@/:%+-])"
    r"(?!(?i:mailto|e-?mail|mail|from|to|b?cc|reply-to|sips?|xmpp|acct|contact|authors?|\d+):)"
    r"[\w.%+-]{1,64}:[^\s/:@\"'<>()\[\]{},]{1,256}@(?=[A-Za-z0-9-]{1,63}\.[A-Za-z0-9]"
    r"|[A-Za-z0-9-]{1,63}:\d{2,5}\b|localhost\b|\[[0-9A-Fa-f:.]{2,45}\]"
    r"|(?(start)[A-Za-z][A-Za-z0-9-]{2,62}(?:/|\Z)|(?!)))"
)
# Access tokens of the Hub, GitHub, GitLab, OpenAI and its kin, AWS, and of a header of HTTP.
_KNOWN_TOKEN = re.compile(
    r"\b(hf_[A-Za-z0-9]{30,}|gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{30,}"
    r"|glpat-[A-Za-z0-9_-]{16,}|sk-[A-Za-z0-9_-]{20,}|AKIA[A-Z0-9]{16}"
    r"|[Bb]earer (?=\S{0,256}\d)[\w.~+/-]{8,4096})\b"
)
# A name within a text and what sets its value: of a signed URL, a variable, an option, a header,
# json or Python. The value is sought behind names of secrets only: texts may be long.
_SETTING = re.compile(
    r"(?P<field>[?&;#])?(?<![\w.%-])(?P<name>[\w.%\[\]-]{1,64})(?P<quote>\\{0,3}[\"'])?"
    r"(?P<sets>\s{0,2}(?:=(?!=)|:(?=[\s\"'\\]))\s{0,2}(?:(?:Basic|Bearer|Token)\s{1,2})?)"
    r"(?P<open>\\{0,3}[\"'])?"
)
_QUOTED = {quote: re.compile(rf"[^{quote}]{{1,4096}}") for quote in "\"'"}
_BARE = re.compile(r"[^\s&;'\"]{0,4095}[^\s&;'\",.)}\]]")
_SIGNATURES = frozenset({"hmac", "key", "sig", "signature"})
_GRANT = "code"  # by which who holds such a URL signs in, or calls a function
# What is said of anything in prose, as in "unexpected token: x".
_SAID = frozenset({"token", "tokens", *SHORT_FORMS})
# What stands for a value that is elsewhere, or is none.
_NO_VALUE = re.compile(r"[Nn]one|null|[Tt]rue|[Ff]alse|\*+|[${<%].*", re.DOTALL)
# A mapping may have a name and a value as two of its values.
_NAMING, _HOLDING = ("name", "key", "header", "variable"), ("value", "val")
_DEEPEST = 32
HIDDEN = "***"


class Unshown(dict[str, Any]):
    """A mapping that shows its names and none of its values, such as what opens a store."""

    def __repr__(self) -> str:
        return repr(dict.fromkeys(self, HIDDEN))


class UnshownText(str):
    """A text that shows no secret in it, such as the signed URL of a file to read."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(without_secrets(str(self)))


def without_secrets(text: str) -> str:
    """Return a text in which what is a secret by its form, or set under the name of one, is hidden.

    That is, a user with a password and a signature in a URL, known access tokens, and what stands
    in a text as ``HF_TOKEN=...``, ``X-Api-Key: ...`` or ``{'token': '...'}``.
    """
    text = _USER_ALONE.sub(f"{HIDDEN}@", _USER_IN_URL.sub(f"://{HIDDEN}@", text))
    text = _KNOWN_TOKEN.sub(HIDDEN, text)
    parts, at = [], 0
    for _, value in _settings(text):
        parts += [text[at : value.start()], HIDDEN]
        at = value.end()
    return "".join([*parts, text[at:]])


def _settings(text: str) -> Iterator[tuple[re.Match[str], re.Match[str]]]:
    """Yield each setting of a secret in a text, and its value."""
    at = 0
    while found := _SETTING.search(text, at):
        at = found.end()
        if _sets_secret(found):
            end = _QUOTED[found["open"][-1]] if found["open"] else _BARE
            value = end.match(text, at)
            if value and (found["field"] or not _is_no_value(found["name"], value[0])):
                at = value.end()
                yield found, value


def without_named(values: Sequence[Any], *, alone: bool) -> list[Any]:
    """Return values in which what follows the name of a secret is hidden: of a pair, or a flag.

    One that stands alone is no pair: it may be names of columns.
    """
    named = {at for at in range(1, len(values)) if _follows_flag(values, at)}
    if not alone and is_named_secret(values):
        named |= {at for at in range(1, len(values)) if isinstance(values[at], str | bytes)}
    return [HIDDEN if at in named else value for at, value in enumerate(values)]


def is_named_secret(given: Any) -> bool:
    """Return whether a sequence begins with the name of a secret, as a pair of a mapping does."""
    sequence = isinstance(given, tuple | list) and len(given) > 1
    return sequence and isinstance(given[0], str | bytes) and names_a_secret(decoded(given[0]))


def sets_a_secret(given: Mapping[Any, Any]) -> str | None:
    """Return the name under which a mapping has a secret as a value of its own, None without.

    Such as in ``{"name": "token", "value": "..."}``.
    """
    named = any(isinstance(given.get(key), str) and names_a_secret(given[key]) for key in _NAMING)
    values = (key for key in _HOLDING if isinstance(given.get(key), str | bytes))
    return next(values, None) if named else None


def _follows_flag(values: Sequence[Any], at: int) -> bool:
    """Return whether a text follows a flag of a command that takes a secret: ``--hf-token``."""
    flag, value = values[at - 1], values[at]
    texts = isinstance(flag, str) and isinstance(value, str | bytes)
    return texts and flag.startswith("-") and names_a_secret(flag)


def _sets_secret(found: re.Match[str]) -> bool:
    """Return whether what a text sets is a secret by its name."""
    name, sets = unquote(found["name"]), found["sets"]
    if found["field"] and "=" in sets:
        words = set(words_of(name))
        return names_a_secret(name) or words == {_GRANT} or not _SIGNATURES.isdisjoint(words)
    says = name.lower() in _SAID and "=" not in sets and not found["quote"]
    return names_a_secret(name) and not (says and found.string[: found.start()].strip())


def _is_no_value(name: str, value: str) -> bool:
    """Return whether what a text sets is none, is elsewhere, or counts tokens."""
    counts = TOKEN.search(name.lower()) and value.lstrip("+-").replace(".", "").isdigit()
    return bool(counts or _NO_VALUE.fullmatch(value))


def _is_kept(found: re.Match[str], value: re.Match[str]) -> bool:
    """Return whether a setting in a text is no prose: a field, a variable, a header or an item."""
    sets, text = found["sets"], found.string
    if "=" in sets:
        return bool(found["field"]) or not sets.startswith(" ")
    whole = not text[: found.start()].strip("\"' \n") and not text[value.end() :].strip("\"' \n")
    return whole or bool(found["quote"] and found["open"])


def refuse_password(option: str, url: str) -> None:
    """Raise ValueError for a user with a password in a URL, as whose part it would be kept."""
    if _has_a_user(url):
        raise ValueError(
            f"{option} must not hold a user and password, which would reach graphs, keys and logs: "
            f"got {without_secrets(url)!r}; give them as storage_options=, or set them in the "
            "environment of the workers"
        )


def refuse_secrets(option: str, given: Any) -> None:
    """Raise ValueError if a text or anything in nested mappings and lists is a secret.

    Parameters
    ----------
    option : str
        Name of the argument, for the message, which never holds a value.
    given : object
        A mapping or its items, nested as may be, or a text. A text that is json is looked into.

    Notes
    -----
    A secret is known by the name it stands under (a password, a key of an API, a token that is
    none of a text: ``hf_token`` and not ``pad_token``) or follows (``--hf-token``), by its own
    form (tokens of the Hub, ``HF_TOKEN=...``), or as a user with a password in a URL. Numbers,
    booleans and None are none under ``token``.
    """
    for path, value in _texts(given, (), 0):
        if any(map(names_a_secret, path)) or _is_a_secret(value):
            where = "".join(f"[{name!r}]" for name in path)
            raise ValueError(
                f"{option}{where} must not hold an access token, a password or another secret, "
                "which would reach graphs, keys and logs: set it in the environment of the "
                "workers (HF_TOKEN for the Hub), where their libraries look for it"
            )


def texts_in(given: Any) -> Iterator[str]:
    """Yield each text in nested mappings and lists, not the names that it stands under."""
    values = given.values() if isinstance(given, Mapping) else given
    if isinstance(values, str):
        yield values
    elif isinstance(given, Mapping | list | tuple | set | frozenset):
        for value in values:
            yield from texts_in(value)


def _texts(given: Any, path: tuple[str, ...], depth: int) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield each text, and what else may be a secret, with the names it stands under."""
    if depth > _DEEPEST:
        raise ValueError(f"an option must not be nested more than {_DEEPEST} levels deep")
    if isinstance(given, str | bytes) and given:
        text = decoded(given)
        yield path, text
        yield from _texts(_json(text), path, depth + 1)
    elif isinstance(given, Mapping):
        if value := sets_a_secret(given):
            yield (*path, "secret"), decoded(given[value])
        for key, value in given.items():
            yield path, decoded(key)
            yield from _texts(value, (*path, decoded(key)), depth + 1)
    elif isinstance(given, Sequence | Set | ValuesView):
        values = list(given)
        for at in range(1, len(values)):
            if _follows_flag(values, at):
                yield (*path, values[at - 1]), decoded(values[at])
        for each in values:
            yield from _texts(_as_item(each), path, depth + 1)


def _as_item(given: Any) -> Any:
    """Return a mapping for what is one of its items, written as a sequence; others as they are."""
    if is_named_secret(given):
        return {given[0]: list(given[1:])}
    pair = isinstance(given, tuple | list) and len(given) == 2 and isinstance(given[0], str | bytes)
    return {given[0]: given[1]} if pair else given


def decoded(given: Any) -> str:
    """Return a name or value as a text."""
    return given.decode("latin-1") if isinstance(given, bytes) else str(given)


def _json(text: str) -> Any:
    """Return what a text holds if it is a json object or list, None otherwise."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _has_a_user(text: str) -> bool:
    return bool(_USER_IN_URL.search(text) or _USER_ALONE.search(text))


def _is_a_secret(text: str) -> bool:
    known = _has_a_user(text) or bool(_KNOWN_TOKEN.search(text))
    return known or any(_is_kept(*each) for each in _settings(text))
