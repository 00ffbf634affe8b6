"""Templates that would run for ever or fill the memory are stopped; what templates use works."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from sensorium.errors import ConfigError, RequestError
from sensorium.tokenizer import ChatTemplate
from sensorium.tokenizer.meter import Meter, TemplateLimitError, TemplateLimits

TALK = [{"role": "user", "content": "hi"}]
#: A small budget, so that what only steps bound ends soon on any machine.
FEW = TemplateLimits(steps=20_000)


def render(source: str, limits: TemplateLimits = FEW, **variables: Any) -> str:
    template = ChatTemplate(source, {}, limits=limits)
    return template.render(TALK, add_generation_prompt=True, **variables)


GROWS = (
    "{{% set ns = namespace(s={start}) %}}"
    "{{% for i in range(99) %}}{{% set ns.s = {step} %}}{{% endfor %}}{end}"
)


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% for a in range(99999) if a < 0 %}{% endfor %}",
        "{% for x in [1] recursive %}{{ loop(range(99)) }}{{ loop(range(99)) }}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{{ range(99999) | map('upper') | list }}",
        "{{ range(99999) | select('in', [1]) | list }}",
        "{{ range(99999) | sum }}",
        "{% macro f() %}{% for i in range(999) %}{{ caller() }}{% endfor %}{% endmacro %}"
        "{% call f() %}{% for i in range(999) %}{% endfor %}{% endcall %}",
    ],
)  # fmt: skip
def test_what_repeats_without_end_is_stopped(source: str) -> None:
    with pytest.raises(RequestError, match=r"was stopped: it takes more than 20000 steps|recurses"):
        render(source)


@pytest.mark.parametrize(
    "source",
    [
        GROWS.format(start="'x'", step="ns.s ~ ns.s", end=""),
        GROWS.format(start="'x'", step="ns.s + ns.s", end=""),
        GROWS.format(start="'xx'", step="ns.s|join(ns.s)", end=""),
        GROWS.format(start="'xx'", step="ns.s.replace('x', ns.s)", end=""),
        GROWS.format(start="'xx'", step="ns.s|replace('x', ns.s)", end=""),
        GROWS.format(start="3", step="ns.s * ns.s", end=""),
        GROWS.format(start="[1]", step="[ns.s, ns.s]", end="{{ ns.s }}"),
        GROWS.format(start="(1,)", step="(ns.s, ns.s)", end="{{ ns.s }}"),
        GROWS.format(start="{}", step="{'a': ns.s, 'b': ns.s}", end="{{ ns.s | tojson }}"),
        GROWS.format(start="{}", step="dict(a=ns.s, b=ns.s)", end="{{ ns.s }}"),
        GROWS.format(start="namespace()", step="namespace(a=ns.s, b=ns.s)", end="{{ ns.s }}"),
        GROWS.format(start="namespace()", step="namespace(a=ns.s, b=ns.s)", end="{{ [ns.s] }}"),
        GROWS.format(start="namespace()", step="namespace(a=ns.s, b=ns.s)", end="{{ ns.s ~ 1 }}"),
        "{{ 'x' * 10**10 }}",
        "{{ 10**10 * [1] }}",
        "{{ 9 ** (9 ** 9) }}",
        "{{ '%999999999d' % 1 }}",
        "{{ '%*d' % (999999999, 1) }}",
        "{{ '%(a).999999999f' % {'a': 1} }}",
        "{{ '%999999999d' | format(1) }}",
        "{{ '{:>999999999}'.format(1) }}",
        "{{ '{:>{w}}'.format(1, w=999999999) }}",
        "{{ 'x' | center(10**9) }}",
        "{{ 'x'.ljust(10**9) }}",
        "{{ ('x' | attr('zfill'))(10**9) }}",
        "{{ messages | tojson(indent=10**9) }}",
        "{{ ('a\n' * 9) | indent(10**9) }}",
        "{{ [1] | batch(10**9, 1) | list }}",
        "{{ [1] | slice(10**9) | list }}",
        "{{ 1.5 | round(10**9) }}",
        "{{ ('x ' * 9**7).split() }}",
        "{{ ('x' * 9**6) | list }}",
        "{{ ('f' * 10**6) | int(0, 16) }}",
        "{{ strftime_now('%99999999Y') }}",
        "{% set b = 'x' * 10**6 %}{% for i in range(99) %}{{ b }}{% endfor %}",
        "{% set z %}{% for i in range(99) %}{{ 'x' * 10**6 }}{% endfor %}{% endset %}",
        "{% set ns = namespace(s=0) %}{% for i in range(9999) %}"
        "{% set ns.s = namespace(a=ns.s, b='x' * 10**6 ~ i) %}{% endfor %}",
        "{% filter center(10**9) %}x{% endfilter %}",
        "{% autoescape 'x' | center(10**9) %}{% endautoescape %}",
    ],
)  # fmt: skip
def test_what_grows_without_end_is_stopped_before_it_is_made(source: str) -> None:
    with pytest.raises(RequestError, match="The chat template was stopped: it "):
        render(source)


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("{{ 'x'.translate({120: 'y'}) }}", "str.translate isn't there"),
        ("{{ '{}'.format_map({}) }}", "str.format_map isn't there"),
        ("{{ (1).to_bytes(10**9, 'big') }}", "methods of int aren't there"),
        ("{{ lipsum(n=10**6) }}", "'lipsum' is undefined"),
        ("{{ range(10**9) }}", "Range too big"),
        ("{% include 'x' %}", "no loader"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
    ],
)
def test_what_is_not_there(source: str, error: str) -> None:
    with pytest.raises(RequestError, match=error):
        render(source)


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("{{ 'x' | wordwrap }}", "No filter named 'wordwrap'"),
        ("x" * (2**17 + 1), "131073 characters; allowed are 131072"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "nested too deeply"),
        ("{% for i in range(9) %}" * 30 + "{% endfor %}" * 30, "nested too deeply"),
    ],
)
def test_what_is_not_compiled(source: str, error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        ChatTemplate(source, {})


def test_time_is_the_threads_own() -> None:
    """A run that has no time left ends at its next step; another thread's time isn't counted."""
    with pytest.raises(RequestError, match="computes for more than 0 s"):
        render("{{ 1 }}", TemplateLimits(cpu_s=0.0))
    meter = Meter(TemplateLimits(cpu_s=0.2))
    other = threading.Thread(target=sum, args=(range(10**7),))
    other.start()
    other.join()
    meter.step()
    with pytest.raises(TemplateLimitError, match="computes"):
        step_for_ever(meter)


def step_for_ever(meter: Meter) -> None:
    while True:
        meter.step()


def test_shared_parts_are_weighed_as_often_as_they_occur() -> None:
    meter = Meter(TemplateLimits(value_units=100))
    inner = meter.made([1] * 9)
    assert meter.weight(inner).units == 10
    outer = meter.made([inner, inner])
    assert (meter.weight(outer).units, meter.weight(outer).depth) == (21, 2)
    assert meter.weight("x" * 5000).units == 1 + "".join(["x"] * 5000).__sizeof__() // 512
    with pytest.raises(TemplateLimitError, match="100 entries"):
        meter.made([outer] * 5)


def test_each_run_has_a_meter_of_its_own() -> None:
    template = ChatTemplate("{% for i in range(90) %}{{ i }}{% endfor %}", {}, limits=FEW)
    texts = {template.render(TALK, add_generation_prompt=True) for _ in range(200)}
    assert texts == {"".join(map(str, range(90)))}


FEATURES = [
    "{% for a, b in {'x': 1, 'y': 2}.items() %}{{ a ~ b ~ loop.index ~ loop.length }}{% endfor %}",
    "{% for x in range(3) %}{{ loop.first }}{{ loop.last }}{{ loop.revindex }}{% endfor %}",
    "{% for x in nothing %}{% else %}none{% endfor %}{{ nothing | default('d') }}",
    "{% for x in [[1, [2]], [3]] recursive %}{{ loop(x) if x is iterable else x }}{% endfor %}",
    "{{ [1, 2, 3][::-1] }}{{ (1, 'a') }}{{ {'a': [1]}['a'] }}{{ 'abc'[1:] }}{{ 'a' in 'abc' }}",
    "{{ '%05d|%s' % (3, 'x') }}{{ '{:>5}|{}'.format('a', 1.5) }}{{ '%.2f' | format(1.234) }}",
    "{{ ['a', 'b'] | join(', ') }}{{ [{'n': 1}, {'n': 2}] | map(attribute='n') | join('-') }}",
    "{{ [{'n': 1}, {'n': 2}] | join('-', attribute='n') }}{{ 'abc' | join('.') }}",
    "{{ [{'n': 1}, {'n': 2}] | sum(attribute='n') }}{{ [1, 2] | sum }}{{ [3, 1] | sort }}",
    "{{ 'a-b'.split('-') | last }}{{ ' x '.strip() }}{{ 'x'.center(5) }}{{ 'abc'.upper() }}",
    "{{ {'b': {'c': [1, 'é']}} | tojson(indent=2) }}{{ 'a\nb' | indent(2) }}",
    "{{ 'abc'.replace('b', '') }}{{ 'x' | replace('x', 'y') }}{{ '-'.join(['a', 'b']) }}",
    "{% macro m(a, b=2) %}{{ a + b }}{{ caller() if caller }}{% endmacro %}{{ m(1) }}"
    "{% call m(3) %}!{% endcall %}",
    "{% set x %}a{{ 1 }}{% endset %}{{ x | upper }}{% filter upper %}b{% endfilter %}",
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}"
    "{{ ns.n }}",
    "{{ 7 // 2 }}{{ 2 ** 10 }}{{ -7 % 3 }}{{ 1 / 4 }}{{ 'ab' * 2 }}{{ [0] * 2 }}{{ 2 > 1 }}",
    "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}",
    "{{ messages[0] | items | list }}{{ messages[0].get('role') }}{{ messages[0].role is string }}",
    "{{ 'x' | e }}{{ '<' | escape ~ '<' }}{{ 1.0.is_integer() }}{{ cycler('a', 'b').next() }}",
    "{{ 'a' ~ 1 ~ none ~ 1.5 ~ [1] }}{{ ['a'] ~ nothing }}",
]  # fmt: skip


@pytest.mark.parametrize("source", FEATURES)
def test_what_templates_use_means_what_jinja_means(qwen: Any, source: str) -> None:
    expected = qwen.oracle.apply_chat_template(
        TALK, chat_template=source, tokenize=False, add_generation_prompt=True
    )
    assert render(source) == expected
