"""``ConversationBody``: messages and tools, and how they become a prompt.

Chats, embeddings and ``/tokenize`` take the same conversations. What a part other than text may
hold is its kind's business.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sensorium_server_openai.errors import bad_request
from sensorium_server_openai.options import Limits
from sensorium_server_openai.protocol.base import Body, Strict, at_most


class Message(Strict):
    """One message."""

    role: str
    content: str | list[str | dict[str, Any]] | None = None
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    annotations: list[Any] | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: Any) -> Any:
        """Clients send back all of an answer's fields, most of them null."""
        if not isinstance(given, dict):
            return given
        return {name: value for name, value in given.items() if value is not None}

    def plain(self) -> dict[str, Any]:
        """As the engine takes it; fields without a value are left out."""
        found: dict[str, Any] = {"role": self.role, "content": self.content}
        for name in ("name", "tool_call_id", "reasoning", "reasoning_content"):
            value = getattr(self, name)
            if value is not None:
                found[name] = value
        if self.tool_calls:
            found["tool_calls"] = self.tool_calls
        return found


class FunctionDefinition(Strict):
    """A function that the model may call."""

    name: Annotated[str, Field(min_length=1)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Strict):
    """A tool that the model may call."""

    type: Literal["function"]
    function: FunctionDefinition

    def plain(self) -> dict[str, Any]:
        """As chat templates expect it."""
        return {"type": "function", "function": self.function.model_dump(exclude_none=True)}


class ConversationBody(Body):
    """The fields of a conversation; each of them is laid out by ``conversation_options``."""

    messages: list[Message] | None = None
    tools: list[Tool] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    documents: list[dict[str, Any]] | None = None
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    mm_processor_kwargs: dict[str, Any] | None = None
    media_io_kwargs: dict[str, dict[str, Any]] | None = None

    def check_limits(self, limits: Limits) -> None:
        """As ``Body.check_limits``, and the conversation's own."""
        super().check_limits(limits)
        at_most("tools", self.tools or (), limits.tools)
        if self.messages is None:
            self._check_alone()
            return
        if not self.messages:
            raise bad_request("messages is empty; it must have at least one message.", "messages")
        at_most("messages", self.messages, limits.messages)
        parts = sum(len(m.content) for m in self.messages if isinstance(m.content, list))
        if parts > limits.parts:
            raise bad_request(
                f"The messages have {parts} parts; this server allows {limits.parts}.", "messages"
            )
        for message in self.messages:
            if message.annotations:
                raise bad_request("Annotations of a message are not served.", "messages")

    def _check_alone(self) -> None:
        """Without messages, the fields that say how they become a prompt mean nothing."""
        for name in _OF_MESSAGES:
            if getattr(self, name) is not None:
                raise bad_request(f"{name} goes with messages.", name)


_OF_MESSAGES = tuple(set(ConversationBody.model_fields) - {"model", "messages"})
