"""``AnswerReader``: what an answer's text says, piece by piece: content, and calls of tools.

A parser is a subclass. There is one way to read, whether the answer is streamed or whole: whole is
one piece and an end. A reader serves one answer and is thrown away with it.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class Content:
    """Text for the reader of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegins:
    """A call of a function begins; calls are numbered in this order, from 0."""

    name: str


@dataclass(frozen=True, slots=True)
class Arguments:
    """The next piece of the latest call's arguments, JSON text."""

    text: str


Said = Content | CallBegins | Arguments


class AnswerReader:
    """Reads one answer. This one finds no calls: all is content.

    Class attributes:
        needs_special_tokens: whether special tokens must be left in the text.
    """

    needs_special_tokens: ClassVar[bool] = False

    def feed(self, text: str) -> list[Said]:
        """Takes the next piece of text, of any length; returns what is now certain."""
        return [Content(text)] if text else []

    def finish(self) -> list[Said]:
        """The answer has come to its end: what was held back."""
        return []


MakeReader = Callable[[], AnswerReader]


class ToolCalls:
    """The calls of one answer, as the client is told."""

    def __init__(self) -> None:
        self.whole: list[dict[str, Any]] = []

    @property
    def any(self) -> bool:
        """Whether there is one."""
        return bool(self.whole)

    def take(self, said: Said) -> str:
        """Takes a piece into the whole; returns it if it is content."""
        self.delta(said)
        return said.text if isinstance(said, Content) else ""

    def delta(self, said: Said) -> dict[str, Any]:
        """Takes a piece; the ``delta`` that streams it, {} for none."""
        if isinstance(said, Content):
            return {"content": said.text} if said.text else {}
        if isinstance(said, CallBegins):
            call: dict[str, Any] = {
                "id": f"call_{uuid.uuid4().hex}",
                "type": "function",
                "function": {"name": said.name, "arguments": ""},
            }
            self.whole.append(call)
            first = {**call, "function": dict(call["function"]), "index": len(self.whole) - 1}
            return {"tool_calls": [first]}
        self.whole[-1]["function"]["arguments"] += said.text
        piece = {"index": len(self.whole) - 1, "function": {"arguments": said.text}}
        return {"tool_calls": [piece]}


class FirstCallOnly(AnswerReader):
    """What another reader finds, without calls behind the first."""

    def __init__(self, reader: AnswerReader) -> None:
        self._reader = reader
        self._num_calls = 0

    def feed(self, text: str) -> list[Said]:
        """See ``AnswerReader.feed``."""
        return self._kept(self._reader.feed(text))

    def finish(self) -> list[Said]:
        """See ``AnswerReader.finish``."""
        return self._kept(self._reader.finish())

    def _kept(self, said: list[Said]) -> list[Said]:
        kept: list[Said] = []
        for piece in said:
            self._num_calls += isinstance(piece, CallBegins)
            if isinstance(piece, Content) or self._num_calls <= 1:
                kept.append(piece)
        return kept
