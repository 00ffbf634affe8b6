"""``Observation``: one prompt's way through the engine, told to the metrics as it happens."""

from __future__ import annotations

import time
from collections.abc import Iterator

from sensorium import RequestOutput, SamplingParams
from sensorium.outputs import RequestMetrics
from sensorium_server_openai.metrics import Metrics
from sensorium_server_openai.tracing import RequestTrace


class Observation:
    """Begins with the request.

    Args:
        trace: is told its end; None: nobody traces.
    """

    def __init__(
        self, metrics: Metrics, sampling: SamplingParams, trace: RequestTrace | None = None
    ) -> None:
        self._metrics = metrics
        self._sampling = sampling
        self._trace = trace
        self._between_tokens = metrics.histograms["inter_token_latency_seconds"]
        self._begun_s = time.monotonic()
        self._last_s: float | None = None
        self._num_generated = 0

    def streamed(self, output: RequestOutput) -> None:
        """What is new in an output of a stream."""
        now_s = time.monotonic()
        num_new = sum([len(answer.token_ids) for answer in output.outputs])
        if num_new:
            if self._last_s is None:
                self._add("time_to_first_token_seconds", now_s - self._begun_s)
            else:
                self._between_tokens.add((now_s - self._last_s) / num_new)
            self._last_s = now_s
            self._num_generated += num_new
            self._metrics.generation_tokens += num_new
        if output.finished:
            self._ended(output)

    def whole(self, output: RequestOutput) -> None:
        """The output of a request that isn't streamed."""
        first_s = output.metrics.first_token_s
        if first_s is not None:
            self._add("time_to_first_token_seconds", max(0.0, first_s - self._begun_s))
        self._num_generated = sum([len(answer.token_ids) for answer in output.outputs])
        self._metrics.generation_tokens += self._num_generated
        self._ended(output)

    def _ended(self, output: RequestOutput) -> None:
        if self._trace is not None:
            self._trace.tell(output)
        ended_s = output.metrics.finished_s or time.monotonic()
        self._add("e2e_request_latency_seconds", max(0.0, ended_s - self._begun_s))
        for name, took_s in _stages(output.metrics):
            self._add(name, took_s)
        num_later = self._num_generated - len(output.outputs)
        if self._sampling.n == 1 and num_later > 0:
            decode_s = _between(output.metrics.first_token_s, output.metrics.finished_s)
            if decode_s is not None:
                self._add("request_time_per_output_token_seconds", decode_s / num_later)
        self._metrics.prompt_tokens += len(output.prompt_token_ids)
        self._metrics.cached_tokens += output.num_cached_tokens
        self._add("request_prompt_tokens", len(output.prompt_token_ids))
        self._add("request_generation_tokens", self._num_generated)
        self._add("request_params_n", self._sampling.n)
        if self._sampling.max_tokens is not None:
            self._add("request_params_max_tokens", self._sampling.max_tokens)
        for answer in output.outputs:
            if answer.finish_reason is not None:
                self._metrics.success(answer.finish_reason).inc()

    def _add(self, name: str, value: float) -> None:
        self._metrics.histograms[name].add(value)


def _stages(metrics: RequestMetrics) -> Iterator[tuple[str, float]]:
    """What is known of a request's times: (name, seconds)."""
    places = (
        ("request_queue_time_seconds", metrics.prepared_s, metrics.first_scheduled_s),
        ("request_prefill_time_seconds", metrics.first_scheduled_s, metrics.first_token_s),
        ("request_decode_time_seconds", metrics.first_token_s, metrics.finished_s),
        ("request_inference_time_seconds", metrics.first_scheduled_s, metrics.finished_s),
    )
    for name, begun_s, ended_s in places:
        took_s = _between(begun_s, ended_s)
        if took_s is not None:
            yield name, took_s


def _between(begun_s: float | None, ended_s: float | None) -> float | None:
    return None if begun_s is None or ended_s is None else max(0.0, ended_s - begun_s)
