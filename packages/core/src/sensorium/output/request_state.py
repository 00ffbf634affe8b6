"""``RequestState``: the frontend's side of one running request."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from sensorium.output.answer import Answer, logprob_entry
from sensorium.outputs import Logprob, RequestMetrics, RequestOutput, RequestOutputKind
from sensorium.sampling_params import SamplingParams
from sensorium.tokenizer import Tokenizer
from sensorium.types import PromptLogprobs, RequestUpdate

#: What is known of one place in a prompt.
_Entry = Mapping[int, Logprob] | None


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
        self._answers = {
            child: Answer(i, sampling, tokenizer, prompt_token_ids)
            for i, child in enumerate(child_ids)
        }
        self._output_kind = sampling.output_kind
        self._num_unfinished = sampling.n
        self._last: dict[str, RequestUpdate] = {}
        self._metrics = metrics
        self._metrics_now: RequestMetrics | None = None  # None: something has changed
        self._first_token_s: float | None = None
        self._finished_s: float | None = None
        self._num_cached_tokens: int | None = None
        self._tokenizer = tokenizer
        self._prompt_entries: list[_Entry] | None = None
        if sampling.prompt_logprobs is not None:
            self._prompt_entries = [None] * len(prompt_token_ids)
        self._prompt_logprobs: tuple[_Entry, ...] | None = None

    @property
    def request_id(self) -> str:
        """The caller's name for it."""
        return self._request_id

    @property
    def child_ids(self) -> tuple[str, ...]:
        """The ids by which the engine knows its sequences."""
        return tuple(self._answers)

    @property
    def only_final(self) -> bool:
        """Whether the caller wants one output, at the end."""
        return self._output_kind is RequestOutputKind.FINAL_ONLY

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
        if self._metrics_now is not None:
            before = self._last.get(child)
            if before is None or not _counts_alike(before, update):
                self._metrics_now = None
        self._last[child] = update
        if update.prompt_logprobs:
            self._take_prompt_logprobs(update.prompt_logprobs)
        if self._num_cached_tokens is None:
            self._num_cached_tokens = update.num_cached_tokens
        if self._first_token_s is None and update.new_token_ids:
            self._first_token_s = time.monotonic()
            self._metrics_now = None
        if answer.finish_reason is not None and not was_finished:
            self._num_unfinished -= 1
            if not self._num_unfinished:
                self._finished_s = time.monotonic()
                self._metrics_now = None
        return [child] if ended_here else []

    def output(self) -> RequestOutput:
        """The request as it stands, or what is new since the last call (``RequestOutputKind``)."""
        answers: Collection[Answer] = self._answers.values()
        is_delta = self._output_kind is RequestOutputKind.DELTA
        if is_delta and len(answers) > 1:
            answers = [answer for answer in answers if answer.has_news]
        return RequestOutput(
            request_id=self._request_id,
            prompt=self._prompt,
            prompt_token_ids=self._prompt_token_ids,
            prompt_logprobs=self._reported_prompt_logprobs(is_delta=is_delta),
            outputs=tuple([answer.output() for answer in answers]),
            finished=self.finished,
            num_cached_tokens=self._num_cached_tokens or 0,
            metrics=self._current_metrics(),
        )

    def _take_prompt_logprobs(self, found: PromptLogprobs) -> None:
        if self._prompt_entries is None:
            return
        for place, logprobs in found:
            token_id = self._prompt_token_ids[place]
            self._prompt_entries[place] = logprob_entry(token_id, logprobs, self._tokenizer)
        self._prompt_logprobs = None

    def _reported_prompt_logprobs(self, *, is_delta: bool) -> tuple[_Entry, ...] | None:
        """Made once; of deltas, the first one behind the prompt has them."""
        if self._prompt_entries is None or (is_delta and not self._is_behind_prompt):
            return None
        if self._prompt_logprobs is None:
            self._prompt_logprobs = tuple(self._prompt_entries)
        if is_delta:
            self._prompt_entries = None
        return self._prompt_logprobs

    @property
    def _is_behind_prompt(self) -> bool:
        return self._first_token_s is not None or self.finished

    def _current_metrics(self) -> RequestMetrics:
        if self._metrics_now is None:
            last = self._last.values()
            starts = [u.first_scheduled_s for u in last if u.first_scheduled_s is not None]
            self._metrics_now = replace(
                self._metrics,
                first_scheduled_s=min(starts, default=None),
                first_token_s=self._first_token_s,
                finished_s=self._finished_s,
                num_encoder_hits=sum(u.num_encoder_hits for u in last),
                num_encoded_items=sum(u.num_encoded_items for u in last),
                num_cached_tokens=self._num_cached_tokens or 0,
                num_preemptions=sum(u.num_preemptions for u in last),
            )
        return self._metrics_now


def _counts_alike(before: RequestUpdate, update: RequestUpdate) -> bool:
    """Whether an update says what an earlier one said of everything but tokens."""
    return (
        before.first_scheduled_s == update.first_scheduled_s
        and before.num_encoder_hits == update.num_encoder_hits
        and before.num_encoded_items == update.num_encoded_items
        and before.num_preemptions == update.num_preemptions
    )
