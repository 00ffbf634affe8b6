"""Placeholders in ids become slots, also where a processor has expanded them already."""

from __future__ import annotations

from typing import Any

import pytest

from sensorium.errors import RequestError
from sensorium.frontend.prompt_ids import ExpandedPrompt, tokenized_ids
from sensorium.plugins import Slot
from sensorium.tokenizer import Tokenizer
from sensorium.types import MediaPlan, PreparedItem

PAD = "<|thing_pad|>"


def test_ids_are_searched_for_runs(qwen: Tokenizer, thing: Any, make: Any) -> None:
    several = make("note", "xyz", (7, 7, 8))
    adapters = {"thing": thing, "note": several}
    pad = qwen.token_to_id(PAD)
    ids = [1, 7, 7, 7, 8, pad, 2, 7, 7, 8]
    prompt = tokenized_ids(ids, adapters, {"thing": 1, "note": 2})
    assert prompt.token_ids == tuple(ids)
    assert prompt.slots == (
        Slot("note", 0, 2, 3),
        Slot("thing", 0, 5, 1),
        Slot("note", 1, 7, 3),
    )


def test_ids_cannot_hold_what_the_vocabulary_lacks(qwen: Tokenizer, note: Any) -> None:
    with pytest.raises(RequestError, match="must be given as text"):
        tokenized_ids([1, 2], {"note": note}, {"note": 1})
    assert tokenized_ids([1, 2], {"note": note}, {}).token_ids == (1, 2)


def item(index: int, *token_ids: int, kind: str = "thing", derived: bool = False) -> PreparedItem:
    plan = MediaPlan(len(token_ids), token_ids)
    return PreparedItem(kind, index, bytes([index]), plan, {}, b"p" if derived else None)


def test_expanded_placeholders_are_the_items_own_tokens(
    qwen: Tokenizer, thing: Any, make: Any
) -> None:
    pad = qwen.token_to_id(PAD)
    assert pad is not None
    several = make("note", "xyz", (7,))
    adapters = {"thing": thing, "note": several}
    # Two things that touch, then one with a token between its own; a note beside them.
    ids = [1, *[pad] * 5, 2, 7, pad, 9, pad, 3]
    prompt = tokenized_ids(ids, adapters, {"thing": 3, "note": 1})
    assert isinstance(prompt, ExpandedPrompt)
    mixed = PreparedItem("thing", 2, b"2", MediaPlan(2, (pad, 9, pad), bytes([1, 0, 1])), {})
    items = [item(0, pad, pad), item(1, pad, pad, pad), mixed, item(0, 7, kind="note")]
    placed = prompt.placed(items)
    assert placed.token_ids == tuple(ids)
    assert placed.slots == (
        Slot("thing", 0, 1, 2),
        Slot("thing", 1, 3, 3),
        Slot("note", 0, 7, 1),
        Slot("thing", 2, 8, 3),
    )


def test_a_derived_item_stands_behind_its_parent(qwen: Tokenizer, thing: Any) -> None:
    pad = qwen.token_to_id(PAD)
    assert pad is not None
    prompt = tokenized_ids([pad, pad, 8, 8], {"thing": thing}, {"thing": 1})
    assert isinstance(prompt, ExpandedPrompt)
    placed = prompt.placed([item(0, pad, pad), item(0, 8, 8, derived=True)])
    assert placed.slots == (Slot("thing", 0, 0, 4),)


@pytest.mark.parametrize("sizes", [(2,), (5,), (3, 2), (1, 1)])
def test_ids_that_fit_nearly_are_refused(
    qwen: Tokenizer, thing: Any, sizes: tuple[int, ...]
) -> None:
    """Too few, too many, one too many of two, and two that leave some over."""
    pad = qwen.token_to_id(PAD)
    assert pad is not None
    prompt = tokenized_ids([1, *[pad] * 4, 2], {"thing": thing}, {"thing": len(sizes)})
    assert isinstance(prompt, ExpandedPrompt)
    with pytest.raises(RequestError, match=r"4 placeholders .*exactly its tokens here \(\d"):
        prompt.placed([item(i, *[pad] * size) for i, size in enumerate(sizes)])
