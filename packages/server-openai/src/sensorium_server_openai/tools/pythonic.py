"""Pythonic: the answer is a list of calls, ``[f(a=1), g(b="x")]``, as Llama 3.2 and 4 write it.

A call is told when its closing bracket has come. Text that is no such list is content.
"""

from __future__ import annotations

import ast
import json
import re
from typing import Any

from sensorium_server_openai.tools.reading import (
    AnswerReader,
    Arguments,
    CallBegins,
    Content,
    Said,
)

_START = "<|python_start|>"
# A name has a bound, so that one without an end isn't looked at again and again.
_CALL = re.compile(r"\s*(?:,\s*)?([A-Za-z_][\w.]{0,255})\(")
_MAYBE_CALL = re.compile(r"\s*(?:,\s*)?(?:[A-Za-z_][\w.]{0,255})?\Z")
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_WORDS = {"true": True, "false": False, "null": None}
_ENDING = ("", "<|python_end|>")


class PythonicParser(AnswerReader):
    """See ``AnswerReader``."""

    def __init__(self) -> None:
        self._text = ""  # not decided yet
        self._before = ""  # the bracket and what stands in front of it, until there is a call
        self._head = ""  # of the call that is being read: its name and what stands before it
        self._name = ""
        self._arguments: _Brackets | None = None
        self._in_list = False
        self._is_over = False  # what follows is content
        self._num_calls = 0

    def feed(self, text: str) -> list[Said]:
        """See ``AnswerReader.feed``."""
        self._text += text
        said: list[Said] = []
        while self._text and self._read(said):
            pass
        return said

    def finish(self) -> list[Said]:
        """See ``AnswerReader.finish``."""
        rest = self._undecided()
        if self._num_calls and rest.strip() in _ENDING:
            return []
        return [Content(rest)] if rest else []

    def _read(self, said: list[Said]) -> bool:
        if self._is_over:
            if self._num_calls and any(e.startswith(self._text.strip()) for e in _ENDING):
                return False
            said.append(Content(self._text))
            self._text = ""
            return False
        if not self._in_list:
            return self._read_start()
        return self._read_call(said)

    def _read_start(self) -> bool:
        rest = self._text.lstrip().removeprefix(_START).lstrip()
        if rest.startswith("["):
            self._before = self._text[: len(self._text) - len(rest) + 1]
            self._text = rest[1:]
            self._in_list = True
            return True
        if not rest or _START.startswith(rest):
            return False
        self._is_over = True
        return True

    def _read_call(self, said: list[Said]) -> bool:
        if self._num_calls and self._text.lstrip().startswith("]"):
            self._text = self._text.lstrip()[1:]
            self._is_over = True
            return True
        if self._arguments is None:
            begun = _CALL.match(self._text)
            if begun is None:
                return False if _MAYBE_CALL.match(self._text) else self._give_up()
            bracket = begun.end() - 1
            self._name = begun[1]
            self._head, self._text = self._text[:bracket], self._text[bracket:]
            self._arguments = _Brackets()
        self._text = self._arguments.feed(self._text)
        if not self._arguments.are_closed:
            return False
        arguments = _json_of(self._arguments.text)
        if arguments is None:
            return self._give_up()
        self._before = self._head = ""
        self._arguments = None
        self._num_calls += 1
        said += [CallBegins(self._name), Arguments(arguments)]
        return True

    def _give_up(self) -> bool:
        self._text = self._undecided()
        self._is_over = True
        return True

    def _undecided(self) -> str:
        """Everything that was read and not told; forgets it."""
        read = "" if self._arguments is None else self._arguments.text
        text = self._before + self._head + read + self._text
        self._before = self._head = self._text = ""
        self._arguments = None
        return text


class _Brackets:
    """Text from a bracket to the one that closes it; each character is looked at once."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._open: list[str] = []
        self._quote = ""
        self._is_escaped = False
        self.are_closed = False

    @property
    def text(self) -> str:
        """What was taken."""
        return "".join(self._pieces)

    def feed(self, text: str) -> str:
        """Takes text until the bracket is closed; returns what follows."""
        for i, sign in enumerate(text):
            if self._take(sign):
                self.are_closed = True
                self._pieces.append(text[: i + 1])
                return text[i + 1 :]
        self._pieces.append(text)
        return ""

    def _take(self, sign: str) -> bool:
        """Takes a sign; True if it was the last one."""
        if self._is_escaped:
            self._is_escaped = False
        elif self._quote:
            self._is_escaped = sign == "\\"
            if sign == self._quote:
                self._quote = ""
        elif sign in "\"'":
            self._quote = sign
        elif sign in _CLOSING:
            self._open.append(_CLOSING[sign])
        elif sign == self._open[-1]:
            self._open.pop()
            return not self._open
        return False


def _json_of(text: str) -> str | None:
    """The JSON of a call's arguments; None if they are no literals given by name."""
    try:
        call = ast.parse(f"f{text}", mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            return None
        values = {k.arg: _value(k.value) for k in call.keywords if k.arg is not None}
        if len(values) != len(call.keywords):
            return None
        return json.dumps(values, ensure_ascii=False)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Name) and node.id in _WORDS:
        return _WORDS[node.id]
    if isinstance(node, ast.List):
        return [_value(entry) for entry in node.elts]
    if isinstance(node, ast.Dict):
        keys = [ast.literal_eval(key) for key in node.keys if key is not None]
        return dict(zip(keys, map(_value, node.values), strict=True))
    return ast.literal_eval(node)
