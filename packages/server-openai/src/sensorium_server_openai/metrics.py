"""``Metrics``: what ``/metrics`` shows, and ``Observation``, one request's times.

Names are vLLM's present ones with the prefix ``sensorium:``. Each application has a registry of its
own, so that two in one process don't mix.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from sensorium import RequestOutput
from sensorium.stats import EngineStats, HistogramRecorder
from sensorium_server_openai.engine_figures import PREFIX, engine_families, histogram_family
from sensorium_server_openai.tracing import RequestTrace

_TTFT_S: tuple[float, ...] = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75)
_TTFT_S += (1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0)
_ITL_S: tuple[float, ...] = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2)
_ITL_S += (0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
_E2E_S: tuple[float, ...] = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0)
_E2E_S += (40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0)
_LAG_S = (0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 5.0)
_TOKENS = tuple(float(base * 10**power) for power in range(6) for base in (1, 2, 5))


class Metrics:
    """The figures of one application. What comes with every token is plain numbers, which one
    thread, the event loop's, adds to: a labelled counter with its lock costs ten times as much.

    Args:
        model_name: the label ``model_name`` of all of them.

    Attributes:
        loop_lag: how late the event loop came to what was due (``loop_lag.py``).
        prompt_tokens, cached_tokens, generation_tokens: counts so far.
    """

    def __init__(self, model_name: str) -> None:
        self.registry = CollectorRegistry()
        self._model = model_name
        self.http_requests = Counter(
            PREFIX + "http_requests",
            "Requests by method, route and status.",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self.rejections = self._labelled(
            "admission_rejections", "Requests turned away, by reason.", "reason"
        )
        self.success = self._labelled(
            "request_success", "Answers that came to their end, by reason.", "finished_reason"
        )
        self.in_flight = Gauge(
            PREFIX + "http_requests_in_flight",
            "Requests that are being answered.",
            registry=self.registry,
        )
        self.prompt_tokens = self.cached_tokens = self.generation_tokens = 0
        self.ttft = HistogramRecorder(_TTFT_S)
        self.itl = HistogramRecorder(_ITL_S)
        self.e2e = HistogramRecorder(_E2E_S)
        self.request_prompt_tokens = HistogramRecorder(_TOKENS)
        self.request_generation_tokens = HistogramRecorder(_TOKENS)
        self.loop_lag = HistogramRecorder(_LAG_S)

    @property
    def model_name(self) -> str:
        """The label of the model."""
        return self._model

    def text(self, stats: EngineStats | None) -> bytes:
        """As Prometheus reads it, with the engine's own figures if they are at hand."""
        return generate_latest(_Together(self, stats))

    def plain_families(self) -> Iterator[Metric]:
        """Those that are plain numbers."""
        counters = {
            "prompt_tokens": ("Tokens of prompts.", self.prompt_tokens),
            "prompt_tokens_cached": (
                "Tokens of prompts that the prefix cache held.",
                self.cached_tokens,
            ),
            "generation_tokens": ("Tokens generated.", self.generation_tokens),
        }
        for name, (text, count) in counters.items():
            counter = CounterMetricFamily(PREFIX + name, text, labels=["model_name"])
            counter.add_metric([self._model], count)
            yield counter
        histograms = {
            "time_to_first_token_seconds": ("From the request to its first token.", self.ttft),
            "inter_token_latency_seconds": (
                "From one token of an answer to its next.",
                self.itl,
            ),
            "e2e_request_latency_seconds": ("From the request to its end.", self.e2e),
            "request_prompt_tokens": (
                "Tokens of a request's prompt.",
                self.request_prompt_tokens,
            ),
            "request_generation_tokens": (
                "Tokens generated for a request.",
                self.request_generation_tokens,
            ),
            "event_loop_lag_seconds": (
                "How late the server's event loop came to what was due.",
                self.loop_lag,
            ),
        }
        for name, (text, recorder) in histograms.items():
            yield histogram_family(name, text, {(self._model,): recorder.snapshot()})

    def _labelled(self, name: str, text: str, label: str) -> Counter:
        return Counter(PREFIX + name, text, (label,), registry=self.registry)


class _Together(Collector):
    """The server's figures and the engine's."""

    def __init__(self, metrics: Metrics, stats: EngineStats | None) -> None:
        self._metrics = metrics
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        """All families."""
        yield from self._metrics.registry.collect()
        yield from self._metrics.plain_families()
        if self._stats is not None:
            yield from engine_families(self._stats, self._metrics.model_name)


class Observation:
    """One prompt's way through the engine, told to the figures as it happens.

    Args:
        trace: is told its end; None: nobody traces.
    """

    def __init__(self, metrics: Metrics, trace: RequestTrace | None = None) -> None:
        self._metrics = metrics
        self._trace = trace
        self._begun_s = time.monotonic()
        self._last_s: float | None = None
        self._num_generated = 0

    def streamed(self, output: RequestOutput) -> None:
        """What is new in an output of a stream."""
        now_s = time.monotonic()
        num_new = sum(len(answer.token_ids) for answer in output.outputs)
        if num_new:
            if self._last_s is None:
                self._metrics.ttft.add(now_s - self._begun_s)
            else:
                self._metrics.itl.add((now_s - self._last_s) / num_new)
            self._last_s = now_s
            self._num_generated += num_new
            self._metrics.generation_tokens += num_new
        if output.finished:
            self._ended(output, now_s)

    def whole(self, output: RequestOutput) -> None:
        """The output of a request that isn't streamed."""
        first_s = output.metrics.first_token_s
        if first_s is not None:
            self._metrics.ttft.add(max(0.0, first_s - self._begun_s))
        self._num_generated = sum(len(answer.token_ids) for answer in output.outputs)
        self._metrics.generation_tokens += self._num_generated
        self._ended(output, time.monotonic())

    def _ended(self, output: RequestOutput, now_s: float) -> None:
        if self._trace is not None:
            self._trace.tell(output)
        self._metrics.e2e.add(now_s - self._begun_s)
        self._metrics.prompt_tokens += len(output.prompt_token_ids)
        self._metrics.cached_tokens += output.num_cached_tokens
        self._metrics.request_prompt_tokens.add(len(output.prompt_token_ids))
        self._metrics.request_generation_tokens.add(self._num_generated)
        for answer in output.outputs:
            if answer.finish_reason is not None:
                self._metrics.success.labels(answer.finish_reason).inc()
