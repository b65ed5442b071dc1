"""Wrong values for every public argument, found by introspection, and what becomes of each.

What is refused must be refused in words of this package: an error raised by its own code, before
any work, in one line that names the argument. Anything else is an unanswered case.
"""

from __future__ import annotations

import inspect
import io
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd

import dask_embed as de
from dask_embed._validation import plain_scalar, shown

LONGEST_MESSAGE = 900
# What a user may paste in the wrong place: no message holds it.
PASSWORD, TOKEN = "pa55-w0rd", "hf_" + "Qx7" * 12
_HOME = str(Path(de.__file__).parent)
_KINDS = (TypeError, ValueError, OSError, ModuleNotFoundError)


class Unprintable:
    """An object whose `repr` fails."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


def wrong_values() -> dict[str, Any]:
    """Return values that hardly any argument takes, by a name for each."""
    return {
        "None": None,
        "5": 5,
        "0": 0,
        "-1": -1,
        "huge": 10**30,
        "1.5": 1.5,
        "nan": float("nan"),
        "inf": float("inf"),
        "True": True,
        "False": False,
        "empty": "",
        "space": " ",
        "long": "x" * 300,
        "nul": "\0",
        "surrogate": "\ud800",
        "emoji": "😀",
        "braces": "{",
        "lines": "a\nb",
        "user": "~nosuchuser/x",
        "parent": "../x",
        "slashes": "a/b/c",
        "word": "nosuch",
        "bytes": b"x",
        "[]": [],
        "[1]": [1],
        "[None]": [None],
        "nested": [[1], [2]],
        "()": (),
        "{}": {},
        "{object}": {"a": object()},
        "{1: 2}": {1: 2},
        "set": {"a"},
        "object": object(),
        "unprintable": Unprintable(),
        "lambda": lambda *given: None,
        "class": int,
        "array": np.arange(3),
        "empty array": np.zeros(0),
        "nan array": np.full((2, 32), np.nan),
        "numpy int": np.int64(3),
        "Series": pd.Series(["a", "b"]),
        "DataFrame": pd.DataFrame({"a": [1]}),
        "root": Path("/"),
        "complex": 1j,
        "timestamp": pd.Timestamp(0),
        "NA": pd.NA,
        "numpy bool": np.True_,
        "words of booleans": "False",
        "1.0": 1.0,
        "above 64 bits": 2**63,
        "text of a number": "5",
        "range": range(3),
        "keys": {"a": 1}.keys(),
        "generator": iter(["a"]),
        "decimal": Decimal("0.5"),
        "error": ValueError("x"),
        "module": inspect,
        "file": io.StringIO("x"),
        "lazy DataFrame": dd.from_pandas(pd.DataFrame({"a": [1]}), npartitions=1),
        "lazy Series": dd.from_pandas(pd.Series([1], name="a"), npartitions=1),
        "password": f"s3://user:{PASSWORD}@bucket/x",
        "token": TOKEN,
        "tokens": [TOKEN],
    }


@dataclass(frozen=True)
class Subject:
    """Something public that takes arguments.

    Attributes
    ----------
    name : str
    call : callable
        Takes what is to be tried by name.
    good : dict
        Arguments with which it works.
    names : tuple of str
        Arguments that are tried.
    then : callable
        What has to work once the call was accepted.
    also : tuple of str
        Words that name an argument as well as its name does.
    """

    name: str
    call: Callable[..., Any]
    good: dict[str, Any]
    names: tuple[str, ...]
    then: Callable[[Any], Any] = lambda made: None
    also: tuple[str, ...] = ()

    def cases(self) -> Iterator[tuple[str, str, Any]]:
        for argument in self.names:
            for name, value in wrong_values().items():
                yield argument, name, value


@dataclass
class Found:
    """What became of one case: nothing wrong, or what is."""

    problem: str = ""
    error: BaseException | None = None
    place: str = ""  # where it was raised


def arguments_of(call: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names of all arguments but ``**options``."""
    parameters = inspect.signature(call).parameters.values()
    skipped = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return tuple(each.name for each in parameters if each.kind not in skipped)


def attempt(subject: Subject, argument: str, value: Any) -> Found:
    """Try one value, and judge the error if there is one."""
    try:
        made = subject.call(**{**subject.good, argument: value})
    except Exception as error:
        return judge(error, argument, *_words(value), *subject.also)
    try:
        subject.then(made)
    except Exception as error:
        found = judge(error, argument, *_words(value), *subject.also)
        found.problem = found.problem and f"accepted, then: {found.problem}"
        return found if found.problem else Found()
    return Found()


def _words(value: Any) -> tuple[str, ...]:
    """Return what names the argument by its value: as a column that is not there, or a text."""
    value = plain_scalar(value)
    if not isinstance(value, str | int):
        return ()
    column = f"column {shown(value)} is not in the dataframe"
    return (column, repr(value), value) if isinstance(value, str) and value.strip() else (column,)


def judge(error: Exception, *words: str) -> Found:
    """Say what is wrong with an error: whose it is, its kind, its length, what it names."""
    *_, (frame, line) = traceback.walk_tb(error.__traceback__)
    place = f"{frame.f_code.co_filename}:{line}"
    text = str(error)
    problem = ""
    if not place.startswith(_HOME):
        problem = "foreign"
    elif not isinstance(error, _KINDS):
        problem = f"is a {type(error).__name__}"
    elif not text.strip() or "\n" in text or "\r" in text or "\0" in text:
        problem = "not one line"
    elif len(text) > LONGEST_MESSAGE:
        problem = f"{len(text)} characters"
    elif PASSWORD in text or TOKEN in text:
        problem = "tells a secret"
    elif words and not any(word in text for word in words):
        problem = f"does not name {' or '.join(words)}"
    return Found(problem, error, place)
