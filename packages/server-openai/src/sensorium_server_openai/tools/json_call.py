"""``JsonCall``: one call written as a JSON object, read as it comes.

    {"name": "f", "arguments": {…}}      or "parameters"; the two keys in either order

The name is told as soon as it is complete, the arguments character by character. Text that turns
out to be no call is given back as it was.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import Enum, auto

from sensorium_server_openai.tools.reading import Arguments, CallBegins, Said

_KEYS = frozenset({"name", "arguments", "parameters", "type", "id"})
_SPACE = " \t\r\n"


class _Where(Enum):
    START = auto()  # before the brace
    KEY = auto()  # before a key, or the closing brace
    COLON = auto()
    VALUE = auto()  # before a value
    INSIDE = auto()  # in a value
    AFTER = auto()  # behind a value
    DONE = auto()
    FAILED = auto()


@dataclass
class _Value:
    """A JSON value whose end is being looked for."""

    depth: int = 0
    in_string: bool = False
    escaped: bool = False
    text: list[str] = field(default_factory=list)
    is_plain: bool = False

    def ends_before(self, sign: str) -> bool:
        """Whether a number or a word ended in front of this sign."""
        return self.is_plain and (sign in ",}]" or sign in _SPACE)

    def take(self, sign: str) -> bool:
        """Takes a sign; True if it was the last one."""
        first = not self.text
        self.text.append(sign)
        if self.in_string:
            if self.escaped:
                self.escaped = False
            elif sign == "\\":
                self.escaped = True
            elif sign == '"':
                self.in_string = False
                return self.depth == 0
            return False
        if sign == '"':
            self.in_string = True
        elif sign in "{[":
            self.depth += 1
        elif sign in "}]":
            self.depth -= 1
            return self.depth == 0
        elif first:
            self.is_plain = True
        return False

    @property
    def whole(self) -> str:
        """The value's text."""
        return "".join(self.text)


class JsonCall:
    """Reads one object; what follows it is the caller's.

    Attributes:
        raw: everything that was read, for a text that is no call.
        begun: whether the call was told.
    """

    def __init__(self) -> None:
        self.raw: list[str] = []
        self.begun = False
        self._where = _Where.START
        self._key = ""
        self._value = _Value()
        self._held: list[str] = []  # arguments in front of the name
        self._has_arguments = False

    @property
    def done(self) -> bool:
        """Whether the object has come to its end, and was a call."""
        return self._where is _Where.DONE

    @property
    def failed(self) -> bool:
        """Whether this is no call."""
        return self._where is _Where.FAILED

    def feed(self, text: str) -> tuple[list[Said], int]:
        """Takes text until the object ends.

        Returns:
            What is now certain, and how many characters were taken.
        """
        said: list[Said] = []
        pieces: list[str] = []
        taken = 0
        for sign in text:
            if self.done or self.failed:
                break
            taken += 1
            self.raw.append(sign)
            self._step(sign, said, pieces)
        _flush(pieces, said)
        return said, taken

    def _step(self, sign: str, said: list[Said], pieces: list[str]) -> None:
        where = self._where
        if where is _Where.INSIDE:
            self._inside(sign, said, pieces)
        elif sign in _SPACE:
            return
        elif where is _Where.START:
            self._where = _Where.KEY if sign == "{" else _Where.FAILED
        elif where is _Where.KEY:
            if sign == '"':
                self._begin_value("", sign)
            else:
                self._where = _Where.FAILED
        elif where is _Where.COLON:
            self._where = _Where.VALUE if sign == ":" else _Where.FAILED
        elif where is _Where.VALUE:
            self._begin_value(self._key, sign)
            self._pass_on(sign, pieces)
        elif where is _Where.AFTER:
            self._after(sign, said, pieces)

    def _begin_value(self, key: str, sign: str) -> None:
        self._key = key
        self._value = _Value()
        self._value.take(sign)
        self._where = _Where.INSIDE
        self._has_arguments |= key in ("arguments", "parameters")

    def _inside(self, sign: str, said: list[Said], pieces: list[str]) -> None:
        if self._value.ends_before(sign):
            self._end_value(said, pieces)
            if self._where is _Where.AFTER and sign not in _SPACE:
                self._after(sign, said, pieces)
            return
        ended = self._value.take(sign)
        self._pass_on(sign, pieces)
        if ended:
            self._end_value(said, pieces)

    def _pass_on(self, sign: str, pieces: list[str]) -> None:
        if self._key in ("arguments", "parameters"):
            (pieces if self.begun else self._held).append(sign)

    def _end_value(self, said: list[Said], pieces: list[str]) -> None:
        text = self._value.whole
        if self._key == "":  # it was a key
            try:
                self._key = str(json.loads(text, strict=False)) or "?"
            except ValueError:
                self._key = "?"
            self._where = _Where.COLON
            if self._key not in _KEYS and not self.begun:
                self._where = _Where.FAILED
            return
        self._where = _Where.AFTER
        if self._key == "name" and not self.begun:
            self._begin_call(text, said, pieces)

    def _begin_call(self, text: str, said: list[Said], pieces: list[str]) -> None:
        try:
            name = json.loads(text, strict=False)
        except ValueError:
            name = None
        if not isinstance(name, str) or not name:
            self._where = _Where.FAILED
            return
        said.append(CallBegins(name))
        self.begun = True
        pieces += self._held
        self._held = []

    def _after(self, sign: str, said: list[Said], pieces: list[str]) -> None:
        if sign == ",":
            self._where = _Where.KEY
        elif sign == "}" and self.begun:
            self._where = _Where.DONE
            _flush(pieces, said)
            if not self._has_arguments:
                said.append(Arguments("{}"))
        elif not self.begun:
            self._where = _Where.FAILED


def _flush(pieces: list[str], said: list[Said]) -> None:
    if pieces:
        said.append(Arguments("".join(pieces)))
        pieces.clear()
