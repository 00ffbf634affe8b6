"""A request's way as spans, kept in memory by OpenTelemetry's own SDK."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from scripted_engine import ENDLESS, ScriptedEngine
from served import Served, served

from sensorium import AsyncEngine, ConfigError
from sensorium_server_openai.engine_port import EnginePort
from sensorium_server_openai.tracing import Tracing
from sensorium_tiny_models import model_path

CHAT = "/v1/chat/completions"
PARENT = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def kept() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def traced(engine: AsyncEngine, kept: InMemorySpanExporter) -> Iterator[Served]:
    with served(EnginePort.of(engine, str(model_path())), tracing=tracing(kept)) as running:
        yield running


def tracing(kept: InMemorySpanExporter) -> Tracing:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    return Tracing(provider)


def asking(url: str, **fields: Any) -> dict[str, Any]:
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "secret?"}]
    return {"messages": [{"role": "user", "content": parts}], "max_tokens": 4, **fields}


def ended(kept: InMemorySpanExporter) -> tuple[ReadableSpan, ...]:
    """The spans of a request, whose own ends last, behind the answer's last byte."""
    while not any(span.name.startswith("POST") for span in kept.get_finished_spans()):
        time.sleep(0.005)
    return kept.get_finished_spans()


def one(spans: tuple[ReadableSpan, ...], name: str) -> ReadableSpan:
    [found] = [span for span in spans if span.name == name]
    return found


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_from_fetching_to_its_last_token(
    traced: Served, kept: InMemorySpanExporter, stop_sign: str, engine: AsyncEngine, stream: bool
) -> None:
    fresh = asking(stop_sign, stream=stream, cache_salt=f"tracing {stream}")
    headers = {"traceparent": f"00-{PARENT}-b7ad6b7169203331-01", "X-Request-Id": "r1"}
    assert traced.post(CHAT, fresh, headers=headers).status_code == 200
    spans = ended(kept)
    root = one(spans, f"POST {CHAT}")
    assert root.context is not None
    assert format(root.context.trace_id, "032x") == PARENT
    assert (root.attributes or {})["sensorium.request_id"] == "r1"
    assert (root.attributes or {})["http.response.status_code"] == 200
    names = ["media fetch", "media decode", "media process", "queue", "prefill", "decode"]
    below = [one(spans, name) for name in names]
    assert len(spans) == len(below) + 1
    ends = 0
    for span in below:
        assert span.parent is not None
        assert span.parent.span_id == root.context.span_id
        assert span.start_time is not None
        assert span.end_time is not None
        assert root.start_time is not None
        assert root.end_time is not None
        # Two clocks are read one behind the other, so a millisecond is nobody's fault.
        assert root.start_time - 10**6 <= span.start_time <= span.end_time
        assert span.end_time <= root.end_time + 10**6
        assert span.end_time >= ends
        ends = span.end_time
    assert (below[0].attributes or {})["sensorium.media.kind"] == "image"
    told = json.dumps([[s.name, dict(s.attributes or {})] for s in spans])
    assert "secret" not in told
    assert "base64" not in told


def test_what_was_in_the_cache_has_no_span(
    traced: Served, kept: InMemorySpanExporter, stop_sign: str
) -> None:
    for _ in range(2):
        kept.clear()
        assert traced.post(CHAT, asking(stop_sign, cache_salt="again")).status_code == 200
        names = {span.name for span in ended(kept)}
    assert names.isdisjoint({"media decode", "media process"})
    assert {"queue", "prefill", "decode"} <= names


def test_faults_are_told_by_the_status(traced: Served, kept: InMemorySpanExporter) -> None:
    assert traced.post(CHAT, asking("ftp://x/y")).status_code == 400
    [span] = ended(kept)
    assert (span.attributes or {})["http.response.status_code"] == 400
    assert span.status.status_code is StatusCode.UNSET


def test_a_client_that_goes_away_and_a_failure_of_ours(kept: InMemorySpanExporter) -> None:
    engine = ScriptedEngine(["x", ENDLESS])
    body = {"messages": [{"role": "user", "content": "Hi"}]}
    with served(engine, tracing=tracing(kept)) as server:
        connection = server.send("POST", CHAT, body)
        while not engine.running:
            time.sleep(0.005)
        connection.close()
        [span] = ended(kept)
        assert (span.attributes or {})["http.response.status_code"] == 499
        kept.clear()
        engine.fails = (0, RuntimeError("ours"))
        assert server.post(CHAT, body).status_code == 500
        [span] = ended(kept)
    assert span.status.status_code is StatusCode.ERROR


def test_what_is_lacking_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=r"sensorium-server-openai\[otel\]"):
        Tracing.to_endpoint("http://localhost:4318/v1/traces")
