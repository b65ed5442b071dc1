"""What must not be kept: an operator's options reach graphs, Dask keys, logs and files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# Parts of names, as letters without what joins them: ``api_key`` and ``apiKey`` are "apikey".
_SECRET_PARTS = (
    *("password", "passwd", "passphrase", "secret", "credential", "authorization", "bearer"),
    *("apikey", "accesskey", "accountkey", "privatekey", "sharedkey", "connectionstring"),
)
_SECRET_WORDS = frozenset({"auth", "cookie", "jwt", "pat", "pwd", "sas"})
# A name that ends in "token" is of a secret, unless all of its other words say of which place in
# a text it is: ``tool_api_token`` is one of a service.
_WORDS_OF_TEXT_TOKENS = frozenset(
    {
        *("additional", "audio", "begin", "boi", "bos", "cls", "decoder", "end", "eoi", "eos"),
        *("eot", "extra", "fake", "image", "mask", "max", "min", "new", "newline", "num", "pad"),
        *("prefix", "sep", "special", "speech", "start", "stop", "suffix", "think", "tool", "unk"),
        *("video", "vision", "word", "break", "call", "eod", "forced", "of", "text"),
    }
)
# These count tokens, and are of no single one: ``max_new_tokens``, but ``new_token`` is a secret.
_WORDS_OF_COUNTS = frozenset({"max", "min", "new", "num"})
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
# What stands between :// and @, of bounded length: texts may be long. `Path` leaves one slash.
# A user alone is a secret of the web only: ``abfs://container@account`` is a place.
_USER_IN_URL = re.compile(
    r":/{1,2}[^/\s:@]{0,256}:[^/\s@]{1,512}@"
    r"|(?:(?<=\bhttps)|(?<=\bhttp)):/{1,2}[^/\s?#@]{1,512}@"
)
# Access tokens of the Hub, GitHub, GitLab, OpenAI and its kin, AWS, and of a header of HTTP.
_KNOWN_TOKEN = re.compile(
    r"\b(hf_[A-Za-z0-9]{30,}|gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{30,}"
    r"|glpat-[A-Za-z0-9_-]{16,}|sk-[A-Za-z0-9_-]{20,}|AKIA[A-Z0-9]{16}"
    r"|[Bb]earer (?=\S{0,256}\d)[\w.~+/-]{8,4096})\b"
)
# A field of a URL's query, as in one that a store has signed.
_IN_QUERY = re.compile(r"([?&;])([\w.-]{1,64})=([^&;\s'\"]+)")
# A whole text that sets a variable or an option, or that is a header: ``HF_TOKEN=...``.
_ASSIGNED = re.compile(r"(\s*-{0,2}([\w.-]{1,64})(?:=|:\s+(?:Basic|Bearer|Token)\s+))[^\s{}]+\s*")
_SIGNATURES = frozenset({"key", "sig", "signature"})
_DEEPEST = 32
HIDDEN = "***"


class Unshown(dict[str, Any]):
    """A mapping that shows its names and none of its values, such as what opens a store."""

    def __repr__(self) -> str:
        return repr(dict.fromkeys(self, HIDDEN))


def without_secrets(text: str) -> str:
    """Return a text in which what is a secret by its form, or stands in a URL as one, is hidden."""
    text = _USER_IN_URL.sub(f"://{HIDDEN}@", text)
    text = _KNOWN_TOKEN.sub(HIDDEN, text)
    text = _IN_QUERY.sub(_query_field, text)
    set_to = _assigned(text)
    return text if set_to is None else f"{set_to[1]}{HIDDEN}"


def without_named(values: Sequence[Any]) -> list[Any]:
    """Return values in which what follows the name of a secret is hidden: of a pair, or a flag."""
    named = {at for at in range(1, len(values)) if _follows_flag(values, at)}
    if _is_item(values) and isinstance(values[1], str | bytes) and names_a_secret(values[0]):
        named.add(1)
    return [HIDDEN if at in named else value for at, value in enumerate(values)]


def sets_a_secret(given: Mapping[Any, Any]) -> bool:
    """Return whether a mapping has the name of a secret as its name, and so one as its value."""
    name = given.get("name", given.get("key"))
    texts = isinstance(name, str) and isinstance(given.get("value"), str | bytes)
    return texts and names_a_secret(name)


def _follows_flag(values: Sequence[Any], at: int) -> bool:
    """Return whether a text follows a flag of a command that takes a secret: ``--hf-token``."""
    flag, value = values[at - 1], values[at]
    texts = isinstance(flag, str) and isinstance(value, str | bytes)
    return texts and flag.startswith("-") and names_a_secret(flag)


def _assigned(text: str) -> re.Match[str] | None:
    """Return the match of a text that sets a secret as a whole, None for others."""
    found = _ASSIGNED.fullmatch(text)
    return found if found and names_a_secret(found[2]) else None


def _query_field(found: re.Match[str]) -> str:
    words = {word.lower() for word in _WORD.findall(found[2])}
    secret = names_a_secret(found[2]) or not _SIGNATURES.isdisjoint(words)
    return f"{found[1]}{found[2]}={HIDDEN}" if secret else found[0]


def refuse_password(option: str, url: str) -> None:
    """Raise ValueError for a user with a password in a URL, as whose part it would be kept."""
    if _USER_IN_URL.search(url):
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
        text = given.decode("latin-1") if isinstance(given, bytes) else given
        yield path, text
        yield from _texts(_json(text), path, depth + 1)
    elif isinstance(given, Mapping):
        if sets_a_secret(given):
            yield (*path, str(given.get("name", given.get("key")))), str(given["value"])
        for key, value in given.items():
            yield path, str(key)
            yield from _texts(value, (*path, str(key)), depth + 1)
    elif isinstance(given, list | tuple | set | frozenset):
        values = list(given)
        for at in range(1, len(values)):
            if _follows_flag(values, at):
                yield (*path, values[at - 1]), str(values[at])
        for each in values:
            items = {each[0]: each[1]} if _is_item(each) else each
            yield from _texts(items, path, depth + 1)


def _is_item(given: Any) -> bool:
    """Return whether something is an item of a mapping that is written as a sequence of pairs."""
    return isinstance(given, tuple | list) and len(given) == 2 and isinstance(given[0], str)


def _json(text: str) -> Any:
    """Return what a text holds if it is a json object or list, None otherwise."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def names_a_secret(name: str) -> bool:
    """Return whether what stands under a name is a secret, if it is no number."""
    words = [word.lower() for word in _WORD.findall(name)]
    joined = "".join(words)
    if any(part in joined for part in _SECRET_PARTS) or not _SECRET_WORDS.isdisjoint(words):
        return True
    if not joined.endswith(("token", "tokens")):
        return False
    others = set(words) - {"token", "tokens"}
    of_texts = _WORDS_OF_TEXT_TOKENS
    if joined.endswith("token"):
        of_texts = of_texts - _WORDS_OF_COUNTS
    return not others or not others <= of_texts


def _is_a_secret(text: str) -> bool:
    return bool(_USER_IN_URL.search(text) or _KNOWN_TOKEN.search(text) or _assigned(text))
