"""``/v1/embeddings``: the request, of texts or of one conversation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from sensorium_server_openai.errors import bad_request
from sensorium_server_openai.options import Limits
from sensorium_server_openai.protocol.base import Refused, RequestBody, at_most
from sensorium_server_openai.protocol.conversation import ConversationBody


class EmbeddingRequest(RequestBody, ConversationBody):
    """The body; ``input`` or ``messages``."""

    input: str | list[int] | list[str] | list[list[int]] | None = None
    encoding_format: Literal["float", "base64"] | None = None
    normalize: bool | None = None

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
        """As its bases'; and exactly one of the two forms, not more than allowed."""
        if (self.input is None) == (self.messages is None):
            raise bad_request("Give either input or messages.", "input")
        super().check_limits(limits)
        if self.input is not None and not self.input:
            raise bad_request("input is empty; it must have at least one token.", "input")
        at_most("input", self.inputs, limits.prompts)
