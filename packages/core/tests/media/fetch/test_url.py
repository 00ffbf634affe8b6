"""URLs are read as browsers read them. Cases: the WHATWG URL standard's rules, by hand."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensorium.errors import MediaError
from sensorium.media.fetch.url import normalise_host, parse_url


@pytest.mark.parametrize(
    ("text", "origin", "target"),
    [
        ("http://example.org", "http://example.org", "/"),
        ("HTTPS://EXAMPLE.org:443/A?b=C#d", "https://example.org", "/A?b=C"),
        ("http://example.org:8080/a/./b/../c", "http://example.org:8080", "/a/c"),
        ("http://example.org/%2e%2E/../x", "http://example.org", "/x"),
        ("http://example.org/a/..", "http://example.org", "/"),
        ("  http://exa\nmple.org/a\tb ", "http://example.org", "/ab"),
        ("http:\\\\example.org\\a", "http://example.org", "/a"),
        ("http:example.org/a", "http://example.org", "/a"),
        ("http:////example.org//a", "http://example.org", "//a"),
        ("http://example.org?q", "http://example.org", "/?q"),
        ("http://example.org/a b?c d'", "http://example.org", "/a%20b?c%20d%27"),
        ("http://example.org/ä?ö", "http://example.org", "/%C3%A4?%C3%B6"),
        ("http://example.org./", "http://example.org", "/"),
        ("http://a_b.example.org/", "http://a_b.example.org", "/"),
        ("http://bücher.example/", "http://xn--bcher-kva.example", "/"),
        ("http://BÜCHER.example/", "http://xn--bcher-kva.example", "/"),
        ("http://exa%6Dple.org/", "http://example.org", "/"),
        ("http://[::FFFF:7f00:1]:80/", "http://[::ffff:7f00:1]", "/"),
        # The host ends at a backslash, and the last @ ends the user's name.
        ("http://good.example\\@evil.example/", "http://good.example", "/@evil.example/"),
        ("http://good.example@evil.example/", "http://evil.example", "/"),
        ("http://a@b@evil.example/", "http://evil.example", "/"),
        ("http://good.example#@evil.example/", "http://good.example", "/"),
        ("http://good.example?@evil.example/", "http://good.example", "/?@evil.example/"),
    ],
)
def test_parts(text: str, origin: str, target: str) -> None:
    url = parse_url(text)
    assert (url.origin, url.target) == (origin, target)
    again = parse_url(url.origin + url.target)
    assert (again.origin, again.target) == (origin, target), "a second reading changes nothing"


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("2130706433", "127.0.0.1"),
        ("0x7f000001", "127.0.0.1"),
        ("0X7F.1", "127.0.0.1"),
        ("017700000001", "127.0.0.1"),
        ("0177.0.0.01", "127.0.0.1"),
        ("127.1", "127.0.0.1"),
        ("127.0.1", "127.0.0.1"),
        ("0", "0.0.0.0"),
        ("0x", "0.0.0.0"),
        ("127.0.0.1.", "127.0.0.1"),
        ("\uff11\uff12\uff17.\uff10.\uff10.\uff11", "127.0.0.1"),
        ("\u2460\u2461\u2466.\u24ea.\u24ea.\u2460", "127.0.0.1"),
        ("127\u30020\u30020\u30021", "127.0.0.1"),
        ("%31%32%37.0.0.1", "127.0.0.1"),
        ("[0:0:0:0:0:0:0:1]", "[::1]"),
        ("[::ffff:127.0.0.1]", "[::ffff:7f00:1]"),
    ],
)
def test_spellings_of_addresses(host: str, address: str) -> None:
    assert normalise_host(host) == address


@pytest.mark.parametrize(
    "text",
    [
        *("ftp://example.org/", "//example.org/", "example.org", "", "http://", "http:///"),
        *("http://a b/", "http://a%00b/", "http://a%2fb/", "http://a<b/", "http://a^b/"),
        *("http://:80/", "http://a:b/", "http://a:65536/", "http://a:0/", "http://a:-1/"),
        *("http://a:1:2/", "http://[::1/", "http://::1/", "http://[fe80::1%eth0]/", "http://[g]/"),
        *("http://1.2.3.4.5/", "http://256.1/", "http://1.2.3.999/", "http://4294967296/"),
        *("http://0x100000000/", "http://09.1/", "http://1..2/", "http://a..b/", "http://a.0x/"),
        *("http://%zz/", "http://xn--a/", "http://" + "a" * 64 + ".org/", "http://%ff/"),
    ],
)
def test_what_is_no_url(text: str) -> None:
    with pytest.raises(MediaError) as caught:
        parse_url(text)
    assert len(text) < 12 or text not in str(caught.value)


@pytest.mark.parametrize(
    ("reference", "joined"),
    [
        ("https://other.example/x", "https://other.example/x"),
        ("//other.example/x", "http://other.example/x"),
        ("\\\\other.example/x", "http://other.example/x"),
        ("/x?y", "http://a.example:81/x?y"),
        ("x", "http://a.example:81/b/x"),
        ("../x", "http://a.example:81/x"),
        ("?y", "http://a.example:81/b/c?y"),
        ("#d", "http://a.example:81/b/c?q"),
        ("", "http://a.example:81/b/c?q"),
    ],
)
def test_redirects_are_relative_to_where_they_came_from(reference: str, joined: str) -> None:
    url = parse_url("http://a.example:81/b/c?q").join(reference)
    assert url.origin + url.target == joined


def test_a_redirect_to_another_scheme() -> None:
    with pytest.raises(MediaError, match="scheme is 'file'; fetched are http and https"):
        parse_url("http://a.example/").join("file:///etc/passwd")


def test_credentials_are_kept_out_of_everything_that_is_shown() -> None:
    url = parse_url("http://us%65r:pass%40word@a.example/x")
    assert url.credentials == b"user:pass@word"
    assert "word" not in url.origin + url.target
    assert parse_url("http://a.example/").credentials is None


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    for url in (text, f"http://{text}", f"http://a.example/{text}", f"https:{text}"):
        with suppress(MediaError):
            parsed = parse_url(url)
            assert parse_url(parsed.origin + parsed.target).origin == parsed.origin
    with suppress(MediaError):
        parse_url("http://a.example/b").join(text)
