"""What the routes that take conversations have in common."""

from __future__ import annotations

from typing import Any

from sensorium_server_openai.engine_port import ChatPrompt
from sensorium_server_openai.errors import bad_request
from sensorium_server_openai.options import ServerOptions
from sensorium_server_openai.protocol.conversation import ConversationBody


def chat_prompt(
    options: ServerOptions,
    body: ConversationBody,
    *,
    tools: list[dict[str, Any]] | None,
    opens_answer: bool = True,
    salt: str | None = None,
) -> ChatPrompt:
    """A body's conversation.

    Args:
        tools: those that the template is shown.
        opens_answer: whether the prompt ends where an answer begins, if the body doesn't say.

    Raises:
        HTTPError: an option that a stranger may not give here.
    """
    if body.chat_template is not None and not options.trust_chat_template:
        raise bad_request(
            "chat_template is not taken from requests here; the operator can start the server "
            "with --trust-request-chat-template.",
            "chat_template",
        )
    for name in ("mm_processor_kwargs", "media_io_kwargs"):
        if getattr(body, name) is not None and not options.trust_mm_kwargs:
            raise bad_request(
                f"{name} is not taken from requests here; the operator can start the server with "
                "--trust-request-mm-kwargs.",
                name,
            )
    goes_on = bool(body.continue_final_message)
    if goes_on and body.add_generation_prompt:
        raise bad_request(
            "continue_final_message and add_generation_prompt exclude each other.",
            "continue_final_message",
        )
    variables = dict(body.chat_template_kwargs or {})
    if body.documents is not None:
        variables["documents"] = body.documents
    opens = body.add_generation_prompt
    chat_options = {
        "tools": tools,
        "add_generation_prompt": (opens_answer and not goes_on) if opens is None else opens,
        "continue_final_message": goes_on,
        "chat_template": body.chat_template,
        "template_is_trusted": False,
        "template_kwargs": variables,
        "processor_kwargs": body.mm_processor_kwargs,
        "io_kwargs": body.media_io_kwargs,
        "salt": salt or "",
    }
    return ChatPrompt([message.plain() for message in body.messages or ()], chat_options)


def shown_tools(body: ConversationBody) -> list[dict[str, Any]] | None:
    """All of a body's tools, as chat templates expect them."""
    return [tool.plain() for tool in body.tools] if body.tools else None


def priority_of(options: ServerOptions, given: int | None) -> int:
    """A request's priority.

    Raises:
        HTTPError: requests may not bring one here.
    """
    if given and not options.priorities:
        raise bad_request(
            "priority is not taken from requests here; the operator can start the server with "
            "--scheduling-policy priority.",
            "priority",
        )
    return given or 0
