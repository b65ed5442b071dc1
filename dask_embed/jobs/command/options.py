"""Options of the command line, taken from the classes whose arguments they are."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterable, Iterator
from typing import Any

import click
import yaml

from dask_embed.jobs.command.steps import Step

# In a docstring: the names of arguments, and what is said of their type.
_HEAD = re.compile(r"^    (\w+(?:, \w+)*)(?: : (.+))?$")
_CHOICES = re.compile(r"^\{(.+)\}")
_TUPLE = re.compile(r'\(("[^()]+", "[^()]+")\)')


class Yaml(click.ParamType):
    """A value that is text, a number, a list or a mapping, as YAML writes it."""

    name = "yaml"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return yaml.safe_load(value)
        except yaml.YAMLError as error:
            self.fail(f"{value!r} is no YAML: {' '.join(str(error).split())}", param, ctx)


YAML = Yaml()


@dataclasses.dataclass(frozen=True)
class _Told:
    """What a docstring says of an argument."""

    kind: str
    text: str


def operator_options(operator: type) -> list[click.Option]:
    """Return an option for each argument of an operator, and for each of the model it runs.

    One that names the columns of the result is an option of the command.
    """
    from dask_embed.models.spec import Model
    from dask_embed.operators.model import ModelOperator

    # whose words others refer to that are none of its kind
    told = _told((*operator.__mro__, ModelOperator))
    parameters = inspect.signature(operator).parameters
    found = [_option(each, told) for name, each in parameters.items() if name != "columns"]
    of_model = _told(Model.__mro__)
    for field, name in model_names(operator).items():
        parameter = inspect.signature(Model).parameters[field]
        found.append(_option(parameter.replace(name=name), {name: of_model[field]}))
    return found


def step_options(step: Step) -> list[click.Option]:
    """Return an option for each argument of a function but for the dataframe."""
    _, *parameters = inspect.signature(step.function).parameters.values()
    told = _told(step.told())
    return [_option(each, told) for each in parameters]


def model_names(operator: type) -> dict[str, str]:
    """Return the fields of a model that can be written as options, and what they are called.

    One that the operator has too is the model's with ``model_`` before it.
    """
    from dask_embed.models.spec import Model

    taken = inspect.signature(operator).parameters
    if "model" not in taken:
        return {}
    return {
        field.name: f"model_{field.name}" if field.name in taken else field.name
        for field in dataclasses.fields(Model)
        if field.name != "name" and "Callable" not in str(field.type)
    }


def _option(parameter: inspect.Parameter, told: dict[str, _Told]) -> click.Option:
    name, default = parameter.name, _shown(parameter.default)
    about = told.get(name, _Told("", ""))
    flag = f"--{name.replace('_', '-')}"
    choices = _choices(about.kind)
    kind, several = _type(str(parameter.annotation), choices)
    switch = kind is click.BOOL
    # what Python writes as a tuple is a list in YAML
    text = _TUPLE.sub(lambda found: f"[{found[1]}]".replace('"', ""), about.text)
    metavar = f"[{'|'.join(choices)}]" if choices else None if kind is click.STRING else kind.name
    return click.Option(
        [f"{flag}/--no-{flag[2:]}" if switch else flag, name],
        type=kind,
        required=parameter.default is parameter.empty,
        multiple=several,
        metavar=None if switch or metavar is None else metavar if choices else metavar.upper(),
        help=text if default is None else f"{text} [default: {default}]",
    )


def _choices(told: str) -> list[str]:
    """Return the values that a docstring allows as they are typed; what is left out is None."""
    match = _CHOICES.match(told)
    each = [value.strip() for value in match[1].split(",")] if match else []
    plain = [value.lower() if value in ("True", "False") else value.strip("\"'") for value in each]
    return [value for value in plain if value != "None"]


def _type(annotation: str, choices: list[str]) -> tuple[click.ParamType, bool]:
    """Return the type of an option, and whether it may be given several times."""
    parts = {part.strip() for part in annotation.split("|")} - {"None"}
    if len(parts) > 1:
        return (click.STRING if "Model" in parts else YAML), False
    (part,) = parts
    if part.startswith(("tuple[str", "Sequence[str")):
        return click.STRING, True
    if part == "str" and choices:
        return click.Choice(choices), False
    types = {"bool": click.BOOL, "str": click.STRING, "int": click.INT, "float": click.FLOAT}
    return types.get(part, YAML), False


def _shown(default: Any) -> str | None:
    if default is None or default == () or default is inspect.Parameter.empty:
        return None
    if isinstance(default, bool):
        return "yes" if default else "no"
    if isinstance(default, tuple):
        return " ".join(map(str, default))
    return default.strip() or repr(default) if isinstance(default, str) else str(default)


def _told(documented: Iterable[Any]) -> dict[str, _Told]:
    """Return what docstrings, of a class and its bases as it may be, say of each argument."""
    found: dict[str, _Told] = {}
    for base in documented:
        for names, about in _arguments(inspect.cleandoc(base.__doc__ or "").splitlines()):
            for name in names:
                if name not in found and not about.text.startswith("See "):
                    found[name] = about
    return found


def _arguments(lines: list[str]) -> Iterator[tuple[list[str], _Told]]:
    """Yield names and description of each argument in the section of parameters."""
    if "Parameters" not in lines:
        return
    names: list[str] = []
    text: list[str] = []
    kind = ""
    for line in lines[lines.index("Parameters") + 2 :]:
        head = _HEAD.match(f"    {line}")
        if head or (line and not line.startswith(" ")) or set(line) == {"-"}:
            if names:
                yield names, _Told(kind, _plain(text))
            if not head:
                return
            names, kind, text = head[1].split(", "), head[2] or "", []
        else:
            text.append(line)
    if names:
        yield names, _Told(kind, _plain(text))


def _plain(lines: list[str]) -> str:
    return " ".join(" ".join(lines).replace("`", "").split())
