"""``/v1/embeddings``: the request, of texts or of one conversation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from sensorium_server_openai.errors import bad_request
from sensorium_server_openai.options import Limits
from sensorium_server_openai.protocol.base import Body, Refused
from sensorium_server_openai.protocol.chat import Message
from sensorium_server_openai.protocol.sampling import at_most


class EmbeddingRequest(Body):
    """The body; ``input`` or ``messages``."""

    input: str | list[int] | list[str] | list[list[int]] | None = None
    messages: list[Message] | None = None
    encoding_format: Literal["float", "base64"] | None = None
    user: str | None = None
    normalize: bool | None = None
    priority: int | None = None
    request_id: str | None = None
    cache_salt: str | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    mm_processor_kwargs: dict[str, Any] | None = None
    media_io_kwargs: dict[str, dict[str, Any]] | None = None

    refused: ClassVar[Refused] = {
        "dimensions": (),
        "truncate_prompt_tokens": (),
        "add_special_tokens": (True,),
        "embed_dtype": ("float32",),
        "endianness": ("native",),
    }
    instead: ClassVar[Mapping[str, str]] = {
        "dimensions": "cut the vectors yourself where the model was made for that",
    }

    @property
    def inputs(self) -> list[str | list[int]]:
        """Each text, or its token ids."""
        given = self.input
        if given is None:
            return []
        if isinstance(given, str):
            return [given]
        if given and isinstance(given[0], int):
            return [[token for token in given if isinstance(token, int)]]
        return [text for text in given if not isinstance(text, int)]

    def check_limits(self, limits: Limits) -> None:
        """Exactly one of the two forms, and not more than allowed."""
        if (self.input is None) == (self.messages is None):
            raise bad_request("Give either input or messages.", "input")
        if self.messages is not None:
            at_most("messages", self.messages, limits.messages)
            if not self.messages:
                raise bad_request("messages is empty.", "messages")
        elif not self.input:
            raise bad_request("input is empty; it must have at least one token.", "input")
        at_most("input", self.inputs, limits.prompts)
