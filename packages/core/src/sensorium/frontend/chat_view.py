"""``ChatView``: one conversation as a chat template sees it, and its result read back.

An item is shown in one of two ways. By a mark: a text that becomes the item's placeholder
after rendering. Or by the adapter's own part, for which the template itself writes the
placeholder: the k-th that it writes of a kind belongs to the k-th item shown so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from sensorium.errors import RequestError
from sensorium.frontend.chat_parts import Message
from sensorium.frontend.guard import Guard, Marks, guard_for
from sensorium.frontend.placeholders import (
    Mention,
    Segment,
    SlotSegment,
    TextSegment,
    find_mentions,
    merge_segments,
    own_spellings,
    slot_segment,
    surroundings,
)
from sensorium.plugins import MediaAdapter
from sensorium.tokenizer import Tokenizer
from sensorium.types import MediaItem

#: Text as the template sees it, guarded, or an item that stands there.
Piece = str | MediaItem


class ChatView:
    """One conversation.

    Args:
        by_parts: the template iterates over parts; else it wants one string a message.
        takes_strings: a template that iterates over parts takes a plain string too.
        interleave: texts may carry placeholders by hand.
    """

    def __init__(
        self,
        messages: Sequence[Message],
        *,
        adapters: Mapping[str, MediaAdapter],
        tokenizer: Tokenizer,
        by_parts: bool,
        takes_strings: bool,
        interleave: bool,
    ) -> None:
        self.items = [p for m in messages for p in m.parts if isinstance(p, MediaItem)]
        self._counts = Counter(item.kind for item in self.items)
        self._adapters = adapters
        self._by_parts = by_parts
        self._takes_strings = takes_strings
        self._interleave = interleave
        self._marks = Marks()
        self._shown: dict[str, list[int]] = {kind: [] for kind in adapters}
        self._spellings = own_spellings(adapters, self._counts)
        control = {*tokenizer.control_tokens, *self._spellings}
        self._guard = guard_for(frozenset({*tokenizer.added_tokens, *control}))
        # An assistant's earlier words may hold tokens that aren't special but that the
        # model writes and templates read, such as those around reasoning and tool calls.
        self._assistant_guard = guard_for(frozenset(control))

    # --- what the template sees -------------------------------------------------------

    def guarded(self, value: Any) -> Any:
        """A plain value beside the messages, such as the tools."""
        return self._guard.value(value, self._marks)

    def message(self, message: Message) -> dict[str, Any]:
        """One message, its text guarded and its items shown."""
        guard = self._assistant_guard if message.role == "assistant" else self._guard
        seen = guard.value(message.other, self._marks)
        seen["role"] = message.role if message.role.isidentifier() else self.guarded(message.role)
        if message.content is not None:
            seen["content"] = self._content(message, guard)
        return dict(seen)

    def _content(self, message: Message, guard: Guard) -> str | list[dict[str, Any]]:
        if self._interleave:
            front, pieces = self._hand_written(message, guard)
        else:
            front, pieces = [], self._pieces(message, guard)
        if not self._by_parts:
            return self._as_string(front, pieces)
        if isinstance(message.content, str) and self._takes_strings:
            return "".join(piece for piece in pieces if isinstance(piece, str))
        return [self._as_part(piece) for piece in (*front, *pieces)]

    def _pieces(self, message: Message, guard: Guard) -> list[Piece]:
        return [
            guard.text(part, self._marks) if isinstance(part, str) else part
            for part in message.parts
        ]

    def _as_string(self, front: Sequence[MediaItem], pieces: Sequence[Piece]) -> str:
        """Placeholders in front, then the texts, one a line; in place if interleaved."""
        if not self._interleave:
            pieces = sorted(pieces, key=lambda piece: isinstance(piece, str))
        lines = (p if isinstance(p, str) else self._item_mark(p) for p in (*front, *pieces))
        return "\n".join(line for line in lines if line)

    def _as_part(self, piece: Piece) -> dict[str, Any]:
        if isinstance(piece, str):
            return {"type": "text", "text": piece}
        part = self._adapters[piece.kind].template_part()
        if part is None:
            return {"type": "text", "text": self._item_mark(piece)}
        self._shown[piece.kind].append(piece.index)
        return dict(part)

    def _item_mark(self, item: MediaItem) -> str:
        placeholder = self._adapters[item.kind].placeholder(item.index)
        before, after = surroundings(placeholder)
        slot = slot_segment(item.kind, item.index, placeholder)
        return self._marks.add((TextSegment(before), slot, TextSegment(after)))

    # --- placeholders written by hand -------------------------------------------------

    def _hand_written(self, message: Message, guard: Guard) -> tuple[list[MediaItem], list[Piece]]:
        """Items to show in front, and the pieces with hand-written placeholders marked.

        Where a kind's placeholders are written by hand they stand for the message's last
        items of that kind, since those that are missing go in front.
        """
        spellings = self._spellings | self._spellings_in_context()
        found = {
            i: list(find_mentions(part, spellings))
            for i, part in enumerate(message.parts)
            if isinstance(part, str)
        }
        mentions = [mention for of_part in found.values() for mention in of_part]
        written = {mention.kind for mention in mentions}
        items = [p for p in message.parts if isinstance(p, MediaItem) and p.kind in written]
        indices = _assign_last(mentions, items)
        taken = set(zip((m.kind for m in mentions), indices, strict=True))
        front = [item for item in items if (item.kind, item.index) not in taken]
        order = iter(indices)
        pieces: list[Piece] = []
        for i, part in enumerate(message.parts):
            if isinstance(part, str):
                pieces.append(self._with_marks(part, [(m, next(order)) for m in found[i]], guard))
            elif part.kind not in written:
                pieces.append(part)
        return front, pieces

    def _spellings_in_context(self) -> dict[str, tuple[str, int | None]]:
        return {
            self._adapters[kind].placeholder(index or 0).in_context: (kind, index)
            for kind, index in self._spellings.values()
        }

    def _with_marks(self, text: str, mentions: Sequence[tuple[Mention, int]], guard: Guard) -> str:
        marked: list[str] = []
        copied = 0
        for mention, index in mentions:
            placeholder = self._adapters[mention.kind].placeholder(index)
            before, _, after = text[mention.start : mention.stop].partition(placeholder.text)
            slot = slot_segment(mention.kind, index, placeholder)
            marked.append(guard.text(text[copied : mention.start], self._marks))
            marked.append(self._marks.add((TextSegment(before), slot, TextSegment(after))))
            copied = mention.stop
        return "".join(marked) + guard.text(text[copied:], self._marks)

    # --- what the template wrote ------------------------------------------------------

    def segments(self, rendered: str) -> list[Segment]:
        """The rendered text, cut where items stand.

        Raises:
            RequestError: the template dropped an item, or wrote one too many.
        """
        segments: list[Segment] = []
        shown = {kind: list(indices) for kind, indices in self._shown.items()}
        for piece in self._marks.split(rendered):
            if isinstance(piece, str):
                segments += self._cut(piece, shown)
            else:
                segments += piece
        self._check_items([s for s in segments if isinstance(s, SlotSegment)])
        return merge_segments(segments)

    def _cut(self, text: str, shown: Mapping[str, list[int]]) -> list[Segment]:
        """Cuts at the placeholders that the template itself wrote, using up ``shown``."""
        segments: list[Segment] = []
        copied = 0
        for mention in find_mentions(text, self._spellings):
            waiting = shown[mention.kind]
            # A placeholder for which no item was shown gets a number past the last item's.
            index = waiting.pop(0) if waiting else self._counts[mention.kind]
            parts_text = self._adapters[mention.kind].placeholder(index).parts_text
            written = text[mention.start : mention.stop]
            segments.append(TextSegment(text[copied : mention.start]))
            segments.append(SlotSegment(mention.kind, index, written, parts_text))
            copied = mention.stop
        return [*segments, TextSegment(text[copied:])]

    def _check_items(self, slots: Sequence[SlotSegment]) -> None:
        for kind in self._adapters:
            indices = [slot.index for slot in slots if slot.kind == kind]
            num_items = self._counts[kind]
            if sorted(indices) == list(range(num_items)):
                continue
            if num_missing := num_items - len(set(indices) & set(range(num_items))):
                raise RequestError(
                    f"The chat template dropped {num_missing} of the {num_items} items of kind "
                    f"{kind}."
                )
            raise RequestError(
                f"The chat template wrote {len(indices)} placeholders of kind {kind} for "
                f"{num_items} items."
            )


def _assign_last(mentions: Sequence[Mention], items: Sequence[MediaItem]) -> list[int]:
    """The items that hand-written placeholders of one message stand for."""
    waiting: dict[str, list[int]] = {}
    for kind in {mention.kind for mention in mentions}:
        indices = [item.index for item in items if item.kind == kind]
        num_written = sum(mention.kind == kind for mention in mentions)
        if num_written > len(indices):
            raise RequestError(
                f"A message's text has {num_written} placeholders of kind {kind} for "
                f"{len(indices)} items."
            )
        by_order = all(m.index is None for m in mentions if m.kind == kind)
        waiting[kind] = indices[len(indices) - num_written :] if by_order else indices
    assigned = []
    for mention in mentions:
        unused = waiting[mention.kind]
        index = unused[0] if mention.index is None else mention.index
        if index not in unused:
            raise RequestError(
                f"A message's text names item {index} of kind {mention.kind}, which isn't in "
                "the message or is named twice."
            )
        unused.remove(index)
        assigned.append(index)
    return assigned
