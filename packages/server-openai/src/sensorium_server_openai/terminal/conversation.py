"""``Conversation``: what was said so far, and the files that go with the next question."""

from __future__ import annotations

import base64
from mimetypes import guess_type
from pathlib import Path
from typing import Any

from sensorium import ConfigError
from sensorium_server_openai.media_files import MediaFiles

_UNKNOWN = "application/octet-stream"


class Conversation:
    """Messages as OpenAI's API has them.

    Args:
        system: instructions to the model; they stay when the conversation begins anew.

    Attributes:
        messages: all of them.
        attached: names of the files that wait for a question.
    """

    def __init__(self, system: str | None = None) -> None:
        self._system = [{"role": "system", "content": system}] if system else []
        self.messages: list[dict[str, Any]] = list(self._system)
        self._parts: list[dict[str, Any]] = []
        self.attached: list[str] = []

    def attach(self, files: MediaFiles, file: Path) -> None:
        """Reads a file, which goes with the next question.

        Raises:
            ConfigError: it can't be read.
        """
        try:
            content = file.expanduser().read_bytes()
        except OSError as error:
            raise ConfigError(f"{file} can't be read: {error.strerror}.") from None
        media_type = guess_type(file.name)[0] or _UNKNOWN
        url = f"data:{media_type};base64,{base64.b64encode(content).decode()}"
        self._parts.append({"type": files.part_type, files.part_type: {"url": url}})
        self.attached.append(file.name)

    def ask(self, text: str) -> None:
        """Adds a question with the files that wait."""
        parts = [*self._parts, {"type": "text", "text": text}]
        self.messages.append({"role": "user", "content": parts if self._parts else text})

    def take_in(self, answer: str) -> None:
        """Adds the answer to the last question, whose files are done with."""
        self.messages.append({"role": "assistant", "content": answer})
        self._parts.clear()
        self.attached.clear()

    def take_back(self) -> None:
        """Takes back a question that got no answer; its files wait for the next."""
        self.messages.pop()

    def begin_anew(self) -> None:
        """Forgets everything but the instructions."""
        self.messages = list(self._system)
        self._parts.clear()
        self.attached.clear()
