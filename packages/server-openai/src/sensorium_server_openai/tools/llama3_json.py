"""Llama 3: the answer is ``{"name": …, "parameters": {…}}``, several divided by ``;``.

``<|python_tag|>`` may stand in front; an answer that begins otherwise has no calls.
"""

from __future__ import annotations

from sensorium_server_openai.tools.json_call import JsonCall
from sensorium_server_openai.tools.reading import AnswerReader, Content, Said

_TAG = "<|python_tag|>"


class Llama3JsonParser(AnswerReader):
    """See ``AnswerReader``."""

    def __init__(self) -> None:
        self._text = ""  # not decided yet
        self._read_before = ""  # the tag and the space in front of a call
        self._call: JsonCall | None = None
        self._num_calls = 0
        self._is_content = False

    def feed(self, text: str) -> list[Said]:
        """See ``AnswerReader.feed``."""
        self._text += text
        said: list[Said] = []
        while self._text and self._read(said):
            pass
        return said

    def finish(self) -> list[Said]:
        """See ``AnswerReader.finish``."""
        rest = self._read_before
        if self._call is not None and not self._call.begun:
            rest += "".join(self._call.raw)
        rest += self._text
        self._text = self._read_before = ""
        if self._num_calls and not rest.strip("; \t\r\n"):
            return []
        return [Content(rest)] if rest else []

    def _read(self, said: list[Said]) -> bool:
        if self._is_content:
            said.append(Content(self._text))
            self._text = ""
            return False
        if self._call is not None:
            return self._read_call(self._call, said)
        return self._read_start(said)

    def _read_start(self, said: list[Said]) -> bool:
        space = "; \t\r\n" if self._num_calls else " \t\r\n"
        rest = self._text.lstrip(space)
        if rest.startswith(_TAG):
            rest = rest[len(_TAG) :].lstrip()
        if rest.startswith("{"):
            self._read_before = self._text[: len(self._text) - len(rest)]
            self._text = rest
            self._call = JsonCall()
            return True
        if not rest or _TAG.startswith(rest):
            return False
        self._is_content = True
        return True

    def _read_call(self, call: JsonCall, said: list[Said]) -> bool:
        pieces, taken = call.feed(self._text)
        said += pieces
        self._text = self._text[taken:]
        if call.begun:
            self._read_before = ""
        if call.failed:
            self._is_content = True
            self._text = self._read_before + "".join(call.raw) + self._text
            self._read_before = ""
        if call.done:
            self._num_calls += 1
        if call.failed or call.done:
            self._call = None
            return True
        return False
