"""Chat templates come with checkpoints: code in Jinja that may not run for ever or fill memory.

Jinja's sandbox keeps a template from Python, and transformers renders in it. Neither limits what
a template does with strings and loops: ten nested loops of 99,999, ``'x' * 10**10``, a macro that
calls itself twice. Here every step of a loop, every call, and every character and item that comes
to be is counted, what would be large is refused before it is made, and a rendering ends once it
has done more than a chat can need. That needs neither a thread nor a process to be stopped.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

import jinja2.ext
from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.runtime import LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from dask_embed.text.template_limits import (
    TemplateLimitError,
    Work,
    bound,
    require_small_numbers,
    size_of,
    work,
)

LONGEST_TEMPLATE = 200_000  # characters; those in use have up to 20,000
# Steps, characters and items of a rendering: a few for each character of the chat, and some.
_LEAST_WORK, _WORK_PER_CHARACTER = 1_000_000, 200
_WORK_OF_A_CALL = 10
# Filters that take quadratic time, or have no place in a chat.
_DROPPED = ("pprint", "striptags", "urlize", "xmlattr")


def render(source: str, variables: Mapping[str, Any]) -> str:
    """Return what a chat template makes of `variables`, as transformers would render it.

    Raises
    ------
    TemplateLimitError
        If that takes too long or too much memory.
    jinja2.TemplateError
        If the template is malformed, or refuses the chat.
    """
    template = compiled(source)
    allowed = _LEAST_WORK + _WORK_PER_CHARACTER * size_of(variables)
    try:
        with Work(allowed):
            return template.render(variables)
    except (RecursionError, MemoryError, OverflowError) as error:
        raise TemplateLimitError(f"the chat template goes too deep or too far ({error})") from None


@functools.lru_cache(maxsize=64)
def compiled(source: str) -> jinja2.Template:
    """Return a template ready to `render`.

    Raises
    ------
    TemplateLimitError
        If it is too long, or too deeply nested.
    jinja2.TemplateSyntaxError
        If it is malformed.
    """
    if len(source) > LONGEST_TEMPLATE:
        raise TemplateLimitError(
            f"a chat template must have at most {LONGEST_TEMPLATE:,} characters, "
            f"got {len(source):,}"
        )
    try:
        return _environment().from_string(source)
    except (RecursionError, MemoryError, OverflowError, SyntaxError, ValueError) as error:
        raise TemplateLimitError(
            f"the chat template is nested too deeply, or has numbers of too many digits ({error})"
        ) from None


def _counted_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    passes = hasattr(function, "jinja_pass_arg")  # a context before the value
    name = "%" if name == "format" else name

    @functools.wraps(function)
    def counted(*given: Any, **options: Any) -> Any:
        running = work()  # there is none while Jinja folds constants, which it then leaves alone
        arguments = list(given)
        value = arguments[passes]
        if name == "join" and isinstance(value, Iterator):
            value = arguments[passes] = list(value)
        running.require(bound(name, value, [*arguments[passes + 1 :], *options.values()]))
        return running.counted(function(*arguments, **options))

    return counted


# ------------------------------------------------------------------------------ the environment
class _Environment(ImmutableSandboxedEnvironment):
    """The environment in which transformers renders, and which counts."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = _Counting().visit(super()._parse(source, name, filename))
        tree.set_environment(self)
        return tree

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str):
            given = list(right) if isinstance(right, tuple) else [right]
            work().require(bound("%", left, given))
        require_small_numbers(operator, left, right)
        return work().counted(super().call_binop(context, operator, left, right))

    def call(self, context: Any, obj: Any, /, *given: Any, **options: Any) -> Any:
        running, arguments = work(), list(given)
        method = getattr(obj, "__wrapped__", obj)  # the sandbox wraps str.format
        owner, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
        if isinstance(owner, str):
            if name in ("translate", "maketrans", "encode"):
                raise SecurityError(f"str.{name} is not for chat templates")
            if name == "join" and arguments and isinstance(arguments[0], Iterator):
                arguments[0] = list(arguments[0])
            running.require(bound(name, owner, [*arguments, *options.values()]))
        elif isinstance(owner, int | bytes):
            raise SecurityError(f"{type(owner).__name__}.{name} is not for chat templates")
        elif isinstance(obj, LoopContext):
            running.take(size_of(arguments, running.left))
        running.take(_WORK_OF_A_CALL)
        return running.counted(super().call(context, obj, *arguments, **options))


class _Counting(NodeTransformer):
    """Put a count into every loop, and where lists and strings come to be without a call.

    Jinja calls the methods by the names of its nodes.
    """

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        # text between the tags of a loop is written at each step without further ado
        text = sum(len(each.data) for each in node.find_all(nodes.TemplateData))
        self.generic_visit(node)
        node.iter = _filter(node.iter, "counted_steps", nodes.Const(1 + text))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _filter(nodes.List(node.nodes, lineno=node.lineno), "counted_concat")

    def visit_List(self, node: nodes.List) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _filter(node, "counted")

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _filter(node, "counted")

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _filter(node, "counted") if node.ctx == "load" else node


def _filter(node: Any, name: str, *arguments: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(node, name, list(arguments), [], None, None, lineno=node.lineno)


class _Generation(jinja2.ext.Extension):
    """``{% generation %}``, which marks what an assistant says, and writes nothing itself."""

    tags = {"generation"}  # noqa: RUF012  # as Jinja declares it

    def parse(self, parser: Any) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Namespace(Namespace):
    """A namespace without private attributes."""

    def __init__(*given: Any, **attributes: Any) -> None:
        self, *values = given
        Namespace.__init__(self)
        for name, value in dict(*values, **attributes).items():
            self[name] = value

    def __setitem__(self, name: str, value: Any) -> None:
        if str(name).startswith("_"):
            raise SecurityError(f"a namespace takes no private attribute, got {name!r}")
        super().__setitem__(name, value)


class _Dict:
    """``dict`` in a template, without the attributes of the type."""

    def __call__(self, *given: Any, **items: Any) -> dict[Any, Any]:
        return dict(*given, **items)

    def fromkeys(self, keys: Iterable[Any], value: Any = None) -> dict[Any, Any]:
        return dict.fromkeys(keys, value)


@functools.cache
def _environment() -> _Environment:
    environment = _Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_Generation, jinja2.ext.loopcontrols],
        finalize=_finalized,
    )
    environment.globals.pop("lipsum")
    environment.globals.update(
        dict=_Dict(),
        namespace=_Namespace,
        raise_exception=_raise_exception,
        strftime_now=_strftime_now,
    )
    environment.filters["tojson"] = _to_json
    filters = {
        name: _counted_filter(name, function)
        for name, function in environment.filters.items()
        if name not in _DROPPED
    }
    environment.filters.clear()
    environment.filters.update(
        filters,
        counted=lambda value: work().counted(value),
        counted_concat=_concatenated,
        counted_steps=_steps,
    )
    return environment


@jinja2.pass_context
def _finalized(context: Any, value: Any) -> Any:
    return work().counted(value) if not isinstance(value, Iterator) else value


def _concatenated(parts: list[Any]) -> str:
    work().take(size_of(parts, work().left))
    return "".join(map(str, parts))


def _steps(items: Iterable[Any], weight: int) -> Iterator[Any]:
    work()  # here and not at the first step, so that none is taken while constants are folded
    return _counted_steps(items, max(weight, 1))


def _counted_steps(items: Iterable[Any], weight: int) -> Iterator[Any]:
    running = work()
    for item in items:
        running.take(weight)
        yield item


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Return json without the escapes of HTML that Jinja's own filter writes."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
