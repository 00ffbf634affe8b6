"""`sensorium chat`: questions and commands at the prompt, files, failures, what is shown."""

from __future__ import annotations

import base64
import builtins
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from scripted_engine import ScriptedEngine
from served import Served, served

from sensorium import ConfigError
from sensorium.cli import main
from sensorium.errors import RequestError
from sensorium_server_openai.engine_port import ChatPrompt
from sensorium_server_openai.media_files import MediaFiles
from sensorium_server_openai.terminal.backend import Messages, Options, Piece
from sensorium_server_openai.terminal.conversation import Conversation
from sensorium_server_openai.terminal.prompt import printable, show_answer, talk
from sensorium_server_openai.terminal.server_backend import ServerBackend

SMELL = MediaFiles("smell", "smell_url", ("smell/*",))
OPTIONS = Options(None, 16)
Typed = Callable[[Sequence[str]], None]


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Typed:
    """Lines that a person types, and then Ctrl-D."""

    def types(lines: Sequence[str]) -> None:
        rest = iter(lines)

        def read(_: str) -> str:
            try:
                return next(rest)
            except StopIteration:
                raise EOFError from None

        monkeypatch.setattr(builtins, "input", read)

    return types


class Scripted:
    """A backend that says its pieces; an exception among them is raised."""

    model = "scripted"

    def __init__(self, *pieces: Piece | BaseException) -> None:
        self.pieces = pieces
        self.asked: list[list[object]] = []
        self.num_left = 0

    def answer(self, messages: Messages, options: Options) -> Iterator[Piece]:
        self.asked.append(list(messages))
        try:
            for piece in self.pieces:
                if isinstance(piece, BaseException):
                    raise piece
                yield piece
        finally:
            self.num_left += 1

    def close(self) -> None:
        pass


def asked_of(engine: ScriptedEngine) -> list[object]:
    """The messages of the last request."""
    prompt = engine.asked[-1][0]
    assert isinstance(prompt, ChatPrompt)
    return list(prompt.messages)


def test_a_question_is_asked_once_and_the_answer_printed(
    plain: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["chat", "--url", plain.url, "--ask", "Hi"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "Hello there.\n"
    assert "answer tokens" in shown.err
    assert "in all" in shown.err


def test_history_instructions_and_limits_reach_the_server(typed: Typed) -> None:
    engine = ScriptedEngine()
    typed(["One?", "", "Two?", "/quit", "never asked"])
    with served(engine) as server:
        arguments = ["--url", server.url + "/v1/", "--system", "Be kind.", "--max-tokens", "7"]
        assert main(["chat", *arguments, "--temperature", "0"]) == 0
    assert len(engine.asked) == 2
    assert [message["role"] for message in asked_of(engine)] == [  # type: ignore[index]
        *("system", "user", "assistant", "user")
    ]
    sampling = engine.asked[-1][1]
    assert sampling is not None
    assert (sampling.max_tokens, sampling.temperature) == (7, 0)


def test_a_key_opens_the_server(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(ScriptedEngine(), api_keys=("secret",)) as server:
        ask = ["chat", "--url", server.url, "--ask", "Hi"]
        assert main(ask) == 1
        assert "key" in capsys.readouterr().err
        assert main([*ask, "--api-key", "secret"]) == 0
        monkeypatch.setenv("SENSORIUM_API_KEY", "secret")
        assert main(ask) == 0


def test_a_file_goes_with_one_question(tmp_path: Path, typed: Typed) -> None:
    file = tmp_path / "rose.bin"
    file.write_bytes(b"rose")
    backend = Scripted(Piece("Nice."))
    typed([f"/smell {file}", "What is it?", "Sure?"])
    assert talk(backend, Conversation(), OPTIONS, [SMELL]) == 0
    data = base64.b64encode(b"rose").decode()
    part = {"url": f"data:application/octet-stream;base64,{data}"}
    first = {
        "role": "user",
        "content": [
            {"type": "smell_url", "smell_url": part},
            {"type": "text", "text": "What is it?"},
        ],
    }
    assert backend.asked[0] == [first]
    assert backend.asked[1][-1] == {"role": "user", "content": "Sure?"}


def test_a_missing_file_and_an_unknown_command_are_told(
    typed: Typed, capsys: pytest.CaptureFixture[str]
) -> None:
    backend = Scripted()
    typed(["/smell no such", "/sniff", "/help", "/history"])
    assert talk(backend, Conversation("Be kind."), OPTIONS, [SMELL]) == 0
    shown = capsys.readouterr()
    assert "no such can't be read" in shown.err
    assert "no command /sniff" in shown.out
    assert "/smell FILE" in shown.out
    assert "system: Be kind." in shown.out
    assert backend.asked == []


def test_a_question_that_fails_is_taken_back(
    typed: Typed, capsys: pytest.CaptureFixture[str]
) -> None:
    conversation = Conversation()
    typed(["Hi"])
    assert talk(Scripted(RequestError("Too long.")), conversation, OPTIONS, []) == 0
    assert "! Too long." in capsys.readouterr().err
    assert conversation.messages == []


def test_ctrl_c_stops_an_answer_and_keeps_what_was_said(capsys: pytest.CaptureFixture[str]) -> None:
    conversation = Conversation()
    backend = Scripted(Piece("Half"), KeyboardInterrupt())
    show_answer(backend, conversation, OPTIONS, "Hi")
    assert conversation.messages[-1] == {"role": "assistant", "content": "Half"}
    assert "stopped" in capsys.readouterr().err
    assert backend.num_left == 1


def test_new_forgets_all_but_the_instructions(typed: Typed) -> None:
    backend = Scripted(Piece("Yes."))
    typed(["One?", "/new", "Two?"])
    talk(backend, Conversation("Be kind."), OPTIONS, [])
    assert [message["content"] for message in backend.asked[-1]] == ["Be kind.", "Two?"]  # type: ignore[index]


def test_an_answer_cannot_steer_the_terminal() -> None:
    assert printable("a\x1b[2Jb\x9bc\r\n\td") == "a[2Jbc\n\td"


def test_an_error_inside_the_stream_is_told() -> None:
    engine = ScriptedEngine(fails=(1, RequestError("It broke.")))
    with served(engine) as server:
        backend = ServerBackend(server.url, None, None)
        pieces = backend.answer([{"role": "user", "content": "Hi"}], OPTIONS)
        with pytest.raises(RequestError, match="It broke"):
            list(pieces)


@pytest.mark.parametrize("url", ["nowhere", "ftp://host/", "http://"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="--url"):
        ServerBackend(url, None, None)


def test_no_model_and_no_server_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat"]) == 1
    assert "Which model?" in capsys.readouterr().err
    assert main(["chat", "tiny-vl", "--api-key", "k"]) == 1
    assert "--url" in capsys.readouterr().err
