"""``/v1/chat/completions``: the request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from sensorium_server_openai.errors import bad_request
from sensorium_server_openai.options import Limits
from sensorium_server_openai.protocol.base import Refused, Strict
from sensorium_server_openai.protocol.conversation import ConversationBody, Message
from sensorium_server_openai.protocol.sampling import GenerationBody


class NamedFunction(Strict):
    """The name in a ``tool_choice``."""

    name: str


class NamedToolChoice(Strict):
    """A ``tool_choice`` of one function."""

    type: Literal["function"]
    function: NamedFunction


class ChatRequest(GenerationBody, ConversationBody):
    """The body."""

    messages: list[Message]
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
        """As its bases', and the fields that go together."""
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
