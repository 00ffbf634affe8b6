"""``/tokenize`` and ``/detokenize``: the requests."""

from __future__ import annotations

from typing import Any

from sensorium_server_openai.errors import bad_request
from sensorium_server_openai.options import Limits
from sensorium_server_openai.protocol.base import Body
from sensorium_server_openai.protocol.chat import Message, Tool
from sensorium_server_openai.protocol.sampling import at_most


class TokenizeRequest(Body):
    """The body of ``/tokenize``; ``prompt`` or ``messages``."""

    prompt: str | None = None
    messages: list[Message] | None = None
    tools: list[Tool] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    return_token_strs: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    def check_limits(self, limits: Limits) -> None:
        """Exactly one of the two forms."""
        if (self.prompt is None) == (self.messages is None):
            raise bad_request("Give either prompt or messages.", "prompt")
        if self.messages is not None and self.add_special_tokens is not None:
            raise bad_request(
                "add_special_tokens goes with prompt; a chat template writes its own.",
                "add_special_tokens",
            )
        at_most("messages", self.messages or (), limits.messages)
        at_most("tools", self.tools or (), limits.tools)


class DetokenizeRequest(Body):
    """The body of ``/detokenize``."""

    tokens: list[int]
