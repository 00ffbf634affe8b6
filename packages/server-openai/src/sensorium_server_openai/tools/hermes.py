"""Hermes: ``<tool_call>{"name": …, "arguments": {…}}</tool_call>``, any number of them.

The format of Qwen 2, 2.5 and 3, also of those that take media, and of the Hermes models.
"""

from __future__ import annotations

from sensorium_server_openai.tools.json_call import JsonCall
from sensorium_server_openai.tools.reading import AnswerReader, Content, Said

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"


class HermesParser(AnswerReader):
    """See ``AnswerReader``. White space in front of a call is nobody's content."""

    def __init__(self) -> None:
        self._text = ""  # not decided yet
        self._call: JsonCall | None = None
        self._is_behind_call = False

    def feed(self, text: str) -> list[Said]:
        """See ``AnswerReader.feed``."""
        self._text += text
        said: list[Said] = []
        while self._read(said):
            pass
        return said

    def finish(self) -> list[Said]:
        """See ``AnswerReader.finish``."""
        call, rest = self._call, self._text
        self._call, self._text = None, ""
        if call is not None and not call.begun:
            rest = _OPEN + "".join(call.raw) + rest
        if self._is_behind_call and not rest.strip():
            return []
        return [Content(rest)] if rest else []

    def _read(self, said: list[Said]) -> bool:
        """Takes what can be decided; True if there may be more."""
        if not self._text:
            return False
        if self._call is not None:
            return self._read_call(self._call, said)
        if self._is_behind_call and self._skip_close():
            return True
        start = self._text.find(_OPEN)
        if start >= 0:
            self._say(self._text[:start].rstrip(), said)
            self._text = self._text[start + len(_OPEN) :]
            self._call = JsonCall()
            return True
        certain = len(self._text) - num_held(self._text, _OPEN)
        if self._is_behind_call:
            certain = min(certain, len(self._text) - num_held(self._text.lstrip(), _CLOSE))
        certain = len(self._text[:certain].rstrip())
        self._say(self._text[:certain], said)
        self._text = self._text[certain:]
        return False

    def _read_call(self, call: JsonCall, said: list[Said]) -> bool:
        pieces, taken = call.feed(self._text)
        said += pieces
        self._text = self._text[taken:]
        if call.failed:
            self._say(_OPEN + "".join(call.raw), said)
        if call.failed or call.done:
            self._call = None
            self._is_behind_call = call.done
            return True
        return False

    def _skip_close(self) -> bool:
        rest = self._text.lstrip()
        if not rest.startswith(_CLOSE):
            return False
        self._text = rest[len(_CLOSE) :]
        return True

    def _say(self, text: str, said: list[Said]) -> None:
        if text:
            self._is_behind_call = False
            said.append(Content(text))


def num_held(text: str, tag: str) -> int:
    """How many of the text's last characters may be the beginning of the tag."""
    longest = min(len(text), len(tag) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(tag[:n])), 0)
