"""Chat templates: what they write is what transformers writes, and none goes on for ever."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any

import jinja2
import pytest
from support.tiny import bpe
from transformers.utils.chat_template_utils import render_jinja_template

from dask_embed.text import templates
from dask_embed.text.prompts import render_chat
from dask_embed.text.template_limits import TemplateLimitError

CHATS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "Hello <there> & 'you'"}],
    [{"role": "system", "content": " Be brief.\n"}, {"role": "user", "content": "日本語 é\n\n"}],
    [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "<think>hm</think>\n\ntwo"},
        {"role": "user", "content": ""},
    ],
]
VARIABLES: dict[str, Any] = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "quiet": True,
    "shape": (1, 2.5, None),
    "table": {"b": 1, "a": {"c": ["x", "é"]}},
}
# Each uses what templates of models in use are made of.
TEMPLATES = {
    "turns": """{{ bos_token }}{% for message in messages %}
        {%- if message['role'] == 'user' -%} [INST] {{ message.content | trim }} [/INST]
        {%- else %} {{ message['content'].strip() + ' ' + eos_token }}{% endif %}
    {%- endfor %}
    {% if add_generation_prompt %}>{% endif %}
    """,
    "loop variables": "{% for m in messages %}{{ loop.index0 }}/{{ loop.length }}"
    "{{ loop.first }}{{ loop.last }}{{ loop.previtem.role if loop.previtem else '-' }}"
    "{{ loop.cycle('a', 'b') }}{% endfor %}",
    "else of a loop": "{% for m in messages if m.role == 'none' %}x{% else %}none{% endfor %}",
    "backwards": "{% set ns = namespace(last=-1) %}{% for m in messages[::-1] %}"
    "{% if m.role == 'user' and ns.last == -1 %}{% set ns.last = loop.index %}{% endif %}"
    "{% endfor %}{{ ns.last }}{{ messages[-1].content[:3] }}",
    "thinking": "{% for m in messages %}{% if '</think>' in m.content %}"
    "{{ m.content.split('</think>')[-1].lstrip('\\n') }}{% else %}{{ m.content }}{% endif %}"
    "{% endfor %}{% if quiet is defined and quiet is true %}<think></think>{% endif %}",
    "macro": "{% macro turn(role, text='-') %}<{{ role|upper }}>{{ text }}{% endmacro %}"
    "{% for m in messages %}{{ turn(m.role, m.content) }}{% endfor %}{{ turn('x') }}",
    "caller": "{% macro box() %}[{{ caller() }}]{% endmacro %}{% call box() %}in{% endcall %}",
    "json": "{{ messages|tojson }}{{ table|tojson(indent=2) }}{{ shape|tojson }}"
    "{{ table|tojson(sort_keys=true, separators=(',', ':')) }}",
    "containers": "{{ [1, 'a', [2]] }}{{ (1, ) }}{{ {'a': [none, true]} }}{{ dict(a=1) }}"
    "{% for k, v in table.items() %}{{ k }}={{ v }};{% endfor %}{{ table|dictsort }}"
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}",
    "filters": "{{ messages|map(attribute='role')|join(', ') }}{{ messages|length }}"
    "{{ messages|selectattr('role', 'equalto', 'user')|list|length }}{{ [3, 1]|sort|first }}"
    "{{ 'a-b'|replace('-', '+')|title }}{{ none|default('d', true) }}{{ 'x\\ny'|indent(4) }}"
    "{{ [1, 2, 3]|batch(2)|list }}{{ range(3)|map('string')|list }}{{ '3'|int + 4 }}"
    "{{ [1, 2]|sum }}{{ 2.567|round(1) }}{{ 'abc'|reverse }}{{ '%s-%03d'|format('a', 5) }}",
    "read once": "{% set roles = messages|map(attribute='role') %}"
    "{% for r in roles %}{{ r }}{% endfor %}{% for r in roles %}again{% endfor %}",
    "strings": "{{ 'a' ~ 1 ~ none ~ missing ~ [2] }}{{ 'ab' * 3 }}{{ '{}:{x}'.format(1, x=2) }}"
    "{{ ','.join(['a', 'b']) }}{{ 'aXbX'.replace('X', '--') }}{{ '%d%%' % 5 }}"
    "{{ 'Ab'.lower().startswith('a') }}{{ 'a b'.split() }}{{ 'x'.center(5) }}",
    "numbers": "{{ 7 // 2 }}{{ 7 % 4 }}{{ 2 ** 10 }}{{ 1 / 4 }}{{ -3 }}{{ 3 * 1.5 }}{{ 10 ** -2 }}",
    "control": "{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}"
    "{% if i == 5 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "set block": "{% set x %}a{{ quiet }}b{% endset %}{{ x }}{{ x|length }}"
    "{% filter upper %}low{{ 1 }}{% endfilter %}{% with y = 3 %}{{ y }}{% endwith %}",
    "generation": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}\n"
    "{%- endfor %}",
    "recursive": "{% for x in [1, [2, [3]]] recursive %}{% if x is iterable %}({{ loop(x) }})"
    "{% else %}{{ x }}{% endif %}{% endfor %}",
    "undefined": "{{ missing }}{{ missing is defined }}{{ tools is none }}{{ documents }}",
    "comments": "{# nothing #}  {% if true %}\n  line\n  {% endif %}\n{% raw %}{{ x }}{% endraw %}",
    "year": "{{ strftime_now('%Y') }}",
}


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("chat", range(len(CHATS)))
@pytest.mark.parametrize("prompt", [True, False])
def test_chats_are_those_of_transformers(name: str, chat: int, prompt: bool) -> None:
    (expected,), _ = render_jinja_template(
        [CHATS[chat]], chat_template=TEMPLATES[name], add_generation_prompt=prompt, **VARIABLES
    )
    given = {"tools": None, "documents": None, "add_generation_prompt": prompt, **VARIABLES}
    found = templates.render(TEMPLATES[name], {"messages": CHATS[chat], **given})
    assert found == expected


def test_a_tokenizer_brings_its_own_tokens_and_templates() -> None:
    tokenizer = bpe()
    tokenizer.chat_template = {
        "default": "{{ bos_token }}{{ messages[0].content }}",
        "other": "{{ eos_token }}{{ x }}",
    }
    for options in ({}, {"chat_template": "other", "x": 3}, {"chat_template": "own{{ x }}"}):
        expected = tokenizer.apply_chat_template(
            [{"role": "user", "content": "Hi"}], tokenize=False, **options
        )
        assert render_chat(tokenizer, "Hi", **options) == expected


def test_what_a_template_refuses_or_gets_wrong_is_told() -> None:
    with pytest.raises(jinja2.TemplateError, match="no system role"):
        templates.render("{{ raise_exception('no system role') }}", {})
    with pytest.raises(jinja2.TemplateSyntaxError):
        templates.render("{% for m in %}", {})


def test_threads_count_for_themselves() -> None:
    """Many renderings at a time, each near what one may do."""
    source = "{% for i in range(90000) %}{% set x = 'ab' %}{% endfor %}{{ n }}"
    found: dict[int, str] = {}

    def run(number: int) -> None:
        found[number] = templates.render(source, {"n": number})

    threads = [threading.Thread(target=run, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: str(number) for number in range(16)}


def test_a_long_message_may_take_longer() -> None:
    message = "word " * 400_000  # 2 MB
    source = "{% for m in messages %}{{ m.content.strip().replace('\\n', ' ')|trim }}{% endfor %}"
    chat = [{"role": "user", "content": message}]
    assert templates.render(source, {"messages": chat}) == message.strip()


GROW = "{% set ns = namespace(x=START) %}{% for i in range(60) %}{% set ns.x = STEP %}{% endfor %}"
LONG = "{% set x = 'a' * 200000 %}"


def grown(start: str, step: str, end: str = "{{ ns.x }}") -> str:
    return GROW.replace("START", start).replace("STEP", step) + end


ENDLESS = {
    "nested loops": "{% for a in range(99999) %}" * 5 + "{% endfor %}" * 5,
    "loops over a text": LONG + "{% for a in x %}" * 5 + "{% endfor %}" * 5,
    "condition of a loop": "{% for i in range(99999) if range(99999)|sum > 0 %}{% endfor %}",
    "macro that calls itself twice": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}"
    "{% endif %}{% endmacro %}{{ f(80) }}",
    "macro without an end": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "recursive loop": "{% for i in range(99999) recursive %}{{ loop(range(99999)) }}{% endfor %}",
    "more steps by a filter": "{{ 1|counted_steps(-10**9) }}"
    + "{% for a in range(99999) %}" * 3
    + "{% endfor %}" * 3,
    "text times a number": "{{ 'x' * 10**10 }}",
    "number times a text": "{{ 10**10 * 'x' }}",
    "list times a number": "{{ [1] * 10**10 }}",
    "power of a power": "{{ 10 ** (10 ** 10) }}",
    "squares": grown("9", "ns.x * ns.x"),
    "joined twice": grown("'xx'", "ns.x ~ ns.x"),
    "added twice": grown("'xx'", "ns.x + ns.x"),
    "lists added": grown("[1]", "ns.x + ns.x"),
    "join of two": grown("'xx'", "[ns.x, ns.x]|join"),
    "method join of two": grown("'xx'", "'-'.join([ns.x, ns.x])"),
    "formatted twice": grown("'xx'", "'{0}{0}'.format(ns.x)"),
    "percent twice": grown("'xx'", "'%s%s' % (ns.x, ns.x)"),
    "replaced": grown("'xx'", "ns.x.replace('x', 'xx')"),
    "blocks": "{% set ns = namespace(x='xx') %}{% for i in range(60) %}{% set y %}{{ ns.x }}"
    "{{ ns.x }}{% endset %}{% set ns.x = y %}{% endfor %}{{ ns.x }}",
    "list of lists": grown("[1]", "[ns.x, ns.x]"),
    "tuples as a key": grown("(1,)", "(ns.x, ns.x)", "{{ {ns.x: 1} }}"),
    "dicts as json": grown("{}", "{'a': ns.x, 'b': ns.x}", "{{ ns.x|tojson }}"),
    "dict()": grown("{}", "dict(a=ns.x, b=ns.x)"),
    "namespaces": "{% set ns = namespace(x=1) %}{% for i in range(60) %}"
    "{% set other = namespace(a=ns.x, b=ns.x) %}{% set ns.x = other %}{% endfor %}{{ ns }}",
    "center filter": "{{ 'x'|center(10**10) }}",
    "center": "{{ 'x'.center(10000000000) }}",
    "ljust": "{{ 'x'.ljust(10000000000) }}",
    "zfill": "{{ 'x'.zfill(10000000000) }}",
    "expandtabs": "{{ '\t'.expandtabs(10000000000) }}",
    "format filter": "{{ '%9999999999d'|format(1) }}",
    "width given": "{{ '%*d'|format(9999999999, 1) }}",
    "format": "{{ '{:9999999999}'.format(1) }}",
    "nested format": "{{ '{:{}}'.format(1, 9999999999) }}",
    "format_map": "{{ '{x:9999999999}'.format_map({'x': 1}) }}",
    "precision": "{{ '%.9999999999f' % 1.5 }}",
    "replace": LONG + "{{ x.replace('a', x) }}",
    "replace filter": LONG + "{{ x|replace('a', x) }}",
    "replace nothing": LONG + "{{ x.replace('', x) }}",
    "join": LONG + "{{ x.join(range(9999)|map('string')) }}",
    "join filter": LONG + "{{ range(9999)|join(x) }}",
    "indent": "{% set x = '\\n' * 100000 %}{{ x|indent(99999) }}",
    "indent by a text": "{% set x = '\\n' * 100000 %}{{ x|indent(x, true) }}",
    "json": "{{ [[[1]]]|tojson(indent=9999999999) }}",
    "wordwrap": LONG + "{{ x|wordwrap(1, true, x) }}",
    "round": "{{ 15|round(-10**9) }}",
    "round up": "{{ 1|round(10**8, 'ceil') }}",
    "round by map": "{{ [1]|map('round', 10**8, 'floor')|list }}",
    "digits": "{{ " + "9" * 150_000 + " }}",
    "batch": "{{ [1]|batch(9999999999, 'x')|list }}",
    "slice": "{{ [1]|slice(9999999999)|list }}",
    "sum of lists": "{% set x = [[1]] * 99999 %}{{ x|sum(start=[])|length }}",
    "range": "{{ range(10**9)|list }}",
    "text in a loop": "{% for i in range(99999) %}" + "x" * 50000 + "{% endfor %}",
    "text in a block": "{% set y %}{% for i in range(99999) %}"
    + "x" * 50000
    + "{% endfor %}{% endset %}",
    "deep": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "deep blocks": "{% if true %}" * 300 + "{% endif %}" * 300,
    "long": "x" * 300_000,
}
FORBIDDEN = {
    "lipsum": "{{ lipsum(n=10**9) }}",
    "translate": "{{ 'a'.translate({97: 'b'}) }}",
    "bytes": "{{ (5).to_bytes(9999999999, 'big') }}",
    "class": "{{ ''.__class__.__mro__ }}",
    "globals": "{{ raise_exception.__globals__ }}",
    "private": "{% set ns = namespace(__class__=1) %}",
    "attr": "{{ ''|attr('__class__') }}",
    "format of a class": "{{ '{0.__class__.__mro__}'.format(1) }}",
    "change": "{{ messages.append(1) }}",
    "include": "{% include '/etc/passwd' %}",
    "import": "{% import 'os' as os %}",
}
VARIABLES_OF_A_CHAT = {"messages": CHATS[0], "tools": None, "add_generation_prompt": True}


@pytest.mark.parametrize("name", ENDLESS)
def test_no_template_goes_on_for_ever(name: str) -> None:
    started = time.thread_time()
    with pytest.raises(TemplateLimitError, match="chat template"):
        templates.render(ENDLESS[name], VARIABLES_OF_A_CHAT)
    assert time.thread_time() - started < 12  # most take milliseconds


@pytest.mark.parametrize("name", FORBIDDEN)
def test_no_template_reaches_out(name: str) -> None:
    with contextlib.suppress(jinja2.TemplateError, TypeError):  # or nothing is to be seen
        assert templates.render(FORBIDDEN[name], VARIABLES_OF_A_CHAT) == ""
