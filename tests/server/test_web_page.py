"""The web page in a headless browser: files, answers, stop, the API key, the keyboard."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import PROGRAM, Page, browser
from scripted_engine import ENDLESS, ScriptedEngine
from served import Served, served
from tiny_ultravox import make_ultravox

from sensorium import AsyncEngine
from sensorium.assets.image import ImageAsset
from sensorium_server_openai.engine_port import EnginePort

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(PROGRAM is None, reason="needs Chromium"),
]

ANSWER = "document.querySelector('article.assistant:last-of-type p').textContent"
DONE = "!!document.querySelector('article.assistant:last-of-type .figures')"
ENTER, ESCAPE, TAB = ("Enter", 13), ("Escape", 27), ("Tab", 9)


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    with browser(tmp_path / "profile") as opened:
        yield opened


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    file = tmp_path / "sign.png"
    ImageAsset("stop_sign").pil_image.save(file)
    return file


def keep(page: Page, name: str) -> None:
    """Writes a screenshot to the folder of SENSORIUM_SCREENSHOTS, if somebody wants to look."""
    if folder := os.environ.get("SENSORIUM_SCREENSHOTS"):
        (Path(folder) / f"{name}.png").write_bytes(page.screenshot())


def open_page(page: Page, server: Served) -> None:
    page.call("Page.navigate", url=server.url)
    page.until("document.readyState === 'complete' && !!document.getElementById('model')")


def complaints(page: Page) -> list[str]:
    """What the browser's console holds against the page."""
    found = [
        parameters["entry"]["text"]
        for method, parameters in page.events
        if method == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning")
    ]
    return found + [m for m, _ in page.events if m == "Runtime.exceptionThrown"]


def test_a_file_is_asked_about_and_the_answer_streams(
    page: Page, server: Served, picture: Path
) -> None:
    open_page(page, server)
    page.until("document.getElementById('model').textContent.includes('tiny-vl')")
    keep(page, "empty")
    page.choose_files("#picker", picture)
    page.until("document.querySelectorAll('#files li').length === 1")
    page.run("document.getElementById('ask').focus()")
    page.type("What shape is this?")
    keep(page, "attached")
    page.press(*ENTER, text="\r")
    page.until(DONE)
    assert page.run(ANSWER)
    figures = page.run("document.querySelector('article.assistant .figures').textContent")
    assert "prompt tokens" in figures
    assert "answer tokens" in figures
    assert page.run("document.querySelector('article.user img').naturalWidth") > 0
    assert page.run("document.getElementById('spoken').textContent").startswith("tiny-vl: ")
    page.type("And what colour?")
    page.press(*ENTER, text="\r")
    page.until("document.querySelectorAll('article.assistant .figures').length === 2")
    keep(page, "answered")
    for value in ("dark", "light"):
        page.call(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": value}],
        )
        keep(page, value)
    page.call(
        "Emulation.setDeviceMetricsOverride",
        width=360, height=640, deviceScaleFactor=1, mobile=True,
    )  # fmt: skip
    assert page.run("document.documentElement.scrollWidth <= 360")
    keep(page, "narrow")
    asked = [url for url in page.requested() if not url.startswith(("blob:", "data:"))]
    assert asked
    assert all(url.startswith(server.url + "/") for url in asked), asked
    assert complaints(page) == []


def test_a_file_of_no_kind_is_refused_in_a_sentence(
    page: Page, server: Served, tmp_path: Path
) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("words")
    open_page(page, server)
    page.until("document.getElementById('model').textContent.includes('tiny-vl')")
    page.choose_files("#picker", file)
    page.until("document.getElementById('notice').textContent.includes('notes.txt')")
    assert page.run("document.querySelectorAll('#files li').length") == 0


def test_an_answer_is_stopped_and_its_request_aborted(page: Page) -> None:
    engine = ScriptedEngine(["word ", ENDLESS])
    with served(engine) as server:
        open_page(page, server)
        page.until("document.getElementById('model').textContent.includes('tiny-vl')")
        page.run("document.getElementById('ask').focus()")
        page.type("Go on")
        page.press(*ENTER, text="\r")
        page.until("document.querySelector('article.assistant p')?.textContent.includes('word')")
        keep(page, "streaming")
        page.press(*ESCAPE)
        page.until("document.querySelector('article .figures')?.textContent === 'Stopped.'")
        page.until("document.getElementById('stop').disabled")
    assert engine.num_aborted == 1


def test_the_key_is_asked_for_and_kept_in_memory_alone(page: Page) -> None:
    with served(ScriptedEngine(), api_keys=("secret",)) as server:
        open_page(page, server)
        page.until("document.activeElement.id === 'key'")
        keep(page, "key")
        page.type("wrong")
        page.press(*ENTER, text="\r")
        page.until("document.getElementById('notice').textContent.includes('key')")
        page.type("secret")
        page.press(*ENTER, text="\r")
        page.until("document.activeElement.id === 'ask'")
        page.type("Hi")
        page.press(*ENTER, text="\r")
        page.until(DONE)
        assert page.run(ANSWER) == "Hello there."
        assert page.run("localStorage.length + sessionStorage.length + document.cookie.length") == 0
        assert not page.run("document.documentElement.outerHTML.includes('secret')")


def test_every_control_has_a_name_and_is_reached_by_the_keyboard(
    page: Page, server: Served
) -> None:
    open_page(page, server)
    page.until("document.activeElement.id === 'ask'")
    tree = page.call("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "textbox", "spinbutton", "combobox", "log"}
    controls = [node for node in tree if node.get("role", {}).get("value") in roles]
    assert len(controls) >= 5
    assert all(node["name"]["value"] for node in controls if not node["ignored"])
    reached = set()
    for _ in range(12):
        page.press(*TAB)
        reached.add(page.run("document.activeElement.id"))
    assert {"send", "attach", "fresh", "talk"} <= reached


def test_a_recording_is_made_and_heard(page: Page, tmp_path: Path) -> None:
    """The browser records what the kinds' media types say, and the model hears the file."""
    pytest.importorskip("av")
    folder = make_ultravox(tmp_path / "model")
    with (
        AsyncEngine(str(folder), max_model_len=1024) as engine,
        served(EnginePort.of(engine, str(folder)), names=("listener",)) as listening,
    ):
        open_page(page, listening)
        page.until("document.querySelector('#record button')?.textContent === 'Record audio'")
        assert page.run("document.querySelectorAll('#record button').length") == 1
        page.run("document.querySelector('#record button').click()")
        page.until("document.querySelector('#record button').textContent === 'End recording'")
        page.run("new Promise((resolve) => setTimeout(resolve, 1500))")
        page.run("document.querySelector('#record button').click()")
        page.until("document.querySelectorAll('#files li').length === 1")
        keep(page, "recorded")
        page.run("document.getElementById('max-tokens').value = '8'")
        page.run("document.getElementById('ask').focus()")
        page.type("what is this?")
        page.press(*ENTER, text="\r")
        page.until(DONE + " || document.getElementById('notice').textContent !== ''")
        assert page.run("document.getElementById('notice').textContent") == ""
        assert page.run("!!document.querySelector('article.user video, article.user audio')")
        assert complaints(page) == []
