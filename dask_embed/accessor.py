"""``df.ml`` and ``ddf.ml``: operators, and steps over a whole corpus, as methods."""

from __future__ import annotations

import functools
import importlib
import inspect
import keyword
from collections.abc import Callable
from typing import Any, TypeVar

from dask_embed import operators
from dask_embed._methods import docstring_of, named, signature_of
from dask_embed._options import named_options
from dask_embed._reprs import table
from dask_embed._validation import boolean, meant, shown
from dask_embed.operators import ColumnOperator
from dask_embed.operators.language.chosen import SCORERS, chosen_scorer

Operator = TypeVar("Operator", bound=type[ColumnOperator])

# What tasks and methods of sentence-transformers and transformers' pipelines are called here.
_ELSEWHERE = {
    **dict.fromkeys(
        ("encode", "transform", "fit_transform", "feature_extraction", "embeddings"), "embed"
    ),
    **dict.fromkeys(("text_classification", "sentiment", "predict"), "classify"),
    **dict.fromkeys(("zero_shot", "zero_shot_classification"), "classify_zero_shot"),
    **dict.fromkeys(("ner", "token_classification", "entities"), "classify_tokens"),
    **dict.fromkeys(("question_answering", "qa"), "answer"),
    **dict.fromkeys(("rank", "cross_encode"), "rerank"),
    **dict.fromkeys(("summarize", "translate", "text_generation", "chat"), "generate"),
}


_LATE = """\
    late : bool
        Append a vector to each chunk too, from one pass over its whole text, as
        `dask_embed.LateChunkEmbedder` does, whose options it takes then."""


class FrameAccessor:
    """Model operators on a pandas or cuDF DataFrame; they run at once."""

    def __init__(self, frame: Any) -> None:
        self._frame = frame

    def _append(self, operator: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Apply an operator; it refuses options that it does not have."""
        return operator(*args, **options)(self._frame)

    def __getattr__(self, name: str) -> Any:
        """Say which methods there are, for one that there is not."""
        methods = _methods(type(self))
        told = f"{meant(name, methods)}; its methods are {', '.join(methods)}"
        if name in _methods(DaskAccessor):
            told = " here; give it a Dask DataFrame, as dask.dataframe.from_pandas makes"
        elif name in _ELSEWHERE:
            told = f"; use {_ELSEWHERE[name]}"
        raise AttributeError(f".ml has no method {name!r}{told}")

    def __repr__(self) -> str:
        lines = self._table()
        width = max(len(name) for name, _ in lines)
        return "\n".join([self._title(), *(f"  {name:{width}}  {says}" for name, says in lines)])

    def _repr_html_(self) -> str:
        return table(self._title(), self._table())

    def _title(self) -> str:
        return f".ml of {type(self._frame).__name__}: {len(_methods(type(self)))} methods"

    def _table(self) -> list[tuple[str, str]]:
        """Return each method with the first line of what it says of itself."""
        return [
            (name, (getattr(type(self), name).__doc__ or "").partition("\n")[0])
            for name in _methods(type(self))
        ]

    def chunk(self, *args: Any, late: bool = False, **options: Any) -> Any:
        boolean("late", late)
        operator = operators.LateChunkEmbedder if late else operators.Chunker
        return self._append(operator, **named("chunk", operator, args, options))

    def score(self, *args: Any, **options: Any) -> Any:
        operator, options = chosen_scorer(options)
        return self._append(operator, **named("score", operator, args, options))


class ColumnAccessor:
    """What ``.ml`` of a column says: operators append to a dataframe, and are methods of one."""

    def __init__(self, column: Any) -> None:
        self._column = column

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name not in _methods(DaskAccessor):
            raise AttributeError(f".ml of a column has no method {name!r}; {self}")
        raise AttributeError(f".ml of a column has no method {name!r}; write {self._call(name)}")

    def __repr__(self) -> str:
        return f".ml is of dataframes: write {self._call('embed')}"

    def _call(self, name: str) -> str:
        column = "column" if self._column.name is None else repr(self._column.name)
        return f"frame.ml.{name}({column}, ...), which keeps rows and results together"


class Step:
    """A method of Dask DataFrames that is a function of a frame, imported when it is wanted."""

    def __init__(self, home: str) -> None:
        self._home = home

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, accessor: Any, owner: type) -> Any:
        function = getattr(importlib.import_module(self._home), self._name)

        @functools.wraps(function)
        def method(self: FrameAccessor, *args: Any, **options: Any) -> Any:
            return function(self._frame, *args, **options)

        first, *rest = inspect.signature(function).parameters.values()
        method.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [first.replace(name="self", annotation=first.empty), *rest], return_annotation=Any
        )
        setattr(DaskAccessor, self._name, method)
        return getattr(owner if accessor is None else accessor, self._name)


class DaskAccessor(FrameAccessor):
    """Model operators on a Dask DataFrame, which are lazy, and steps that need all of it."""

    cluster = Step("dask_embed.curation.clustering")
    drop_exact_duplicates = Step("dask_embed.curation.exact")
    drop_fuzzy_duplicates = Step("dask_embed.curation.fuzzy")
    drop_semantic_duplicates = Step("dask_embed.curation.semantic")
    fuzzy_signatures = Step("dask_embed.curation.stored")
    mark_exact_duplicates = Step("dask_embed.curation.exact")
    mark_fuzzy_duplicates = Step("dask_embed.curation.fuzzy")
    mark_semantic_duplicates = Step("dask_embed.curation.semantic")
    nearest = Step("dask_embed.curation.nearest")
    to_delta = Step("dask_embed.jobs.delta")
    to_lance = Step("dask_embed.jobs.lance")
    to_parquet = Step("dask_embed.jobs.parquet")


def _methods(accessor: type) -> list[str]:
    return [name for name in dir(accessor) if not name.startswith("_")]


def _add_method(name: str, operator: type) -> Any:
    """Make an operator a method: its arguments and its docstring are those of the class."""

    def append(self: FrameAccessor, *args: Any, **options: Any) -> Any:
        return self._append(operator, **named(name, operator, args, options))

    append.__name__, append.__doc__ = name, operator.__doc__
    append.__qualname__ = f"FrameAccessor.{name}"
    append.__signature__ = signature_of(operator)  # type: ignore[attr-defined]
    setattr(FrameAccessor, name, append)
    return append


@named_options
def register_operator(name: str, operator: Operator) -> Operator:
    """Add an operator of one's own as the method ``.ml.<name>`` of all dataframes.

    Parameters
    ----------
    name : str
        Name of the method; its arguments are those of the operator, by name but for `column`,
        which may stand first.
    operator : type
        A subclass of `dask_embed.ModelOperator` or `dask_embed.ColumnOperator`. Workers import
        it from its module, or get its code with the task if it was written in a notebook.

    Returns
    -------
    type
        The operator.

    Raises
    ------
    TypeError, ValueError
        If `operator` is not such a class, or `name` is taken or no Python name. The same class
        may be registered again, and a class that was written anew takes the place of the old one.
    """
    if not (isinstance(operator, type) and issubclass(operator, ColumnOperator)):
        raise TypeError(
            f"operator must be a subclass of dask_embed.ModelOperator, got {shown(operator)}"
        )
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
        raise ValueError(f"name must be a Python name, got {shown(name)}")
    taken = getattr(DaskAccessor, name, None)
    if name.startswith("_") or (taken is not None and not _replaces(operator, taken)):
        raise ValueError(f"name {name!r} is taken by a method of .ml; choose another")

    _add_method(name, operator)._operator = operator
    return operator


def _replaces(operator: type, method: Any) -> bool:
    """Return whether a method is that of the same operator, as it was before."""
    old = getattr(method, "_operator", None)
    return old is not None and (old.__module__, old.__qualname__) == (
        operator.__module__,
        operator.__qualname__,
    )


for _name in operators.__all__:
    _operator = getattr(operators, _name)
    if (_method := getattr(_operator, "method", "")) and _method not in vars(FrameAccessor):
        _added = _add_method(_method, _operator)
        _added.__doc__ = docstring_of(_added.__signature__, _operator)


def _join_method(name: str, *kinds: type, also: tuple[type, ...] = (), option: str = "") -> None:
    """Give a method that is one of several operators the arguments and docstrings of all."""
    method: Any = getattr(FrameAccessor, name)
    signature = signature_of(*kinds)
    more = ""
    if option:
        parameter = inspect.Parameter(
            option, inspect.Parameter.KEYWORD_ONLY, default=False, annotation="bool"
        )
        signature = signature.replace(parameters=[*signature.parameters.values(), parameter])
        more = _LATE
    method.__signature__ = signature
    method.__doc__ = docstring_of(signature, *kinds, *also, more=more)


_join_method("score", *SCORERS)
_join_method(
    "chunk",
    operators.Chunker,
    operators.LateChunkEmbedder,
    also=(operators.Embedder,),
    option="late",
)
