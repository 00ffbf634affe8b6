"""The web page's files, their policy, and what the page may ask."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import ClassVar

import httpx2
import pytest
from scripted_engine import ScriptedEngine
from served import Served, served

from sensorium.plugins.kind import MediaKind
from sensorium_server_openai.media_files import MediaFiles, files_of
from sensorium_server_openai.routes.web import WEB_PATHS

SMELL = MediaFiles("smell", "smell_url", ("smell/*", "application/nose"))


def get(server: Served, path: str, **options: str) -> httpx2.Response:
    with server.client() as client:
        return client.get(path, headers=options)


@pytest.mark.parametrize("path", sorted(WEB_PATHS))
def test_a_file_is_served_without_a_key_and_reaches_no_other_host(path: str) -> None:
    with served(ScriptedEngine(), api_keys=("secret",)) as server:
        response = get(server, path)
    assert response.status_code == 200
    policy = dict(
        part.split(" ", 1) for part in response.headers["content-security-policy"].split("; ")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert "unsafe" not in str(policy)
    assert response.headers["x-content-type-options"] == "nosniff"
    addresses = set(re.findall(r"https?://[^\"' )]+", response.text))
    assert addresses <= {"http://www.w3.org/2000/svg"}  # a namespace, never fetched


def test_the_page_loads_only_files_that_are_served(plain: Served) -> None:
    pages = {path: get(plain, path) for path in WEB_PATHS}
    named = re.findall(r'(?:src|href)="([^"]+)"', pages["/"].text)
    imported = re.findall(r'from "\./([^"]+)"', pages["/web/page.js"].text)
    wanted = {"/" + name for name in named} | {"/web/" + name for name in imported}
    assert wanted == WEB_PATHS - {"/"}
    assert pages["/web/icon.svg"].headers["content-type"].endswith("/svg+xml")
    assert "javascript" in pages["/web/page.js"].headers["content-type"]


def test_no_script_or_style_stands_in_the_page_itself(plain: Served) -> None:
    text = get(plain, "/").text
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\son\w+=|\sstyle=|javascript:", text)


def test_what_the_page_may_know_needs_the_key_and_names_installed_kinds() -> None:
    engine = ScriptedEngine()
    engine.facts = replace(engine.facts, media=(SMELL,))
    with served(engine, api_keys=("secret",)) as server:
        assert get(server, "/web/about").status_code == 401
        about = get(server, "/web/about", Authorization="Bearer secret").json()
    assert about["model"] == "tiny-vl"
    assert about["task"] == "generate"
    assert about["media"] == [
        {"kind": "smell", "part_type": "smell_url", "media_types": ["smell/*", "application/nose"]}
    ]


def test_without_the_page_its_paths_are_closed_and_unknown() -> None:
    with served(ScriptedEngine(), api_keys=("secret",), web=False) as server:
        for path in [*WEB_PATHS, "/web/about"]:
            assert get(server, path).status_code == 401
            assert get(server, path, Authorization="Bearer secret").status_code == 404


def test_a_kind_takes_files_by_its_part_that_clients_can_send() -> None:
    class Smell(MediaKind):
        name: ClassVar[str] = "smell"
        part_types: ClassVar[tuple[str, ...]] = ("smell_raw", "smell_held_url", "smell_url")
        offline_part_types: ClassVar[tuple[str, ...]] = ("smell_held_url",)
        media_types: ClassVar[tuple[str, ...]] = ("smell/*",)

    class Untaken(MediaKind):
        name: ClassVar[str] = "untaken"
        part_types: ClassVar[tuple[str, ...]] = ("untaken_url",)

    found = files_of({"smell": Smell, "untaken": Untaken})
    assert found == (MediaFiles("smell", "smell_url", ("smell/*",)),)
