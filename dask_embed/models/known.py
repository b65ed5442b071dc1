"""Settings that are known by their names: whatever else a file sets is refused, never skipped.

What a version to come writes may change results, and nobody here knows how.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dask_embed._validation import meant, shown


@dataclass(frozen=True)
class Rule:
    """Values that a setting may have: which, and in words."""

    allows: Callable[[Any], bool]
    words: str


Rules = Mapping[str, "Rule | Rules"]

ANY = Rule(lambda value: True, "anything")
FLAG = Rule(lambda value: isinstance(value, bool), "true or false")
TEXT = Rule(lambda value: isinstance(value, str), "text")
COUNT = Rule(
    lambda value: isinstance(value, int) and not isinstance(value, bool) and value > 0,
    "a positive integer",
)
OFF = Rule(lambda value: not value, "to leave it out")


def among(*values: Any) -> Rule:
    """Return the rule of a setting that may have these values."""
    return Rule(lambda value: value in values, " or ".join(map(repr, values)))


def require_known(given: Mapping[str, Any], rules: Rules, source: str, within: str = "") -> None:
    """Raise ValueError unless all settings are known, with values that are allowed.

    Parameters
    ----------
    given : dict
        Name to value; None is a setting that is not made.
    rules : dict
        Name to `Rule`, or to the rules of what is in an object.
    source : str
        What holds them, for messages.
    within : str
        The object that they are in.
    """
    for name, value in given.items():
        if value is None:
            continue
        rule, path = rules.get(name), f"{within}{name}"
        if rule is None:
            raise ValueError(
                f"{source} sets {path}={shown(value)}, which is not known here"
                f"{meant(name, list(rules))}; it may change results, so take it out of a copy if "
                "it does not"
            )
        if isinstance(rule, Rule):
            if not rule.allows(value):
                raise ValueError(f"{source} sets {path}={shown(value)}; supported is {rule.words}")
        elif not isinstance(value, dict):
            raise ValueError(f"{source} must have an object as {path}, got {shown(value)}")
        else:
            require_known(value, rule, source, f"{path}.")
