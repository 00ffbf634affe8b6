"""``Backend``: who answers a conversation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Options:
    """How answers are sampled.

    Attributes:
        temperature: None: the model's own default.
        max_tokens: of one answer.
    """

    temperature: float | None
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Piece:
    """What is new in an answer.

    Attributes:
        num_prompt_tokens, num_tokens: of the whole answer so far; None: not told in this piece.
    """

    text: str
    num_prompt_tokens: int | None = None
    num_tokens: int | None = None


class Backend(Protocol):
    """An engine in this process, or a server."""

    model: str

    def answer(self, messages: Messages, options: Options) -> Iterator[Piece]:
        """The pieces of one answer; whoever closes the iterator early stops the answer.

        Raises:
            SensoriumError: the question can't be answered.
        """
        ...

    def close(self) -> None:
        """Gives everything back."""
        ...
