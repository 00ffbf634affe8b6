"""Parsers of tool calls that other distributions bring."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from types import ModuleType
from typing import Any

import pytest
from scripted_engine import ScriptedEngine
from served import served

from sensorium import ConfigError
from sensorium_server_openai.tools import registry
from sensorium_server_openai.tools.reading import AnswerReader, Arguments, CallBegins, Said

Install = Callable[..., None]


class Bell(AnswerReader):
    """A stranger's parser: what rings is a call."""

    def feed(self, text: str) -> list[Said]:
        """See ``AnswerReader.feed``."""
        content, call, _ = text.partition("ding")
        rings: list[Said] = [CallBegins("ring"), Arguments('{"times": 1}')]
        return super().feed(content) + (rings if call else [])


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs parsers: names, and where they are found."""

    module = ModuleType("bell_for_sensorium")
    module.Bell = Bell  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)

    def installed(*points: tuple[str, str]) -> None:
        found = [EntryPoint(name, value, registry.GROUP) for name, value in points]
        monkeypatch.setattr(registry, "entry_points", lambda group: found)

    return installed


@pytest.mark.parametrize("stream", [False, True])
def test_a_strangers_parser_finds_calls(install: Install, stream: bool) -> None:
    install(("bell", "bell_for_sensorium:Bell"))
    tools = [{"type": "function", "function": {"name": "ring"}}]
    ask: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "tools": tools}
    engine = ScriptedEngine(["Listen: ", "ding"])
    with served(engine, tool_parser="bell", auto_tool_choice=True) as server:
        if stream:
            *chunks, _ = server.events("/v1/chat/completions", {**ask, "stream": True})
            deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
            text = "".join(delta.get("content") or "" for delta in deltas)
            pieces = [call for delta in deltas for call in delta.get("tool_calls", ())]
            name = pieces[0]["function"]["name"]
            arguments = "".join(piece["function"]["arguments"] for piece in pieces)
            reason = chunks[-1]["choices"][0]["finish_reason"]
        else:
            [choice] = server.post("/v1/chat/completions", ask).json()["choices"]
            text, reason = choice["message"]["content"], choice["finish_reason"]
            [call] = choice["message"]["tool_calls"]
            name, arguments = call["function"]["name"], call["function"]["arguments"]
    assert (text.strip(), name, arguments) == ("Listen:", "ring", '{"times": 1}')
    assert reason == "tool_calls"


@pytest.mark.parametrize(
    ("points", "sentence"),
    [
        ([("bell", "sensorium_no_such_module:Bell")], "can't be imported"),
        ([("bell", "json:dumps")], "is no AnswerReader"),
        ([("gong", "json:dumps")], "There is no tool parser 'bell'; installed are gong."),
    ],
)
def test_what_is_no_parser_is_told(
    install: Install, points: list[tuple[str, str]], sentence: str
) -> None:
    install(*points)
    with pytest.raises(ConfigError, match=sentence):
        registry.load_parser("bell")
