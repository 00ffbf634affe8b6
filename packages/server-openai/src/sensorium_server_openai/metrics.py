"""``Metrics``: what ``/metrics`` shows.

Names are vLLM's present ones with the prefix ``sensorium:``. Each application has a registry of its
own, so that two in one process don't mix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from sensorium.stats import EngineStats, HistogramRecorder
from sensorium_server_openai.engine_figures import PREFIX, engine_families, histogram_family

_TTFT_S: tuple[float, ...] = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75)
_TTFT_S += (1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0)
_ITL_S: tuple[float, ...] = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2)
_ITL_S += (0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
_E2E_S: tuple[float, ...] = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0)
_E2E_S += (40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0)
_LAG_S = (0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 5.0)
_TOKENS = tuple(float(base * 10**power) for power in range(6) for base in (1, 2, 5))
_CHOICES = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)

#: Name → what it measures, and the upper edges of its buckets.
_HISTOGRAMS: dict[str, tuple[str, tuple[float, ...]]] = {
    "time_to_first_token_seconds": ("From the request to its first token.", _TTFT_S),
    "inter_token_latency_seconds": ("From one token of an answer to its next.", _ITL_S),
    "request_time_per_output_token_seconds": ("The same, as a request's mean.", _ITL_S),
    "e2e_request_latency_seconds": ("From the request to its end.", _E2E_S),
    "request_queue_time_seconds": ("From when it was prepared to when it first ran.", _E2E_S),
    "request_prefill_time_seconds": ("From when it first ran to its first token.", _E2E_S),
    "request_decode_time_seconds": ("From its first token to its end.", _E2E_S),
    "request_inference_time_seconds": ("From when it first ran to its end.", _E2E_S),
    "request_prompt_tokens": ("Tokens of a request's prompt.", _TOKENS),
    "request_generation_tokens": ("Tokens generated for a request.", _TOKENS),
    "request_params_n": ("Answers that a request asks for.", _CHOICES),
    "request_params_max_tokens": ("Tokens that a request allows its answer.", _TOKENS),
    "event_loop_lag_seconds": ("How late the server's event loop came to what was due.", _LAG_S),
}


class Metrics:
    """The figures of one application. What comes with every token is plain numbers, which one
    thread, the event loop's, adds to: a labelled counter with its lock costs ten times as much.

    Args:
        model_name: the label ``model_name`` of all of them.

    Attributes:
        http_requests, rejections, success: values of their labels → counter.
        histograms: name → the values so far.
        prompt_tokens, cached_tokens, generation_tokens: counts so far.
    """

    def __init__(self, model_name: str) -> None:
        self.registry = CollectorRegistry()
        self._model = model_name
        self.http_requests = self._counter(
            "http_requests", "Requests by method, route and status.", "method", "route", "status"
        )
        self.rejections = self._counter(
            "admission_rejections", "Requests turned away, by reason.", "reason"
        )
        self.success = self._counter(
            "request_success", "Answers that came to their end, by reason.", "finished_reason"
        )
        self.in_flight = Gauge(
            PREFIX + "http_requests_in_flight",
            "Requests that are being answered.",
            ("model_name",),
            registry=self.registry,
        ).labels(model_name)
        self.prompt_tokens = self.cached_tokens = self.generation_tokens = 0
        self.histograms = {
            name: HistogramRecorder(edges) for name, (_, edges) in _HISTOGRAMS.items()
        }

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
        for name, (text, _) in _HISTOGRAMS.items():
            snapshot = self.histograms[name].snapshot()
            yield histogram_family(name, text, {(self._model,): snapshot})

    def _counter(self, name: str, text: str, *labels: str) -> Callable[..., Counter]:
        """A counter of this model: its other labels' values → what counts them."""
        counter = Counter(PREFIX + name, text, ("model_name", *labels), registry=self.registry)
        return partial(counter.labels, self._model)


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
