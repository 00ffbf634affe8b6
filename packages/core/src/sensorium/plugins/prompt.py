"""A tokenized prompt whose media are still placeholders."""

from __future__ import annotations

from dataclasses import dataclass


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
