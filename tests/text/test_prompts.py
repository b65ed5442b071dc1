"""Templates are parsed once and say what is wrong; chats are what the tokenizer writes."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest
from support.tiny import bpe

from dask_embed.text.prompts import PromptTemplate, render_chat

CHAT = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}{% if quiet %}!{% endif %}"
)


@pytest.mark.parametrize(
    ("template", "columns", "prompt"),
    [
        ("Summarize: {text}", ("text",), "Summarize: a {b}"),
        ("{text}", ("text",), "a {b}"),
        ("{n} of {text}, {n}", ("n", "text"), "3 of a {b}, 3"),
        ("{{{text}}} {{}} }}{{", ("text",), "{a {b}} {} }{"),
        ("{long name}.", ("long name",), "x."),
        ("nothing", (), "nothing"),
        ("", (), ""),
    ],
)
def test_templates(template: str, columns: tuple[str, ...], prompt: str) -> None:
    parsed = PromptTemplate(template)
    assert parsed.columns == columns
    assert parsed.format({"text": "a {b}", "n": 3, "long name": "x", "unused": 0}) == prompt


@pytest.mark.parametrize("template", ["{{{text}}} {{}}", "a {text} b {n}", "}}{{"])
def test_formats_as_python_does(template: str) -> None:
    values = {"text": "t", "n": 1.5}
    assert PromptTemplate(template).format(values) == template.format(**values)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("a { b", r"single '\{' at character 2"),
        ("a } b", r"single '\}' at character 2"),
        ("{text}}", r"single '\}' at character 6"),
        ("{a{b}}", r"single '\{' at character 0"),
        ("{}", "has no name"),
        ("{ }", "has no name"),
        ("{0}", "counts values"),
        ("{text.upper}", "looks into a value"),
        ("{text[0]}", "looks into a value"),
        ("{n:.2f}", "has a conversion or a format"),
        ("{n!r}", "has a conversion or a format"),
    ],
)
def test_malformed_templates_say_what_is_allowed(template: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        PromptTemplate(template)
    assert repr(template) in str(error.value)
    assert "names of columns in braces ('{text}')" in str(error.value)


def test_template_must_be_a_string() -> None:
    with pytest.raises(TypeError, match="must be a string, not 3"):
        PromptTemplate(3)  # type: ignore[arg-type]


def test_missing_column_is_named() -> None:
    with pytest.raises(KeyError, match="reads column 'title'; there are values for \\['text'\\]"):
        PromptTemplate("{title}: {text}").format({"text": "a"})


def test_templates_are_values() -> None:
    template = PromptTemplate("{a} {b}")
    copy = pickle.loads(pickle.dumps(template))
    assert copy == template
    assert hash(copy) == hash(template)
    assert copy.format({"a": 1, "b": 2}) == "1 2"
    assert template != PromptTemplate("{a}  {b}")


def test_chat_is_the_tokenizers() -> None:
    tokenizer = bpe()
    tokenizer.chat_template = CHAT
    assert render_chat(tokenizer, "Hi {x}") == "<user>Hi {x}<assistant>"
    assert (
        render_chat(tokenizer, "Hi", system="Be kind", quiet=True)
        == "<system>Be kind<user>Hi<assistant>!"
    )
    assert render_chat(tokenizer, "Hi", add_generation_prompt=False) == "<user>Hi"


def test_no_chat_template_names_the_model() -> None:
    with pytest.raises(ValueError, match="tokenizer of model 'org/base' has no chat template"):
        render_chat(bpe(), "Hi", model="org/base")


def test_importing_loads_no_torch() -> None:
    code = "import sys, dask_embed.text.prompts; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
