"""Prompts from columns: templates with names in braces, and chats as a tokenizer writes them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dask_embed._validation import shown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# An escaped brace, a name in braces, or a brace that is neither.
_PIECES = re.compile(r"\{\{|\}\}|\{(?P<name>[^{}]*)\}|[{}]")
_ALLOWED = (
    "a template holds text, names of columns in braces ('{text}'), and doubled braces ('{{', "
    "'}}') for braces themselves"
)


@dataclass(frozen=True)
class PromptTemplate:
    """A prompt with the values of columns in it.

    Parameters
    ----------
    template : str
        Text with names of columns in braces: ``"Summarize: {text}"``. Names are taken as they
        are, spaces included. ``{{`` and ``}}`` stand for single braces.

    Raises
    ------
    TypeError
        If the template is not a string.
    ValueError
        If a brace stands alone, a name is missing, or more than a name is in braces.

    Examples
    --------
    >>> template = PromptTemplate("Summarize {{briefly}}: {text}")
    >>> template.columns
    ('text',)
    >>> template.format({"text": "Dask is lazy."})
    'Summarize {briefly}: Dask is lazy.'
    """

    template: str
    _texts: tuple[str, ...] = field(init=False, repr=False, compare=False)
    _names: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.template, str):
            raise TypeError(f"a template must be a string, not {shown(self.template)}")
        texts, names = _parse(self.template)
        object.__setattr__(self, "_texts", texts)
        object.__setattr__(self, "_names", names)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that it reads, each once, in the order of the template."""
        return tuple(dict.fromkeys(self._names))

    def format(self, values: Mapping[str, object]) -> str:
        """Return the prompt for one row.

        Parameters
        ----------
        values : mapping of str
            A value for every one of `columns`; what is not a string is written as by `str`.

        Raises
        ------
        KeyError
            If a column is missing.
        """
        missing = [name for name in self.columns if name not in values]
        if missing:
            raise KeyError(
                f"the template reads column {missing[0]!r}; there are values for {sorted(values)}"
            )
        filled = (
            piece
            for text, name in zip(self._texts, self._names, strict=False)
            for piece in (text, str(values[name]))
        )
        return "".join((*filled, self._texts[-1]))


def render_chat(
    tokenizer: PreTrainedTokenizerBase,
    user: str,
    *,
    system: str | None = None,
    model: str = "",
    **arguments: Any,
) -> str:
    """Write a conversation that the model is to continue, with its tokenizer's template.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
    user : str
        What the user says.
    system : str, optional
        Instructions before it. Not every template takes them.
    model : str
        Name for the error message; the tokenizer's own by default.
    **arguments
        Passed on to the template: ``enable_thinking=False``.

    Returns
    -------
    str
        The prompt up to where the answer begins. It holds the special tokens, so that it must be
        tokenized with ``add_special_tokens=False``.

    Raises
    ------
    ValueError
        If the tokenizer has no chat template.
    """
    if not (tokenizer.chat_template or arguments.get("chat_template")):
        name = model or tokenizer.name_or_path or type(tokenizer).__name__
        raise ValueError(
            f"the tokenizer of model {name!r} has no chat template; use a model that was tuned "
            "for chats, or give the prompt as plain text"
        )
    messages = [] if system is None else [{"role": "system", "content": system}]
    messages.append({"role": "user", "content": user})
    return render_messages(tokenizer, messages, **{"add_generation_prompt": True, **arguments})


def render_messages(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, Any]], **given: Any
) -> str:
    """Return what a tokenizer's chat template, or the one that is given, makes of messages."""
    if not _renders_jinja(tokenizer):
        return str(tokenizer.apply_chat_template(messages, tokenize=False, **given))
    from dask_embed.text.templates import render  # noqa: PLC0415 - Jinja, for chats alone

    chat_template = tokenizer.get_chat_template(given.pop("chat_template", None))
    variables = {"messages": messages, "tools": None, "documents": None}
    return render(chat_template, {**tokenizer.special_tokens_map, **given, **variables})


def _renders_jinja(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether chats are written as in most tokenizers; mistral-common has its own way."""
    from transformers import PreTrainedTokenizerBase

    kind = type(tokenizer)
    return kind.apply_chat_template is PreTrainedTokenizerBase.apply_chat_template


def _parse(template: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the texts around the names, one more than names, and the names."""
    texts, names, start = [""], [], 0
    for match in _PIECES.finditer(template):
        texts[-1] += template[start : match.start()]
        start = match.end()
        name = match["name"]
        if name is not None:
            names.append(_column(name, match[0], template))
            texts.append("")
        elif len(match[0]) == 2:
            texts[-1] += match[0][0]
        else:
            raise ValueError(
                f"template {template!r} has a single {match[0]!r} at character {match.start()}: "
                f"{_ALLOWED}"
            )
    texts[-1] += template[start:]
    return tuple(texts), tuple(names)


def _column(name: str, given: str, template: str) -> str:
    problem = ""
    if not name.strip():
        problem = "has no name"
    elif name.isdigit():
        problem = "counts values"
    elif "!" in name or ":" in name:
        problem = "has a conversion or a format"
    elif "." in name or "[" in name:
        problem = "looks into a value"
    if problem:
        raise ValueError(f"{given!r} in template {template!r} {problem}: {_ALLOWED}")
    return name
