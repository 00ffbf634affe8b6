"""What a caller may ask of the sampling of one request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sensorium.errors import RequestError, UnsupportedError

#: Used where neither the request nor the checkpoint's generation config says anything.
NEUTRAL: Mapping[str, float] = {
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
}
MAX_LOGPROBS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How tokens are chosen and when a request ends.

    A field of the first group left at None comes from the checkpoint's
    ``generation_config.json`` (unless the engine was told not to read it), else from
    ``NEUTRAL``; what is given explicitly always wins.

    Args:
        temperature: 0 is greedy; logits are divided by it otherwise.
        top_p: smallest set of tokens whose probabilities sum to at least this, in (0, 1].
        top_k: number of most probable tokens kept; 0 or -1 keeps all.
        min_p: tokens below this fraction of the most probable one are dropped, in [0, 1].
        repetition_penalty: > 0; divides positive and multiplies negative logits of tokens
            that occur in prompt or output (Keskar et al. 2019, CTRL).
        presence_penalty: subtracted from logits of tokens that occur in the output, [-2, 2].
        frequency_penalty: times the count in the output, subtracted likewise, [-2, 2].
        n: how many independent answers.
        seed: makes sampling repeatable, whatever else is in the batch.
        stop: strings that end the text; cut off unless ``include_stop_str_in_output``.
        stop_token_ids: tokens that end it, besides the checkpoint's own.
        ignore_eos: don't end at the checkpoint's end-of-text tokens.
        max_tokens: new tokens at most; None: as many as the context holds.
        min_tokens: end-of-text and stop tokens can't be chosen before this many.
        logprobs: report the log-probabilities of this many best tokens, and of the chosen
            one, at each position (of the distribution before temperature and penalties).
        logit_bias: token id → value added to its logit, [-100, 100].
        bad_words: strings whose token sequences can't be completed.
        skip_special_tokens: leave special tokens out of the text.
        detokenize: False leaves ``text`` empty (and refuses ``stop``).
        prompt_logprobs: report the log-probabilities of this many best tokens, and of the
            prompt's own, at each place of the prompt behind the first, but not where media stand.
        structured_outputs, guided_decoding: refused by name until built.

    Raises:
        RequestError: a value out of range.
        UnsupportedError: an option that isn't built yet.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None

    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    n: int = 1
    seed: int | None = None
    stop: str | Sequence[str] | None = None
    stop_token_ids: Sequence[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    logit_bias: Mapping[int, float] | None = None
    bad_words: Sequence[str] | None = None
    skip_special_tokens: bool = True
    include_stop_str_in_output: bool = False
    detokenize: bool = True
    prompt_logprobs: int | None = None
    structured_outputs: Any = None
    guided_decoding: Any = None

    def __post_init__(self) -> None:
        for name in ("structured_outputs", "guided_decoding"):
            if getattr(self, name) is not None:
                raise UnsupportedError(f"{name} is not supported yet; leave it out.")
        stops = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        object.__setattr__(self, "stop", stops)
        object.__setattr__(self, "stop_token_ids", tuple(self.stop_token_ids or ()))
        object.__setattr__(self, "bad_words", tuple(self.bad_words or ()))
        bias = {_as_token_id(k): float(v) for k, v in (self.logit_bias or {}).items()}
        object.__setattr__(self, "logit_bias", bias)
        self._check()

    def _check(self) -> None:
        _within("temperature", self.temperature, 0.0, None)
        _within("top_p", self.top_p, 0.0, 1.0, open_low=True)
        _within("min_p", self.min_p, 0.0, 1.0)
        _within("repetition_penalty", self.repetition_penalty, 0.0, None, open_low=True)
        _within("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _within("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        _within("top_k", self.top_k, -1, None, integer=True)
        _within("n", self.n, 1, 128, integer=True)
        _within("seed", self.seed, -(2**63), 2**63 - 1, integer=True)
        _within("max_tokens", self.max_tokens, 1, None, integer=True)
        _within("min_tokens", self.min_tokens, 0, None, integer=True)
        _within("logprobs", self.logprobs, 0, MAX_LOGPROBS, integer=True)
        _within("prompt_logprobs", self.prompt_logprobs, 0, MAX_LOGPROBS, integer=True)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise RequestError(
                f"min_tokens is {self.min_tokens}, more than max_tokens, {self.max_tokens}."
            )
        for value in (self.logit_bias or {}).values():
            _within("a value of logit_bias", value, -100.0, 100.0)
        for token_id in self.stop_token_ids or ():
            _within("an id of stop_token_ids", token_id, 0, None, integer=True)
        for name in ("stop", "bad_words"):
            for text in getattr(self, name):
                if not isinstance(text, str) or not text:
                    raise RequestError(
                        f"{name} holds {text!r}; only non-empty strings are allowed."
                    )
        if self.stop and not self.detokenize:
            raise RequestError("stop strings need detokenize=True.")

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """The stop strings, normalised to a tuple."""
        return tuple(self.stop or ())

    @property
    def greedy(self) -> bool:
        """Whether the most probable token is always taken."""
        return self.temperature is not None and self.temperature < 1e-5

    def filled(self, defaults: Mapping[str, Any]) -> SamplingParams:
        """A copy whose unset fields of the first group come from ``defaults``, then ``NEUTRAL``."""
        chosen = {
            name: defaults.get(name, neutral)
            for name, neutral in NEUTRAL.items()
            if getattr(self, name) is None
        }
        return replace(self, **chosen) if chosen else self


def _as_token_id(value: object) -> int:
    """JSON object keys are strings; both spellings mean a token id."""
    try:
        return int(value)  # type: ignore[call-overload,no-any-return]
    except (TypeError, ValueError):
        raise RequestError(f"logit_bias has the key {value!r}; keys are token ids.") from None


def _within(
    name: str,
    value: float | None,
    low: float | None,
    high: float | None,
    *,
    open_low: bool = False,
    integer: bool = False,
) -> None:
    if value is None:
        return
    number = isinstance(value, int) if integer else isinstance(value, (int, float))
    fits = number and not isinstance(value, bool) and value == value
    fits = fits and (low is None or value > low or (value == low and not open_low))
    fits = fits and (high is None or value <= high)
    if not fits:
        left = "" if low is None else f"{'above' if open_low else 'at least'} {low:g}"
        right = "" if high is None else f"at most {high:g}"
        bounds = " and ".join(part for part in (left, right) if part)
        what = "an integer" if integer else "a number"
        raise RequestError(f"{name} is {value!r}; it must be {what} {bounds}.")
