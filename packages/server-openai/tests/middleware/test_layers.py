"""Keys, bodies, how many at once, names: what a request passes before its route."""

from __future__ import annotations

import gzip
import itertools
import json
import logging
import socket
import threading
from typing import Any

import pytest
from scripted_engine import ENDLESS, ScriptedEngine, until
from served import served

from sensorium_server_openai import Limits

PATH = "/v1/chat/completions"
REQUESTS = "sensorium:http_requests_total{"
ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}]}


def test_a_body_that_is_too_large_is_refused_declared_or_not() -> None:
    limits = Limits(body_bytes=1000)
    body = json.dumps({**ASK, "user": "u" * 2000}).encode()
    with served(ScriptedEngine(), limits=limits) as server:
        assert server.post(PATH, ASK).status_code == 200
        declared = server.post(PATH, body)
        with server.client() as client:
            chunked = client.post(PATH, content=(body[i : i + 100] for i in range(0, 3000, 100)))
    for response in (declared, chunked):
        assert response.status_code == 413
        assert "1000 bytes" in response.json()["error"]["message"]


async def test_bodies_of_all_requests_are_counted_together() -> None:
    engine = ScriptedEngine(["a", ENDLESS])
    body = {**ASK, "user": "u" * 600}
    with served(engine, limits=Limits(total_body_bytes=1000)) as server:
        connection = server.send("POST", PATH, {**body, "stream": True})
        await until(lambda: engine.running == 1)
        refused = server.post(PATH, body)
        connection.close()
        await until(lambda: engine.running == 0)
        await until(lambda: server.gate.running == 0)
        engine.pieces = ["b"]
        assert server.post(PATH, body).status_code == 200
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) >= 1


async def test_more_than_allowed_at_once_are_told_to_come_again() -> None:
    engine = ScriptedEngine(["a", ENDLESS])
    with served(engine, limits=Limits(concurrent_requests=2)) as server:
        connections = [server.send("POST", PATH, {**ASK, "stream": True}) for _ in range(2)]
        await until(lambda: engine.running == 2)
        refused = server.post(PATH, ASK)
        with server.client() as client:
            assert client.get("/health").status_code == 200
            figures = client.get("/metrics").text
        for connection in connections:
            connection.close()
        await until(lambda: server.gate.running == 0)
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    assert 'admission_rejections_total{model_name="tiny-vl",reason="concurrency"} 1.0' in figures
    assert 'http_requests_in_flight{model_name="tiny-vl"} 2.0' in figures


@pytest.mark.parametrize("stream", [True, False])
def test_a_request_ends_when_its_time_is_over(stream: bool) -> None:
    engine = ScriptedEngine(["a", ENDLESS])
    with served(engine, limits=Limits(request_s=0.3)) as server:
        if stream:
            *_, error, done = server.events(PATH, {**ASK, "stream": True})
            assert error["error"]["code"] == 504
            assert done == "[DONE]"
        else:
            assert server.post(PATH, ASK).status_code == 504
    assert engine.num_aborted == 1


def test_a_server_that_ends_lets_what_runs_end_and_refuses_the_rest() -> None:
    engine = ScriptedEngine(["a", ENDLESS])
    found: list[list[Any]] = []
    with served(engine) as server:
        asking = threading.Thread(
            target=lambda: found.append(server.events(PATH, {**ASK, "stream": True})),
            daemon=True,
        )
        asking.start()
        while not engine.running:
            pass
        with server.client() as client:
            client.get("/health")  # the connection is open before the end begins
            server.gate.draining = True
            assert client.get("/health").status_code == 503
            refused = client.post(PATH, json=ASK)
        assert refused.status_code == 503
        assert "retry-after" in refused.headers
        engine.pieces = ["a", "b"]
    asking.join()
    assert found[0][-1] == "[DONE]"
    assert found[0][-2]["choices"][0]["finish_reason"] == "stop"


async def test_what_runs_longer_than_the_end_may_take_is_told_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = ScriptedEngine(["a", ENDLESS])
    with served(engine, run={"shutdown_timeout": 0.1}) as server:
        stream = server.send("POST", PATH, {**ASK, "stream": True})
        whole = server.send("POST", PATH, ASK)
        late = server.send("POST", PATH, ASK, num_bytes=-5)
        await until(lambda: engine.running == 2)
    told = [_read_all(connection) for connection in (stream, whole, late)]
    assert engine.num_aborted == 2
    assert told[0].startswith(b"HTTP/1.1 200")
    assert b'"code":503}}\n\ndata: [DONE]\n\n' in told[0]
    for answer in told[1:]:
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"retry-after" in answer
        assert b'"The server is ending."' in answer
    assert "Traceback" not in caplog.text


def _read_all(connection: socket.socket) -> bytes:
    with connection:
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_a_request_has_a_name_in_answer_and_log(caplog: pytest.LogCaptureFixture) -> None:
    secret = "what nobody may read"
    with caplog.at_level(logging.INFO, "sensorium.server"), served(ScriptedEngine()) as server:
        headers = {"X-Request-Id": "mine-1", "Authorization": f"Bearer {secret}"}
        body = {"messages": [{"role": "user", "content": secret}], "user": "u7"}
        answer = server.post(PATH + "?q=what+nobody", body, headers=headers)
        odd = server.post(PATH, ASK, headers={"X-Request-Id": "a b\tc"})
    assert answer.headers["x-request-id"] == "mine-1"
    assert len(odd.headers["x-request-id"]) == 32
    [line] = [record.getMessage() for record in caplog.records if "mine-1" in record.getMessage()]
    assert f"route={PATH} status=200" in line
    assert "user=u7" in line
    assert "nobody" not in caplog.text


def test_a_client_cannot_forge_the_log(caplog: pytest.LogCaptureFixture) -> None:
    forged = "x status=500\nINFO another line"
    with caplog.at_level(logging.INFO, "sensorium.server"), served(ScriptedEngine()) as server:
        server.post(PATH, {**ASK, "user": forged, "request_id": "mine"})
    [line] = [record.getMessage() for record in caplog.records]
    assert "\n" not in line
    assert json.dumps(forged) in line


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_a_page_cannot_send_without_asking_first(kind: str) -> None:
    """Without this, any page in an operator's browser could use a server on the same machine."""
    engine = ScriptedEngine()
    with served(engine) as server:
        response = server.post(PATH, ASK, headers={"Content-Type": kind})
        good = server.post(PATH, ASK, headers={"Content-Type": "application/json; charset=utf-8"})
    assert (response.status_code, good.status_code) == (415, 200)
    assert engine.num_begun == 1


def test_a_compressed_body_is_refused_for_what_it_is() -> None:
    with served(ScriptedEngine()) as server:
        packed = gzip.compress(json.dumps(ASK).encode())
        response = server.post(PATH, packed, headers={"Content-Encoding": "gzip"})
        assert server.post(PATH, ASK, headers={"Content-Encoding": "identity"}).status_code == 200
    assert response.status_code == 415
    assert "'gzip'" in response.json()["error"]["message"]


def test_health_is_told_and_asked_for_by_its_head_alone() -> None:
    engine = ScriptedEngine()
    with served(engine) as server, server.client() as client:
        for healthy, status in ((True, 200), (False, 503), (True, 200)):
            engine.is_healthy = healthy
            for method, path in itertools.product(("GET", "HEAD"), ("/health", "/ping")):
                response = client.request(method, path)
                assert (response.status_code, response.content) == (status, b"")
        assert client.post("/ping").status_code == 200


def test_the_log_as_json(caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.INFO, "sensorium.server"),
        served(ScriptedEngine(), log_format="json") as server,
    ):
        server.post(PATH, {**ASK, "user": 'a" status=500'})
    fields = json.loads(caplog.records[-1].getMessage())
    assert fields["status"] == 200
    assert fields["user"] == 'a" status=500'


def test_an_unknown_route_and_method_have_the_shape_of_errors() -> None:
    with served(ScriptedEngine()) as server, server.client() as client:
        missing, wrong = client.get("/v2/none"), client.get(PATH)
        figures = client.get("/metrics").text
    assert (missing.status_code, wrong.status_code) == (404, 405)
    assert missing.json()["error"]["code"] == 404
    assert "none" not in figures, "a stranger can't make labels"


def test_statuses_are_counted_by_route() -> None:
    with served(ScriptedEngine(), api_keys=("k",)) as server:
        key = {"Authorization": "Bearer k"}
        for body, headers in ((ASK, key), ({}, key), ({}, key), (ASK, {})):
            server.post(PATH, body, headers=headers)
        with server.client() as client:
            figures = client.get("/metrics", headers=key).text
    counted = [line for line in figures.splitlines() if line.startswith(REQUESTS)]
    of_chats = [line.removeprefix(REQUESTS) for line in counted if PATH in line]
    assert of_chats == [
        f'method="POST",model_name="tiny-vl",route="{PATH}",status="200"}} 1.0',
        f'method="POST",model_name="tiny-vl",route="{PATH}",status="400"}} 2.0',
    ]
    assert any('status="401"} 1.0' in line for line in counted), "turned away before its route"


def test_pages_of_an_allowed_origin_may_call_and_others_may_not() -> None:
    origin = "https://pages.example"
    with served(ScriptedEngine(), cors_origins=(origin,), api_keys=("k",)) as server:
        asked = {"Access-Control-Request-Method": "POST"}
        with server.client() as client:
            good = client.options(PATH, headers={"Origin": origin, **asked})
            bad = client.options(PATH, headers={"Origin": "https://evil.example", **asked})
    assert good.headers["access-control-allow-origin"] == origin
    assert "access-control-allow-origin" not in bad.headers


def test_behind_a_proxy_that_takes_a_prefix_off() -> None:
    with (
        served(ScriptedEngine(), root_path="/api", api_keys=("k",)) as server,
        server.client() as client,
    ):
        assert client.get("/health").status_code == 200
        assert client.get("/version").status_code == 401
        assert client.get("/version", headers={"Authorization": "Bearer k"}).status_code == 200
