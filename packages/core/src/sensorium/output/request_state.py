"""``RequestState``: the frontend's side of one running request."""

from __future__ import annotations

import time
from dataclasses import replace

from sensorium.output.answer import Answer
from sensorium.outputs import RequestMetrics, RequestOutput
from sensorium.sampling_params import SamplingParams
from sensorium.tokenizer import Tokenizer
from sensorium.types import RequestUpdate


class RequestState:
    """Gathers the updates of a request's ``n`` sequences.

    With n = 1 the engine knows the sequence by the request's id, else by "ID#0", "ID#1" ….
    """

    def __init__(
        self,
        *,
        request_id: str,
        prompt: str | None,
        prompt_token_ids: tuple[int, ...],
        sampling: SamplingParams,
        tokenizer: Tokenizer,
        metrics: RequestMetrics | None = None,
    ) -> None:
        self._request_id = request_id
        self._prompt = prompt
        self._prompt_token_ids = prompt_token_ids
        n = sampling.n
        ids = [request_id] if n == 1 else [f"{request_id}#{i}" for i in range(n)]
        self._answers = {child: Answer(i, sampling, tokenizer) for i, child in enumerate(ids)}
        self._last: dict[str, RequestUpdate] = {}
        self._metrics = metrics or RequestMetrics()
        self._num_cached_tokens: int | None = None

    @property
    def child_ids(self) -> tuple[str, ...]:
        """The ids by which the engine knows its sequences."""
        return tuple(self._answers)

    @property
    def finished(self) -> bool:
        """Whether every answer is complete."""
        return all(answer.finished for answer in self._answers.values())

    def apply(self, update: RequestUpdate) -> list[str]:
        """Takes an update of one sequence.

        Returns:
            The ids of sequences that a stop string ended and the engine must abort.
        """
        was_finished = self.finished
        ended_here = self._answers[update.request_id].apply(update)
        self._last[update.request_id] = update
        if self._num_cached_tokens is None:
            self._num_cached_tokens = update.num_cached_tokens
        now_s = time.monotonic()
        if update.new_token_ids and self._metrics.first_token_s is None:
            self._metrics = replace(self._metrics, first_token_s=now_s)
        if self.finished and not was_finished:
            self._metrics = replace(self._metrics, finished_s=now_s)
        return [update.request_id] if ended_here else []

    def output(self) -> RequestOutput:
        """The request as it stands."""
        return RequestOutput(
            request_id=self._request_id,
            prompt=self._prompt,
            prompt_token_ids=self._prompt_token_ids,
            outputs=tuple(answer.output() for answer in self._answers.values()),
            finished=self.finished,
            num_cached_tokens=self._num_cached_tokens or 0,
            metrics=self._current_metrics(),
        )

    def _current_metrics(self) -> RequestMetrics:
        last = self._last.values()
        starts = [u.first_scheduled_s for u in last if u.first_scheduled_s is not None]
        return replace(
            self._metrics,
            first_scheduled_s=min(starts, default=None),
            num_encoder_hits=sum(u.num_encoder_hits for u in last),
            num_encoded_items=sum(u.num_encoded_items for u in last),
            num_cached_tokens=self._num_cached_tokens or 0,
            num_preemptions=sum(u.num_preemptions for u in last),
        )
