"""``Guard``: keeps users' text apart from the text that a chat template writes.

Before rendering, every text of a user's that could be mistaken for a placeholder or a control token
is replaced by a mark; the rendered text is cut at the marks again. A mark holds a random number
that is drawn for each conversation, so no text can forge one. It is made of letters and digits
only, so templates may trim, quote or change the case of what surrounds it.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from sensorium.errors import RequestError
from sensorium.frontend.placeholders import LiteralSegment, Segment


class Marks:
    """The marks of one conversation."""

    def __init__(self) -> None:
        self._nonce = f"x{secrets.token_hex(8)}x"
        self._pattern = re.compile(rf"{self._nonce}(\d+)x", re.IGNORECASE)
        self._meanings: list[tuple[Segment, ...]] = []
        self._literals: dict[str, str] = {}

    def add(self, meaning: Sequence[Segment]) -> str:
        """A new mark that stands for these segments."""
        self._meanings.append(tuple(meaning))
        return f"{self._nonce}{len(self._meanings) - 1}x"

    def literal(self, text: str) -> str:
        """The mark of a literal text; "" makes one that only parts its neighbours."""
        if text not in self._literals:
            self._literals[text] = self.add([LiteralSegment(text)])
        return self._literals[text]

    def split(self, rendered: str) -> Iterator[str | tuple[Segment, ...]]:
        """Texts and, between them, the meanings of marks.

        Raises:
            RequestError: the template cut a mark in two.
        """
        pieces = self._pattern.split(rendered)
        if any(self._nonce in piece.lower() for piece in pieces[::2]):
            raise RequestError("The chat template cuts through a placeholder or a special token.")
        for i, piece in enumerate(pieces):
            yield self._meanings[int(piece)] if i % 2 else piece


@lru_cache(maxsize=16)
def guard_for(tokens: frozenset[str]) -> Guard:
    """A guard, made once for each set of tokens."""
    return Guard(tokens)


class Guard:
    """Marks certain tokens wherever they are written in values that a template will see."""

    def __init__(self, tokens: Iterable[str]) -> None:
        # Runs of spaces and line breaks may be tokens too, but control nothing.
        visible = {token for token in tokens if not token.isspace()}
        longest_first = sorted(visible, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._beginnings = frozenset(t[:i] for t in longest_first for i in range(1, len(t)))
        self._longest = max(map(len, longest_first), default=0)

    def text(self, text: str, marks: Marks) -> str:
        """``text`` with marks for the tokens in it.

        Where its end could begin a token that the next piece of text completes, a mark
        parts the two.
        """
        end = len(text.rstrip())
        tails = (text[max(end - size, 0) : end] for size in range(1, self._longest))
        if any(tail in self._beginnings for tail in tails):
            return self._literals(text[:end], marks) + marks.literal("") + text[end:]
        return self._literals(text, marks)

    def value(self, value: Any, marks: Marks) -> Any:
        """A copy of a plain value, all text in it guarded.

        Raises:
            RequestError: something else than text, numbers, lists and mappings.
        """
        if value is None or isinstance(value, (bool, int, float)):
            return value
        if isinstance(value, str):
            return self.text(value, marks)
        if isinstance(value, Mapping):
            return {self._key(k, marks): self.value(v, marks) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.value(entry, marks) for entry in value]
        raise RequestError(
            f"A message holds a {type(value).__name__}; apart from media it may hold text, "
            "numbers, lists and mappings."
        )

    def _literals(self, text: str, marks: Marks) -> str:
        return self._pattern.sub(lambda match: marks.literal(match[0]), text)

    def _key(self, key: Any, marks: Marks) -> str:
        # Templates look values up by names, which hold no token.
        return key if isinstance(key, str) and key.isidentifier() else self.text(str(key), marks)
