"""A file of options, checked as they would be on the command line, with the place of a mistake."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import yaml

from dask_embed._validation import meant, shown
from dask_embed.jobs.command.options import YAML

_NULL = "tag:yaml.org,2002:null"
PLACES = "dask_embed.places"
"""Where in `click.Context.meta` it stands from which place an option is."""


def load(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """Take the options of a file and of ``--set`` as defaults; a callback of both.

    Whichever is read last has the other's in the context: what was set wins.
    """
    ctx.meta[f"dask_embed.{param.name}"] = value
    entries: list[tuple[str, yaml.Node, str]] = []
    if file := ctx.meta.get("dask_embed.config"):
        entries += _of_file(Path(file), ctx)
    known = _known(ctx.command.params)
    entries += [_set(pair, known) for pair in ctx.meta.get("dask_embed.set") or ()]
    ctx.default_map, ctx.meta[PLACES] = {}, {}
    for key, node, place in entries:
        name = key.replace("-", "_")
        if name not in known:
            raise click.UsageError(
                f"{place}: there is no option {key!r}{meant(name, [*known])}; the options are "
                f"{', '.join(known)}"
            )
        ctx.default_map[name] = _checked(known[name], node, place, ctx)
        ctx.meta[PLACES][name] = place
    return value


def command_of(file: Path) -> str:
    """Return the command that a file of options names."""
    for key, value in _items(_root(file), str(file)):
        if key.value == "command" and isinstance(value, yaml.ScalarNode):
            return str(value.value)
    raise click.UsageError(f"{file}: 'command' is missing, as in 'command: embed'")


def _known(params: Iterable[click.Parameter]) -> dict[str, click.Parameter]:
    ours = ("config", "set", "help")
    return {each.name: each for each in params if each.name and each.name not in ours}


def _set(pair: str, known: Mapping[str, click.Parameter]) -> tuple[str, yaml.Node, str]:
    """Return key, value and place of ``key=value``; what takes a text gets it as it is."""
    key, equals, text = pair.partition("=")
    if not equals:
        raise click.UsageError(f"--set takes key=value, got {shown(pair)}")
    place, node = f"--set {key}", yaml.ScalarNode("tag:yaml.org,2002:str", text)
    param = known.get(key.strip().replace("-", "_"))
    if param is not None and (param.type is YAML or param.multiple or param.nargs == -1):
        try:
            node = yaml.compose(text, yaml.SafeLoader) or node
        except yaml.YAMLError as error:
            problem = " ".join(str(error).split())
            raise click.UsageError(f"{place}: {shown(text)} is no YAML: {problem}") from error
    return key.strip(), node, place


def _of_file(file: Path, ctx: click.Context) -> Iterator[tuple[str, yaml.Node, str]]:
    """Yield key, value and place of each option in a file."""
    for key, value in _items(_root(file), str(file)):
        place = _place(file, key)
        if key.value == "command":
            if not isinstance(value, yaml.ScalarNode) or value.value != ctx.command.name:
                raise click.UsageError(
                    f"{_place(file, value)}: the file is for the command {shown(value.value)}, not "
                    f"for {ctx.command.name!r}"
                )
        elif key.value == "model" and isinstance(value, yaml.MappingNode):
            yield from _of_model(value, file, ctx)
        else:
            yield key.value, value, place


def _of_model(
    node: yaml.MappingNode, file: Path, ctx: click.Context
) -> Iterator[tuple[str, yaml.Node, str]]:
    """Yield what is said of the model under its own name: ``model: {name: ..., dtype: ...}``."""
    names: Mapping[str, str] = getattr(ctx.command, "model_options", {})
    for key, value in _items(node, str(file)):
        name = "model" if key.value == "name" else names.get(key.value.replace("-", "_"))
        if name is None:
            allowed = ["name", *names]
            raise click.UsageError(
                f"{_place(file, key)}: a model has no {key.value!r}{meant(key.value, allowed)}; "
                f"what it has is {', '.join(allowed)}"
            )
        yield name, value, _place(file, key)


def _root(file: Path) -> yaml.Node:
    try:
        root = yaml.compose(file.read_text("utf8"), yaml.SafeLoader)
    except OSError as error:
        raise click.UsageError(
            f"the file {shown(str(file))} cannot be read: {error.strerror}"
        ) from error
    except UnicodeDecodeError as error:
        raise click.UsageError(f"the file {str(file)!r} is not UTF-8: {error}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise click.UsageError(f"{file}{at}: this is no YAML: {problem}") from error
    if not isinstance(root, yaml.MappingNode):
        raise click.UsageError(f"{file}:1:1: options must stand as 'name: value', one a line")
    return root


def _items(node: yaml.Node, file: str) -> Iterator[tuple[yaml.ScalarNode, yaml.Node]]:
    """Yield the keys and values of a mapping, each key once."""
    assert isinstance(node, yaml.MappingNode)
    seen: set[str] = set()
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise click.UsageError(f"{_place(file, key)}: the name of an option must be text")
        if key.value in seen:
            raise click.UsageError(f"{_place(file, key)}: {key.value!r} stands here a second time")
        seen.add(key.value)
        yield key, value


def _place(file: Path | str, node: yaml.Node) -> str:
    mark = node.start_mark
    return f"{file}:{mark.line + 1}:{mark.column + 1}"


def _checked(param: click.Parameter, node: yaml.Node, place: str, ctx: click.Context) -> Any:
    """Return what an option takes, converted as the text of a command line would be."""
    several = param.multiple or param.nargs == -1
    value = _value(param, node)
    if several and value is not None and not isinstance(value, list):
        value = [value]
    if not several and isinstance(value, list | dict) and param.type is not YAML:
        raise click.UsageError(f"{place}: {param.name} takes one value, got {shown(value)}")
    try:
        param.type_cast_value(ctx, value)
    except click.BadParameter as error:
        raise click.UsageError(f"{place}: {param.name}: {error.message}") from error
    return value


def _value(param: click.Parameter, node: yaml.Node) -> Any:
    """Return a value as it is written: ``on_error: null`` is the text, where null is a choice."""
    if param.type is not YAML and isinstance(node, yaml.ScalarNode):
        choices = getattr(param.type, "choices", ())
        return None if node.tag == _NULL and node.value not in choices else node.value
    if param.type is not YAML and isinstance(node, yaml.SequenceNode):
        return [_value(param, each) for each in node.value]
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_document(node)
    finally:
        loader.dispose()
