"""Row 3: a redirect leads nowhere that its URL wouldn't have led; redirects can be refused."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from hostile_server import (
    HostileServer,
    LoopbackConnector,
    Names,
    Request,
    answer,
    fetch,
    redirect,
)

from sensorium.errors import MediaError
from sensorium.media.fetch.policy import MAX_REDIRECTS, FetchPolicy

NAMES = {"good_example": ["93.184.216.34"], "evil_example": ["10.0.0.1"]}


@pytest.fixture
def server() -> Iterator[HostileServer]:
    """A server behind good.example."""
    with HostileServer() as server:
        server.scripts["/x"] = answer(b"arrived")
        yield server


def get(server: HostileServer, target: str, policy: FetchPolicy) -> bytes:
    connector = LoopbackConnector(server.port)
    names = Names(**NAMES)
    source = fetch(f"http://good.example{target}", policy, resolver=names, connector=connector)
    data: bytes = source.data
    return data


@pytest.mark.parametrize(
    ("location", "sentence"),
    [
        ("http://127.0.0.1/x", "host 127.0.0.1 isn't on the public Internet"),
        ("http://[::ffff:169.254.169.254]/x", "isn't on the public Internet"),
        ("http://2852039166/x", "host 169.254.169.254 isn't on the public Internet"),
        ("//localhost:1/x", "host localhost"),
        ("http://evil.example/x", "host evil.example isn't on the public Internet"),
        ("http://good.example@evil.example/x", "host evil.example isn't on the public Internet"),
        ("\\\\evil.example\\x", "host evil.example isn't on the public Internet"),
        ("file:///etc/passwd", "scheme is 'file'"),
        ("data:,x", "scheme is 'data'"),
        ("gopher://good.example/x", "scheme is 'gopher'"),
        ("http://", "host is empty"),
        ("http://0/x", "host 0.0.0.0 isn't on the public Internet"),
        ("http:127.0.0.1/x", "host 127.0.0.1 isn't on the public Internet"),
        ("/\\127.0.0.1/x", "host 127.0.0.1 isn't on the public Internet"),
        ("\\/127.0.0.1/x", "host 127.0.0.1 isn't on the public Internet"),
        ("///127.0.0.1/x", "host 127.0.0.1 isn't on the public Internet"),
        ("\t//127.0.0.1/x", "host 127.0.0.1 isn't on the public Internet"),
        ("https://127.0.0.1/x", "host 127.0.0.1 isn't on the public Internet"),
        ("http://user:password@[::1]/x", "isn't on the public Internet"),
        ("http://127.0.0.1:0/x", "port is no number"),
        ("http://localhost./x", "host localhost has no address"),
        ("//@/", "host is empty"),
        ("javascript:1", "scheme is 'javascript'"),
        ("jar:http://good.example!/x", "scheme is 'jar'"),
    ],
)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_every_hop_is_checked(
    server: HostileServer, location: str, sentence: str, status: int
) -> None:
    server.scripts["/go"] = redirect("/again", status)
    server.scripts["/again"] = redirect(location, status)
    with pytest.raises(MediaError, match=sentence.replace(".", r"\.")):
        get(server, "/go", FetchPolicy())
    assert [request.target for request in server.requests] == ["/go", "/again"]


def test_domains_hold_for_every_hop(server: HostileServer) -> None:
    server.scripts["/go"] = redirect("http://other.example/x")
    policy = FetchPolicy.from_options(domains=["good.example"])
    with pytest.raises(MediaError, match=r"host other\.example isn't among allowed_media_domains"):
        get(server, "/go", policy)
    server.scripts["/go"] = redirect("/x")
    assert get(server, "/go", policy) == b"arrived"


def test_redirects_may_be_switched_off(
    server: HostileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.scripts["/go"] = redirect("/x")
    assert get(server, "/go", FetchPolicy.from_options()) == b"arrived"
    monkeypatch.setenv("SENSORIUM_MEDIA_URL_ALLOW_REDIRECTS", "0")
    with pytest.raises(MediaError, match="redirects, and redirects are switched off"):
        get(server, "/go", FetchPolicy.from_options())


def test_what_comes_with_a_redirect_is_not_read(server: HostileServer) -> None:
    """Neither its body, however long, nor a second address."""

    def redirects(request: Request, connection: socket.socket) -> None:
        head = b"HTTP/1.1 302 Found\r\nLocation: /x\r\nLocation: http://127.0.0.1/x\r\n"
        connection.sendall(head + b"Content-Length: 999999999999\r\n\r\n")
        server.released.wait(60)

    server.scripts["/go"] = redirects
    assert get(server, "/go", FetchPolicy()) == b"arrived"
    server.released.set()


def test_chains_and_loops_end(server: HostileServer) -> None:
    server.scripts["/loop"] = redirect("/loop")
    with pytest.raises(MediaError, match=f"more than {MAX_REDIRECTS} redirects"):
        get(server, "/loop", FetchPolicy())
    assert len(server.requests) == MAX_REDIRECTS + 1
    for step in range(MAX_REDIRECTS):
        server.scripts[f"/{step}"] = redirect(f"/{step + 1}")
    server.scripts[f"/{MAX_REDIRECTS}"] = answer(b"arrived")
    assert get(server, "/0", FetchPolicy()) == b"arrived"
