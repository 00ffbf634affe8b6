"""Threats as a stranger brings them, over HTTP; each test is named after its row."""

from __future__ import annotations

import base64
import hmac
import io
import pickle
import socket
import struct
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from fastapi import FastAPI
from hostile_server import HostileServer, LoopbackConnector, Names, Request, answer
from http_threats import CHAT, asking, assert_refused, data_url, picture, png
from scripted_engine import ScriptedEngine, until
from served import Served, served

from sensorium import AsyncEngine
from sensorium.media.fetch import http as fetching
from sensorium_server_openai import ServerOptions, build_app
from sensorium_server_openai.engine_port import EnginePort
from sensorium_server_openai.middleware import auth

# --- 1 to 5: where media come from ----------------------------------------------------


@pytest.fixture(scope="module")
def inside() -> Iterator[tuple[int, list[str]]]:
    """A server of the inner network: its port, and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            if self.path.startswith(("/to?", "/loop")):
                self.send_response(302)
                self.send_header("Location", self.path.removeprefix("/to?"))
                self.end_headers()
                return
            self.send_response(200)
            self.end_headers()
            self.wfile.write(png())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port, asked
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "127.1", "2130706433"),
        *("0x7f000001", "0177.0.0.1", "0.0.0.0", "[64:ff9b::7f00:1]", "127.0.0.1."),
        *("example.org@127.0.0.1", "127.0.0.1\\@example.org", "user:pw@localhost"),
        *("\uff11\uff12\uff17.0.0.1", "LOCALHOST", "169.254.169.254", "10.0.0.1", "[fe80::1]"),
    ],
)
def test_row_01_and_02_no_address_of_the_inner_network_is_reached(
    http: Served, inside: tuple[int, list[str]], host: str
) -> None:
    port, asked = inside
    message = assert_refused(http, asking(picture(f"http://{host}:{port}/secret")))
    assert asked == []
    assert "pw" not in message


@pytest.fixture(scope="module")
def opened(
    vl_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Served, Path]]:
    """A server that may fetch from 127.0.0.1 and from a folder, and the folder."""
    folder = tmp_path_factory.mktemp("media")
    options: dict[str, Any] = {
        "allow_private_media_hosts": ["127.0.0.1"],
        "allowed_local_media_path": str(folder),
    }
    with (
        AsyncEngine(str(vl_folder), dtype="float32", max_model_len=1024, **options) as engine,
        served(EnginePort.of(engine, str(vl_folder))) as server,
    ):
        yield server, folder


def test_row_03_a_redirect_leads_nowhere_inside(
    opened: tuple[Served, Path], inside: tuple[int, list[str]]
) -> None:
    server, (port, asked) = opened[0], inside
    here = f"http://127.0.0.1:{port}"
    assert server.post(CHAT, asking(picture(here + "/picture"))).status_code == 200
    assert server.post(CHAT, asking(picture(f"{here}/to?{here}/other"))).status_code == 200
    asked.clear()
    for target in ("http://10.0.0.1/x", f"http://[::1]:{port}/x", "file:///etc/passwd"):
        assert_refused(server, asking(picture(f"{here}/to?{target}")))
    assert [path for path in asked if not path.startswith("/to?")] == []
    assert_refused(server, asking(picture(f"{here}/loop")))


def test_row_04_a_name_is_not_resolved_a_second_time(
    vl_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = Names(media_example=[["93.184.216.34"], ["10.0.0.1"]])
    with (
        HostileServer() as origin,
        AsyncEngine(str(vl_folder), dtype="float32", max_model_len=1024) as engine,
        served(EnginePort.of(engine, str(vl_folder))) as server,
    ):
        connector = LoopbackConnector(origin.port)
        real = fetching.HttpClient
        monkeypatch.setattr(
            fetching,
            "HttpClient",
            lambda policy, **_: real(policy, resolver=names, connector=connector),
        )
        for path in ("/x", "/y"):
            origin.scripts[path] = answer(png(color=(len(path), 9, 9)))
        asked = asking(picture("http://media.example/x"))
        assert server.post(CHAT, asked).status_code == 200
        assert (names.calls, connector.connected) == (["media.example"], ["93.184.216.34"])
        # A second connection asks anew, is told of an inner address, and isn't opened.
        message = assert_refused(server, asking(picture("http://media.example/y")))
    assert "media.example isn't on the public Internet" in message
    assert connector.connected == ["93.184.216.34"]


def test_row_05_a_local_path_stays_in_its_folder(opened: tuple[Served, Path]) -> None:
    server, folder = opened
    (folder / "a.png").write_bytes(png())
    (folder.parent / "outside.png").write_bytes(png())
    (folder / "link.png").symlink_to(folder.parent / "outside.png")
    assert server.post(CHAT, asking(picture(f"file://{folder}/a.png"))).status_code == 200
    for path in (f"{folder}/../outside.png", f"{folder}/link.png", f"{folder}", "/dev/zero"):
        message = assert_refused(server, asking(picture(f"file://{path}")))
        assert str(folder) not in message.replace(path, "")


def test_row_17_a_host_that_fails_to_deliver_is_a_failed_dependency(
    opened: tuple[Served, Path],
) -> None:
    with socket.socket() as closed:  # bound, so that nobody else listens there
        closed.bind(("127.0.0.1", 0))
        nobody = closed.getsockname()[1]
        with HostileServer() as origin:
            origin.scripts["/gone"] = answer(status=404)
            origin.scripts["/torn"] = answer(b"x", headers={"Content-Length": "9"})
            for url, word in (
                (origin.url("/gone"), "status 404"),
                (origin.url("/torn"), "ended before"),
                (f"http://127.0.0.1:{nobody}/x", "no connection"),
            ):
                response = opened[0].post(CHAT, asking(picture(url)))
                error = response.json()["error"]
                assert (response.status_code, error["code"]) == (424, 424)
                assert error["message"].startswith("image 0: ")
                assert word in error["message"]


@pytest.mark.parametrize(
    "url",
    [
        *("file:///etc/passwd", "file://localhost/etc/passwd", "/etc/passwd", "file:///dev/zero"),
        *("FILE:///etc/passwd", "file:///tmp/../etc/passwd", "ftp://127.0.0.1/x", "gopher://x/"),
        *("http://", "http:///x", "http://[::1", "javascript:1", "", "data:", " "),
    ],
)
def test_row_05_no_file_and_no_other_scheme(http: Served, url: str) -> None:
    message = assert_refused(http, asking(picture(url)))
    assert "root:" not in message


# --- 7: one tenant's uuid -------------------------------------------------------------


def test_row_07_a_uuid_is_its_salts_own(http: Served) -> None:
    red, blue = png(color=(255, 0, 0)), png(color=(0, 0, 255))
    for salt, data in (("tenant-a", red), ("tenant-b", blue)):
        ask = asking(picture(data_url(data), uuid="logo"), cache_salt=salt)
        assert http.post(CHAT, ask).status_code == 200
    by_name = {"type": "image_url", "uuid": "logo"}
    assert http.post(CHAT, asking(by_name, cache_salt="tenant-a")).status_code == 200
    assert_refused(http, asking(by_name, cache_salt="tenant-c"), word="cache miss")
    assert_refused(http, asking(by_name), word="cache miss")


# --- 9 to 11: embeddings --------------------------------------------------------------


class Payload:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.file,)


def embeds(data: bytes | str) -> dict[str, Any]:
    text = data if isinstance(data, str) else base64.b64encode(data).decode()
    fields = {"image_embeds": text, "image_grid_thw": saved(torch.tensor([1, 4, 4]))}
    return {"type": "image_embeds", "image_embeds": fields}


def saved(value: Any) -> str:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return base64.b64encode(buffer.getvalue()).decode()


def test_row_09_embeddings_run_no_code(http: Served, tmp_path: Path) -> None:
    mark = tmp_path / "was-here"
    legacy = io.BytesIO()
    torch.save(Payload(mark), legacy, _use_new_zipfile_serialization=False)
    array = io.BytesIO()
    np.save(array, np.array([Payload(mark)], dtype=object), allow_pickle=True)
    forms = [saved(Payload(mark)), legacy.getvalue(), array.getvalue(), pickle.dumps(Payload(mark))]
    for form in forms:
        assert_refused(http, asking(embeds(form)))
    assert not mark.exists()


@pytest.mark.parametrize(
    "rows",
    [
        torch.zeros(4, 7),
        torch.zeros(5, 64),
        torch.zeros(4, 64, dtype=torch.int64),
        torch.full((4, 64), float("nan")),
        torch.full((4, 64), float("inf")),
        torch.zeros(4, 64).to_sparse(),
        torch.zeros(0),
        torch.zeros(()),
    ],
    ids=["width", "rows", "integers", "nan", "inf", "sparse", "empty", "scalar"],
)
def test_row_10_embeddings_of_the_wrong_shape(http: Served, rows: torch.Tensor) -> None:
    assert_refused(http, asking(embeds(saved(rows))))


def test_row_11_embeddings_that_inflate(http: Served) -> None:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (8388608, 1024), }"
    header = header.ljust(117) + b"\n"
    array = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
    assert_refused(http, asking(embeds(array)))
    entry = b'{"a":{"dtype":"F32","shape":[8388608,1024],"data_offsets":[0,34359738368]}}'
    assert_refused(http, asking(embeds(struct.pack("<Q", len(entry)) + entry)))
    plain, packed = io.BytesIO(), io.BytesIO()
    torch.save(torch.zeros(4, 64), plain)
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert_refused(http, asking(embeds(packed.getvalue())), word="compressed")
    assert http.post(CHAT, asking(embeds(plain.getvalue()))).status_code == 200
    safe = safetensors.torch.save({"rows": torch.zeros(4, 64)})
    assert http.post(CHAT, asking(embeds(safe))).status_code == 200


# --- 12 and 17: pictures --------------------------------------------------------------


def declared(width: int, height: int) -> bytes:
    """A PNG whose header says this, with next to nothing in it."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + body + chunk(b"IEND", b"")


def test_row_12_bombs_and_extreme_shapes(http: Served) -> None:
    assert_refused(http, asking(picture(data_url(declared(60_000, 60_000)))), word="60000")
    assert_refused(http, asking(picture(data_url(declared(0, 10)))))
    assert_refused(http, asking(picture(data_url(png((1, 1000))))), word="200")
    assert http.post(CHAT, asking(picture(data_url(png((1, 1)))))).status_code == 200


@pytest.mark.parametrize(
    "url",
    [
        data_url(b""),
        data_url(b"not a picture"),
        data_url(png()[:80]),
        data_url(png()[:-40]),
        data_url(b"GIF89a" + b"\xff" * 40, "image/gif"),
        data_url(b"\xff\xd8\xff\xe0" + b"\0" * 64, "image/jpeg"),
        data_url(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml"),
        "data:image/png;base64,@@@",
        "data:image/png,plain",
    ],
    ids=range(9),
)
def test_row_17_malformed_media_are_the_callers_fault(http: Served, url: str) -> None:
    assert_refused(http, asking(picture(url)))


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": 3},
        {"type": "image_url", "image_url": {"url": 3}},
        {"type": "image_url", "image_url": {"link": "x"}},
        {"type": "image_url", "image_url": {"url": data_url(png())}, "uuid": 3},
        {"type": "image_pil", "image_pil": "x"},
        {"type": "image_embeds", "image_embeds": {"image_embeds": 3}},
        {"type": "image_embeds", "image_embeds": "@@@"},
        {"type": "smell_url", "smell_url": {"url": "x"}},
        {"type": "video_url", "video_url": {"url": data_url(b"no clip", "video/mp4")}},
        {"type": "video_url", "video_url": {"url": data_url(png()[:60], "video/jpeg")}},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        {"text": "no type"},
        {"type": None},
        {"type": "text"},
        {"type": "text", "text": None},
    ],
    ids=range(15),
)
def test_row_17_malformed_parts_are_the_callers_fault(http: Served, part: dict[str, Any]) -> None:
    assert_refused(http, asking(part))


# --- 18: text -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "trick",
    ["<|image_pad|>", "<|vision_start|><|image_pad|><|vision_end|>", "<|im_end|>\n", "<image>"],
)
def test_row_18_special_tokens_in_text_are_text(http: Served, trick: str) -> None:
    def tokens(text: str) -> list[str]:
        messages = asking(picture(data_url(png())), text=text)["messages"]
        ask = {"messages": messages, "return_token_strs": True}
        found: list[str] = http.post("/tokenize", ask).json()["token_strs"]
        return found

    def specials(found: list[str]) -> list[str]:
        return [token for token in found if token.startswith("<|") and token.endswith("|>")]

    assert specials(tokens(trick)) == specials(tokens("hello"))
    assert http.post(CHAT, asking(picture(data_url(png())), text=trick)).status_code == 200


# --- 20 and 21: keys, sizes -----------------------------------------------------------


def every_route() -> list[tuple[str, str]]:
    app: FastAPI = build_app(ScriptedEngine(), ServerOptions(served_model_names=("m",)))
    paths = app.openapi()["paths"]
    routes = [(method.upper(), path) for path, found in paths.items() for method in found]
    return [
        *routes,
        ("GET", "/openapi.json"),
        ("GET", "/docs"),
        ("GET", "/none"),
        ("PUT", "/health/x"),
    ]


def test_row_20_every_route_but_health_wants_a_key() -> None:
    keys = ("first-key", "second-key")
    with served(ScriptedEngine(), api_keys=keys) as server, server.client() as client:
        assert ("POST", CHAT) in every_route()
        for method, path in every_route():
            for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "first-key"}):
                status = client.request(method, path, headers=header).status_code
                assert (status == 401) == (path not in ("/health", "/ping")), (method, path, status)
            for key in keys:
                headers = {"Authorization": f"Bearer {key}"}
                assert client.request(method, path, headers=headers).status_code != 401
        for path in (
            "/health/",
            "/health/../version",
            "/HEALTH",
            "/health%2f..%2fversion",
        ):
            assert client.get(path).status_code in (401, 404), path


def test_row_20_all_keys_are_compared_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[tuple[int, int]] = []

    def counted(a: bytes, b: bytes) -> bool:
        lengths.append((len(a), len(b)))
        return hmac.compare_digest(a, b)

    class Counted:
        compare_digest = staticmethod(counted)

    monkeypatch.setattr(auth, "hmac", Counted)
    keys = ("a", "bb" * 50, "ccc")
    with served(ScriptedEngine(), api_keys=keys) as server, server.client() as client:
        for token in ("a", "ccc", "no", "x" * 1000):
            lengths.clear()
            client.get("/version", headers={"Authorization": f"Bearer {token}"})
            assert lengths == [(32, 32)] * 3, "digests of one length, every one of them"


def test_row_21_bodies_and_headers_have_limits(http: Served) -> None:
    large = http.post(CHAT, b'{"user": "' + b"u" * (65 * 2**20) + b'"}')
    assert large.status_code == 413
    with http.client() as client:
        assert client.get("/version", headers={"X-A": "a" * 100_000}).status_code == 431
    many = [{"role": "user", "content": "x"}] * 5000
    assert_refused(http, {"messages": many}, word="5000")
    assert_refused(http, asking(*[{"type": "text", "text": "x"}] * 5000), word="5001 parts")
    assert_refused(http, asking(n=10**6), word="128")


# --- 22 and 23: others ----------------------------------------------------------------


async def test_row_22_a_client_that_goes_away_leaves_nothing(http: Served) -> None:
    body = asking(picture(data_url(png())), stream=True, ignore_eos=True, max_completion_tokens=900)
    connections = [http.send("POST", CHAT, body) for _ in range(8)]
    for connection in connections[:4]:
        connection.close()
    for connection in connections[4:]:
        assert connection.recv(10)
        connection.close()
    await until(lambda: http.gate.running == 0)
    # The fixture holds the engine's books against what is left, when all tests have ended.


async def test_row_22_a_client_that_goes_away_ends_its_fetch(opened: tuple[Served, Path]) -> None:
    """The origin answers nothing; it sees the connection close when the client's has."""
    server = opened[0]
    asked, left = threading.Event(), threading.Event()

    def wait(_: Request, connection: socket.socket) -> None:
        asked.set()
        if not connection.recv(1):
            left.set()

    with HostileServer() as origin:
        origin.scripts["/x"] = wait
        client = server.send("POST", CHAT, asking(picture(origin.url("/x"))))
        await until(asked.is_set)
        client.close()
        await until(left.is_set)
        await until(lambda: server.gate.running == 0)


def test_row_23_bad_requests_end_alone(http: Served) -> None:
    good = asking(picture(data_url(png())), n=2, logprobs=True)
    alone = http.post(CHAT, good).json()["choices"]
    bad: list[Any] = [
        asking(picture("data:image/png;base64,AAAA")),
        asking(embeds(saved(torch.full((4, 64), float("nan"))))),
        asking(text="word " * 3000),
        asking(logit_bias={"99999999": 1}),
        asking(stop_token_ids=[-1]),
        asking(bad_words=[""]),
        {**asking(), "messages": [{"role": "user", "content": [[]]}]},
        {"prompt": [10**12]},
    ]
    statuses: list[int] = []

    def ask(body: Any) -> None:
        statuses.append(
            http.post("/v1/completions" if "prompt" in body else CHAT, body).status_code
        )

    threads = [threading.Thread(target=ask, args=(body,)) for body in bad]
    for thread in threads:
        thread.start()
    beside = http.post(CHAT, good).json()["choices"]
    for thread in threads:
        thread.join()
    assert statuses == [400] * len(bad)
    assert beside == alone
