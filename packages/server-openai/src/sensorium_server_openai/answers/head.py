"""``Head``: what every object and every chunk of one answer repeats; and ``usage``."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import Response

from sensorium import RequestOutput, __version__

FINGERPRINT = f"sensorium-{__version__}"


@dataclass(frozen=True, slots=True)
class Head:
    """The fields that name an answer.

    Attributes:
        answer_id: "chatcmpl-…" or "cmpl-…".
        model: as the client may call it.
        created: Unix seconds.
    """

    answer_id: str
    model: str
    created: int = field(default_factory=lambda: int(time.time()))

    def fields(self, kind: str, choices: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The beginning of an object of this kind."""
        return {
            "id": self.answer_id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": FINGERPRINT,
            "choices": choices,
        }


@dataclass
class Usage:
    """Counts the tokens of one answer.

    Args:
        details: whether it is said how many prompt tokens were cached, and how many stand for media
            of which kind.
    """

    details: bool
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    media_tokens: Counter[str] = field(default_factory=Counter)

    def add_prompt(self, output: RequestOutput) -> None:
        """Counts a prompt, once it is known."""
        self.prompt_tokens += len(output.prompt_token_ids)
        self.cached_tokens += output.num_cached_tokens
        self.media_tokens.update(output.metrics.num_media_tokens)

    def add_answers(self, output: RequestOutput) -> None:
        """Counts the tokens of an output's answers."""
        self.completion_tokens += sum(len(answer.token_ids) for answer in output.outputs)

    def fields(self) -> dict[str, Any]:
        """As OpenAI writes it."""
        found: dict[str, Any] = {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }
        if self.details:
            details: dict[str, Any] = {"cached_tokens": self.cached_tokens}
            if self.media_tokens:
                details["multimodal_tokens"] = dict(self.media_tokens)
            found["prompt_tokens_details"] = details
        return found


def event(fields: Mapping[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + _json(fields) + b"\n\n"


def json_response(fields: Mapping[str, Any]) -> Response:
    """An answer that is one object."""
    return Response(_json(fields), media_type="application/json")


class TextEvents:
    """Events that differ in one piece of text, which is most of a stream: the rest of the JSON is
    written once.

    Args:
        fields: an event's, with the text "" at one place.
        name: the text's field.
    """

    def __init__(self, fields: Mapping[str, Any], name: str) -> None:
        # No string of JSON holds this: its quotes would be escaped.
        before, found, after = event(fields).partition(b'"%s":""' % name.encode())
        assert found
        self._before, self._after = before + found[:-2], after

    def event(self, text: str) -> bytes:
        """The event with this text."""
        return self._before + _json(text) + self._after


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def _json(value: Mapping[str, Any] | str) -> bytes:
    text = _encode(value)
    try:
        return text.encode()
    except UnicodeEncodeError:  # a lone surrogate has no UTF-8; JSON's escape says the same
        return json.dumps(value, separators=(",", ":")).encode()
