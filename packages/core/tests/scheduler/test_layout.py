"""Where items are needed and where prompts may be cut."""

from __future__ import annotations

from stand_in_runner import item, request

from sensorium.scheduler.layout import Layout
from sensorium.types import EngineItem, EngineRequest, MediaSpan


def asked(spans: list[MediaSpan], *items: EngineItem, length: int = 40) -> EngineRequest:
    return request("r", [1] * length, items=items, spans=tuple(spans))


def test_an_item_is_needed_from_its_first_embedded_token_to_its_last() -> None:
    span = MediaSpan(0, (0, 2), 4, 6, bytes([0, 1, 0, 0, 1, 0]))
    [use] = Layout(asked([span], item(b"a", 2)), chunked=True).uses
    assert (use.start, use.stop) == (5, 9)


def test_several_spans_of_an_item_make_one_range() -> None:
    spans = [MediaSpan(0, (0, 2), 4, 2), MediaSpan(0, (2, 4), 20, 2)]
    layout = Layout(asked(spans, item(b"a", 4)), chunked=True)
    assert [(use.start, use.stop) for use in layout.uses] == [(4, 22)]
    assert layout.needed(0, 4) == []
    assert layout.needed(10, 12) == list(layout.uses)
    assert layout.needed(22, 30) == []


def test_an_item_nowhere_in_the_prompt_is_not_needed() -> None:
    masked = MediaSpan(0, (0, 0), 4, 2, bytes(2))
    layout = Layout(asked([masked], item(b"a", 4), item(b"b", 4)), chunked=True)
    assert layout.uses == ()
    assert (layout.peak_bytes, layout.kept_bytes) == (0, 0)


def test_cuts_fall_back_to_before_an_atomic_range() -> None:
    spans = [MediaSpan(0, (0, 4), 4, 4, atomic=True), MediaSpan(1, (0, 4), 8, 4, non_causal=True)]
    layout = Layout(asked(spans, item(b"a", 4), item(b"b", 4)), chunked=True)
    assert layout.atomic == ((4, 8), (8, 12))
    cuts = [layout.cut_before(position) for position in range(3, 14)]
    assert cuts == [3, 4, 4, 4, 4, 8, 8, 8, 8, 12, 13]


def test_overlapping_atomic_ranges_are_one() -> None:
    spans = [
        MediaSpan(0, (0, 2), 4, 4, bytes([1, 1, 0, 0]), atomic=True),
        MediaSpan(1, (0, 2), 6, 4, bytes([1, 1, 0, 0]), atomic=True),
    ]
    layout = Layout(asked(spans, item(b"a", 2), item(b"b", 2)), chunked=True)
    assert layout.atomic == ((4, 10),)
    assert layout.cut_before(7) == 4


def test_the_peak_is_what_is_needed_at_one_time() -> None:
    items = (item(b"a", 4, num_bytes=10), item(b"b", 4, num_bytes=20))
    behind = [MediaSpan(0, (0, 4), 0, 4), MediaSpan(1, (0, 4), 4, 4)]
    assert Layout(asked(behind, *items), chunked=True).peak_bytes == 20
    assert Layout(asked(behind, *items), chunked=False).peak_bytes == 30
    around = [MediaSpan(0, (0, 2), 0, 2), MediaSpan(1, (0, 4), 4, 4), MediaSpan(0, (2, 4), 9, 2)]
    assert Layout(asked(around, *items), chunked=True).peak_bytes == 30
    both = [
        MediaSpan(0, (0, 4), 2, 8, bytes([1, 1, 1, 1, 0, 0, 0, 0]), atomic=True),
        MediaSpan(1, (0, 4), 2, 8, bytes([0, 0, 0, 0, 1, 1, 1, 1]), atomic=True),
    ]
    assert Layout(asked(both, *items), chunked=True).peak_bytes == 30


def test_an_item_that_stands_twice_counts_once() -> None:
    items = (item(b"a", 4, num_bytes=10), item(b"a", 4, num_bytes=10))
    spans = [MediaSpan(0, (0, 4), 0, 4), MediaSpan(1, (0, 4), 4, 4)]
    assert Layout(asked(spans, *items), chunked=False).peak_bytes == 10


def test_an_embedding_that_cannot_be_made_again_is_kept_to_the_end() -> None:
    items = (item(b"a", 4, num_bytes=10, features=False), item(b"b", 4, num_bytes=20))
    spans = [MediaSpan(0, (0, 4), 0, 4), MediaSpan(1, (0, 4), 4, 4)]
    layout = Layout(asked(spans, *items), chunked=True)
    assert (layout.kept_bytes, layout.peak_bytes) == (10, 20)
