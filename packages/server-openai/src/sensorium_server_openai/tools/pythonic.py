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
_CALL = re.compile(r"\s*,?\s*([A-Za-z_][\w.]*)\(")
_MAYBE_CALL = re.compile(r"\s*,?\s*([A-Za-z_][\w.]*)?\Z")
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_WORDS = {"true": True, "false": False, "null": None}
_ENDING = ("", "<|python_end|>")


class PythonicParser(AnswerReader):
    """See ``AnswerReader``."""

    def __init__(self) -> None:
        self._text = ""  # not decided yet
        self._before = ""  # the bracket and what stands in front of it
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
        rest = self._before + self._text
        self._before = self._text = ""
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
        begun = _CALL.match(self._text)
        if begun is None:
            if _MAYBE_CALL.match(self._text):
                return False
            return self._give_up()
        end = _end_of_brackets(self._text, begun.end() - 1)
        if end is None:
            return False
        arguments = _arguments(self._text[begun.end() - 1 : end])
        if arguments is None:
            return self._give_up()
        self._text = self._text[end:]
        self._before = ""
        self._num_calls += 1
        said += [CallBegins(begun[1]), Arguments(arguments)]
        return True

    def _give_up(self) -> bool:
        self._text, self._before = self._before + self._text, ""
        self._is_over = True
        return True


def _end_of_brackets(text: str, start: int) -> int | None:
    """Where the bracket at ``start`` is closed, behind it; None if it isn't (yet)."""
    open_brackets: list[str] = []
    quote = ""
    i = start
    while i < len(text):
        sign = text[i]
        if quote:
            if sign == "\\":
                i += 1
            elif sign == quote:
                quote = ""
        elif sign in "\"'":
            quote = sign
        elif sign in _CLOSING:
            open_brackets.append(_CLOSING[sign])
        elif open_brackets and sign == open_brackets[-1]:
            open_brackets.pop()
            if not open_brackets:
                return i + 1
        i += 1
    return None


def _arguments(text: str) -> str | None:
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
