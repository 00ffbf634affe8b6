"""Row 2 (CVE-2026-24779): one reading of a URL; what is checked is what is fetched.

Each URL is made so that readers differ about its host. The right host is the one that browsers see.
"""

from __future__ import annotations

import pytest
from hostile_server import HostileServer, LoopbackConnector, Names, answer, fetch

from sensorium.errors import MediaError
from sensorium.media.fetch.policy import FetchPolicy

GOOD = FetchPolicy.from_options(domains=["good.example"])

#: URL → the host that it names
READINGS = {
    "http://good.example\\@evil.example/": "good.example",
    "http://evil.example\\@good.example/": "evil.example",
    "http://good.example@evil.example/": "evil.example",
    "http://evil.example@good.example/": "good.example",
    "http://good.example:80@evil.example/": "evil.example",
    "http://good.example#@evil.example/": "good.example",
    "http://evil.example#@good.example/": "evil.example",
    "http://evil.example?@good.example/": "evil.example",
    "http://evil.example/@good.example/": "evil.example",
    "http:\\\\evil.example\\good.example/": "evil.example",
    "http:///evil.example/good.example": "evil.example",
    "http://evil.example%2egood.example/": "evil.example.good.example",
    "http://good\u3002example/": "good.example",
    "http://\uff47\uff4f\uff4f\uff44.example/": "good.example",
    "http://good.exam\tple/": "good.example",
    "http://GOOD.EXAMPLE./": "good.example",
    "http://g%6Fod.example/": "good.example",
    "http://good%E3%80%82example/": "good.example",
    "http://good.example\uff0e/": "good.example",
    "http://good\u00ad.example/": "good.example",
    "http://good.example\u200b/": "good.example",
    "http://\u24d6ood.example/": "good.example",
    "http://go\u0301od.example/": "xn--god-gna.example",
    "http://good.example%2f@evil.example/": "evil.example",
    "http://good.example%5c@evil.example/": "evil.example",
    "http://good.example;@evil.example/": "evil.example",
    "http://good.example&@evil.example#@good.example/": "evil.example",
    "http://good.example@@evil.example/": "evil.example",
    "http:/evil.example@good.example/": "good.example",
    "http:good.example/": "good.example",
    " \x00http://good.example/": "good.example",
    "http://:@good.example:080/": "good.example",
}


@pytest.mark.parametrize("url", READINGS)
def test_hosts(url: str) -> None:
    host = READINGS[url]
    with HostileServer() as server:
        for target in ("/", "/@evil.example/", "/@good.example/"):
            server.scripts[target] = answer(b"got it")
        connector = LoopbackConnector(server.port)
        addresses = ["93.184.216.34"]
        names = Names(good_example=addresses, evil_example=addresses)
        if host == "good.example":
            assert fetch(url, GOOD, resolver=names, connector=connector).data == b"got it"
            assert names.calls == [host]
            assert server.requests[0].headers["host"] == host
        else:
            with pytest.raises(MediaError, match=f"host {host} isn't among allowed_media_domains"):
                fetch(url, GOOD, resolver=names, connector=connector)
            assert names.calls == connector.connected == []


@pytest.mark.parametrize(
    "host",
    [
        *("2130706433", "0x7f000001", "017700000001", "0177.0.0.1", "0x7f.1", "127.1", "127.0.1"),
        *(
            "127.0.0.1.",
            "%31%32%37.0.0.1",
            "\uff11\uff12\uff17.\uff10.\uff10.\uff11",
            "127\u30020\u30020\u30021",
            "\u2460\u2461\u2466.0.0.1",
        ),
        *("0", "0x0", "[::ffff:127.0.0.1]", "[0:0::1]", "[::ffff:7f00:1]", "user@127.0.0.1"),
        *("0.", "0x", "00000177.1", "0x7f.0.0.0x1", "017700000001.", "[::127.0.0.1]", "[::]"),
        *("127\uff0e0\uff0e0\uff0e1", "127\uff610\uff610\uff611", "u:p%40@127.0.0.1"),
        *("good.example%40@127.0.0.1", "127.0.0.1:80", "[0:0:0:0:0:0:127.0.0.1]"),
    ],
)
def test_loopback_in_any_spelling(host: str) -> None:
    connector = LoopbackConnector(port=1)
    names = Names()
    with pytest.raises(MediaError, match="isn't on the public Internet"):
        fetch(f"http://{host}/", FetchPolicy(), resolver=names, connector=connector)
    assert names.calls == connector.connected == []


@pytest.mark.parametrize(
    ("rest", "sentence"),
    [
        ("127.0.0.1../", "an empty or overlong part"),
        ("%5B::1%5D/", "port is no number"),
        ("[fe80::1%25eth0]/", "no valid IPv6 address"),
        ("[::1%250]/", "no valid IPv6 address"),
        ("[good.example]/", "no valid IPv6 address"),
        ("[::1/", "no valid IPv6 address"),
        ("good.example]/", "a character that no host may have"),
        ("good.example%00.evil.example/", "a character that no host may have"),
        ("evil.example%40good.example/", "a character that no host may have"),
        ("good.example%0d%0aHost:1/", "a character that no host may have"),
        ("good.example:80%40evil.example/", "port is no number"),
        ("good.example\r\nHost: evil.example/", "port is no number"),
        *((f"good.example:{port}/", "port is no number") for port in ("0", "00", "65536", "-1")),
        *((f"good.example:{port}/", "port is no number") for port in ("+80", "8\uff10", "8 0")),
        ("256.256.256.256/", "out of range"),
        ("4294967296/", "out of range"),
        ("08.0.0.1/", "a number that is none"),
        ("good.example\u200d/", "no valid name"),
        ("xn--/", "no valid name"),
        ("\ud800/", "no valid name"),
    ],
)
def test_what_has_no_right_reading_is_refused(rest: str, sentence: str) -> None:
    connector, names = LoopbackConnector(port=1), Names()
    with pytest.raises(MediaError, match=sentence):
        fetch(f"http://{rest}", GOOD, resolver=names, connector=connector)
    assert names.calls == connector.connected == []


def test_an_address_is_checked_in_its_normalised_spelling() -> None:
    with HostileServer() as server:
        server.scripts["/x"] = answer(b"inside")
        policy = FetchPolicy.from_options(domains=["127.0.0.1"], private_hosts=["127.0.0.1"])
        assert fetch(server.url("/x", host="0x7f.1"), policy).data == b"inside"
        assert server.requests[0].headers["host"] == f"127.0.0.1:{server.port}"
