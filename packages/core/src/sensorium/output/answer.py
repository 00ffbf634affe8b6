"""``Answer``: one of a request's ``n`` answers as it grows."""

from __future__ import annotations

from collections.abc import Mapping

from sensorium.output.logprobs import logprob_entry
from sensorium.output.stop_strings import StopStrings
from sensorium.outputs import CompletionOutput, Logprob
from sensorium.sampling_params import SamplingParams
from sensorium.tokenizer import Detokenizer, Tokenizer
from sensorium.types import RequestUpdate, TokenLogprobs


class Answer:
    """Takes updates, makes text, and ends at stop strings.

        token_ids   [ made into text …… ][ not yet …… ][ hidden ]
                    0 ────────── num_made ─────────────┤ the token that ended it

    Text is made when somebody looks at it, or token by token where a stop string may end it.
    """

    def __init__(self, index: int, sampling: SamplingParams, tokenizer: Tokenizer) -> None:
        self.finish_reason: str | None = None
        self._index = index
        self._sampling = sampling
        self._tokenizer = tokenizer
        self._detokenizer = Detokenizer(tokenizer, sampling.skip_special_tokens)
        self._stops = StopStrings(sampling.stop_strings)
        self._stop_reason: int | str | None = None
        self._token_ids: list[int] = []
        self._num_made = 0
        self._num_hidden = 0
        self._text = ""
        self._logprobs: list[Mapping[int, Logprob]] = []
        self._cumulative_logprob = 0.0

    @property
    def finished(self) -> bool:
        """Whether it is complete."""
        return self.finish_reason is not None

    def apply(self, update: RequestUpdate) -> bool:
        """Takes an update; True if a stop string ended the answer before the engine did."""
        if self.finish_reason is not None:
            return False
        if self._stops.strings or self._sampling.logprobs is not None:
            if self._take_one_by_one(update):
                return update.finish_reason is None
        else:
            self._token_ids += update.new_token_ids
        if update.finish_reason is not None:
            self._finish(update)
        return False

    def output(self) -> CompletionOutput:
        """What there is so far; text that may still become a stop string is held back."""
        if not self._stops.strings:
            self._text += self._new_text(flush=self.finished)
        held = 0 if self.finished else self._stops.num_held(self._text)
        asked = self._sampling.logprobs is not None
        return CompletionOutput(
            index=self._index,
            text=self._text[:-held] if held else self._text,
            token_ids=tuple(self._token_ids),
            cumulative_logprob=self._cumulative_logprob if asked else None,
            logprobs=tuple(self._logprobs) if asked else None,
            finish_reason=self.finish_reason,
            stop_reason=self._stop_reason,
        )

    def _take_one_by_one(self, update: RequestUpdate) -> bool:
        """Takes an update's tokens; True if a stop string ended the answer with one of them."""
        for i, token_id in enumerate(update.new_token_ids):
            self._token_ids.append(token_id)
            if self._sampling.logprobs is not None:
                self._take_logprobs(token_id, update.logprobs[i])
            is_last = i == len(update.new_token_ids) - 1
            if not self._stops.strings or (is_last and self._hides_end(update)):
                continue
            if self._grow(self._new_text()):
                return True
        return False

    def _finish(self, update: RequestUpdate) -> None:
        self._num_hidden = int(self._hides_end(update))
        if self._stops.strings and self._grow(self._new_text(flush=True)):
            return
        self.finish_reason = update.finish_reason
        if update.stop_id in (self._sampling.stop_token_ids or ()):
            self._stop_reason = update.stop_id

    def _hides_end(self, update: RequestUpdate) -> bool:
        """Whether the update's last token ended the answer and is no part of its text."""
        return update.stop_id is not None and not self._sampling.include_stop_str_in_output

    def _new_text(self, *, flush: bool = False) -> str:
        """The text of the tokens that have none yet."""
        if not self._sampling.detokenize:
            return ""
        stop = len(self._token_ids) - self._num_hidden
        text = ""
        if self._num_made < stop:
            text = self._detokenizer.push(self._token_ids[self._num_made : stop])
            self._num_made = stop
        return text + self._detokenizer.flush() if flush else text

    def _grow(self, new_text: str) -> bool:
        """Takes new text; True if a stop string in it ended the answer."""
        self._text += new_text
        if not new_text or len(self._token_ids) < self._sampling.min_tokens:
            return False
        match = self._stops.find(self._text, len(new_text))
        if match is None:
            return False
        included = self._sampling.include_stop_str_in_output
        self._text = self._text[: match.stop if included else match.start]
        self.finish_reason = "stop"
        self._stop_reason = match.string
        return True

    def _take_logprobs(self, token_id: int, found: TokenLogprobs) -> None:
        self._cumulative_logprob += found.logprob
        self._logprobs.append(logprob_entry(token_id, found, self._tokenizer))
