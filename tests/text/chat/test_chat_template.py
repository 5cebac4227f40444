"""Rendering: what templates are given, what is forbidden to them, and how their errors read."""

import builtins
import time

import pytest

from lepton_edge.errors import MachineError, RequestError, TemplateError
from lepton_edge.text.chat.template import ChatTemplate

pytest.importorskip("jinja2", reason="needs the extra 'chat'")

CHATML = """
{%- for message in messages %}
{{- bos_token if loop.first }}<|im_start|>{{ message.role }}
{{ message['content'] | trim }}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}
<|im_start|>assistant
{% endif %}
"""
USER = [{"role": "user", "content": " <Hi> & 'bye' "}]


def render(source: str, messages=USER, **values) -> str:
    tools, documents = values.pop("tools", None), values.pop("documents", None)
    return ChatTemplate(source, "some.jinja").render(messages, tools, documents, values=values)


def test_a_conversation() -> None:
    messages = [*USER, {"role": "assistant", "content": "Ok"}]
    expected = "<s><|im_start|>user\n<Hi> & 'bye'<|im_end|>\n<|im_start|>assistant\nOk<|im_end|>\n"
    assert render(CHATML, messages, bos_token="<s>") == expected + "<|im_start|>assistant\n"
    whole = ChatTemplate(CHATML, "x").render(messages, add_generation_prompt=False, values={"bos_token": "<s>"})
    assert whole == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ messages | tojson }}", '[{"role": "user", "content": " <Hi> & \'bye\' "}]'),
        ("{{ {'b': 'é', 'a': [1, none]} | tojson(indent=2, sort_keys=true) }}",
         '{\n  "a": [\n    1,\n    null\n  ],\n  "b": "é"\n}'),
        ("{{ {'a': 1} | tojson(separators=(',', ':'), ensure_ascii=true) }}", '{"a":1}'),
        ("{% for i in range(9) %}{% if i == 3 %}{% break %}{% endif %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}"
         "{% endfor %}", "02"),
        ("a{% generation %}\n  {% set x = 1 %}b{{ x }}{% endgeneration %}c{{ x }}", "ab1c"),
        ("{{ tools }}{{ documents }}{{ nothing }}|", "NoneNone|"),
        ("{% for x in [3, 1, 2] if x > 1 %}{{ loop.index }}/{{ loop.length }}:{{ x }}{{ loop.last }} {% endfor %}",
         "1/2:3False 2/2:2True "),
        ("{% macro m(x) %}[{{ x }}{{ caller() }}]{% endmacro %}{% call m(1) %}!{% endcall %}", "[1!]"),
        ("{{ 'a' ~ 1 ~ none ~ [2] }}{{ 'a' + 'b' }}{{ 2 * 3 + 2 ** 3 % 5 }}{{ '%s-%d' % ('x', 3) }}",
         "a1None[2]ab9x-3"),
        ("{{ '{}:{:>4}'.format('a', 1) }}{{ 'x'.center(3) }}{{ [1, 2] | join(', ') }}{{ [1, 2] | sum }}",
         "a:   1 x 1, 23"),
        ("{% set ns = namespace(n=0) %}{% for m in [1, 2] %}{% set ns.n = ns.n + m %}{% endfor %}{{ ns.n }}", "3"),
        ("{{ [{'a': {'b': 1}}, {'a': {'b': 2}}] | map(attribute='a.b') | join('+') }}", "1+2"),
        ("{{ [{'a': 1}, {'a': 2}] | join('+', attribute='a') }}{{ [{'a': 1}, {'a': 2}] | sum(attribute='a') }}",
         "1+23"),
        ("{% for x in [[1, [2]]] recursive %}{{ loop(x) if x is iterable else x }}{% endfor %}", "12"),
        ("{{ dict(a=1) }}{% set x %}y{% endset %}{{ x | upper }}", "{'a': 1}Y"),
    ],
)  # fmt: skip
def test_what_a_template_can_do(source: str, expected: str) -> None:
    assert render(source) == expected


def test_the_clock_can_be_asked(monkeypatch) -> None:
    from golden.chats import NOW

    monkeypatch.setattr("lepton_edge.text.chat.sandbox.now", lambda: NOW)
    assert render("{{ strftime_now('%d %b %Y %H:%M') }}") == "09 Mar 2025 14:05"


def test_a_long_conversation_is_within_the_bounds() -> None:
    messages = [{"role": "user", "content": "word " * 50}] * 4000
    assert len(render(CHATML, messages)) > 4000 * 250


def test_a_refusal_is_the_callers_error() -> None:
    with pytest.raises(RequestError, match=r"^some\.jinja, line 2: .*refuses these messages: no <tools> here; "):
        render("\n{{ raise_exception('no <tools>\n here') }}")


@pytest.mark.parametrize(
    ("source", "line", "said"),
    [
        ("a\n\n{% foo %}", 3, "unknown tag 'foo'"),
        ("a\n{{ messages", 2, "unexpected end of template"),
        ("\n{{ missing.field }}", 2, "UndefinedError: 'missing' is undefined"),
        ("\n\n{% for m in messages %}\n{{ m.content + 1 }}{% endfor %}", 4, "TypeError"),
        ("{{ nothing | nofilter }}", 1, "nofilter"),
        ("{% macro f() %}\n{{ 1 / 0 }}{% endmacro %}\n{{ f() }}", 2, "ZeroDivisionError"),
    ],
)
def test_errors_name_the_template_and_the_line(source: str, line: int, said: str) -> None:
    with pytest.raises(TemplateError) as raised:
        render(source)
    assert str(raised.value).startswith(f"some.jinja, line {line}: ")
    assert said in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "source",
    [
        "{% include '/etc/passwd' %}",
        "{% import '/etc/passwd' as x %}",
        "{% extends 'x' %}",
        "{{ ''.__class__.__mro__ }}",
        "{{ raise_exception.__globals__.x }}",
        "{{ (messages | attr('__class__')).x }}",
        "{{ '{0.__class__.__mro__}'.format('') }}",
        "{{ namespace.__init__.x }}",
        "{{ self.__init__.x }}",
        "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
        "{{ namespace(__class__=1) }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='x') }}",
        "{{ lipsum() }}",
        "{{ cycler.x }}",
        "{{ (1).to_bytes(9, 'big') }}",
    ],
)
def test_there_is_no_way_out(source: str) -> None:
    messages = [dict(USER[0])]
    with pytest.raises(TemplateError):
        render(source, messages)
    assert messages == USER


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% for a in range(99999) %}{% for b in range(99999) if false %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% for x in range(2) recursive %}{{ loop(range(2)) if loop.depth < 60 }}{% endfor %}",
        "{% set l = range(9999) | list %}{% for x in l %}{% for y in l | map('string') %}{% endfor %}{% endfor %}",
    ],
)
def test_endless_loops_end(monkeypatch, source: str) -> None:
    monkeypatch.setattr("lepton_edge.text.chat.sandbox.SECONDS", 0.05)
    started = time.monotonic()
    with pytest.raises(TemplateError, match=r"line 1: .*takes more than"):
        render(source)
    assert time.monotonic() - started < 5


DOUBLE = "{%% set ns = namespace(s=%s) %%}{%% for i in range(99) %%}{%% set ns.s = %s %%}{%% endfor %%}"


@pytest.mark.parametrize(
    "source",
    [
        DOUBLE % ("'aaaa'", "ns.s ~ ns.s"),
        DOUBLE % ("'aaaa'", "ns.s + ns.s"),
        DOUBLE % ("'aaaa'", "[ns.s, ns.s] | join"),
        DOUBLE % ("'aaaa'", "'%s%s' % (ns.s, ns.s)"),
        DOUBLE % ("'aaaa'", "'{0}{0}'.format(ns.s)"),
        DOUBLE % ("'aaaa'", "ns.s.replace('a', 'aa')"),
        DOUBLE % ("'aaaa'", "ns.s | replace('a', 'aa')"),
        DOUBLE % ("[1, 1]", "ns.s + ns.s"),
        DOUBLE % ("[1, 1]", "[ns.s, ns.s]") + "{{ ns.s }}",
        DOUBLE % ("[1, 1]", "[ns.s, ns.s]") + "{{ ns.s | tojson }}",
        DOUBLE % ("[1, 1]", "[ns.s, ns.s]") + "{{ ns.s ~ '' }}",
        DOUBLE % ("[1, 1]", "[ns.s, ns.s]") + "{{ ns.s | upper }}",
        "{{ 'a' * 10 ** 10 }}",
        "{{ [1] * 10 ** 10 }}",
        "{{ 10 ** (10 ** 10) }}",
        "{{ 'a'.center(10 ** 10) }}",
        "{{ 'a' | center(1000000000) }}",
        "{{ ['a'] | batch(1000000000, 'x') | list }}",
        "{{ 'a' | indent(1000000000, true) }}",
        "{{ 1 | round(1000000000) }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '%*d' % (1000000000, 1) }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ '{:{}}'.format(1, 1000000000) }}",
        "{{ [1] | tojson(indent=1000000000) }}",
        "{{ strftime_now('%1000000000d') }}",
        "{% for x in range(99999) %}" + "a" * 9999 + "{% endfor %}",
        "{% set x %}{% for x in range(99999) %}" + "a" * 9999 + "{% endfor %}{% endset %}",
    ],
)
def test_huge_texts_are_refused_before_they_are_made(monkeypatch, source: str) -> None:
    monkeypatch.setattr("lepton_edge.text.chat.sandbox.MEMORY", 1 << 20)
    started = time.monotonic()
    with pytest.raises(TemplateError):
        render(source)
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    "source",
    ["{" * 100_000, "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "{{ " + "-" * 50_000 + "1 }}", "a" * (2 << 20)],
    ids=["braces", "brackets", "signs", "size"],
)
def test_templates_that_break_the_compiler(source: str) -> None:
    with pytest.raises(TemplateError, match=r"^some\.jinja"):
        render(source)


def test_the_text_has_a_bound(monkeypatch) -> None:
    monkeypatch.setattr("lepton_edge.text.chat.template.MOST_TEXT", 1000)
    assert len(render("{{ 'a' * 1000 }}")) == 1000
    with pytest.raises(TemplateError, match="more than 1000 characters"):
        render("{{ 'a' * 1001 }}")


def test_without_jinja_the_error_says_what_to_install(monkeypatch) -> None:
    real = builtins.__import__

    def without(name, *arguments, **keywords):
        if name.split(".")[0] == "jinja2":
            raise ModuleNotFoundError("No module named 'jinja2'", name="jinja2")
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MachineError, match=r"pip install 'lepton-edge\[chat\]'"):
        ChatTemplate("x", "x")


def test_an_old_jinja_is_refused(monkeypatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: "3.1.5")
    with pytest.raises(MachineError, match=r"jinja2 3\.1\.6 or newer, and 3\.1\.5"):
        ChatTemplate("x", "x")
