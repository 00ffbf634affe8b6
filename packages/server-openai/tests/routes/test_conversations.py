"""What chats, embeddings and ``/tokenize`` make of one conversation."""

from __future__ import annotations

from typing import Any

import pytest
from scripted_engine import ScriptedEngine
from served import served

from sensorium_server_openai import Limits
from sensorium_server_openai.engine_port import ChatPrompt, PlainPrompt

MESSAGES = [{"role": "user", "content": ["one", {"type": "text", "text": "two"}]}]
TOOL = {"type": "function", "function": {"name": "look"}}
OPTIONS: dict[str, Any] = {
    "messages": MESSAGES,
    "tools": [TOOL],
    "documents": [{"title": "d"}],
    "chat_template": "{{ messages }}",
    "chat_template_kwargs": {"mood": "kind"},
    "mm_processor_kwargs": {"size": 1},
    "media_io_kwargs": {"scent": {"strength": 2}},
}
ROUTES = {"/v1/chat/completions": "generate", "/v1/embeddings": "embed", "/tokenize": "generate"}


class Listening(ScriptedEngine):
    """Keeps what it was asked to tokenize, too."""

    async def tokenize(self, prompt: Any, *, add_special_tokens: bool) -> list[int]:
        """See ``ScriptedEngine.tokenize``."""
        self.asked.append((prompt, None))
        return await super().tokenize(prompt, add_special_tokens=add_special_tokens)


def asked(path: str, body: dict[str, Any]) -> ChatPrompt:
    """The conversation that the engine is given."""
    engine = Listening(task=ROUTES[path])
    trusting = {"trust_mm_kwargs": True, "trust_chat_template": True}
    more = {"tool_choice": "none"} if "chat" in path else {}
    with served(engine, **trusting) as server:
        response = server.post(path, {**more, **body})
    assert response.status_code == 200, response.text
    [(prompt, _)] = engine.asked
    assert isinstance(prompt, ChatPrompt)
    return prompt


@pytest.mark.parametrize("path", ROUTES)
def test_every_option_reaches_the_engine(path: str) -> None:
    prompt = asked(path, OPTIONS)
    assert prompt.messages == MESSAGES
    shown = None if "chat" in path else [TOOL]  # tools that may not be called aren't shown
    assert prompt.options == {
        "tools": shown,
        "add_generation_prompt": path != "/v1/embeddings",
        "continue_final_message": False,
        "chat_template": "{{ messages }}",
        "template_is_trusted": False,
        "template_kwargs": {"mood": "kind", "documents": [{"title": "d"}]},
        "processor_kwargs": {"size": 1},
        "io_kwargs": {"scent": {"strength": 2}},
        "salt": "",
    }


@pytest.mark.parametrize("path", ROUTES)
def test_a_message_that_goes_on_opens_no_answer(path: str) -> None:
    options = asked(path, {"messages": MESSAGES, "continue_final_message": True}).options
    assert options["continue_final_message"]
    assert not options["add_generation_prompt"]


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"messages": []}, "messages is empty"),
        ({"messages": MESSAGES * 2}, "4 parts; this server allows 3"),
        ({"messages": MESSAGES * 5}, "5 entries; this server allows 4"),
        ({"tools": [TOOL] * 3}, "3 entries; this server allows 2"),
        ({"chat_template": "x"}, "--trust-request-chat-template"),
        ({"mm_processor_kwargs": {}}, "--trust-request-mm-kwargs"),
        ({"media_io_kwargs": {}}, "--trust-request-mm-kwargs"),
        ({"continue_final_message": True, "add_generation_prompt": True}, "exclude"),
    ],
)
def test_what_one_route_refuses_all_do(path: str, changed: dict[str, Any], word: str) -> None:
    limits = Limits(messages=4, parts=3, tools=2)
    with served(ScriptedEngine(task=ROUTES[path]), limits=limits) as server:
        response = server.post(path, {"messages": MESSAGES, **changed})
    assert response.status_code == 400
    assert word in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body"), [("/v1/embeddings", {"input": "a"}), ("/tokenize", {"prompt": "a"})]
)
def test_what_goes_with_messages_is_refused_without_them(path: str, body: dict[str, Any]) -> None:
    engine = Listening(task=ROUTES[path])
    with served(engine, trust_chat_template=True) as server:
        for field in ({"chat_template": "x"}, {"tools": [TOOL]}, {"add_generation_prompt": True}):
            response = server.post(path, {**body, **field})
            assert response.status_code == 400
            assert f"{next(iter(field))} goes with messages" in response.text
        assert server.post(path, body).status_code == 200
    [(prompt, _)] = engine.asked
    assert isinstance(prompt, PlainPrompt)


def test_an_embedding_has_the_name_of_its_request() -> None:
    with served(ScriptedEngine(task="embed")) as server:
        named = server.post("/v1/embeddings", {"input": "a", "request_id": "mine"}).json()
        other = server.post("/v1/embeddings", {"input": "a"}).json()
    assert named["id"] == "embd-mine"
    assert other["id"].startswith("embd-")
    assert other["id"] != named["id"]
    assert named["object"] == "list"
    assert named["created"] > 0
