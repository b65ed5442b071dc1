"""What a method of ``.ml`` takes and says, from the operators that it stands for."""

from __future__ import annotations

import inspect
import re
from typing import Any

from dask_embed import operators
from dask_embed._docstrings import ELSEWHERE, blocks_of
from dask_embed._options import known_options
from dask_embed._validation import shown

# In the docstring of a class: the first line of a parameter, and another section's head.
_PARAMETER = re.compile(r"^    (\w[^:\n]*) : ", re.MULTILINE)
_ANY = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_SECTION = re.compile(r"\n\n    [A-Z][a-z ]+\n    -+\n")


def first_of(operator: type) -> str | None:
    """Return the argument that a method takes by place: the column that it reads, or the prompt.

    None of an operator of one's own that has no such field: it takes all by name.
    """
    first = "prompt" if operator is operators.Generator else "column"
    return first if first in inspect.signature(operator).parameters else None


def named(
    name: str, operator: type, args: tuple[Any, ...], options: dict[str, Any]
) -> dict[str, Any]:
    """Return the arguments of a method by name, as its operator takes them.

    Raises
    ------
    TypeError
        If more than the column is given by place, or what the operator runs is not given.
    """
    first, parameters = first_of(operator), inspect.signature(operator).parameters
    needed = [
        each.name
        for each in parameters.values()
        if each.default is each.empty and each.kind not in _ANY and each.name != first
    ]
    subject = needed[0] if needed else None
    if args and first is None:
        raise TypeError(f".ml.{name} takes its arguments by name, got {shown(args[0])} by place")
    if len(args) > 1:
        rest = f"{subject}={shown(args[1])}" if subject else "..."
        raise TypeError(
            f".ml.{name} takes {first} by place and the rest by name: write "
            f".ml.{name}({shown(args[0])}, {rest})"
        )
    if args and first in options:
        raise TypeError(
            f".ml.{name} got {first} twice, {shown(args[0])} and {shown(options[first])}"
        )
    if subject and subject not in options:
        known_options(operator.__name__, options, [*parameters])
        told = f"{first}, " if first else ""
        raise TypeError(f".ml.{name} needs {subject}=, as in .ml.{name}({told}{subject}=...)")
    return {str(first): args[0], **options} if args else options


def signature_of(*kinds: type) -> inspect.Signature:
    """Return the signature of a method of operators: what it reads, then the rest by name."""
    parameters: dict[str, inspect.Parameter] = {}
    chosen = set().union(*(getattr(kind, "chosen_by", ()) for kind in kinds))
    for kind in kinds:
        for name, each in inspect.signature(kind).parameters.items():
            differs = parameters.setdefault(name, each).default != each.default
            if chosen and (differs or name in chosen):  # what the chosen operator says
                parameters[name] = each.replace(default=None, annotation=_or_none(each.annotation))
    first = [parameters.pop(name) for name in (first_of(kinds[0]),) if name]
    rest = [each for each in parameters.values() if each.kind is not each.VAR_POSITIONAL]
    return inspect.Signature(
        [
            inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY),
            *(each.replace(kind=inspect.Parameter.POSITIONAL_OR_KEYWORD) for each in first),
            *(each.replace(kind=max(each.kind, each.KEYWORD_ONLY)) for each in rest),
        ],
        return_annotation=Any,
    )


def _or_none(annotation: str) -> str:
    """Return the annotation of an argument, as it is written, for one that may be None, too."""
    return annotation if "None" in annotation else f"{annotation} | None"


def docstring_of(signature: inspect.Signature, *kinds: type, more: str = "") -> str:
    """Return the docstring of the first of some operators, with all parameters of a method.

    Those that a class leaves to another are told by its bases, by the others, or `ModelOperator`.
    """
    text = ELSEWHERE.sub("", kinds[0].__doc__ or "")
    told = set(re.findall(r"\w+", " ".join(_PARAMETER.findall(text))))
    blocks = []
    for base in (base for kind in (*kinds, operators.ModelOperator) for base in kind.__mro__):
        for names, block in blocks_of(base.__doc__):
            if not told.issuperset(names) and set(names) & set(signature.parameters):
                told.update(names)
                blocks.append(block)
    end = _SECTION.search(text, text.index("----------\n") + len("----------\n"))
    place = len(text.rstrip()) if end is None else end.start()
    return "\n".join(filter(None, [text[:place].rstrip(), *blocks, more])) + "\n" + text[place:]
