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
    ],
)
def test_loopback_in_any_spelling(host: str) -> None:
    connector = LoopbackConnector(port=1)
    names = Names()
    with pytest.raises(MediaError, match="isn't on the public Internet"):
        fetch(f"http://{host}/", FetchPolicy(), resolver=names, connector=connector)
    assert names.calls == connector.connected == []


def test_an_address_is_checked_in_its_normalised_spelling() -> None:
    with HostileServer() as server:
        server.scripts["/x"] = answer(b"inside")
        policy = FetchPolicy.from_options(domains=["127.0.0.1"], private_hosts=["127.0.0.1"])
        assert fetch(server.url("/x", host="0x7f.1"), policy).data == b"inside"
        assert server.requests[0].headers["host"] == f"127.0.0.1:{server.port}"
