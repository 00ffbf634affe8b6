"""The default composition: one span an item, derived items directly behind their parents."""

from typing import Any

import pytest

from sensorium.plugins import Slot, TokenizedPrompt, walk_slots
from sensorium.types import MediaPlan, MediaSpan, PreparedItem


def _item(kind: str, index: int, key: bytes, num_tokens: int, parent: bytes | None = None) -> Any:
    plan = MediaPlan(num_tokens, (0,) * num_tokens)
    return PreparedItem(kind, index, key, plan, {}, parent)


@pytest.fixture
def adapters(make: Any) -> dict[str, Any]:
    classes = {"scent": make.adapter(), "trace": make.adapter("trace", non_causal=True)}
    return {kind: adapter(None) for kind, adapter in classes.items()}


def test_items_stand_where_their_placeholders_were(adapters: dict[str, Any]) -> None:
    prompt = TokenizedPrompt((5, 6, 7, 8), (Slot("scent", 1, 1, 1), Slot("scent", 0, 4, 0)))
    items = [_item("scent", 0, b"a", 2), _item("scent", 1, b"b", 3)]
    composition = walk_slots(prompt, items, adapters)
    assert composition.token_ids == (5, 0, 0, 0, 7, 8, 0, 0)
    assert composition.spans == (MediaSpan(1, (0, 3), 1, 3), MediaSpan(0, (0, 2), 6, 2))
    assert composition.positions is None


def test_a_derived_item_follows_its_parent(adapters: dict[str, Any]) -> None:
    prompt = TokenizedPrompt((5,), (Slot("scent", 0, 0, 0),))
    items = [_item("scent", 0, b"a", 1), _item("trace", 0, b"t", 2, parent=b"a")]
    composition = walk_slots(prompt, items, adapters)
    assert composition.token_ids == (0, 0, 0, 5)
    trace = MediaSpan(1, (0, 2), 1, 2, atomic=True, non_causal=True)
    assert composition.spans == (MediaSpan(0, (0, 1), 0, 1), trace)


def test_equal_items_keep_a_derived_item_each(adapters: dict[str, Any]) -> None:
    prompt = TokenizedPrompt((5,), (Slot("scent", 0, 0, 0), Slot("scent", 1, 1, 0)))
    items = [
        _item("scent", 0, b"a", 1),
        _item("trace", 0, b"t", 2, parent=b"a"),
        _item("scent", 1, b"a", 1),
        _item("trace", 1, b"t", 2, parent=b"a"),
    ]
    composition = walk_slots(prompt, items, adapters)
    assert composition.token_ids == (0, 0, 0, 5, 0, 0, 0)
    assert [(span.item, span.offset) for span in composition.spans] == [
        (0, 0),
        (1, 1),
        (2, 4),
        (3, 5),
    ]
