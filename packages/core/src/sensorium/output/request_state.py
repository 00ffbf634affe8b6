"""``RequestState``: the frontend's side of one running request."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from sensorium.output.answer import Answer
from sensorium.output.logprobs import logprob_entry
from sensorium.outputs import Logprob, RequestMetrics, RequestOutput
from sensorium.sampling_params import SamplingParams
from sensorium.tokenizer import Tokenizer
from sensorium.types import RequestUpdate, TokenLogprobs


class RequestState:
    """Gathers the updates of a request's ``n`` sequences.

    Args:
        child_ids: the ids by which the engine knows its ``n`` sequences.
    """

    def __init__(
        self,
        *,
        request_id: str,
        prompt: str | None,
        prompt_token_ids: tuple[int, ...],
        sampling: SamplingParams,
        tokenizer: Tokenizer,
        metrics: RequestMetrics,
        child_ids: Sequence[str],
    ) -> None:
        self._request_id = request_id
        self._prompt = prompt
        self._prompt_token_ids = prompt_token_ids
        assert len(set(child_ids)) == sampling.n, "one id for each answer"
        self._answers = {child: Answer(i, sampling, tokenizer) for i, child in enumerate(child_ids)}
        self._num_unfinished = sampling.n
        self._last: dict[str, RequestUpdate] = {}
        self._metrics = metrics
        self._first_token_s: float | None = None
        self._finished_s: float | None = None
        self._num_cached_tokens: int | None = None
        self._tokenizer = tokenizer
        self._wants_prompt_logprobs = sampling.prompt_logprobs is not None
        self._prompt_logprobs: dict[int, TokenLogprobs] = {}

    @property
    def request_id(self) -> str:
        """The caller's name for it."""
        return self._request_id

    @property
    def child_ids(self) -> tuple[str, ...]:
        """The ids by which the engine knows its sequences."""
        return tuple(self._answers)

    @property
    def finished(self) -> bool:
        """Whether every answer is complete."""
        return not self._num_unfinished

    def apply(self, update: RequestUpdate) -> list[str]:
        """Takes an update of one sequence.

        Returns:
            The ids of sequences that a stop string ended and the engine must abort.
        """
        child = update.request_id
        answer = self._answers[child]
        was_finished = answer.finish_reason is not None
        ended_here = answer.apply(update)
        self._last[child] = update
        if update.prompt_logprobs:
            self._prompt_logprobs.update(update.prompt_logprobs)
        if self._num_cached_tokens is None:
            self._num_cached_tokens = update.num_cached_tokens
        if self._first_token_s is None and update.new_token_ids:
            self._first_token_s = time.monotonic()
        if answer.finish_reason is not None and not was_finished:
            self._num_unfinished -= 1
            if not self._num_unfinished:
                self._finished_s = time.monotonic()
        return [child] if ended_here else []

    def output(self) -> RequestOutput:
        """The request as it stands."""
        return RequestOutput(
            request_id=self._request_id,
            prompt=self._prompt,
            prompt_token_ids=self._prompt_token_ids,
            prompt_logprobs=self._prompt_entries() if self._wants_prompt_logprobs else None,
            outputs=tuple(answer.output() for answer in self._answers.values()),
            finished=self.finished,
            num_cached_tokens=self._num_cached_tokens or 0,
            metrics=self._current_metrics(),
        )

    def _prompt_entries(self) -> tuple[Mapping[int, Logprob] | None, ...]:
        entries: list[Mapping[int, Logprob] | None] = []
        for place, token_id in enumerate(self._prompt_token_ids):
            found = self._prompt_logprobs.get(place)
            entry = None if found is None else logprob_entry(token_id, found, self._tokenizer)
            entries.append(entry)
        return tuple(entries)

    def _current_metrics(self) -> RequestMetrics:
        last = self._last.values()
        starts = [u.first_scheduled_s for u in last if u.first_scheduled_s is not None]
        return replace(
            self._metrics,
            first_scheduled_s=min(starts, default=None),
            first_token_s=self._first_token_s,
            finished_s=self._finished_s,
            num_encoder_hits=sum(u.num_encoder_hits for u in last),
            num_encoded_items=sum(u.num_encoded_items for u in last),
            num_cached_tokens=self._num_cached_tokens or 0,
            num_preemptions=sum(u.num_preemptions for u in last),
        )
