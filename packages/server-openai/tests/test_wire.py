"""Clients that send too much or too slowly are told so and cut off."""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest
from scripted_engine import ScriptedEngine
from served import Served, served

from sensorium_server_openai import Limits

POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"


def talk(server: Served, *pieces: bytes) -> bytes:
    """What a client reads that sends these pieces and then waits."""
    with socket.create_connection(("127.0.0.1", server.port), 60) as connection:
        for piece in pieces:
            connection.sendall(piece)
        found = b""
        while data := connection.recv(65536):
            found += data
    return found


#: Every time limit is so short that waiting for it is waiting for it alone.
HASTY = Limits(header_s=0.2, body_s=0.2, keep_alive_s=1, header_bytes=2000, headers=20)


@pytest.mark.parametrize(
    ("pieces", "status"),
    [
        ((b"POST /v1/chat",), b"408"),
        ((POST + b"X-A: 1\r\n",), b"408"),
        ((POST + b"Content-Length: 100\r\n\r\n{",), b"408"),
        ((POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nabc",), b"408"),
        ((POST + b"X-A: " + b"a" * 3000 + b"\r\n\r\n",), b"431"),
        ((POST + b"X-A: " + b"a" * 3000,), b"431"),
        ((b"GET /" + b"a" * 3000 + b" HTTP/1.1\r\n\r\n",), b"431"),
        ((b"GET /" + b"a" * 3000,), b"431"),
        ((POST + b"".join(b"X-%d: 1\r\n" % i for i in range(30)) + b"\r\n",), b"431"),
        ((b"BREW /pot HTCPCP/1.0\r\n\r\n",), b"400"),
    ],
)
def test_a_client_beyond_a_bound_is_cut_off(pieces: tuple[bytes, ...], status: bytes) -> None:
    engine = ScriptedEngine()
    with served(engine, limits=HASTY) as server:
        answer = talk(server, *pieces)
    assert answer.startswith(b"HTTP/1.1 " + status), answer[:200]
    assert engine.num_begun == 0


def test_a_silent_connection_is_closed() -> None:
    with served(ScriptedEngine(), limits=HASTY) as server:
        assert talk(server) == b""


def test_a_second_request_has_bounds_of_its_own() -> None:
    with served(ScriptedEngine(), limits=replace(HASTY, keep_alive_s=60)) as server:
        answer = talk(server, b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /ver")
    first, _, second = answer.partition(b"HTTP/1.1 408")
    assert first.startswith(b"HTTP/1.1 200")
    assert b"too slowly" in second


def test_headers_behind_a_proxy_and_pipelined_requests_are_served() -> None:
    request = b"GET /version HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * 1000 + b"\r\n\r\n"
    with served(ScriptedEngine(), limits=HASTY) as server:
        answer = talk(server, request + request)
    assert answer.count(b"HTTP/1.1 200") == 2
