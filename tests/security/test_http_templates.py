"""Chat templates, variables and options that a stranger sends, over HTTP; each test is named after
its row."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from http_threats import CHAT, asking, assert_refused, data_url, picture, png
from served import Served, served

from sensorium import AsyncEngine
from sensorium_server_openai.engine_port import EnginePort


@pytest.fixture(scope="module")
def trusting(vl_folder: Path) -> Iterator[Served]:
    """A server whose requests may bring templates."""
    with (
        AsyncEngine(str(vl_folder), dtype="float32", max_model_len=1024) as engine,
        served(EnginePort.of(engine, str(vl_folder)), trust_chat_template=True) as server,
    ):
        yield server


def test_row_19_a_template_of_a_request_needs_the_operator(http: Served) -> None:
    loop = "{% for i in range(10 ** 9) %}{% endfor %}"
    assert_refused(http, asking(chat_template=loop), word="--trust-request-chat-template")
    assert_refused(http, asking(chat_template_kwargs={"messages": []}), word="messages")


@pytest.mark.parametrize(
    "loop",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{{ ('x' * 9999999) * 9999999 }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
def test_row_19_a_template_of_a_request_that_is_trusted_ends(trusting: Served, loop: str) -> None:
    response = trusting.post(CHAT, asking(chat_template=loop))
    assert response.status_code == 400, response.text
    assert "template" in response.json()["error"]["message"]
    assert trusting.post(CHAT, asking()).status_code == 200


@pytest.mark.parametrize(
    "name",
    [
        *("self", "cls", "template", "values", "variables", "limits", "args", "kwargs", "name"),
        *("context", "environment", "loop", "caller", "range", "bos_token", "documents"),
        *("messages", "tools", "add_generation_prompt", "continue_final_message"),
        *("", "a b", "{{ x }}", "__class__", "raise_exception"),
    ],
)
def test_row_23_variables_of_a_template_have_any_name(http: Served, name: str) -> None:
    """Those that are arguments of their own are refused; others are the template's business."""
    own = name in ("messages", "tools", "add_generation_prompt", "continue_final_message")
    for value in (1, None, [{"a": [None]}]):
        response = http.post(CHAT, asking(chat_template_kwargs={name: value}))
        assert response.status_code == (400 if own else 200), response.text


def test_row_23_what_a_request_names_is_not_logged(
    http: Served, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        for part in ({"type": "nobody_may_read_this"}, {"type": "image_url", "nobody_may": 1}):
            message = assert_refused(http, asking(part))
            assert "nobody_may" in message
    assert "status=400" in caplog.text
    assert "nobody_may" not in caplog.text


def test_row_23_options_have_any_name(vl_folder: Path) -> None:
    options = {"dtype": "float32", "max_model_len": 1024}
    with (
        AsyncEngine(str(vl_folder), **options) as engine,
        served(EnginePort.of(engine, str(vl_folder)), trust_mm_kwargs=True) as server,
    ):
        shown = picture(data_url(png()))
        for name in ("self", "options", "kwargs", "", "a b", "__class__"):
            for given in (
                {"mm_processor_kwargs": {name: 1}},
                {"media_io_kwargs": {name: {}}},
                {"media_io_kwargs": {"image": {name: 1}}},
                {"structured_outputs": {name: 1}},
            ):
                response = server.post(CHAT, asking(shown, **given))
                assert response.status_code == 400, (given, response.text)
                assert repr(name) in response.json()["error"]["message"], response.text


def test_row_19_a_template_of_a_request_is_not_logged(
    trusting: Served, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        for template in ("{# nobody may #} none is printed", "{{ nobody_may() }}", "nobody may"):
            trusting.post(CHAT, asking(chat_template=template))
    assert caplog.text.count("route=/v1/chat/completions") == 3
    assert "nobody" not in caplog.text


@pytest.mark.parametrize("path", [CHAT, "/tokenize"])
@pytest.mark.parametrize(
    "written", ["{}", "./{}", "{{% include '{}' %}}", "{{% import '{}' as x %}}"]
)
def test_row_05_a_template_of_a_request_names_no_file(
    trusting: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, written: str
) -> None:
    """What a template holds is what the prompt says: a file's text could be asked for."""
    monkeypatch.chdir(tmp_path)
    Path("secret.jinja").write_text("What nobody may read.")
    for name in ("secret.jinja", str(tmp_path / "secret.jinja"), "s" * 5000):
        template = written.format(name)
        response = trusting.post(
            path, {"messages": asking()["messages"], "chat_template": template}
        )
        assert response.status_code == 400, response.text
        assert "template" in response.json()["error"]["message"]
        assert "nobody" not in response.text
        assert len(response.text) < 1500
