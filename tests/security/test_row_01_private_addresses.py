"""Row 1 (CVE-2025-6242): a media URL reaches no address that isn't public, unless it was opened.

Names are resolved by a table and connections are noted, not made, except to loopback.
"""

from __future__ import annotations

import pytest
from hostile_server import HostileServer, LoopbackConnector, Names, answer, fetch

from sensorium.errors import MediaError
from sensorium.media.fetch.policy import FetchPolicy

PUBLIC = FetchPolicy()
INSIDE = [
    *("127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1"),
    *("0.0.0.0", "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fd00:ec2::254"),
    *("::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::10.0.0.1", "64:ff9b::a9fe:a9fe"),
    *("2002:7f00:1::1", "2002:c0a8:1::1", "::127.0.0.1", "2001:0:a00:1::1"),
    *("192.0.0.192", "100.100.100.200", "168.63.129.16", "198.18.0.1", "240.0.0.1"),
    *("::ffff:0:127.0.0.1", "64:ff9b:1::7f00:1", "::ffff:0:0", "fec0::1", "ff02::1", "100::1"),
    *("5f00::1", "2001:db8::1", "3fff::1", "::ffff:168.63.129.16"),
]


@pytest.mark.parametrize("address", INSIDE)
def test_names_and_literals_that_lead_inside(address: str) -> None:
    connector = LoopbackConnector(port=1)
    literal = f"[{address}]" if ":" in address else address
    for host in ("media.example", literal):
        names = Names(media_example=[address])
        with pytest.raises(MediaError, match="isn't on the public Internet"):
            fetch(f"http://{host}/", PUBLIC, resolver=names, connector=connector)
    assert connector.connected == []


def test_one_address_of_several_is_enough_to_refuse_the_name() -> None:
    connector = LoopbackConnector(port=1)
    names = Names(media_example=["93.184.216.34", "10.0.0.1"])
    with pytest.raises(MediaError, match=r"host media\.example isn't on the public Internet"):
        fetch("https://media.example/", PUBLIC, resolver=names, connector=connector)
    assert connector.connected == []


def test_a_public_name_is_fetched_from_the_address_that_was_checked() -> None:
    with HostileServer() as server:
        server.scripts["/x"] = answer(b"public")
        connector = LoopbackConnector(server.port)
        names = Names(media_example=["93.184.216.34"])
        source = fetch("http://media.example/x", PUBLIC, resolver=names, connector=connector)
        assert source.data == b"public"
        assert connector.connected == ["93.184.216.34"]
        assert server.requests[0].headers["host"] == "media.example"


def test_it_is_opened_for_hosts_and_networks_and_not_by_domains() -> None:
    with HostileServer() as server:
        server.scripts["/x"] = answer(b"inside")
        url = server.url("/x")
        for private in (True, ["127.0.0.1"], ["127.0.0.0/8"]):
            policy = FetchPolicy.from_options(private_hosts=private)
            assert fetch(url, policy).data == b"inside"
        for closed in ({"domains": ["127.0.0.1"]}, {"private_hosts": ["10.0.0.0/8", "localhost"]}):
            with pytest.raises(MediaError, match="isn't on the public Internet"):
                fetch(url, FetchPolicy.from_options(**closed))
        assert len(server.requests) == 3


def test_names_without_an_address() -> None:
    with pytest.raises(MediaError, match=r"host media\.example has no address"):
        fetch("http://media.example/", PUBLIC, resolver=Names())
