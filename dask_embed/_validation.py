"""Error messages for bad arguments: what was given, what is allowed, what was meant."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence
from typing import Any


def one_of(name: str, value: Any, allowed: Sequence[Any]) -> None:
    """Raise ValueError unless `value` is one of `allowed`."""
    if any(type(value) is type(choice) and value == choice for choice in allowed):
        return  # the type counts: 1 is not True
    choices = ", ".join(repr(choice) for choice in allowed)
    raise ValueError(f"{name} must be one of {choices}; got {value!r}{meant(value, allowed)}")


def positive_integer(name: str, value: Any, *, allow_none: bool = True) -> None:
    """Raise unless `value` is an integer above zero, or None where that is allowed."""
    if value is None and allow_none:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a positive integer, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}")


def integer_from_zero(name: str, value: Any) -> None:
    """Raise unless `value` is zero or an integer above it."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be 0 or a positive integer, got {value!r}")
    if value < 0:
        raise ValueError(f"{name} must be 0 or a positive integer, got {value!r}")


def known_options(name: str, given: Iterable[str], allowed: Sequence[str]) -> None:
    """Raise TypeError unless all names of arguments are `allowed` for the function `name`."""
    for option in given:
        if option not in allowed:
            raise TypeError(
                f"{name} has no option {option!r}{meant(option, allowed)}; its options are "
                f"{', '.join(allowed)}"
            )


def number_or_none(name: str, value: Any) -> None:
    """Raise unless `value` is a finite number or None."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value!r}")


def usable_text(name: str, value: Any) -> None:
    """Raise unless `value` is a string that a tokenizer can take."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, got {value!r}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name} cannot be encoded as UTF-8 ({error.reason} at position {error.start}): "
            f"{value!r:.80}"
        ) from None


def meant(value: Any, allowed: Sequence[Any]) -> str:
    """Return `` (did you mean 'x'?)`` when one of `allowed` is close to `value`, else nothing."""
    names = [choice for choice in allowed if isinstance(choice, str)]
    close = difflib.get_close_matches(str(value), names, n=1) if isinstance(value, str) else []
    return f" (did you mean {close[0]!r}?)" if close else ""
