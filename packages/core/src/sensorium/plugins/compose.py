"""``TokenizedPrompt``, whose items are still placeholders, and the default way of putting them in:
one span each, where its placeholder was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sensorium.types import Composition, MediaSpan, PreparedItem

if TYPE_CHECKING:
    from sensorium.plugins.adapter import MediaAdapter


@dataclass(frozen=True, slots=True)
class Slot:
    """Where an item's placeholder stands.

    Attributes:
        kind, index: the item.
        offset, length: the placeholder's own tokens; length 0 if it is not in the vocabulary.
    """

    kind: str
    index: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class TokenizedPrompt:
    """Token ids with the slots of all items, by offset."""

    token_ids: tuple[int, ...]
    slots: tuple[Slot, ...] = ()


def walk_slots(
    prompt: TokenizedPrompt,
    items: Sequence[PreparedItem],
    adapters: Mapping[str, MediaAdapter],
) -> Composition:
    """Replaces each slot by its item's tokens; a derived item follows its parent at once."""
    by_slot = {(item.kind, item.index): i for i, item in enumerate(items) if item.parent is None}
    # Equal items have equal keys, so the index tells whose derived items are whose.
    derived: dict[tuple[bytes, int], list[int]] = {}
    for i, item in enumerate(items):
        if item.parent is not None:
            derived.setdefault((item.parent, item.index), []).append(i)
    token_ids: list[int] = []
    spans: list[MediaSpan] = []
    copied = 0
    for slot in prompt.slots:
        token_ids.extend(prompt.token_ids[copied : slot.offset])
        copied = slot.offset + slot.length
        first = by_slot[slot.kind, slot.index]
        for i in [first, *derived.get((items[first].key, slot.index), [])]:
            spans.append(whole_span(i, items[i], len(token_ids), adapters[items[i].kind]))
            token_ids.extend(items[i].plan.token_ids)
    token_ids.extend(prompt.token_ids[copied:])
    return Composition(tuple(token_ids), tuple(spans))


def whole_span(index: int, item: PreparedItem, offset: int, adapter: MediaAdapter) -> MediaSpan:
    """The span of an item that stands in one piece at ``offset``."""
    return MediaSpan(
        item=index,
        item_slice=(0, item.plan.num_tokens),
        offset=offset,
        length=len(item.plan.token_ids),
        is_embed=item.plan.is_embed,
        atomic=adapter.atomic_prefill or adapter.non_causal,
        non_causal=adapter.non_causal,
    )
