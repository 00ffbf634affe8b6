"""``ChatRenderer``: from a conversation to the segments of a prompt and the items in it.

    messages → Message (parts, items) → what the template sees (guarded text, marks)
      → rendered text → cut at marks and at the template's own placeholders → segments

Text that users wrote stays text, even if it looks like a token: it is guarded before the template
sees it. Fetches, decodes and tokenizes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from sensorium.errors import RequestError
from sensorium.frontend.chat_parts import ConversationReader
from sensorium.frontend.chat_view import ChatView
from sensorium.frontend.placeholders import Segment, SlotSegment
from sensorium.plugins import MediaAdapter, MediaKind
from sensorium.tokenizer import ChatTemplate, Tokenizer
from sensorium.types import MediaItem

_RESERVED = ("messages", "tools", "add_generation_prompt", "continue_final_message")

#: Messages, each with "role" and "content" (text, or a list of parts).
Conversation: TypeAlias = "Sequence[Mapping[str, Any]]"


@dataclass(frozen=True, slots=True)
class RenderedChat:
    """A conversation as a prompt.

    Attributes:
        segments: the prompt's text, cut where items stand.
        items: in the order in which they appear in the conversation.
        add_special_tokens: whether BOS is still missing.
    """

    segments: tuple[Segment, ...]
    items: tuple[MediaItem, ...]
    add_special_tokens: bool

    @property
    def text(self) -> str:
        """The prompt as one text."""
        return "".join(
            s.placeholder if isinstance(s, SlotSegment) else s.text for s in self.segments
        )


class ChatRenderer:
    """Renders conversations for one engine, on any thread.

    Args:
        template: None: the checkpoint has none.
        kinds: every kind that is installed.
        adapters: those that the model takes.
        content_format: "openai" (the template iterates over parts), "string", or "auto".
        interleave_mm_strings: texts may carry placeholders by hand.
    """

    def __init__(
        self,
        *,
        template: ChatTemplate | None,
        tokenizer: Tokenizer,
        kinds: Mapping[str, MediaKind],
        adapters: Mapping[str, MediaAdapter],
        content_format: str = "auto",
        interleave_mm_strings: bool = False,
        find_part: Callable[[str], object] | None = None,
    ) -> None:
        self._template = template
        self._tokenizer = tokenizer
        self._reader = ConversationReader(kinds, adapters, find_part)
        self._adapters = adapters
        self._content_format = content_format
        self._interleave = interleave_mm_strings

    def render(
        self,
        messages: Conversation,
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        template: ChatTemplate | None = None,
        content_format: str | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> RenderedChat:
        """Renders one conversation.

        Args:
            template, content_format: instead of the engine's own.
            template_kwargs: further variables for the template.

        Raises:
            RequestError: a message, a part or a placeholder that can't be served; a template
                that is missing, fails, or drops an item.
        """
        template = template or self._template
        if template is None:
            raise RequestError(
                "This model has no chat template; pass one as chat_template=PATH_OR_TEMPLATE."
            )
        variables = dict(template_kwargs or {})
        for name in variables:
            if name in _RESERVED:
                raise RequestError(f"{name} is an argument of its own, not a template variable.")
        wanted = content_format or self._content_format
        read = self._reader.read(messages)
        view = ChatView(
            read,
            adapters=self._adapters,
            tokenizer=self._tokenizer,
            by_parts=(template.content_format if wanted == "auto" else wanted) == "openai",
            takes_strings=template.takes_strings,
            interleave=self._interleave,
        )
        rendered = template.render(
            [view.message(message) for message in read],
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            tools=view.guarded(tools),
            **view.guarded(variables),
        )
        return RenderedChat(
            segments=tuple(view.segments(rendered)),
            items=tuple(view.items),
            add_special_tokens=template.needs_specials(rendered),
        )
