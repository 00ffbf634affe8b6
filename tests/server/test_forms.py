"""Answers of a given form, and calls that a grammar makes certain, with the real client."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Literal

import pytest
from openai import BadRequestError, OpenAI
from pydantic import BaseModel
from served import Served


class Shape(BaseModel):
    """What an answer is parsed into."""

    color: Literal["red", "blue"]
    sides: Literal[3, 4]


TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {
                "type": "object",
                "properties": {"unit": {"$ref": "#/$defs/unit"}},
                "required": ["unit"],
                "additionalProperties": False,
                "$defs": {"unit": {"enum": units}},
            },
        },
    }
    for name, units in (("length", ["m", "km"]), ("weight", ["g", "kg"]))
]
ASK: dict[str, Any] = {
    "model": "tiny-vl",
    "messages": [{"role": "user", "content": "What shape is it?"}],
    "max_completion_tokens": 200,
    "temperature": 0,
}


@pytest.fixture(scope="module")
def client(server: Served) -> Iterator[OpenAI]:
    with OpenAI(api_key="EMPTY", base_url=server.url + "/v1", max_retries=0) as opened:
        yield opened


def test_an_answer_that_is_parsed_into_a_class(client: OpenAI) -> None:
    parsed = client.chat.completions.parse(response_format=Shape, **ASK).choices[0].message.parsed
    assert isinstance(parsed, Shape)


def test_a_stream_of_a_form_is_the_form(client: OpenAI) -> None:
    form = {
        "type": "json_schema",
        "json_schema": {
            "name": "s",
            "schema": {**Shape.model_json_schema(), "additionalProperties": False},
        },
    }
    stream = client.chat.completions.create(response_format=form, stream=True, **ASK)  # type: ignore[call-overload]
    text = "".join(c.choices[0].delta.content or "" for c in stream if c.choices)
    Shape.model_validate_json(text)


@pytest.mark.parametrize(
    ("form", "pattern"),
    [
        ({"regex": "[ab]{3}"}, "[ab]{3}"),
        ({"choice": ["left", "right"]}, "left|right"),
        ({"grammar": 'start: "x" "y"+ "z"'}, "xy+z"),
    ],
)
def test_structured_outputs(server: Served, form: dict[str, Any], pattern: str) -> None:
    for path, ask in (
        ("/v1/chat/completions", ASK),
        ("/v1/completions", {"prompt": "It is", "max_tokens": 200, "temperature": 0}),
    ):
        body = {**ask, "structured_outputs": form, "logit_bias": {}}
        [choice] = server.post(path, body).json()["choices"]
        text = choice["message"]["content"] if "message" in choice else choice["text"]
        if choice["finish_reason"] == "stop":
            assert re.fullmatch(pattern, text), text


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("several", [False, True])
def test_a_required_call(client: OpenAI, stream: bool, several: bool) -> None:
    ask = {**ASK, "tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": several}
    ask["temperature"], ask["seed"] = 1.0, 3
    if stream:
        with client.chat.completions.stream(**ask) as events:
            for _ in events:
                pass
            choice: Any = events.get_final_completion().choices[0]
    else:
        choice = client.chat.completions.create(**ask).choices[0]
    if choice.finish_reason == "length":
        pytest.skip("the drawn calls are longer than the answer may be")
    assert choice.finish_reason == "tool_calls"
    calls = choice.message.tool_calls
    assert len(calls) >= 1 if several else len(calls) == 1
    for call in calls:
        units = {"length": ("m", "km"), "weight": ("g", "kg")}[call.function.name]
        assert json.loads(call.function.arguments)["unit"] in units


def test_a_call_of_one_function(client: OpenAI) -> None:
    choice = {"type": "function", "function": {"name": "weight"}}
    [answer] = client.chat.completions.create(tools=TOOLS, tool_choice=choice, **ASK).choices  # type: ignore[call-overload]
    [call] = answer.message.tool_calls
    assert call.function.name == "weight"
    assert json.loads(call.function.arguments)["unit"] in ("g", "kg")


@pytest.mark.parametrize(
    ("form", "word"),
    [
        ({"structured_outputs": {"regex": "("}}, "regex"),
        ({"structured_outputs": {}}, "exactly one"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "exactly one"),
        ({"structured_outputs": {"colour": "red"}}, "colour"),
        ({"response_format": {"type": "json_schema"}}, "json_schema"),
        (
            {"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}},
            "response_format",
        ),
        ({"response_format": {"type": "json_object"}, "tools": TOOLS}, "tool_choice"),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": {"$ref": "http://127.0.0.1/x"}},
                }
            },
            "ref",
        ),
    ],
    ids=range(8),
)
def test_a_form_that_cannot_hold_is_refused(
    client: OpenAI, form: dict[str, Any], word: str
) -> None:
    with pytest.raises(BadRequestError) as caught:
        client.chat.completions.create(**ASK, extra_body=form)
    assert word in caught.value.message
