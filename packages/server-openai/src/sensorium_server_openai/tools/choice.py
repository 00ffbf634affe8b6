"""``ToolPlan``: what a request's tools and ``tool_choice`` mean for its prompt and its answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sensorium_server_openai.errors import bad_request
from sensorium_server_openai.protocol.chat import ChatRequest, NamedToolChoice
from sensorium_server_openai.service import Service
from sensorium_server_openai.tools.forced import (
    NamedCall,
    RequiredCalls,
    schema_of,
    schema_of_calls,
)
from sensorium_server_openai.tools.reading import AnswerReader, FirstCallOnly, MakeReader


@dataclass(frozen=True, slots=True)
class ToolPlan:
    """How tools enter.

    Attributes:
        shown: what the chat template is told; None: no tools.
        make_reader: reads the answer.
        schema: of an answer that a grammar holds to calls.
        needs_special_tokens: whether special tokens must be left in the text.
    """

    shown: list[dict[str, Any]] | None = None
    make_reader: MakeReader = AnswerReader
    schema: dict[str, Any] | None = None
    needs_special_tokens: bool = False


def plan_tools(service: Service, body: ChatRequest, *, is_structured: bool) -> ToolPlan:
    """Reads ``tools``, ``tool_choice`` and ``parallel_tool_calls``.

    Args:
        is_structured: whether the answer's form is given already.

    Raises:
        HTTPError: this server doesn't serve the choice, or it contradicts the answer's form.
    """
    choice = body.tool_choice
    if not body.tools or choice == "none":
        return ToolPlan()
    if is_structured:
        raise bad_request(
            "response_format and structured_outputs don't go with tools that may be called; "
            'send tool_choice: "none" or leave one of them out.',
            "tool_choice",
        )
    shown = [tool.plain() for tool in body.tools]
    only_one = body.parallel_tool_calls is False
    if isinstance(choice, NamedToolChoice):
        name = choice.function.name
        function = next(t.function for t in body.tools if t.function.name == name)
        return ToolPlan(shown, lambda: NamedCall(name), schema_of(function.parameters))
    if choice == "required":
        functions = [(tool.function.name, tool.function.parameters) for tool in body.tools]
        return ToolPlan(shown, RequiredCalls, schema_of_calls(functions, only_one=only_one))
    parser = service.parser
    if parser is None:
        raise bad_request(
            'tool_choice "auto" is not served here; the operator can start the server with '
            "--enable-auto-tool-choice and --tool-call-parser.",
            "tool_choice",
        )
    if only_one:
        return ToolPlan(shown, lambda: FirstCallOnly(parser()), None, parser.needs_special_tokens)
    return ToolPlan(shown, parser, None, parser.needs_special_tokens)
