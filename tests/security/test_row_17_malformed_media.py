"""Row 17 and the origin's share of it: whatever a server sends, a request gets a sentence.

A server that lies, drips, ends early, inflates or never answers costs its own request an error of
the caller's kind; nothing that it said is repeated, and the memory it was to use is given back
(``fetch`` of the support module looks).
"""

from __future__ import annotations

import gzip
import socket
from collections.abc import Callable

import pytest
from hostile_server import HostileServer, Request, answer, fetch
from PIL import Image

from sensorium import LLM, SamplingParams
from sensorium.errors import FetchError, LimitError, MediaError, RequestError

SECRET = b"a secret of the server"
Script = Callable[[Request, socket.socket], None]


def raw(*pieces: bytes) -> Script:
    return lambda _, connection: [connection.sendall(piece) for piece in pieces] and None


def answer_head(num_bytes: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % num_bytes


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
BROKEN = {
    "no answer": raw(),
    "no HTTP": raw(SECRET),
    "another protocol": raw(b"SSH-2.0-secret\r\n\r\n"),
    "half a head": raw(b"HTTP/1.1 200 OK\r\nContent-"),
    "a bad status": raw(b"HTTP/1.1 abc OK\r\n\r\n" + SECRET),
    "less than was declared": answer(SECRET, headers={"Content-Length": "1000"}),
    "two lengths": raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
    "a negative length": answer(SECRET, headers={"Content-Length": "-1"}),
    "bad chunks": raw(CHUNKED + b"zz\r\n" + SECRET),
    "half a chunk": raw(CHUNKED + b"ff\r\n" + SECRET),
    "an endless header": raw(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 300_000),
    "twenty thousand headers": raw(
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"X%d: a\r\n" % i for i in range(20_000)) + b"\r\nabc"
    ),
    "an endless chunk extension": raw(CHUNKED + b"3;" + b"e" * 300_000 + b"\r\nabc\r\n0\r\n\r\n"),
    "endless trailers": raw(CHUNKED + b"3\r\nabc\r\n0\r\nX: " + b"a" * 300_000),
    "a chunk of any size": raw(CHUNKED + b"f" * 20 + b"\r\n" + SECRET),
    "a negative chunk": raw(CHUNKED + b"-3\r\n" + SECRET),
    "a transfer coding": raw(
        CHUNKED.replace(b"chunked", b"gzip, chunked") + b"3\r\nabc\r\n0\r\n\r\n"
    ),
    "a length with a sign": answer(SECRET, headers={"Content-Length": "+25"}),
    "another protocol from here on": raw(b"HTTP/1.1 101 X\r\nUpgrade: x\r\n\r\n" + SECRET),
    **{f"status {code}": answer(SECRET, status=code) for code in (206, 300, 304, 403, 500, 999)},
}

ODD = {
    "chunk extensions and trailers": raw(
        CHUNKED + b'3;a="b;c"\r\nabc\r\n0;x\r\nLocation: http://127.0.0.1/\r\n\r\n'
    ),
    "chunks and a length": raw(CHUNKED[:-2] + b"Content-Length: 99\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
    "information first": raw(b"HTTP/1.1 103 X\r\n\r\n" * 3, answer_head(3), b"abc"),
    "a type without end": answer(b"abc", headers={"Content-Type": "a" * 60_000}),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_answers_mean_what_http_says(name: str) -> None:
    with HostileServer() as server:
        server.scripts["/x"] = ODD[name]
        assert fetch(server.url("/x")).data == b"abc"


@pytest.mark.parametrize("length", [b"Content-Length: 3\r\n", b""])
def test_a_second_coding_is_seen(length: bytes) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: identity\r\nContent-Encoding: gzip\r\n"
    with HostileServer() as server:
        server.scripts["/x"] = raw(head + length + b"\r\nabc")
        with pytest.raises(MediaError, match="answered in the coding 'identity, gzip'"):
            fetch(server.url("/x"))


def test_information_without_end_ends_at_the_deadline() -> None:
    def informs(request: Request, connection: socket.socket) -> None:
        while not server.released.is_set():
            connection.sendall(b"HTTP/1.1 103 Early Hints\r\nLink: </y>\r\n\r\n")

    with HostileServer() as server:
        server.scripts["/x"] = informs
        with pytest.raises(MediaError, match=r"didn't deliver within 0\.5 seconds"):
            fetch(server.url("/x"), timeout_s=0.5)


@pytest.mark.parametrize("name", BROKEN)
def test_broken_answers(name: str) -> None:
    with HostileServer() as server:
        server.scripts["/x"] = BROKEN[name]
        with pytest.raises(MediaError, match=r"ended before the answer|answered with status") as e:
            fetch(server.url("/x"))
        assert "secret" not in str(e.value)


def test_more_than_was_declared_is_not_read() -> None:
    with HostileServer() as server:
        server.scripts["/x"] = answer(b"abcdef", headers={"Content-Length": "3"})
        assert fetch(server.url("/x")).data == b"abc"


def test_too_much_is_refused_before_it_is_received() -> None:
    def declares(request: Request, connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n")
        server.released.wait(60)  # not a byte of it is needed

    with HostileServer() as server:
        server.scripts["/x"] = declares
        with pytest.raises(LimitError, match="999999999999 bytes are more than the 1000 allowed"):
            fetch(server.url("/x"), max_bytes=1000)
        server.scripts["/x"] = answer(b"x", headers={"Content-Length": "9" * 40})
        with pytest.raises(RequestError):
            fetch(server.url("/x"), max_bytes=1000)


@pytest.mark.parametrize("head", [CHUNKED, b"HTTP/1.1 200 OK\r\n\r\n"])
def test_endless_bodies_end_at_the_limit(head: bytes) -> None:
    def endless(request: Request, connection: socket.socket) -> None:
        connection.sendall(head)
        while not server.released.is_set():
            connection.sendall((b"400\r\n" if head is CHUNKED else b"") + b"x" * 1024 + b"\r\n")

    with HostileServer() as server:
        server.scripts["/x"] = endless
        with pytest.raises(LimitError, match="more than the 100000 bytes allowed"):
            fetch(server.url("/x"), max_bytes=100_000)


def test_a_slow_drip_ends_at_the_deadline() -> None:
    def drip(request: Request, connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while not server.released.wait(0.01):
            connection.sendall(b"x")

    with HostileServer() as server:
        server.scripts["/x"] = drip
        with pytest.raises(MediaError, match=r"didn't deliver within 0\.3 seconds"):
            fetch(server.url("/x"), timeout_s=0.3)


def test_the_deadline_counts_retries() -> None:
    with HostileServer() as server:
        server.scripts["/x"] = lambda request, connection: server.released.wait(60) and None
        with pytest.raises(MediaError, match=r"didn't deliver within 0\.3 seconds"):
            fetch(server.url("/x"), timeout_s=0.3)


@pytest.mark.parametrize("coding", ["gzip", "br", "deflate, gzip", "x-unknown"])
def test_bombs_are_not_unpacked(coding: str) -> None:
    bomb = gzip.compress(bytes(10_000_000))
    with HostileServer() as server:
        server.scripts["/x"] = answer(bomb, headers={"Content-Encoding": coding})
        with pytest.raises(MediaError, match="without being asked"):
            fetch(server.url("/x"))


PARAMS = SamplingParams(temperature=0, max_tokens=2)
PLACEHOLDER = "<|vision_start|><|image_pad|><|vision_end|>"


def test_an_engine_goes_on(vl_folder: object) -> None:
    good = Image.new("RGB", (56, 56), "red")
    with (
        HostileServer() as server,
        LLM(
            str(vl_folder),
            dtype="float32",
            max_model_len=512,
            allow_private_media_hosts=["127.0.0.1"],
        ) as llm,
    ):
        server.scripts["/broken"] = answer(b"no picture at all")
        server.scripts["/short"] = BROKEN["less than was declared"]
        prompts = [
            {"prompt": f"{PLACEHOLDER} What?", "multi_modal_data": {"image": image}}
            for image in (server.url("/broken"), good, server.url("/short"), server.url("/none"))
        ]
        outputs = llm.generate(prompts, PARAMS, use_tqdm=False, on_error="return")
        assert [type(output.error) for output in outputs] == [
            MediaError,
            type(None),
            FetchError,
            FetchError,
        ]
        assert outputs[1].outputs[0].token_ids
        for output in (outputs[0], *outputs[2:]):
            assert str(output.error).startswith("image 0: ")
        llm.check_integrity()
