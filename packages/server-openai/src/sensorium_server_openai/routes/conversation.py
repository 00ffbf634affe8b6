"""What chats and embeddings of conversations have in common."""

from __future__ import annotations

from typing import Any, Protocol

from sensorium_server_openai.errors import bad_request
from sensorium_server_openai.options import ServerOptions


class TemplateFields(Protocol):
    """The fields of a body that say how its messages become a prompt."""

    add_generation_prompt: bool | None
    continue_final_message: bool | None
    chat_template: str | None
    chat_template_kwargs: dict[str, Any] | None
    mm_processor_kwargs: dict[str, Any] | None
    media_io_kwargs: dict[str, dict[str, Any]] | None
    cache_salt: str | None


def conversation_options(options: ServerOptions, body: TemplateFields) -> dict[str, Any]:
    """Keyword arguments of ``AsyncEngine.chat``.

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
    documents = getattr(body, "documents", None)
    if documents is not None:
        variables["documents"] = documents
    begins = body.add_generation_prompt
    return {
        "add_generation_prompt": (not goes_on) if begins is None else begins,
        "continue_final_message": goes_on,
        "chat_template": body.chat_template,
        "template_kwargs": variables,
        "processor_kwargs": body.mm_processor_kwargs,
        "io_kwargs": body.media_io_kwargs,
        "salt": body.cache_salt or "",
    }


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
