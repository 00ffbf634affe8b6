"""Fields that say how tokens are chosen, shared by chats and completions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, ClassVar, Literal

from sensorium import SamplingParams
from sensorium_server_openai.errors import bad_request
from sensorium_server_openai.options import Limits
from sensorium_server_openai.protocol.base import Refused, RequestBody, Strict, at_most

#: What ``SamplingParams`` takes in this version of core.
_KNOWN = frozenset(field.name for field in fields(SamplingParams))
_GUIDED = (
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "guided_json_object",
    "guided_decoding_backend",
    "guided_whitespace_pattern",
)


class StreamOptions(Strict):
    """``stream_options``.

    Attributes:
        include_usage: a last chunk without choices says what was used.
        continuous_usage_stats: every chunk says it.
        include_obfuscation: OpenAI's padding of chunks, which isn't served.
    """

    include_usage: bool = False
    continuous_usage_stats: bool = False
    include_obfuscation: Literal[False] = False


class GenerationBody(RequestBody):
    """The fields that a chat and a completion share."""

    stream: bool | None = None
    stream_options: StreamOptions | None = None

    max_tokens: int | None = None
    n: int | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None

    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    min_tokens: int | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None
    bad_words: list[str] | None = None
    allowed_token_ids: list[int] | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    include_stop_str_in_output: bool | None = None
    truncate_prompt_tokens: int | None = None
    truncation_side: str | None = None
    prompt_logprobs: int | None = None
    response_format: dict[str, Any] | None = None
    structured_outputs: dict[str, Any] | None = None

    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None

    refused: ClassVar[Refused] = {
        "best_of": (1,),
        "use_beam_search": (False,),
        "length_penalty": (1, 1.0),
        "logprob_token_ids": (),
        "kv_transfer_params": (),
        "session_id": (),
        "metadata": ({},),
        "store": (False,),
        "service_tier": ("auto", "default"),
        "logits_processors": ([],),
        "return_prompt_text": (False,),
        **dict.fromkeys(_GUIDED, ()),
    }
    instead: ClassVar[Mapping[str, str]] = {
        "best_of": "ask for n answers and choose among them",
        **dict.fromkeys(_GUIDED, "use structured_outputs or response_format"),
    }

    def check_limits(self, limits: Limits) -> None:
        """Refuses what is more than the server allows, before the engine hears of it."""
        super().check_limits(limits)
        if self.stream_options is not None and not self.stream:
            raise bad_request("stream_options needs stream: true.", "stream_options")
        if self.stream and self.prompt_logprobs is not None:
            raise bad_request("prompt_logprobs can't be streamed.", "prompt_logprobs")
        if (self.n or 1) > limits.n:
            raise bad_request(f"n is {self.n}; this server allows {limits.n}.", "n")
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        at_most("stop", stops, limits.stop_strings)
        for text in stops:
            if len(text) > limits.stop_chars:
                raise bad_request(
                    f"A stop string has {len(text)} characters; this server allows "
                    f"{limits.stop_chars}.",
                    "stop",
                )
        for name in ("bad_words", "stop_token_ids", "logit_bias"):
            at_most(name, getattr(self, name) or (), limits.list_entries)
        if sum(map(len, self.bad_words or ())) > limits.bad_words_chars:
            raise bad_request(
                f"bad_words have more than the {limits.bad_words_chars} characters that this "
                "server allows.",
                "bad_words",
            )

    def sampling(self, **own: Any) -> SamplingParams:
        """What the engine is told.

        Args:
            own: what the caller has already made of fields of its own.

        Raises:
            RequestError: a value out of range.
            HTTPError: a field that this engine doesn't know.
        """
        given = dict(self._given())
        for name in given:
            if name not in _KNOWN:
                raise bad_request(f"{name!r} is not served by this engine; leave it out.", name)
        return SamplingParams(**{**given, **own})

    def _given(self) -> Iterator[tuple[str, Any]]:
        for name in _SAMPLING:
            value = getattr(self, name)
            if value is not None:
                yield name, value


_SAMPLING = (
    *("n", "seed", "stop", "temperature", "top_p", "presence_penalty", "frequency_penalty"),
    *("logit_bias", "top_k", "min_p", "repetition_penalty", "min_tokens", "stop_token_ids"),
    *("ignore_eos", "bad_words", "allowed_token_ids", "skip_special_tokens"),
    *("spaces_between_special_tokens", "include_stop_str_in_output", "truncate_prompt_tokens"),
    *("truncation_side", "prompt_logprobs"),
)
