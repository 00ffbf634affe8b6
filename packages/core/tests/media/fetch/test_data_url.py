"""data: URLs are read as browsers read them. Cases: WHATWG Fetch and Infra, by hand."""

from __future__ import annotations

import base64
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensorium.errors import LimitError, MediaError
from sensorium.media.fetch import data_url, is_url, resolve
from sensorium.media.fetch.resolve import bytes_to_come
from sensorium.types import BytesSource, UrlSource


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
        ("data:text;base64,YWJj", b"abc", None),
        ("data:text/*;base64,YWJj", b"abc", "text/*"),
        (" data:;base64,YWJj", b"abc", None),
        ("data:text/plain; base64 ,YWJj", b"abc", "text/plain"),
        ("data:te\x00xt/plain,abc", b"abc", None),
        # No mark of base64 at the head's end.
        ("data:text/plain;base64;charset=x,YWJj", b"YWJj", "text/plain"),
        # Fragments are no part of the resource.
        ("data:,abc#def", b"abc", None),
        ("data:;base64,YWJj#def", b"abc", None),
        # Base64 with white space, and without padding.
        ("data:;base64,YW Jj", b"abc", None),
        ("data:;base64,YW\r\nJj\n", b"abc", None),
        ("data:;base64,\tYWJj\x0c", b"abc", None),
        ("data:;base64,YWI", b"ab", None),
        ("data:;base64,YW I", b"ab", None),
        ("data:;base64,YWI%3D", b"ab", None),
        ("data:;base64,YW%0AI=", b"ab", None),
        ("data:;base64,YR==", b"a", None),
        # What isn't escaped as it should be stands for itself.
        ("data:,a b", b"a b", None),
        ("data:,a%2", b"a%2", None),
        ("data:,a%zz", b"a%zz", None),
        ("data:,\u00e9", "\u00e9".encode(), None),
        ("data:,a\nb ", b"ab", None),
    ],
)
def test_heads(url: str, data: bytes, media_type: str | None) -> None:
    assert fetched(url) == BytesSource(data, media_type)


@pytest.mark.parametrize(
    "url",
    [
        "data:text/plain;base64",
        "data:text/plain;base64#a,YWJj",
        "data:text/plain;base64,YWJj=",
        "data:text/plain;base64,YWJj====",
        "data:text/plain;base64,YWJ==",
        "data:text/plain;base64,YWJjY",
        "data:text/plain;base64,YW=J",
        "data:text/plain;base64,_-__",
        "data:text/plain;base64,YWJ\u00e9",
        "data:text/plain;base64,YWJ%0",
        "data:text/plain;base64,YW\x0bJj",
        "data:text/plain;base64,data:text/plain;base64,YWJj",
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
        with suppress(MediaError, LimitError):
            fetched(url)


def test_size_is_checked_before_decoding() -> None:
    for url in ("data:;base64," + "A" * 400, "data:," + "A" * 300, "data:," + "%41" * 300):
        assert len(fetched(url, 300).data) == 300
        with pytest.raises(LimitError, match=r"300 bytes .* 299 allowed"):
            fetched(url, 299)
    assert len(fetched("data:;base64,QQ==", 1).data) == 1


@settings(deadline=None)
@given(st.text(max_size=30))
def test_the_bound_on_what_will_be_decoded_holds(text: str) -> None:
    for url in (f"data:,{text}", f"data:;base64,{text}", f"data:{text},{text}"):
        with suppress(MediaError):
            assert len(fetched(url).data) <= bytes_to_come(UrlSource(url))


def test_is_url_leaves_drives_and_names_out() -> None:
    assert is_url("data:,x")
    assert is_url("https://a")
    assert not is_url("C:\\picture")
    assert not is_url("a/b:c")
    assert not is_url("")


BASE64_LIKE = st.text(alphabet="AB/+w9==\n %", max_size=24)


@settings(deadline=None)
@given(BASE64_LIKE | st.binary(max_size=40).map(lambda data: base64.b64encode(data).decode()))
def test_reading_once_gives_what_the_forgiving_decode_gives(text: str) -> None:
    """Also where padding stands at a piece's end, which is none of the payload's."""
    outcomes = []
    for read_once in (lambda payload: decode_plain(payload, piece=8), lambda _: None):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(data_url, "_decode_plain", read_once)
            try:
                outcomes.append(data_url.decode_base64(text, 1000))
            except MediaError:
                outcomes.append(None)
    assert outcomes[0] == outcomes[1]


def decode_plain(payload: str, piece: int) -> bytes | None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_url, "_PIECE", piece)
        return DECODE_PLAIN(payload)


DECODE_PLAIN = data_url._decode_plain


def test_plain_payloads_are_read_once() -> None:
    data = bytes(range(256)) * 3
    assert DECODE_PLAIN(base64.b64encode(data).decode()) == data
    assert DECODE_PLAIN("YWJj\nYWJj") is None
    assert decode_plain("YWI=YWJj", piece=4) is None
