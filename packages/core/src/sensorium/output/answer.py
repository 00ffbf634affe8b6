"""``Answer``: one of a request's ``n`` answers as it grows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from sensorium.output.prefix import Prefix
from sensorium.output.stop_strings import StopStrings
from sensorium.outputs import CompletionOutput, Logprob, RequestOutputKind
from sensorium.sampling_params import SamplingParams
from sensorium.tokenizer import Detokenizer, Tokenizer, make_detokenizer
from sensorium.types import RequestUpdate, TokenLogprobs

T = TypeVar("T")


class Answer:
    """Takes updates, makes text, and ends at stop strings.

        token_ids   [ made into text …… ][ not yet …… ][ hidden ]
                    0 ────────── num_made ─────────────┤ the token that ended it

    Text is decoded when an output is read, or token by token where a stop string may end it. The
    cost of an output is that of its new tokens: a cumulative output shares its tokens with the
    next.
    """

    def __init__(
        self,
        index: int,
        sampling: SamplingParams,
        tokenizer: Tokenizer,
        prompt_token_ids: Sequence[int],
    ) -> None:
        self.finish_reason: str | None = None
        self._index = index
        self._sampling = sampling
        self._is_delta = sampling.output_kind is RequestOutputKind.DELTA
        self._tokenizer = tokenizer
        self._detokenizer = _detokenizer(sampling, tokenizer, prompt_token_ids)
        self._stops = _stop_strings(sampling, tokenizer)
        self._one_by_one = bool(self._stops) or sampling.logprobs is not None
        self._stop_reason: int | str | None = None
        self._token_ids: list[int] = []
        self._num_made = 0
        self._num_hidden = 0
        self._new_texts: list[str] = []
        self._text = ""
        self._logprobs: list[Mapping[int, Logprob]] = []
        self._cumulative_logprob = 0.0
        self._num_reported = 0
        self._end_reported = False

    @property
    def finished(self) -> bool:
        """Whether it is complete."""
        return self.finish_reason is not None

    @property
    def has_news(self) -> bool:
        """Whether anything is unreported, apart from text that is held back."""
        return (
            self._num_reported < len(self._token_ids)
            or bool(self._new_texts)
            or (self.finished and not self._end_reported)
        )

    def apply(self, update: RequestUpdate) -> bool:
        """Takes an update; True if a stop string ended the answer before the engine did."""
        if self.finish_reason is not None:
            return False
        if self._one_by_one:
            if self._take_one_by_one(update):
                return update.finish_reason is None
        else:
            self._token_ids += update.new_token_ids
        if update.finish_reason is not None:
            self._finish(update)
        return False

    def output(self) -> CompletionOutput:
        """The answer so far, or its part since the last call where deltas were asked for.

        Text that may still become a stop string is held back.
        """
        if self._stops:
            new_text = "".join(self._new_texts)
            self._new_texts.clear()
        else:
            new_text = self._new_text(flush=self.finished)
        if self._is_delta:
            self._text, start = new_text, self._num_reported
        else:
            self._text, start = self._text + new_text, None
        self._num_reported = len(self._token_ids)
        self._end_reported = self.finished
        asked = self._sampling.logprobs is not None
        return CompletionOutput(
            index=self._index,
            text=self._text,
            token_ids=self._reported(self._token_ids, start),
            cumulative_logprob=self._cumulative_logprob if asked else None,
            logprobs=self._reported(self._logprobs, start) if asked else None,
            finish_reason=self.finish_reason,
            stop_reason=self._stop_reason,
        )

    def _reported(self, entries: list[T], start: int | None) -> Sequence[T]:
        """The entries from ``start`` on, or all of them."""
        if start is not None:
            return tuple(entries[start:])
        return tuple(entries) if self.finished else Prefix(entries)

    def _take_one_by_one(self, update: RequestUpdate) -> bool:
        """Takes an update's tokens; True if a stop string ended the answer with one of them."""
        for i, token_id in enumerate(update.new_token_ids):
            self._token_ids.append(token_id)
            if self._sampling.logprobs is not None:
                self._take_logprobs(token_id, update.logprobs[i])
            is_last = i == len(update.new_token_ids) - 1
            if not self._stops or (is_last and self._hides_end(update)):
                continue
            mark = self._stops.marks.get(token_id)
            if self._grow(self._new_text() if mark is None else self._new_text(flush=True) + mark):
                return True
        return False

    def _finish(self, update: RequestUpdate) -> None:
        self._num_hidden = int(self._hides_end(update))
        if self._stops:
            if self._grow(self._new_text(flush=True)):
                return
            self._new_texts.append(self._stops.flush())
        self.finish_reason = update.finish_reason
        if update.stop_id in (self._sampling.stop_token_ids or ()):
            self._stop_reason = update.stop_id

    def _hides_end(self, update: RequestUpdate) -> bool:
        """Whether the update's last token ended the answer and is no part of its text."""
        return update.stop_id is not None and not self._sampling.include_stop_str_in_output

    def _new_text(self, *, flush: bool = False) -> str:
        """The text of the tokens that have none yet."""
        if self._detokenizer is None:
            return ""
        stop = len(self._token_ids) - self._num_hidden
        text = ""
        if self._num_made < stop:
            text = self._detokenizer.push(self._token_ids[self._num_made : stop])
            self._num_made = stop
        return text + self._detokenizer.flush() if flush else text

    def _grow(self, new_text: str) -> bool:
        """Takes new text; True if a stop string in it ended the answer."""
        if not new_text:
            return False
        may_end = len(self._token_ids) >= self._sampling.min_tokens
        passed, found = self._stops.push(new_text, may_end=may_end)
        if passed:
            self._new_texts.append(passed)
        if found is None:
            return False
        if self._sampling.include_stop_str_in_output:
            self._new_texts.append(found)
        self.finish_reason = "stop"
        self._stop_reason = found
        return True

    def _take_logprobs(self, token_id: int, found: TokenLogprobs) -> None:
        self._cumulative_logprob += found.logprob
        self._logprobs.append(logprob_entry(token_id, found, self._tokenizer))


def _detokenizer(
    sampling: SamplingParams, tokenizer: Tokenizer, prompt_token_ids: Sequence[int]
) -> Detokenizer | None:
    if not sampling.detokenize:
        return None
    return make_detokenizer(
        tokenizer,
        skip_special_tokens=sampling.skip_special_tokens,
        spaces_between_special_tokens=sampling.spaces_between_special_tokens,
        prompt_token_ids=prompt_token_ids,
    )


def _stop_strings(sampling: SamplingParams, tokenizer: Tokenizer) -> StopStrings:
    if not sampling.stop_strings or not sampling.skip_special_tokens:
        return StopStrings(sampling.stop_strings)
    return StopStrings(sampling.stop_strings, tokenizer.special_texts)


def logprob_entry(
    token_id: int, found: TokenLogprobs, tokenizer: Tokenizer
) -> Mapping[int, Logprob]:
    """The best tokens and the one that stands there, by token id."""
    entry = {
        top_id: Logprob(logprob, rank, tokenizer.token_text(top_id))
        for rank, (top_id, logprob) in enumerate(
            zip(found.top_ids, found.top_logprobs, strict=True), start=1
        )
    }
    if token_id not in entry:
        entry[token_id] = Logprob(found.logprob, found.rank, tokenizer.token_text(token_id))
    return entry
