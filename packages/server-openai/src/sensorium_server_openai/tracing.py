"""``Tracing``: a request's way as spans of OpenTelemetry, where the operator asks for them.

    POST /v1/chat/completions           from the first byte to the last; continues ``traceparent``
      ├─ media fetch, media decode, media process      one an item, as far as it was done
      ├─ queue, prefill, decode                        of each prompt
      …

A request's times are read from its last output, so nothing is done while it runs. Spans have sizes,
names of models and kinds of media; never contents, URLs or headers.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sensorium import ConfigError, RequestOutput

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

_SERVICE = "sensorium"


class Tracing:
    """Makes the spans of requests.

    Args:
        provider: where they go; the caller's, who shuts it down.
    """

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("sensorium.server")
        self._propagator = TraceContextTextMapPropagator()

    @classmethod
    def to_endpoint(cls, url: str) -> Tracing:
        """Spans go to a collector, by OTLP over HTTP.

        Raises:
            ConfigError: the packages aren't installed.
        """
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError:
            raise ConfigError(
                "--otlp-traces-endpoint needs OpenTelemetry; run "
                "pip install 'sensorium-server-openai[otel]'."
            ) from None
        provider = TracerProvider(resource=Resource.create({"service.name": _SERVICE}))
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=url)))
        return cls(provider)

    def begin(self, method: str, headers: list[tuple[bytes, bytes]]) -> RequestTrace:
        """A request has come; its parent is the one that its headers name, if they do."""
        carrier = {
            key.decode("latin-1"): value.decode("latin-1")
            for key, value in headers
            if key in (b"traceparent", b"tracestate")
        }
        from opentelemetry.trace import SpanKind

        context = self._propagator.extract(carrier)
        span = self._tracer.start_span(method, context, kind=SpanKind.SERVER)
        return RequestTrace(self, span)

    def add(self, parent: Span, name: str, begun_ns: int, ended_ns: int, **facts: Any) -> None:
        """A span below another that has been and gone."""
        from opentelemetry.trace import set_span_in_context

        span = self._tracer.start_span(
            name, set_span_in_context(parent), start_time=begun_ns, attributes=facts
        )
        span.end(ended_ns)

    def close(self) -> None:
        """Sends what has not been sent."""
        self._provider.shutdown()


class RequestTrace:
    """One HTTP request's spans."""

    def __init__(self, tracing: Tracing, span: Span) -> None:
        self._tracing = tracing
        self._span = span
        self._zero_ns = time.time_ns() - time.monotonic_ns()  # of the monotonic clock

    def tell(self, output: RequestOutput) -> None:
        """A prompt has come to its end."""
        for name, begun_s, ended_s, facts in _stages(output):
            begun_ns, ended_ns = (self._zero_ns + int(1e9 * s) for s in (begun_s, ended_s))
            self._tracing.add(self._span, name, begun_ns, ended_ns, **facts)

    def end(self, method: str, route: str, status: int, **facts: str) -> None:
        """The answer is complete, or nobody takes it (status 0, where none was sent)."""
        from opentelemetry.trace import Status, StatusCode

        self._span.update_name(f"{method} {route}")
        self._span.set_attributes({"http.request.method": method, "http.route": route, **facts})
        if status:
            self._span.set_attribute("http.response.status_code", status)
        if not status or status >= 500:
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()


def _stages(output: RequestOutput) -> Iterator[tuple[str, float, float, dict[str, Any]]]:
    """(name, begun_s, ended_s, attributes), on the monotonic clock."""
    metrics = output.metrics
    for stage in metrics.media_stages:
        facts = {"sensorium.media.kind": stage.kind, "sensorium.media.index": stage.index}
        yield f"media {stage.stage}", stage.begun_s, stage.ended_s, facts
    prompt: dict[str, Any] = {
        "gen_ai.usage.input_tokens": len(output.prompt_token_ids),
        "sensorium.cached_tokens": output.num_cached_tokens,
    }
    between: tuple[tuple[str, float | None, float | None, dict[str, Any]], ...] = (
        ("queue", metrics.prepared_s, metrics.first_scheduled_s, {}),
        ("prefill", metrics.first_scheduled_s, metrics.first_token_s, prompt),
        ("decode", metrics.first_token_s, metrics.finished_s, {}),
    )
    for name, begun_s, ended_s, facts in between:
        if begun_s is not None and ended_s is not None:
            yield name, begun_s, ended_s, facts
