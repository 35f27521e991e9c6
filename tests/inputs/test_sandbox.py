"""Templates that would take all time and memory end early, and those of models render as before."""

from __future__ import annotations

import time
import tracemalloc

import pytest

from edgekit.errors import DataError
from edgekit.inputs.chat import question, render
from edgekit.inputs.sandbox import MOST_SECONDS, MOST_TEMPLATE

GROW = "{% set ns = namespace(s=START) %}{% for i in range(90) %}BODY{% endfor %}{{ ns.s }}"


def grow(start: str, body: str) -> str:
    return GROW.replace("START", start).replace("BODY", body)


BOMBS = {
    "loops in loops": "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
    "a loop of long text": "{% for a in range(99999) %}" + "x" * 100_000 + "{% endfor %}",
    "a macro that calls itself twice": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}"
    "{{ f(90) }}",
    "a macro without end": "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "a text times a number": "{{ 'a' * 10000000000 }}",
    "the same where nothing is shown": "{% if 'a' * 10000000000 %}x{% endif %}",
    "bytes times a number": "{{ 'a'.encode() * 10000000000 }}",
    "a list times a number": "{{ [1] * 10000000000 }}",
    "a power": "{{ 10 ** 100000000 }}",
    "squares": grow("3", "{% set ns.s = ns.s * ns.s %}"),
    "texts put together": grow("'a'", "{% set ns.s = ns.s ~ ns.s %}"),
    "texts added": grow("'a'", "{% set ns.s = ns.s + ns.s %}"),
    "lists added": grow("[1]", "{% set ns.s = ns.s + ns.s %}"),
    "lists in lists": grow("[1]", "{% set ns.s = [ns.s, ns.s] %}"),
    "tuples in tuples": grow("[1]", "{% set ns.s = (ns.s, ns.s) %}"),
    "mappings in mappings": grow("[1]", "{% set ns.s = {'a': ns.s, 'b': ns.s} %}"),
    "mappings by a call": grow("[1]", "{% set ns.s = dict(a=ns.s, b=ns.s) %}"),
    "namespaces in namespaces": grow(
        "1", "{% set n = namespace() %}{% set n.a = ns.s %}{% set n.b = ns.s %}{% set ns.s = n %}"
    ),
    "blocks": grow("'aa'", "{% set ns.s %}{{ ns.s }}{{ ns.s }}{% endset %}"),
    "a wide number": "{{ '%1000000000d' % 1 }}",
    "a width beside it": "{{ '%*d' % (1000000000, 1) }}",
    "a wide filter": "{{ '%1000000000d'|format(1) }}",
    "a wide format": "{{ '{:>1000000000}'.format(1) }}",
    "a width of fields": "{{ '{:>{a}{a}{a}{a}{a}}'.format(1, a=99) }}",
    "a width in a list": "{{ '{0[0]:>{0[1]}}'.format([1, 1000000000]) }}",
    "a width in a mapping": "{{ '{a:>1000000000}'.format_map({'a': 1}) }}",
    "center": "{{ 'a'|center(1000000000) }}",
    "zfill": "{{ 'a'.zfill(10000000000) }}",
    "tabs": "{{ ('\t' * 100000).expandtabs(100000) }}",
    "replace": "{{ ('a' * 100000).replace('', 'b' * 100000) }}",
    "replace, a filter": "{{ ('a' * 100000)|replace('a', 'b' * 100000) }}",
    "replace in map": "{{ ('a' * 10000)|map('replace', 'a', 'b' * 1000000)|list|length }}",
    "join": "{{ ('a' * 100000)|join('b' * 100000) }}",
    "join, a method": "{{ ('b' * 100000).join('a' * 100000) }}",
    "join of what is read once": "{{ range(9999)|map('string')|join('x' * 100000) }}",
    "indent": "{{ ('\n' * 100000)|indent(100000) }}",
    "wordwrap": "{{ ('a ' * 100000)|wordwrap(1, true, 'x' * 100000) }}",
    "tojson": "{{ range(100000)|list|tojson(indent=100000) }}",
    "translate": "{{ ('a' * 100000).translate({97: 'b' * 100000}) }}",
    "to_bytes": "{{ (5).to_bytes(1000000000, 'big') }}",
    "batch": "{{ [1]|batch(1000000000, 1)|list }}",
    "sum of lists": "{{ ([[1] * 100] * 1000)|sum(start=[])|length }}",
    "lipsum": "{{ lipsum(100000) }}",
    "range": "{{ range(100000000000)|list }}",
    "loop.cycle": "{% for i in range(99999) %}{{ loop.cycle('a' * 10000) }}{% endfor %}",
    "loops into themselves": "{% for a in [1] recursive %}{{ loop([a, a]) }}{{ loop([a, a]) }}{% endfor %}",
    "slices": "{% set s = 'a' * 3000000 %}{% for i in range(99999) %}{% set t = s[1:] %}{% endfor %}",
    "comparisons": "{% set a = range(99999)|list %}{% set b = range(99999)|list %}"
    "{% for i in range(99999) %}{% if a == b %}{% endif %}{% endfor %}",
    "if in if": "{% if 1 %}" * 2000 + "{% endif %}" * 2000,
    "brackets": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "a long one": "{{ 1 }}" * MOST_TEMPLATE,
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_template_that_never_ends(name: str) -> None:
    tracemalloc.start()
    began = time.thread_time()
    try:
        with pytest.raises(DataError):
            render(BOMBS[name], question("x"))
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert time.thread_time() - began < 4 * MOST_SECONDS  # tracing doubles what a step takes
    assert most < 300_000_000


def test_what_templates_do_goes_on_working() -> None:
    messages = question("Is there a circle?", 2)
    for template, wanted in {
        "{{ messages[0].content|map(attribute='type')|join(', ') }}": "image, image, text",
        "{{ messages[0].content|selectattr('type', 'equalto', 'text')|map(attribute='text')|first }}": (
            "Is there a circle?"
        ),
        "{% for m in messages %}{{ loop.index }}/{{ loop.length }}{{ loop.last }}{% endfor %}": "1/1True",
        "{% for x in [1, [2, [3]]] recursive %}{{ loop(x) if x is iterable else x }},{% endfor %}": "1,2,3,,,",
        "{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k ~ v }}{% else %}none{% endfor %}": "a1b2",
        "{% for x in messages[1:] %}{% else %}none{% endfor %}": "none",
        "{% set ns = namespace(n=0) %}{% for i in range(5) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}": "10",
        "{{ '%s is %05.2f' % ('x', 1.5) }} {{ '{:>5}|{}'.format('a', 3) }} {{ '{{' }}": "x is 01.50     a|3 {{",
        "{{ {'b': 1, 'a': ['é']}|tojson }} {{ {'a': 1}|tojson(indent=2) }}": '{"b": 1, "a": ["é"]} {\n  "a": 1\n}',
        "{{ 'a' * 3 ~ 2 ** 8 ~ 7 % 4 }}{{ [1] + [2] }}": "aaa2563[1, 2]",
        "{{ 1 in (1, 2) and 'ab'[::-1] == 'ba' and [1, 2] != [2] }}": "True",
        "{% macro say(x, y='!') %}{{ x }}{{ y }}{% endmacro %}{{ say('hi') }}{{ say(y='?', x='ho') }}": "hi!ho?",
        "{{ [{'n': 1}, {'n': 2}]|sum(attribute='n') }} {{ ['a', 'b']|join('-')|upper }}": "3 A-B",
        "{% filter upper %}a{{ 'b' }}{% endfilter %}{% set x %}c{{ 1 }}{% endset %}{{ x }}": "ABc1",
        "{{ undefined_name }}{{ messages[7] is defined }}": "False",
    }.items():
        assert render(template, messages) == wanted, template


def test_a_long_conversation_renders() -> None:
    turns = [{"role": "user", "content": "word " * 200} for _ in range(1000)]
    text = render(
        "{% for m in messages %}{{ m.role ~ ': ' ~ m.content|trim }}{{ messages|length }}\n{% endfor %}", turns
    )
    assert len(text.splitlines()) == 1000 and text.startswith("user: word") and text.endswith("1000\n")
