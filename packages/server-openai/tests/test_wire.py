"""Clients that send too much or too slowly are told so and cut off."""

from __future__ import annotations

import json
import socket
from dataclasses import replace

import pytest
from scripted_engine import ENDLESS, ScriptedEngine, until
from served import Served, served

from sensorium_server_openai import Limits

POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
ASK = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}


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
        ((POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",), b"400"),
        ((POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",), b"400"),
    ],
)
def test_a_client_beyond_a_bound_is_cut_off(pieces: tuple[bytes, ...], status: bytes) -> None:
    engine = ScriptedEngine()
    with served(engine, limits=HASTY) as server:
        answer = talk(server, *pieces)
    assert answer.startswith(b"HTTP/1.1 " + status), answer[:200]
    assert answer.count(b"HTTP/1.1") == 1
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == int(status)
    assert engine.num_begun == 0


def test_a_trailer_without_end_is_cut_off() -> None:
    with (
        served(ScriptedEngine(), limits=replace(HASTY, body_s=3600)) as server,
        socket.create_connection(("127.0.0.1", server.port)) as connection,
    ):
        connection.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: ")
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            _send_without_end(connection)


def _send_without_end(connection: socket.socket) -> None:
    while True:
        connection.sendall(b"a" * 65536)


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


async def test_a_client_that_does_not_read_its_answer_is_cut_off() -> None:
    engine = ScriptedEngine(["a" * 65536, ENDLESS])
    with served(engine, limits=HASTY) as server:
        connection = server.send("POST", "/v1/chat/completions", ASK)
        await until(lambda: engine.num_aborted == 1)
        await until(lambda: server.gate.running == 0)
        connection.close()


async def test_a_client_that_does_not_read_the_end_of_its_answer_is_cut_off() -> None:
    """What the server has written is more than the system takes, and nothing comes after it."""
    engine = ScriptedEngine(["a" * 2**25])
    with served(engine, limits=HASTY) as server:
        connection = server.send("POST", "/v1/chat/completions", ASK)
        await until(lambda: server.gate.running == 0 and engine.num_begun == 1)
        await until(lambda: not server.server.server_state.connections)
        connection.close()


@pytest.mark.parametrize(
    "second",
    [
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: 1\r\n" * 30 + b"\r\n",
        b"GET /" + b"a" * 3000,
    ],
)
def test_a_bad_request_behind_another_does_not_get_into_its_answer(second: bytes) -> None:
    body = json.dumps(ASK).encode()
    first = POST + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    with served(ScriptedEngine(["a", ENDLESS]), limits=HASTY) as server:
        answer = talk(server, first + body + second)
    assert b"error" not in answer
    assert answer.count(b"HTTP/1.1") <= 1


def test_half_a_request_behind_another_waits_for_its_answer() -> None:
    body = json.dumps(ASK).encode()
    first = POST + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    engine = ScriptedEngine(["a"] * 300 + ["b"], waits_before=300)
    with served(engine, limits=HASTY) as server:
        loop = server.loop
        loop.call_soon_threadsafe(loop.call_later, 3 * HASTY.header_s, engine.go_on.set)
        answer = talk(server, first + body + b"GET /ver")
    whole, _, late = answer.partition(b"HTTP/1.1 408")
    assert b"data: [DONE]" in whole
    assert b"too slowly" in late
