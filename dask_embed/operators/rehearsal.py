"""Whether any text can be encoded at all: told on the client, by a short one and without weights.

What fails here would fail in every row: a chat template that refuses the system role, a tokenizer
that lacks a token, a limit that leaves no room.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from dask.base import tokenize

from dask_embed.models.tokenizers import fresh_tokenizer
from dask_embed.tokens.lists import TextTokenizer
from dask_embed.tokens.sequences import types_single_texts

if TYPE_CHECKING:
    from dask_embed.models.checkpoint import Checkpoint
    from dask_embed.models.spec import Model
    from dask_embed.runtime.stats import Meter
    from dask_embed.tokens.lists import TextTokenizer

T = TypeVar("T")

EXAMPLES = ("a", "0", ".", "的")
"""Short texts, of which a tokenizer that is of any use takes at least one."""

_passed: deque[str] = deque(maxlen=256)


class NeedsWeightsError(AttributeError):
    """An encoding asked for more of a model than its small files tell."""


class Rehearsed(Protocol):
    """An operator that can be tried out."""

    def trial(self, tokenizer: Any, text: str) -> str | None:
        """Return why a text cannot be encoded, None if it can; the tokenizer may be changed."""


class Runnable(Protocol):
    """An operator that runs columns of a partition; see `ColumnOperator`."""

    @property
    def subject(self) -> str: ...

    def examples(self) -> Iterator[list[Any]]: ...

    def run(
        self, columns: list[Any], *, on_device: bool, meter: Meter
    ) -> tuple[dict[str, Any], dict[int, str]]: ...


def require_encodable(operator: Rehearsed, model: Model, checkpoint: Checkpoint) -> None:
    """Raise ValueError if none of `EXAMPLES` can be encoded.

    Notes
    -----
    The tokenizer is loaded for it and not kept; an operator that passed is not tried again. One
    that comes with code of its own, or needs a package that only workers have, is not loaded here.
    """
    key = tokenize(*_settings(operator), checkpoint.revision)
    if key in _passed or model.trust_remote_code:
        return
    tokenizer = _tokenizer(model, checkpoint)
    if tokenizer is None:
        return
    problems = []
    for text in EXAMPLES:
        problem = operator.trial(tokenizer, text)
        if problem is None:
            _passed.append(key)
            return
        problems.append(problem)
    raise ValueError(nothing_passes(type(operator).__name__, model.name, problems[0]))


def _settings(operator: Any) -> list[Any]:
    """Return what an operator is made of but for the names of what it writes."""
    written = set(operator.output_columns)
    named = ((f.name, getattr(operator, f.name)) for f in dataclasses.fields(operator))
    told = [(name, v) for name, v in named if not (isinstance(v, str) and v in written)]
    return [type(operator).__qualname__, type(operator).__module__, *told]


def require_some_row(
    operator: Runnable, columns: list[Any], failures: dict[int, str], *, on_device: bool
) -> None:
    """Raise ValueError if all rows of a partition failed, and one of our own would fail as well.

    Rows that fail by what they hold (no text, too long) leave it to others to pass; a cause that
    none could pass belongs to the settings or to the machine, and a column of nulls would hide it.

    Parameters
    ----------
    operator : Runnable
    columns : list of TextColumn or VectorColumn
    failures : dict
        Row number to message, of rows that were run.
    on_device : bool
    """
    if not failures or np.logical_and.reduce([c.valid for c in columns]).sum() > len(failures):
        return
    from dask_embed.runtime.stats import Meter

    key = tokenize("ran", operator)
    problems = []
    for example in operator.examples() if key not in _passed else ():
        meter = Meter(type(operator).__name__, operator.subject)
        _, failed = operator.run(example, on_device=on_device, meter=meter)
        if not failed:
            _passed.append(key)
            return
        problems.append(failed[0])
    if problems:
        raise ValueError(nothing_passes(type(operator).__name__, operator.subject, problems[0]))


def nothing_passes(operator: str, model: str, problem: str) -> str:
    """Return the message for settings with which every row would fail."""
    reason = " ".join(problem.split())
    return (
        f"no row can be used by {operator} with model {model!r}, not even the text "
        f"{EXAMPLES[0]!r}: {reason:.300}"
    )


def _tokenizer(model: Model, checkpoint: Checkpoint) -> Any:
    try:
        tokenizer = fresh_tokenizer(model, checkpoint)
    except ValueError as error:
        if isinstance(error.__cause__, ImportError):
            return None
        raise
    tokenizer.model_max_length = int(1e30)  # longer texts are no cause to warn
    return tokenizer


class _Absent:
    def __getattr__(self, name: str) -> Any:
        raise NeedsWeightsError(name)


class StandIn(_Absent):
    """What `encode` takes for the `Runner` of a model without weights."""

    def __init__(self, model: Model, checkpoint: Checkpoint, tokenizer: Any) -> None:
        self.loaded = _StandInModel(model, checkpoint, tokenizer)

    def own_tokenizer(self, key: Hashable, build: Callable[[Any], T]) -> T:
        return build(self.loaded.tokenizer)

    def tokenizer(self, max_length: int | None) -> TextTokenizer:
        return TextTokenizer(self.loaded.tokenizer, max_length)

    @property
    def types_single_texts(self) -> bool:
        return types_single_texts(self.loaded.tokenizer)


class _StandInModel(_Absent):
    def __init__(self, model: Model, checkpoint: Checkpoint, tokenizer: Any) -> None:
        self.spec = model
        self.checkpoint = checkpoint
        self.tokenizer = tokenizer
        self.model = _Absent()
