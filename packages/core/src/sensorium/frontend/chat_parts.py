"""Reads a conversation: messages and their parts, media parts as items.

Knows which parts there are and what they may hold; the kind of a media part reads its value.
Renders nothing.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sensorium.errors import RequestError
from sensorium.plugins import MediaAdapter, MediaKind
from sensorium.types import MediaItem

Part = str | MediaItem

#: Keys that other interfaces write beside a part's type → what to write here instead.
_ADVICE = {
    "detail": " If {part_type} takes a detail, it stands inside its value: "
    '{{"{part_type}": {{"url": …, "detail": …}}}}.',
    "cache_control": " Leave it out: prefixes are cached without being asked for, and cache_salt "
    "keeps callers apart.",
}


@dataclass(frozen=True, slots=True)
class Message:
    """One message.

    Attributes:
        content: text as it was given, or parts in order; None: it has no content.
        other: every other key with a value (name, tool_calls, …).
    """

    role: str
    content: str | tuple[Part, ...] | None
    other: Mapping[str, Any]

    @property
    def parts(self) -> tuple[Part, ...]:
        """The content as parts."""
        if isinstance(self.content, str):
            return (self.content,)
        return self.content or ()


class ConversationReader:
    """Reads conversations for one engine.

    Args:
        kinds: every kind that is installed.
        adapters: those that the model takes.
        find_part: called with a part type of none of ``kinds``; raises ``PluginError`` with
            the reason if no plugin that works answers to it.
    """

    def __init__(
        self,
        kinds: Mapping[str, MediaKind],
        adapters: Mapping[str, MediaAdapter],
        find_part: Callable[[str], object] | None = None,
    ) -> None:
        self._find_part = find_part
        self._kinds = kinds
        answers = Counter(part_type for kind in kinds.values() for part_type in kind.part_types)
        # A part type that two kinds claim is left out; ``find_part`` raises the conflict.
        self._contested = {part_type for part_type, count in answers.items() if count > 1}
        self._by_part_type = {
            part_type: kind
            for kind in kinds.values()
            for part_type in kind.part_types
            if part_type not in self._contested
        }
        self._adapters = adapters

    def read(self, messages: Sequence[Mapping[str, Any]]) -> list[Message]:
        """The messages, items numbered by kind in the order in which they appear.

        Raises:
            RequestError: a message or a part that isn't what it must be.
        """
        if isinstance(messages, (str, Mapping)) or not isinstance(messages, Sequence):
            raise RequestError(
                f"A conversation is a {type(messages).__name__}; it must be a list of messages."
            )
        if not messages:
            raise RequestError("The conversation is empty; it must have at least one message.")
        counts: Counter[str] = Counter()
        return [self._message(message, i, counts) for i, message in enumerate(messages)]

    def _message(self, message: Any, number: int, counts: Counter[str]) -> Message:
        where = f"Message {number}"
        if not isinstance(message, Mapping):
            raise RequestError(f"{where} is a {type(message).__name__}; it must be a mapping.")
        role = message.get("role")
        if not isinstance(role, str):
            raise RequestError(f'{where} has the role {role!r}; "role" must be text.')
        other = {k: v for k, v in message.items() if k not in ("role", "content") and v is not None}
        if role == "assistant" and "tool_calls" in other:
            other["tool_calls"] = list(_tool_calls(other["tool_calls"], where))
        content = message.get("content")
        if content is None or isinstance(content, str):
            return Message(role, content, other)
        if isinstance(content, Mapping) or not isinstance(content, Sequence):
            raise RequestError(
                f"{where} has a {type(content).__name__} as content; it must be text or a list "
                "of parts."
            )
        parts = [self._part(part, f"{where}, part {i}", counts) for i, part in enumerate(content)]
        return Message(role, tuple(parts), other)

    def _part(self, part: Any, where: str, counts: Counter[str]) -> Part:
        if isinstance(part, str):
            return part
        if not isinstance(part, Mapping):
            raise RequestError(f"{where}: is a {type(part).__name__}; it must be a mapping.")
        part_type = part.get("type")
        if part_type == "text":
            _check_keys(part, ("type", "text"), where)
            text = part.get("text")
            if not isinstance(text, str):
                raise RequestError(f'{where}: "text" is a {type(text).__name__}, not text.')
            return text
        kind = self._by_part_type.get(part_type) if isinstance(part_type, str) else None
        if kind is None:
            if isinstance(part_type, str):
                if part_type not in self._contested:
                    self._check_dialect(part_type, where)
                if self._find_part is not None:
                    self._find_part(part_type)
            allowed = ", ".join(["text", *self._by_part_type])
            raise RequestError(
                f"{where}: the part type {part_type!r} is none that this model takes; "
                f"allowed are {allowed} (`sensorium plugins` lists what is installed)."
            )
        return self._item(kind, str(part_type), part, where, counts)

    def _check_dialect(self, part_type: str, where: str) -> None:
        """Refuses other interfaces' names for parts, with the name to use here."""
        name = part_type.removeprefix("input_")
        if name == "text":
            raise RequestError(
                f"{where}: {part_type} is another interface's name for text; write "
                '{"type": "text", "text": …}.'
            )
        if kind := self._kinds.get(name):
            forms = " or ".join(f'{{"type": "{t}", "{t}": …}}' for t in kind.part_types)
            raise RequestError(
                f"{where}: {part_type} is another interface's name for a part of the kind {name}, "
                f"with the item beside it; write {forms}."
            )

    def _item(
        self,
        kind: MediaKind,
        part_type: str,
        part: Mapping[str, Any],
        where: str,
        counts: Counter[str],
    ) -> MediaItem:
        _check_keys(part, ("type", part_type, "uuid"), where)
        if kind.name not in self._adapters:
            takes = ", ".join(self._adapters) or "text alone"
            raise RequestError(f"{where}: the model doesn't take {kind.name}; it takes {takes}.")
        value, uuid = part.get(part_type), part.get("uuid")
        if uuid is not None and not isinstance(uuid, str):
            raise RequestError(f'{where}: "uuid" is a {type(uuid).__name__}; it must be text.')
        if value is None and uuid is None:
            raise RequestError(f'{where}: has neither "{part_type}" nor "uuid".')
        item = kind.parse_part(part_type, value)
        counts[kind.name] += 1
        return replace(item, index=counts[kind.name] - 1, uuid=uuid)


def _check_keys(part: Mapping[str, Any], allowed: Sequence[str], where: str) -> None:
    """Keys without a value count as absent, since clients send fields that they leave empty."""
    for key, value in part.items():
        if key in allowed or value is None:
            continue
        advice = _ADVICE.get(key, "").format(part_type=part["type"])
        raise RequestError(
            f"{where}: has the key {key!r}; allowed are {', '.join(allowed)}.{advice}"
        )


def _tool_calls(calls: Any, where: str) -> Iterator[Any]:
    """Clients send a call's arguments as JSON text; templates want the value."""
    if isinstance(calls, str) or not isinstance(calls, Sequence):
        raise RequestError(f'{where}: "tool_calls" is a {type(calls).__name__}, not a list.')
    for call in calls:
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("arguments"), str):
            yield call
            continue
        arguments = function["arguments"]
        try:
            value = json.loads(arguments) if arguments else {}
        except ValueError:
            raise RequestError(f"{where}: a tool call's arguments aren't valid JSON.") from None
        yield {**call, "function": {**function, "arguments": value}}
