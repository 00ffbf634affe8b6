"""``/v1/chat/completions``: the request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import model_validator

from sensorium_server_openai.errors import bad_request
from sensorium_server_openai.options import Limits
from sensorium_server_openai.protocol.base import Refused, Strict
from sensorium_server_openai.protocol.sampling import GenerationBody, at_most


class Message(Strict):
    """One message. What a part other than text may hold is its kind's business."""

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

    name: str
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


class NamedFunction(Strict):
    """The name in a ``tool_choice``."""

    name: str


class NamedToolChoice(Strict):
    """A ``tool_choice`` of one function."""

    type: Literal["function"]
    function: NamedFunction


class Conversation(GenerationBody):
    """Messages and how they become a prompt."""

    messages: list[Message]
    tools: list[Tool] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    documents: list[dict[str, Any]] | None = None
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    mm_processor_kwargs: dict[str, Any] | None = None
    media_io_kwargs: dict[str, dict[str, Any]] | None = None

    def check_limits(self, limits: Limits) -> None:
        """As ``GenerationBody.check_limits``, and the conversation's own."""
        super().check_limits(limits)
        if not self.messages:
            raise bad_request("messages is empty; it must have at least one message.", "messages")
        at_most("messages", self.messages, limits.messages)
        parts = sum(len(m.content) for m in self.messages if isinstance(m.content, list))
        if parts > limits.parts:
            raise bad_request(
                f"The messages have {parts} parts; this server allows {limits.parts}.", "messages"
            )
        at_most("tools", self.tools or (), limits.tools)
        for message in self.messages:
            if message.annotations:
                raise bad_request("Annotations of a message are not served.", "messages")


class ChatRequest(Conversation):
    """The body."""

    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedToolChoice | None = None
    parallel_tool_calls: bool | None = None

    refused: ClassVar[Refused] = {
        **GenerationBody.refused,
        "echo": (False,),
        "add_special_tokens": (False,),
        "functions": ([],),
        "function_call": (),
        "modalities": (["text"],),
        "prediction": (),
        "web_search_options": (),
        "verbosity": (),
        "reasoning_effort": (),
        "thinking_token_budget": (),
        "include_reasoning": (True,),
        "safety_identifier": (),
        "prompt_cache_key": (),
        "prompt_cache_retention": (),
    }
    instead: ClassVar[Mapping[str, str]] = {
        **GenerationBody.instead,
        "functions": "use tools",
        "function_call": "use tool_choice",
        "prompt_cache_key": "use cache_salt",
        "reasoning_effort": "give the template what it understands in chat_template_kwargs",
    }

    def check_limits(self, limits: Limits) -> None:
        """As ``Conversation.check_limits``, and the fields that go together."""
        super().check_limits(limits)
        if self.top_logprobs and not self.logprobs:
            raise bad_request("top_logprobs needs logprobs: true.", "top_logprobs")
        both = (self.max_tokens, self.max_completion_tokens)
        if None not in both and both[0] != both[1]:
            raise bad_request(
                "max_tokens and max_completion_tokens are two names of one thing and differ.",
                "max_completion_tokens",
            )
        names = {tool.function.name for tool in self.tools or ()}
        if isinstance(self.tool_choice, NamedToolChoice):
            wanted = self.tool_choice.function.name
            if wanted not in names:
                raise bad_request(
                    f"tool_choice names {wanted!r}, which is none of the tools.", "tool_choice"
                )
        elif self.tool_choice == "required" and not names:
            raise bad_request("tool_choice: required needs tools.", "tool_choice")

    @property
    def num_logprobs(self) -> int | None:
        """Log-probabilities wanted at each token, as the engine counts them."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def max_new_tokens(self) -> int | None:
        """Under whichever of its two names it was given."""
        return self.max_tokens if self.max_tokens is not None else self.max_completion_tokens
