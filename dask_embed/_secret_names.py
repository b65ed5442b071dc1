"""Which names are those of secrets: a table of words, and how they stand beside each other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

# Parts of names, as letters without what joins them: ``api_key`` and ``apiKey`` are "apikey".
_SECRET_PARTS = (
    *("password", "passwd", "passphrase", "passcode", "userpass", "dbpass", "authorization"),
    *("secret", "credential", "bearer", "oauth", "connectionstring"),
)
# Keys that open something: ``primary_key`` and ``sort_key`` name columns.
_OPENING_KEYS = tuple(
    f"{what}key"
    for what in (
        *("api", "access", "account", "private", "shared", "signing", "encryption", "ssh", "hmac"),
        *("client", "master", "subscription", "storage", "service", "session", "license", "hf"),
        *("aws", "azure", "openai", "wandb"),
    )
)
_SECRET_WORDS = frozenset({"auth", "cookie", "cookies", "creds", "jwt", "otp", "pat", "pwd", "sas"})
# Short for a password or a signature, if nothing stands beside it but whose it is: ``smtp_pass``,
# and neither ``first_pass`` nor ``compass``.
SHORT_FORMS = frozenset({"pass", "passw", "pswd", "psw", "pw", "sig"})
_OWNERS = frozenset(
    {
        *("admin", "amqp", "app", "database", "db", "elastic", "email", "ftp", "http", "https"),
        *("imap", "jdbc", "kafka", "ldap", "login", "mail", "mongo", "mongodb", "my", "mysql"),
        *("pg", "postgres", "proxy", "rabbitmq", "redis", "root", "sas", "sftp", "smtp", "sql"),
        *("ssh", "url", "user"),
    }
)
# A name with "token" is of a secret, unless all of its other words say that it is of a text:
# ``tool_api_token`` and ``token_value`` have others.
_WORDS_OF_TEXT_TOKENS = frozenset(
    {
        *("additional", "audio", "begin", "boi", "bos", "cls", "decoder", "end", "eoi", "eos"),
        *("eot", "extra", "fake", "image", "mask", "max", "min", "new", "newline", "num", "pad"),
        *("prefix", "sep", "special", "speech", "start", "stop", "suffix", "think", "tool", "unk"),
        *("video", "vision", "word", "break", "call", "eod", "forced", "of", "text", "added"),
        *("type", "types", "id", "ids", "index", "count", "counts", "level", "limit", "length"),
        *("embedding", "embeddings", "classification", "dropout", "pooling", "ratio", "position"),
        *("column", "batch", "batched", "per", "use", "input", "output", "prompt", "budget"),
        *("overlap", "window", "long", "prefill", "threshold", "labels", "pattern", "placeholder"),
        *("question", "query", "space", "delimiter", "line", "fill", "middle", "empty", "entity"),
    }
)
# These count tokens, and are of no single one: ``max_new_tokens``, but ``new_token`` is a secret.
_WORDS_OF_COUNTS = frozenset({"max", "min", "new", "num"})
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
TOKEN = re.compile(r"token(?!i[sz])")  # and no tokenizer


@lru_cache(maxsize=4096)
def names_a_secret(name: str) -> bool:
    """Return whether what stands under a name is a secret, if it is no number."""
    words = words_of(name)
    joined = "".join(words)
    if any(part in joined for part in (*_SECRET_PARTS, *_OPENING_KEYS)):
        return True
    if not _SECRET_WORDS.isdisjoint(words) or _is_short_form(name, words):
        return True
    if not TOKEN.search(joined):
        return False
    others = set(words) - {"token", "tokens"}
    of_texts = _WORDS_OF_TEXT_TOKENS
    if joined.endswith("token"):
        of_texts = of_texts - _WORDS_OF_COUNTS
    return not others or not others <= of_texts


def _is_short_form(name: str, words: Sequence[str]) -> bool:
    if "@" in name:  # pass@1 is a measure
        return False
    return bool(words) and words[-1] in SHORT_FORMS and _OWNERS.issuperset(words[:-1])


def words_of(name: str) -> list[str]:
    """Return the words of a name, whatever joins them, in small letters."""
    return [word.lower() for word in _WORD.findall(name)]
