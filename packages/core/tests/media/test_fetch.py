"""data: URLs are decoded strictly; files only for who holds a Path; the rest is refused."""

from __future__ import annotations

import base64
import os
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensorium.errors import LimitError, MediaError, UnsupportedError
from sensorium.media.fetch import is_url, resolve
from sensorium.types import BytesSource, UrlSource, ValueSource


def fetched(url: str, max_bytes: int = 1000) -> BytesSource:
    source = resolve(UrlSource(url), max_bytes=max_bytes)
    assert isinstance(source, BytesSource)
    return source


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_both_forms_give_the_bytes_back(data: bytes) -> None:
    text = base64.b64encode(data).decode()
    assert fetched(f"data:application/x-note;base64,{text}").data == data
    escaped = text.replace("+", "%2B").replace("/", "%2f").replace("=", "%3D")
    assert fetched(f"data:;base64,{escaped}").data == data
    percent = "".join(f"%{byte:02X}" for byte in data)
    assert fetched(f"data:,{percent}").data == data


@pytest.mark.parametrize(
    ("url", "data", "media_type"),
    [
        ("data:,abc", b"abc", None),
        ("DATA:Text/Plain;BASE64,YWJj", b"abc", "text/plain"),
        ("data:text/plain;charset=utf-8;base64,YWJj", b"abc", "text/plain"),
        ("data:text/plain;charset=utf-8,a%20b,c", b"a b,c", "text/plain"),
        ("data:application/svg+xml;base64,", b"", "application/svg+xml"),
    ],
)
def test_heads(url: str, data: bytes, media_type: str | None) -> None:
    assert fetched(url) == BytesSource(data, media_type)


@pytest.mark.parametrize(
    "url",
    [
        "data:text/plain;base64",
        "data:text;base64,YWJj",
        "data:text/plain;base64;charset=x,YWJj",
        "data:text/plain;base64,YWJ",
        "data:text/plain;base64,YW Jj",
        "data:text/plain;base64,YWJj\n",
        "data:text/plain;base64,YWJj=",
        "data:text/plain;base64,YWJj====",
        "data:text/plain;base64,YW=J",
        "data:text/plain;base64,_-__",
        "data:text/plain;base64,YWJ\u00e9",
        "data:text/plain;base64,YWJ%0",
        "data:,a%2",
        "data:,a%zz",
        "data:,a b",
        "data:,\u00e9",
        "data:te\x00xt/plain,abc",
    ],
)
def test_malformed_data_urls(url: str) -> None:
    with pytest.raises(MediaError) as caught:
        fetched(url)
    assert url not in str(caught.value)
    assert type(caught.value) is MediaError


@settings(deadline=None)
@given(st.text(max_size=30))
def test_any_text_is_decoded_or_refused_with_our_own_errors(text: str) -> None:
    for url in (text, f"data:{text}", f"data:,{text}", f"data:;base64,{text}"):
        with suppress(MediaError, LimitError, UnsupportedError):
            fetched(url)


def test_size_is_checked_before_decoding() -> None:
    for url in ("data:;base64," + "A" * 400, "data:," + "A" * 300, "data:," + "%41" * 300):
        assert len(fetched(url, 300).data) == 300
        with pytest.raises(LimitError, match=r"300 bytes .* 299 allowed"):
            fetched(url, 299)
    assert len(fetched("data:;base64,QQ==", 1).data) == 1


@pytest.mark.parametrize("url", ["http://a/b", "https://a/b", "file:///etc/passwd", "FILE:///x"])
def test_unbuilt_schemes_are_refused_without_echo(url: str) -> None:
    with pytest.raises(
        UnsupportedError, match=r"isn't built yet; pass the media .* data: URL"
    ) as e:
        fetched(url)
    assert "passwd" not in str(e.value)


@pytest.mark.parametrize("url", ["ftp://a/b", "gopher:x", "no-scheme", "", "://", "\\\\host\\x"])
def test_other_schemes_are_refused(url: str) -> None:
    with pytest.raises(MediaError, match="only data: URLs are allowed"):
        fetched(url)


def test_is_url_leaves_drives_and_names_out() -> None:
    assert is_url("data:,x")
    assert is_url("https://a")
    assert not is_url("C:\\picture")
    assert not is_url("a/b:c")
    assert not is_url("")


def test_a_path_is_read_once_and_only_if_it_is_a_regular_file(tmp_path: Path) -> None:
    file = tmp_path / "note.txt"
    file.write_bytes(b"hello")
    assert resolve(ValueSource(file), max_bytes=5) == BytesSource(b"hello")
    with pytest.raises(LimitError, match="5 bytes"):
        resolve(ValueSource(file), max_bytes=4)
    with pytest.raises(MediaError, match="can't be opened"):
        resolve(ValueSource(tmp_path / "none"), max_bytes=5)
    with pytest.raises(MediaError, match="no regular file"):
        resolve(ValueSource(tmp_path), max_bytes=5)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(MediaError, match="no regular file"):
        resolve(ValueSource(pipe), max_bytes=5)
    with pytest.raises(MediaError, match="no regular file"):
        resolve(ValueSource(Path("/dev/zero")), max_bytes=5)


def test_values_and_bytes_pass() -> None:
    value, data = ValueSource([1, 2]), BytesSource(b"x" * 10)
    assert resolve(value, max_bytes=1) is value
    assert resolve(data, max_bytes=1) is data
