"""``Head``: what every object and every chunk of one answer repeats; and ``usage``."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import Response

from sensorium import RequestOutput, __version__

FINGERPRINT = f"sensorium-{__version__}"
#: Entries of an answer that the event loop may write, and those that are written in one go.
_MANY, _FEW = 8192, 256


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
        self.completion_tokens += sum([len(answer.token_ids) for answer in output.outputs])

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


async def json_answer(make: Callable[[], Mapping[str, Any]], *, num_entries: int) -> Response:
    """An answer that is one object; a large one is made on a thread, in pieces.

    Args:
        num_entries: roughly how many numbers and texts it has.
    """
    if num_entries <= _MANY:
        return json_response(make())

    def write() -> bytes:
        return b"".join(_pieces(make()))

    return Response(await asyncio.to_thread(write), media_type="application/json")


def _pieces(value: Any) -> Iterator[bytes]:
    """The JSON of a value. No other thread runs while the encoder does, so it never gets much."""
    if _is_small(value):
        yield _json(value)
    elif isinstance(value, Mapping):
        before = b"{"
        for name, entry in value.items():
            yield before + _json(name) + b":"
            yield from _pieces(entry)
            before = b","
        yield b"}"
    elif not isinstance(value[0], (Mapping, list, tuple)):
        pieces = (value[i : i + _FEW] for i in range(0, len(value), _FEW))
        yield b"[" + b",".join(_json(piece)[1:-1] for piece in pieces) + b"]"
    else:
        before = b"["
        for entry in value:
            yield before
            yield from _pieces(entry)
            before = b","
        yield b"]"


def _is_small(value: Any) -> bool:
    if isinstance(value, Mapping):
        return len(value) <= _FEW and all(map(_is_small, value.values()))
    if isinstance(value, (list, tuple)):
        return len(value) <= _FEW and all(map(_is_small, value))
    return True


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


def _json(value: Any) -> bytes:
    text = _encode(value)
    try:
        return text.encode()
    except UnicodeEncodeError:  # a lone surrogate has no UTF-8; JSON's escape says the same
        return json.dumps(value, separators=(",", ":")).encode()
