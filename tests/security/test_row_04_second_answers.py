"""Row 4: a resolver that answers differently the second time is not asked a second time."""

from __future__ import annotations

import pytest
from hostile_server import HostileServer, LoopbackConnector, Names, answer, fetch, redirect

from sensorium.errors import MediaError
from sensorium.media.fetch.policy import FetchPolicy


def test_the_connection_goes_to_the_address_that_was_checked() -> None:
    with HostileServer() as server:
        server.scripts["/x"] = answer(b"got it")
        connector = LoopbackConnector(server.port)
        names = Names(media_example=[["93.184.216.34"], ["10.0.0.1"]])
        fetched = fetch(
            "http://media.example/x", FetchPolicy(), resolver=names, connector=connector
        )
        assert fetched.data == b"got it"
        assert names.calls == ["media.example"]
        assert connector.connected == ["93.184.216.34"]


def test_a_second_connection_is_checked_like_the_first() -> None:
    with HostileServer() as server:
        server.scripts["/x"] = redirect("/y")  # the server closes, so that a new one is opened
        connector = LoopbackConnector(server.port)
        names = Names(media_example=[["93.184.216.34"], ["10.0.0.1"]])
        with pytest.raises(MediaError, match=r"host media\.example isn't on the public Internet"):
            fetch("http://media.example/x", FetchPolicy(), resolver=names, connector=connector)
        assert connector.connected == ["93.184.216.34"]
