"""``/tokenize`` and ``/detokenize``: the requests."""

from __future__ import annotations

from sensorium_server_openai.errors import bad_request
from sensorium_server_openai.options import Limits
from sensorium_server_openai.protocol.base import Body
from sensorium_server_openai.protocol.conversation import ConversationBody


class TokenizeRequest(ConversationBody):
    """The body of ``/tokenize``; ``prompt`` or ``messages``."""

    prompt: str | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None

    def check_limits(self, limits: Limits) -> None:
        """As its base's; and exactly one of the two forms."""
        if (self.prompt is None) == (self.messages is None):
            raise bad_request("Give either prompt or messages.", "prompt")
        super().check_limits(limits)
        if self.messages is not None and self.add_special_tokens is not None:
            raise bad_request(
                "add_special_tokens goes with prompt; a chat template writes its own.",
                "add_special_tokens",
            )


class DetokenizeRequest(Body):
    """The body of ``/detokenize``."""

    tokens: list[int]
