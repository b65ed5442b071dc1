"""Error messages for bad arguments: what was given, what is allowed, what was meant."""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import socket
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dask_embed._secrets import (
    refuse_password,
    refuse_secrets,
    without_secrets,
)
from dask_embed._short import Short

_LONGEST = 160  # characters of a value in a message
_LARGEST = 2**63 - 1  # that libraries in Rust and C++ take for a number


def shown(value: Any) -> str:
    """Return `value` for a message: in one line, and short however large the value is.

    Parameters
    ----------
    value : object
        Anything. Of arrays, tensors, columns and frames the kind, shape and type are given.
    """
    text = " ".join(Short().repr(value).split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 4]} ..."


def shown_error(error: BaseException) -> str:
    """Return kind and message of an error of another library, short and in one line."""
    said = "".join(each if each.isprintable() else " " for each in str(error))
    text = without_secrets(" ".join(said.split()))
    told = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return told if len(told) <= 2 * _LONGEST else f"{told[: 2 * _LONGEST - 4]} ..."


def this_machine() -> str:
    """Return a name for where this code runs: the machine, and the worker if it is one."""
    worker = getattr(sys.modules.get("distributed.worker"), "get_worker", None)
    try:
        return f"worker {worker().address} ({socket.gethostname()})"  # type: ignore[misc]
    except (TypeError, ValueError):  # of a process without a worker
        return f"machine {socket.gethostname()!r}"


def plain_scalar(value: Any) -> Any:
    """Return the number or text of Python that a scalar of NumPy equals, others as they are.

    Also within lists and tuples. Results of NumPy are given as options, which are compared,
    printed and hashed. A boolean of NumPy is none of Python's, see `boolean`.
    """
    if type(value) in (list, tuple):
        return type(value)(map(plain_scalar, value))
    numpy: Any = sys.modules.get("numpy")
    if numpy is None or not isinstance(value, numpy.generic):
        return value
    if isinstance(value, numpy.integer) and not isinstance(value, numpy.timedelta64):
        return int(value)
    if isinstance(value, numpy.str_):
        return str(value)
    return float(value) if isinstance(value, numpy.floating) else value


def one_of(name: str, value: Any, allowed: Sequence[Any]) -> None:
    """Raise ValueError unless `value` is one of `allowed`."""
    if any(type(value) is type(choice) and value == choice for choice in allowed):
        return  # the type counts: 1 is not True
    choices = ", ".join(repr(choice) for choice in allowed)
    raise ValueError(f"{name} must be one of {choices}; got {shown(value)}{meant(value, allowed)}")


def positive_integer(
    name: str, value: Any, *, allow_none: bool = True, most: int = _LARGEST
) -> None:
    """Raise unless `value` is an integer from 1 to `most`, or None where that is allowed."""
    if value is None and allow_none:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a positive integer, got {shown(value)}")
    if not 1 <= value <= most:
        kind = "a positive integer" if most == _LARGEST else f"from 1 to {most:,}"
        raise ValueError(f"{name} must be {kind}, got {shown(value)}")


def require_size(name: str, value: Any) -> None:
    """Raise unless `value` can be the number of values of a vector or of a layer."""
    positive_integer(name, value, allow_none=False)
    if value >= 2**31:
        raise ValueError(f"{name} must be less than 2**31, got {shown(value)}")


def integer_from_zero(name: str, value: Any, *, allow_none: bool = False) -> None:
    """Raise unless `value` is zero or an integer above it, or None where that is allowed."""
    if value is None and allow_none:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be 0 or a positive integer, got {shown(value)}")
    if not 0 <= value <= _LARGEST:
        raise ValueError(f"{name} must be 0 or a positive integer, got {shown(value)}")


def number_or_none(name: str, value: Any) -> None:
    """Raise unless `value` is a finite number or None."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, got {shown(value)}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {shown(value)}")


def boolean(name: str, value: Any) -> None:
    """Raise unless `value` is True or False: what is merely truthy decides nothing."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {shown(value)}")


def booleans(instance: Any) -> None:
    """Raise TypeError unless every field of a dataclass that is annotated as a boolean is one."""
    for field in dataclasses.fields(instance):
        kind, value = field.type, getattr(instance, field.name)
        if kind in (bool, "bool"):
            boolean(field.name, value)
        elif kind in (bool | None, "bool | None") and not isinstance(value, bool | None):
            raise TypeError(f"{field.name} must be True, False or None, got {shown(value)}")


def column_name(name: str, value: Any, *, allow_none: bool = False) -> None:
    """Raise unless `value` can be the name of a column: a string, or a number as pandas has it."""
    if value is None and allow_none:
        return
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise TypeError(f"{name} must be the name of a column, got {shown(value)}")


def text_or_none(name: str, value: Any) -> None:
    """Raise unless `value` is None or a string that a tokenizer can take."""
    if value is not None:
        usable_text(name, value)


def require_one_prompt(prompt: str | None, prompt_name: str | None) -> None:
    """Raise unless a prompt is a usable text that is given once: itself, or by its name."""
    text_or_none("prompt", prompt)
    text_or_none("prompt_name", prompt_name)
    if prompt is not None and prompt_name is not None:
        raise ValueError(
            f"give prompt or prompt_name, not both: {shown(prompt)}, {shown(prompt_name)}"
        )


def non_empty_string(name: str, value: Any, *, allow_none: bool = False) -> None:
    """Raise unless `value` is a string of more than spaces, or None where that is allowed."""
    if value is None and allow_none:
        return
    usable_text(name, value)
    if not value.strip():
        raise ValueError(f"{name} must not be empty, got {shown(value)}")


def strings(name: str, value: Any) -> tuple[str, ...]:
    """Return a sequence of strings as a tuple.

    A string alone is refused, although it is a sequence of strings, and so is a set, which has
    no order.

    Raises
    ------
    TypeError, ValueError
        If it is anything else.
    """
    if hasattr(value, "tolist") and getattr(value, "ndim", 0) == 1:
        value = value.tolist()  # of arrays, and of columns of dataframes
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise TypeError(f"{name} must be a sequence of strings, got {shown(value)}")
    for each in value:
        if not isinstance(each, str):
            raise TypeError(f"{name} must be a sequence of strings, got {shown(each)} in it")
        usable_text(name, each)
    return tuple(value)


def text_file(name: str, value: Any) -> None:
    """Raise TypeError unless `value` is something to write text to, or None."""
    if value is not None and not callable(getattr(value, "write", None)):
        raise TypeError(f"{name} must be a file to write text to, got {shown(value)}")


def require_effect(options: Any, names: Iterable[str], needed: str) -> None:
    """Raise ValueError for an option that says something, and would be left out of account.

    Parameters
    ----------
    options : dataclass
    names : iterable of str
        Fields of it that have an effect only together with others.
    needed : str
        What to add, for the message.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(options)}
    for name in names:
        value = getattr(options, name)
        if value != defaults[name]:
            raise ValueError(f"{name}={shown(value)} has no effect without {needed}")


def require_url(option: str, url: str) -> None:
    """Raise ValueError for a path or URL that no file can have, or that would keep a secret."""
    usable_text(option, url)
    refuse_password(option, url)
    refuse_secrets(option, url)


def local_path(name: str, value: str | os.PathLike[str]) -> Path:
    """Return the path that `value` stands for, ``~`` expanded; there need not be such a file.

    Raises
    ------
    TypeError, ValueError
        If it is no path, or the operating system can have no file of this name.
    """
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{name} must be a path, got {shown(value)}")
    try:
        path = Path(value).expanduser()
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return path
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error).rstrip(".")
        raise ValueError(
            f"{name} must be a path that this machine can have ({reason}), got {shown(str(value))}"
        ) from None
    return path


def usable_text(name: str, value: Any) -> None:
    """Raise unless `value` is a string that a tokenizer can take."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, got {shown(value)}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name} cannot be encoded as UTF-8 ({error.reason} at position {error.start}): "
            f"{shown(value)}"
        ) from None


def meant(value: Any, allowed: Sequence[Any]) -> str:
    """Return `` (did you mean 'x'?)`` when one of `allowed` is close to `value`, else nothing."""
    names = [choice for choice in allowed if isinstance(choice, str)]
    close = difflib.get_close_matches(str(value), names, n=1) if isinstance(value, str) else []
    return f" (did you mean {close[0]!r}?)" if close else ""
