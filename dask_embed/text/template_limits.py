"""What rendering a chat template may do: how its work is counted, and what is refused at once."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

from jinja2.utils import Namespace

_SECONDS = 5.0  # of the thread's own time
_LARGEST_INTEGER = 4096  # bits
_GIVEN = re.compile(r"\d+")
_ANY = 1 << 40

_running: ContextVar[Work] = ContextVar("work of a chat template")


class TemplateLimitError(ValueError):
    """A template does more than a chat can need."""


def work() -> Work:
    """Return what the rendering of this thread may still do.

    Raises
    ------
    LookupError
        If none is under way: while a template is compiled, and Jinja would fold constants. It
        leaves alone what raises.
    """
    return _running.get()


class Work:
    """What one rendering may still do."""

    def __init__(self, allowed: int) -> None:
        self.left = allowed
        self._until = time.thread_time() + _SECONDS
        self._taken = 0
        self._before: Any = None

    def __enter__(self) -> Work:
        self._before = _running.set(self)
        return self

    def __exit__(self, *error: object) -> None:
        _running.reset(self._before)

    def take(self, amount: int = 1) -> None:
        self.left -= amount
        self._taken += 1
        late = self._taken % 256 == 0 and time.thread_time() > self._until
        if self.left < 0 or late:
            raise TemplateLimitError(
                "the chat template takes too long or writes too much for a chat; use another "
                "template (chat_template_kwargs={'chat_template': ...}) or chat=False"
            )

    def require(self, amount: float) -> None:
        """Raise if so much is not left; take nothing."""
        if amount > self.left:
            self.take(self.left + 1)

    def counted(self, value: Any) -> Any:
        """Return a value that came to be, once its size is taken."""
        if isinstance(value, Iterator):
            value = list(itertools.islice(value, self.left + 1))
            self.take(size_of(value, self.left))
            return iter(value)
        self.take(size_of(value, self.left))
        return value


def size_of(value: Any, most: int = _ANY) -> int:
    """Return the characters and items of a value, or more than `most`; what is shared counts anew.

    So a list that holds another twice, which holds another twice, is as large as it prints.
    """
    total, pending = 0, [value]
    while pending and total <= most:
        each = pending.pop()
        total += 1
        if isinstance(each, str | bytes | range):
            total += len(each)
        elif isinstance(each, int):
            total += each.bit_length() // 8
        elif isinstance(each, Mapping):
            pending.extend((*each.keys(), *each.values()))
        elif isinstance(each, Namespace):
            pending.append(each._Namespace__attrs)
        elif isinstance(each, Iterable) and hasattr(each, "__len__"):
            pending.extend(each)
    return total


def bound(name: str, value: Any, arguments: list[Any]) -> float:
    """Return the most characters that a filter, or a method of strings, makes of `value`."""
    size = size_of(value)
    numbers = [abs(each) for each in arguments if isinstance(each, int | float)]
    texts = [len(each) for each in arguments if isinstance(each, str)]
    largest, longest = max(numbers, default=0), max(texts, default=0)
    if name == "replace" and texts:
        old = next(each for each in arguments if isinstance(each, str))
        return size + str(value).count(old) * longest
    if name in ("format", "format_map", "%"):
        written = [int(each[:9]) for each in _GIVEN.findall(str(value))]
        widths = largest + max(written, default=0)
        return size + str(value).count("%" if name == "%" else "{") * (size_of(arguments) + widths)
    if name == "join" and isinstance(value, str) and arguments:  # the method: a list is joined
        return size_of(arguments[0]) * (1 + len(value))
    if name in ("expandtabs", "indent", "join", "tojson", "wordwrap"):
        return size * (1 + largest + longest)
    if name == "round":  # computes ten to the power of the digits
        return 0 if largest <= _LARGEST_INTEGER else _ANY
    if name in ("batch", "center", "ljust", "rjust", "slice", "zfill"):
        return size + largest
    if name == "sum" and len(arguments) > len(numbers):  # of lists: each sum is another list
        return size * size
    return 0


def require_small_numbers(operator: str, left: Any, right: Any) -> None:
    """Raise for integers of very many digits, and sequences repeated very often."""
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * max(right, 1) if operator == "**" else 0
        bits = left.bit_length() + right.bit_length() if operator == "*" else bits
        if bits > _LARGEST_INTEGER:
            raise TemplateLimitError("the chat template computes with numbers of too many digits")
    elif operator == "*":
        count, other = (left, right) if isinstance(left, int) else (right, left)
        if isinstance(count, int):
            work().require(size_of(other) * max(count, 0))
