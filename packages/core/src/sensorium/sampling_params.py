"""``SamplingParams``: how one request is sampled and when it ends."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any

from sensorium.errors import RequestError, UnsupportedError
from sensorium.outputs import RequestOutputKind
from sensorium.structured_outputs import StructuredOutputs, StructuredOutputsParams

__all__ = ["NEUTRAL", "SamplingParams", "StructuredOutputsParams"]

#: Used where neither the request nor the checkpoint's generation config says anything.
NEUTRAL: Mapping[str, float] = {
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
}
_FLAGS = (
    "ignore_eos",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "include_stop_str_in_output",
    "detokenize",
)
#: With factors up to this, and down to its inverse, float32 logits stay finite.
_LARGEST = 1e30
#: Options of other engines that cannot be built here, and why.
_REFUSED = {
    "best_of": "n is how many answers are made, and all of them are returned",
    "logits_processors": "functions don't cross to the engine's process; logit_bias, "
    "allowed_token_ids and bad_words are the ways to change logits",
    "guided_decoding": "pass structured_outputs=StructuredOutputs(json=…) instead",
    "guided_json": "pass structured_outputs=StructuredOutputs(json=…) instead",
    "guided_regex": "pass structured_outputs=StructuredOutputs(regex=…) instead",
    "guided_choice": "pass structured_outputs=StructuredOutputs(choice=…) instead",
    "guided_grammar": "pass structured_outputs=StructuredOutputs(grammar=…) instead",
    "guided_json_object": "pass structured_outputs=StructuredOutputs(json_object=True) instead",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How tokens are chosen and when a request ends.

    A field of the first group left at None comes from the checkpoint's
    ``generation_config.json`` (unless the engine was told not to read it), else from
    ``NEUTRAL``; what is given explicitly always wins.

    Each option's meaning, and what it does beside others: ``docs/sampling.md``.

    Args:
        temperature: 0 is greedy, where the lowest id wins a tie; logits are divided by it
            otherwise.
        top_p: smallest set of tokens whose probabilities sum to at least this, in (0, 1].
        top_k: number of most probable tokens kept; 0 or -1 keeps all.
        min_p: tokens below this fraction of the most probable one are dropped, in [0, 1].
        repetition_penalty: > 0; divides positive and multiplies negative logits of tokens
            that occur in prompt or output (Keskar et al. 2019, CTRL).
        presence_penalty: subtracted from logits of tokens that occur in the output, [-2, 2].
        frequency_penalty: times the count in the output, subtracted likewise, [-2, 2].
        n: how many independent answers.
        seed: makes sampling repeatable, whatever else is in the batch; -1 is the same as None.
        stop: strings that end the text; cut off unless ``include_stop_str_in_output``.
        stop_token_ids: tokens that end it, besides the checkpoint's own.
        ignore_eos: don't end at the checkpoint's end-of-text tokens.
        max_tokens: new tokens at most; None: as many as the context holds; 0: the prompt is
            computed (and scored, with ``prompt_logprobs``) and nothing is generated.
        min_tokens: end-of-text tokens and ``stop_token_ids`` can't be chosen before this many,
            also with ``ignore_eos``.
        logprobs: report the log-probabilities of this many best tokens, and of the chosen
            one, at each position (of the distribution before temperature and penalties); -1: of
            all tokens. The engine's ``max_logprobs`` bounds it.
        logit_bias: token id → value added to its logit, [-100, 100].
        allowed_token_ids: no other tokens can be chosen.
        bad_words: strings whose token sequences can't be completed.
        skip_special_tokens: leave special tokens out of the text; a stop string that holds one
            is found all the same.
        spaces_between_special_tokens: False: added tokens that follow one another have no space
            between them where the tokenizer's decoder puts one (most put none).
        detokenize: False leaves ``text`` empty (and refuses ``stop``).
        output_kind: what each output of a stream holds: ``RequestOutputKind.CUMULATIVE``, ``DELTA``
            or ``FINAL_ONLY``.
        truncate_prompt_tokens: keep this many of the prompt's tokens; -1: as many as leave room for
            ``max_tokens``. A prompt with media that is longer is refused.
        truncation_side: "left" cuts the prompt's beginning, "right" its end.
        prompt_logprobs: report the log-probabilities of this many best tokens, and of the
            prompt's own, at each place of the prompt behind the first, but not where media stand;
            -1 and its bound as for ``logprobs``. The prompt is then computed without the prefix
            cache.
        structured_outputs: the form that the answer must have.
        best_of, logits_processors: refused by name.
        guided_decoding, guided_json, guided_regex, guided_choice, guided_grammar,
            guided_json_object: names that structured outputs once had; refused with the new one.

    Raises:
        RequestError: a value of the wrong type or out of range.
        UnsupportedError: an option that isn't built.
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
    allowed_token_ids: Sequence[int] | None = None
    bad_words: Sequence[str] | None = None
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    include_stop_str_in_output: bool = False
    detokenize: bool = True
    output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE
    prompt_logprobs: int | None = None
    truncate_prompt_tokens: int | None = None
    truncation_side: str = "left"
    structured_outputs: StructuredOutputs | None = None
    best_of: Any = None
    logits_processors: Any = None
    guided_decoding: Any = None
    guided_json: Any = None
    guided_regex: Any = None
    guided_choice: Any = None
    guided_grammar: Any = None
    guided_json_object: Any = None

    def __post_init__(self) -> None:
        for name, reason in _REFUSED.items():
            if getattr(self, name) is not None:
                raise UnsupportedError(f"{name} is not supported: {reason}.")
        stops = (self.stop,) if isinstance(self.stop, str) else _entries("stop", self.stop)
        changed: dict[str, Any] = {
            "stop": stops,
            "stop_token_ids": _ids("stop_token_ids", self.stop_token_ids),
            "bad_words": _entries("bad_words", self.bad_words),
            "logit_bias": _biases(self.logit_bias),
            "seed": None if self.seed == -1 else self.seed,
        }
        if self.allowed_token_ids is not None:
            changed["allowed_token_ids"] = _ids("allowed_token_ids", self.allowed_token_ids)
        for name, value in changed.items():
            object.__setattr__(self, name, value)
        self._check()

    def _check(self) -> None:
        _within("temperature", self.temperature, 0.0, _LARGEST)
        _within("top_p", self.top_p, 0.0, 1.0, open_low=True)
        _within("min_p", self.min_p, 0.0, 1.0)
        _within("repetition_penalty", self.repetition_penalty, 1 / _LARGEST, _LARGEST)
        _within("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _within("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        _within("top_k", self.top_k, -1, None, integer=True)
        _within("n", self.n, 1, 128, integer=True)
        _within("seed", self.seed, -(2**63), 2**63 - 1, integer=True)
        _within("max_tokens", self.max_tokens, 0, None, integer=True)
        _within("min_tokens", self.min_tokens, 0, None, integer=True)
        _within("logprobs", self.logprobs, -1, None, integer=True)
        _within("prompt_logprobs", self.prompt_logprobs, -1, None, integer=True)
        _within("truncate_prompt_tokens", self.truncate_prompt_tokens, -1, None, integer=True)
        if self.truncate_prompt_tokens == 0:
            raise RequestError("truncate_prompt_tokens is 0; a prompt has at least one token.")
        if self.truncation_side not in ("left", "right"):
            raise RequestError(
                f'truncation_side is {self.truncation_side!r}; it must be "left" or "right".'
            )
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise RequestError(
                f"min_tokens is {self.min_tokens}, more than max_tokens, {self.max_tokens}."
            )
        if self.allowed_token_ids is not None and not self.allowed_token_ids:
            raise RequestError("allowed_token_ids is empty; no token could be chosen.")
        for name in _FLAGS:
            if not isinstance(getattr(self, name), bool):
                raise RequestError(f"{name} is {getattr(self, name)!r}; it must be True or False.")
        for name in ("stop", "bad_words"):
            for text in getattr(self, name):
                if not isinstance(text, str) or not text:
                    raise RequestError(
                        f"{name} holds {text!r}; only non-empty strings are allowed."
                    )
        if not isinstance(self.output_kind, RequestOutputKind):
            raise RequestError(
                f"output_kind is {self.output_kind!r}; it must be one of "
                f"{', '.join(map(str, RequestOutputKind))}."
            )
        if self.stop and not self.detokenize:
            raise RequestError("stop strings need detokenize=True.")
        form: object = self.structured_outputs
        if not isinstance(form, StructuredOutputs | None):
            raise RequestError(
                f"structured_outputs is a value of type {type(form).__name__}; it must be a "
                "StructuredOutputs."
            )

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


def _biases(given: object) -> dict[int, float]:
    """``logit_bias`` with ids as keys, which JSON has as strings."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise RequestError(
            f"logit_bias is a {type(given).__name__}; it must be a mapping of token ids to numbers."
        )
    biases = {}
    for key, value in given.items():
        _within("a value of logit_bias", value, -100.0, 100.0, required=True)
        text = isinstance(key, str) and key.isascii() and key.isdigit()
        [token_id] = _ids("logit_bias", [int(key)] if text and len(key) < 20 else [key])
        biases[token_id] = float(value)
    return biases


def _ids(name: str, given: object) -> tuple[int, ...]:
    """Token ids as plain integers. Whether the vocabulary has them is not known here."""
    ids = []
    for value in _entries(name, given):
        try:
            token_id = -1 if isinstance(value, bool) else operator.index(value)
        except TypeError:
            token_id = -1
        if token_id < 0:
            raise RequestError(
                f"{name} has the token id {value!r}; token ids are integers of at least 0."
            )
        ids.append(token_id)
    return tuple(ids)


def _entries(name: str, given: object) -> tuple[Any, ...]:
    if given is None:
        return ()
    if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable):
        raise RequestError(f"{name} is {given!r}; it must be a list.")
    return tuple(given)


def _within(
    name: str,
    value: Any,
    low: float | None,
    high: float | None,
    *,
    open_low: bool = False,
    integer: bool = False,
    required: bool = False,
) -> None:
    if value is None and not required:
        return
    kind = type(value)  # asked first: the abstract classes take ten times as long
    number = kind is int or (kind is float and not integer)
    number = number or (kind is not bool and isinstance(value, Integral if integer else Real))
    fits = number and value - value == 0  # neither infinite nor NaN
    fits = fits and (low is None or value > low or (value == low and not open_low))
    fits = fits and (high is None or value <= high)
    if not fits:
        left = "" if low is None else f"{'above' if open_low else 'at least'} {low:g}"
        right = "" if high is None else f"at most {high:g}"
        bounds = " and ".join(part for part in (left, right) if part)
        what = "an integer" if integer else "a number"
        raise RequestError(f"{name} is {value!r}; it must be {what} {bounds}.")
