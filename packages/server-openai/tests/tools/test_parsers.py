"""Calls are found in an answer's text, however it is cut into pieces."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensorium_server_openai.tools.forced import NamedCall, RequiredCalls
from sensorium_server_openai.tools.hermes import HermesParser
from sensorium_server_openai.tools.llama3_json import Llama3JsonParser
from sensorium_server_openai.tools.pythonic import PythonicParser, _Brackets
from sensorium_server_openai.tools.reading import (
    AnswerReader,
    Arguments,
    CallBegins,
    Content,
    FirstCallOnly,
    Said,
    ToolCalls,
)

Calls = list[tuple[str, str]]
WEATHER = '{"city": "Oslo", "days": [1, {"a": "}\\"]"}]}'


@dataclass(frozen=True)
class Case:
    """A text and what it says."""

    parser: type[AnswerReader]
    text: str
    content: str
    calls: Calls


CASES = {
    "hermes, one": Case(
        HermesParser,
        f'<tool_call>\n{{"name": "weather", "arguments": {WEATHER}}}\n</tool_call>',
        "",
        [("weather", WEATHER)],
    ),
    "hermes, two with text in front": Case(
        HermesParser,
        'Let me look.\n<tool_call>{"name": "a", "arguments": {}}</tool_call>\n'
        '<tool_call>\n{"arguments": {"x": 1}, "name": "b"}\n</tool_call>\n',
        "Let me look.",
        [("a", "{}"), ("b", '{"x": 1}')],
    ),
    "hermes, text behind": Case(
        HermesParser,
        '<tool_call>{"name": "a", "arguments": {}}</tool_call> Done.',
        " Done.",
        [("a", "{}")],
    ),
    "hermes, none": Case(HermesParser, "1 < 2 and <tool is none", "1 < 2 and <tool is none", []),
    "hermes, a tag that isn't one": Case(
        HermesParser, "<tool_call>what?</tool_call>", "<tool_call>what?</tool_call>", []
    ),
    "hermes, an object that is no call": Case(
        HermesParser,
        '<tool_call>{"city": 1}</tool_call>',
        '<tool_call>{"city": 1}</tool_call>',
        [],
    ),
    "hermes, no arguments": Case(
        HermesParser, '<tool_call>{"name": "now"}</tool_call>', "", [("now", "{}")]
    ),
    "hermes, cut off in the arguments": Case(
        HermesParser, '<tool_call>{"name": "a", "arguments": {"x"', "", [("a", '{"x"')]
    ),
    "hermes, cut off in the name": Case(
        HermesParser, '<tool_call>{"name": "a', '<tool_call>{"name": "a', []
    ),
    "hermes, a name with an escape": Case(
        HermesParser, '<tool_call>{"name": "\\u0061", "arguments": null}', "", [("a", "null")]
    ),
    "llama, one": Case(
        Llama3JsonParser, f'{{"name": "weather", "parameters": {WEATHER}}}', "",
        [("weather", WEATHER)],
    ),
    "llama, the tag and two": Case(
        Llama3JsonParser,
        '<|python_tag|>{"name": "a", "parameters": {"x": 1}}; {"name": "b", "parameters": {}}',
        "",
        [("a", '{"x": 1}'), ("b", "{}")],
    ),
    "llama, plain JSON": Case(Llama3JsonParser, ' {"a": 1}', ' {"a": 1}', []),
    "llama, text": Case(Llama3JsonParser, "I can't {do} that.", "I can't {do} that.", []),
    "llama, text behind": Case(
        Llama3JsonParser, '{"name": "a", "parameters": {}} ok', " ok", [("a", "{}")]
    ),
    "pythonic, two": Case(
        PythonicParser,
        "[weather(city='O(s)lo', days=[1, 2]), now()]",
        "",
        [("weather", '{"city": "O(s)lo", "days": [1, 2]}'), ("now", "{}")],
    ),
    "pythonic, JSON's words": Case(
        PythonicParser, '[f(a=true, b=None, c={"x": false})]', "",
        [("f", '{"a": true, "b": null, "c": {"x": false}}')],
    ),
    "pythonic, with its tags": Case(
        PythonicParser, "<|python_start|>[f(a=1)]<|python_end|>", "", [("f", '{"a": 1}')]
    ),
    "pythonic, a list": Case(PythonicParser, "[1, 2, 3]", "[1, 2, 3]", []),
    "pythonic, a link": Case(PythonicParser, "[a](b) is a link", "[a](b) is a link", []),
    "pythonic, code is not run": Case(
        PythonicParser, "[f(a=__import__('os'))]", "[f(a=__import__('os'))]", []
    ),
    "pythonic, arguments without names": Case(PythonicParser, "[f(1)]", "[f(1)]", []),
    "required": Case(
        RequiredCalls,
        '[{"name": "a", "parameters": {"x": 1}}, {"name": "b", "parameters": {}}]',
        "",
        [("a", '{"x": 1}'), ("b", "{}")],
    ),
}  # fmt: skip


def read(reader: AnswerReader, pieces: list[str]) -> tuple[str, Calls]:
    """The content and the calls of an answer that comes in these pieces."""
    said: list[Said] = [found for piece in pieces for found in reader.feed(piece)]
    said += reader.finish()
    content = "".join(found.text for found in said if isinstance(found, Content))
    calls: Calls = []
    for found in said:
        if isinstance(found, CallBegins):
            calls.append((found.name, ""))
        elif isinstance(found, Arguments):
            calls[-1] = (calls[-1][0], calls[-1][1] + found.text)
    return content, calls


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_in_one_piece(case: Case) -> None:
    assert read(case.parser(), [case.text]) == (case.content, case.calls)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_character_by_character(case: Case) -> None:
    assert read(case.parser(), list(case.text)) == (case.content, case.calls)


@given(st.data())
def test_however_it_is_cut(data: st.DataObject) -> None:
    case = data.draw(st.sampled_from(list(CASES.values())))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(case.text)), max_size=8)))
    edges = [0, *cuts, len(case.text)]
    pieces = [case.text[a:b] for a, b in pairwise(edges)]
    assert read(case.parser(), pieces) == (case.content, case.calls)


@given(st.text(alphabet='<>/tool_call{}[]"name:arguments, (=)\n', max_size=60), st.integers(0, 60))
def test_text_is_never_lost_where_there_is_no_call(text: str, cut: int) -> None:
    for parser in (HermesParser, Llama3JsonParser, PythonicParser):
        whole = read(parser(), [text])
        assert read(parser(), [text[:cut], text[cut:]]) == whole
        if not whole[1]:
            assert whole[0] == text


def test_arguments_come_before_the_call_is_complete() -> None:
    reader = HermesParser()
    said = reader.feed('<tool_call>{"name": "f", "arguments": {"x": "lo')
    assert said == [CallBegins("f"), Arguments('{"x": "lo')]


def test_a_tag_that_is_only_begun_is_held_back() -> None:
    reader = HermesParser()
    assert reader.feed("Look: <tool_") == [Content("Look:")]
    assert reader.feed("box>") == [Content(" <tool_box>")]


def test_a_named_call_is_all_arguments() -> None:
    assert read(NamedCall("f"), ['{"a"', ": 1}"]) == ("", [("f", '{"a": 1}')])


def test_only_the_first_call_is_kept() -> None:
    case = CASES["hermes, two with text in front"]
    assert read(FirstCallOnly(case.parser()), [case.text]) == (case.content, case.calls[:1])


def test_deltas_make_the_whole() -> None:
    case = CASES["hermes, two with text in front"]
    streamed, reader = ToolCalls(), case.parser()
    deltas = []
    for sign in case.text:
        deltas += [streamed.delta(said) for said in reader.feed(sign)]
    joined: dict[int, str] = {}
    for delta in deltas:
        for call in delta.get("tool_calls", ()):
            joined[call["index"]] = joined.get(call["index"], "") + call["function"]["arguments"]
    assert joined == {0: "{}", 1: '{"x": 1}'}
    assert [call["function"]["name"] for call in streamed.whole] == ["a", "b"]
    assert all(json.loads(call["function"]["arguments"]) is not None for call in streamed.whole)


def test_a_long_call_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0
    take = _Brackets._take

    def counted(brackets: _Brackets, sign: str) -> bool:
        nonlocal looks
        looks += 1
        return take(brackets, sign)

    monkeypatch.setattr(_Brackets, "_take", counted)
    text = 'f(a="' + "x" * 5000 + '")'
    parser = PythonicParser()
    said = [piece for sign in f"[{text}]" for piece in parser.feed(sign)]
    assert said == [CallBegins("f"), Arguments(json.dumps({"a": "x" * 5000}))]
    assert looks == len(text) - 1


def test_a_name_without_an_end_is_text() -> None:
    parser = PythonicParser()
    said = parser.feed("[" + "x" * 300)
    assert said == [Content("[" + "x" * 300)]
