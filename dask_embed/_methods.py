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
_SECTION = re.compile(r"\n\n    [A-Z][a-z ]+\n    -+\n")


def first_of(operator: type) -> str:
    """Return the argument that a method takes by place: the column that it reads, or the prompt."""
    return "prompt" if operator is operators.Generator else "column"


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
    subject = next((each.name for each in parameters.values() if each.default is each.empty), None)
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
        raise TypeError(f".ml.{name} needs {subject}=, as in .ml.{name}({first}, {subject}=...)")
    return {first: args[0], **options} if args else options


def signature_of(*kinds: type) -> inspect.Signature:
    """Return the signature of a method of operators: what it reads, then the rest by name."""
    parameters: dict[str, inspect.Parameter] = {}
    chosen = set().union(*(getattr(kind, "chosen_by", ()) for kind in kinds))
    for kind in kinds:
        for name, each in inspect.signature(kind).parameters.items():
            differs = parameters.setdefault(name, each).default != each.default
            if chosen and (differs or name in chosen):  # what the chosen operator says
                parameters[name] = each.replace(default=None)
    first = parameters.pop(first_of(kinds[0]))
    return inspect.Signature(
        [
            inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY),
            first.replace(kind=inspect.Parameter.POSITIONAL_OR_KEYWORD),
            *(each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters.values()),
        ],
        return_annotation=Any,
    )


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
