"""``/v1/chat/completions`` over HTTP, with an engine that says what it is told."""

from __future__ import annotations

from typing import Any

import pytest
from scripted_engine import ENDLESS, ScriptedEngine, until
from served import Served, served

from sensorium import EngineDeadError, EngineError, LimitError, RequestError
from sensorium_server_openai import ServerOptions, build_app
from sensorium_server_openai.engine_port import ChatPrompt

PATH = "/v1/chat/completions"
ASK: dict[str, Any] = {"model": "tiny-vl", "messages": [{"role": "user", "content": "Hi"}]}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
CALL = ["<tool", '_call>{"name": "f", "argu', 'ments": {"x": 1}}</tool_call>']


def test_a_whole_answer() -> None:
    engine = ScriptedEngine()
    with served(engine) as server:
        response = server.post(PATH, {**ASK, "n": 2, "seed": 3, "max_completion_tokens": 9})
    found = response.json()
    assert response.status_code == 200
    assert found["object"] == "chat.completion"
    assert found["id"].startswith("chatcmpl-")
    assert [choice["index"] for choice in found["choices"]] == [0, 1]
    for choice in found["choices"]:
        assert choice["message"] == {"role": "assistant", "content": "Hello there."}
        assert choice["finish_reason"] == "stop"
    assert found["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    prompt, sampling = engine.asked[0]
    assert isinstance(prompt, ChatPrompt)
    assert prompt.messages == [{"role": "user", "content": "Hi"}]
    assert sampling is not None
    assert (sampling.n, sampling.seed, sampling.max_tokens) == (2, 3, 9)


def test_a_stream() -> None:
    with served(ScriptedEngine()) as server:
        *chunks, done = server.events(PATH, {**ASK, "stream": True})
    assert done == "[DONE]"
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta.get("content", "") for delta in deltas) == "Hello there."
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons == [None] * (len(chunks) - 1) + ["stop"]
    assert all("usage" not in chunk for chunk in chunks)


def test_a_stream_says_what_was_used() -> None:
    ask = {**ASK, "stream": True, "n": 2, "stream_options": {"include_usage": True}}
    with served(ScriptedEngine(), prompt_tokens_details=True) as server:
        *chunks, last, done = server.events(PATH, ask)
    assert done == "[DONE]"
    assert last["choices"] == []
    assert last["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 6,
        "total_tokens": 9,
        "prompt_tokens_details": {"cached_tokens": 2},
    }
    finished = [c["choices"][0]["index"] for c in chunks if c["choices"][0]["finish_reason"]]
    assert finished == [0, 1]


def test_an_error_before_the_stream_is_a_status() -> None:
    engine = ScriptedEngine(fails=(0, RequestError("That is no picture.")))
    with served(engine) as server:
        response = server.post(PATH, {**ASK, "stream": True})
    assert response.status_code == 400
    assert response.json()["error"] == {
        "message": "That is no picture.",
        "type": "BadRequestError",
        "param": None,
        "code": 400,
    }


def test_an_answer_does_not_say_all_again_that_a_request_wrote() -> None:
    engine = ScriptedEngine(fails=(0, RequestError(f"There is no {'x' * 10_000}; allowed is y.")))
    with served(engine) as server:
        for body in (ASK, {**ASK, "stream": True}, {**ASK, "f" * 10_000: 1}):
            error = server.post(PATH, body).json()["error"]
            assert error["message"].startswith("There is no ")
            assert len(error["message"]) < 1000
            assert len(error["param"] or "") < 1000
        told = server.post(PATH, ASK).json()["error"]["message"]
    assert told.endswith("x; allowed is y.")


def test_an_error_inside_a_stream_is_an_event() -> None:
    with served(ScriptedEngine(fails=(1, EngineError("It failed.")))) as server:
        *_, error, done = server.events(PATH, {**ASK, "stream": True})
    assert error["error"]["message"] == "It failed."
    assert error["error"]["code"] == 500
    assert done == "[DONE]"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (LimitError("Too long."), 400),
        (EngineDeadError("It died."), 503),
        (EngineError("It failed."), 500),
        (ZeroDivisionError("secret"), 500),
    ],
)
def test_an_engine_error_has_its_status(error: Exception, status: int) -> None:
    with served(ScriptedEngine(fails=(0, error))) as server:
        response = server.post(PATH, ASK)
    assert response.status_code == status
    assert response.json()["error"]["code"] == status
    assert "secret" not in response.text
    assert ("retry-after" in response.headers) == (status == 503)


@pytest.mark.parametrize(
    ("field", "value", "word"),
    [
        ("frobnicate", 1, "frobnicate"),
        ("temprature", 1, "temperature"),
        ("functions", [{}], "tools"),
        ("guided_json", {}, "structured_outputs"),
        ("best_of", 2, "best_of"),
        ("store", True, "store"),
        ("temperature", "hot", "temperature"),
        ("temperature", -1, "temperature"),
        ("n", 0, "n is 0"),
        ("n", 100_000, "n"),
        ("messages", [], "messages"),
        ("messages", "Hi", "messages"),
        ("messages", [{"role": "user", "content": 3}], "messages.0.content"),
        ("messages", [{"role": "user", "colour": "red"}], "messages.0.colour"),
        ("top_logprobs", 3, "logprobs"),
        ("stream_options", {"include_usage": True}, "stream"),
        ("priority", 1, "--scheduling-policy"),
        ("mm_processor_kwargs", {"x": 1}, "--trust-request-mm-kwargs"),
        ("chat_template", "{{ x }}", "--trust-request-chat-template"),
        ("cache_salt", "a/b", "cache_salt"),
        ("tool_choice", "required", "tools"),
        ("response_format", {"type": "yaml"}, "yaml"),
        ("stop", ["x"] * 65, "stop"),
        ("logit_bias", {"a": 1}, "logit_bias"),
        ("bad_words", ["a" * 16385], "16384 characters"),
        ("request_id", "r" * 129, "request_id"),
        ("request_id", "a b\n", "request_id"),
        ("tools", [{"type": "function", "function": {"name": ""}}], "tools.0.function.name"),
    ],
)
def test_a_field_that_cannot_hold_is_named(
    plain: Served, field: str, value: Any, word: str
) -> None:
    response = plain.post(PATH, {**ASK, field: value})
    assert response.status_code == 400
    assert word in response.json()["error"]["message"]


@pytest.mark.parametrize(
    "field",
    [
        {"store": False},
        {"audio": None},
        {"metadata": None},
        {"modalities": ["text"]},
        {"stream": True, "stream_options": {"include_obfuscation": False}},
    ],
)
def test_what_asks_for_nothing_is_let_through(plain: Served, field: dict[str, Any]) -> None:
    assert plain.post(PATH, {**ASK, **field}).status_code == 200


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'{"messages": NaN}', b"\xff\xfe", b"[" * 100_000]
)
def test_a_body_that_is_no_object_is_refused(plain: Served, body: bytes) -> None:
    response = plain.post(PATH, body)
    assert response.status_code == 400
    assert "body" in response.json()["error"]["message"]


def test_another_model_is_not_found(plain: Served) -> None:
    response = plain.post(PATH, {**ASK, "model": "gpt-4"})
    assert response.status_code == 404
    assert response.json()["error"]["type"] == "NotFoundError"


# --- tools ----------------------------------------------------------------------------


@pytest.fixture
def hermes() -> dict[str, Any]:
    return {"tool_parser": "hermes", "auto_tool_choice": True}


def test_a_call_in_a_whole_answer(hermes: dict[str, Any]) -> None:
    with served(ScriptedEngine(CALL), **hermes) as server:
        [choice] = server.post(PATH, {**ASK, "tools": TOOLS}).json()["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    [call] = choice["message"]["tool_calls"]
    assert call["type"] == "function"
    assert call["function"] == {"name": "f", "arguments": '{"x": 1}'}


def test_a_call_in_a_stream_and_no_state_after_it(hermes: dict[str, Any]) -> None:
    engine = ScriptedEngine(CALL)
    with served(engine, **hermes) as server:
        first = server.events(PATH, {**ASK, "tools": TOOLS, "stream": True})
        engine.pieces = ["No ", "call."]
        second = server.events(PATH, {**ASK, "tools": TOOLS, "stream": True})
    deltas = [chunk["choices"][0]["delta"] for chunk in first[:-1]]
    assert not any(delta.get("content") for delta in deltas)
    calls = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
    assert calls[0]["function"]["name"] == "f"
    assert "".join(call["function"]["arguments"] for call in calls) == '{"x": 1}'
    assert first[-2]["choices"][0]["finish_reason"] == "tool_calls"
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in second[:-1])
    assert text == "No call."
    assert second[-2]["choices"][0]["finish_reason"] == "stop"


def test_a_call_that_was_cut_off_ends_by_length(hermes: dict[str, Any]) -> None:
    engine = ScriptedEngine(CALL[:2], finish_reason="length")
    with served(engine, **hermes) as server:
        [choice] = server.post(PATH, {**ASK, "tools": TOOLS}).json()["choices"]
    assert choice["finish_reason"] == "length"


def test_no_tools_are_shown_where_none_may_be_called(hermes: dict[str, Any]) -> None:
    engine = ScriptedEngine(CALL)
    with served(engine, **hermes) as server:
        ask = {**ASK, "tools": TOOLS, "tool_choice": "none"}
        [choice] = server.post(PATH, ask).json()["choices"]
    assert "tool_calls" not in choice["message"]
    assert choice["message"]["content"] == "".join(CALL)
    prompt = engine.asked[0][0]
    assert isinstance(prompt, ChatPrompt)
    assert prompt.options["tools"] is None


def test_auto_choice_needs_the_operator(plain: Served) -> None:
    response = plain.post(PATH, {**ASK, "tools": TOOLS})
    assert response.status_code == 400
    assert "--enable-auto-tool-choice" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("choice", "text"),
    [
        ("required", '[{"name": "f", "parameters": {"x": 1}}]'),
        ({"type": "function", "function": {"name": "f"}}, '{"x": 1}'),
    ],
)
def test_a_call_that_a_grammar_makes_certain(choice: Any, text: str) -> None:
    with served(ScriptedEngine([text[:9], text[9:]])) as server:
        ask = {**ASK, "tools": TOOLS, "tool_choice": choice}
        [answer] = server.post(PATH, ask).json()["choices"]
        events = server.events(PATH, {**ask, "stream": True})
    assert answer["finish_reason"] == "tool_calls"
    [call] = answer["message"]["tool_calls"]
    assert call["function"] == {"name": "f", "arguments": '{"x": 1}'}
    assert events[-2]["choices"][0]["finish_reason"] == "tool_calls"


# --- clients that go away -------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("stage", ["before the first token", "between tokens"])
async def test_a_client_that_goes_away_aborts_its_work(stream: bool, stage: str) -> None:
    waits = 0 if stage == "before the first token" else None
    engine = ScriptedEngine(["more ", ENDLESS], waits_before=waits)
    with served(engine) as server:
        connection = server.send("POST", PATH, {**ASK, "stream": stream})
        await until(lambda: engine.running == 1)
        connection.close()
        await until(lambda: engine.num_aborted == 1)
    assert engine.running == 0


def test_the_description_tells_of_errors_and_streams() -> None:
    options = ServerOptions(served_model_names=("m",))
    described = build_app(ScriptedEngine(), options).openapi()  # type: ignore[arg-type]
    assert "Error" in described["components"]["schemas"]
    for path, operations in described["paths"].items():
        for operation in operations.values():
            assert "default" in operation["responses"], path
            assert "422" not in operation["responses"], path
    chat = described["paths"]["/v1/chat/completions"]["post"]["responses"]["200"]["content"]
    assert chat.keys() == {"application/json", "text/event-stream"}
