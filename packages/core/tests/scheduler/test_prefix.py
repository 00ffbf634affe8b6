"""Page keys: equal only where keys and values are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stand_in_runner import item, request

from sensorium.scheduler.prefix import extend_page_keys
from sensorium.types import EngineItem, EngineRequest, MediaSpan

PAGE = 4


def keys_of(
    asked: EngineRequest, generated: Sequence[int] = (), page_size: int = PAGE
) -> list[bytes]:
    token_ids = [*asked.token_ids, *generated]
    keys: list[bytes] = []
    extend_page_keys(keys, asked, token_ids, len(token_ids) // page_size, page_size)
    return keys


def with_item(key: bytes, span: MediaSpan, *, length: int = 12) -> EngineRequest:
    return request("r", [1] * length, items=(item(key, 8),), spans=(span,))


def num_shared(one: EngineRequest, other: EngineRequest) -> int:
    """Leading pages that the two would share; behind the first difference there is none."""
    equal = [a == b for a, b in zip(keys_of(one), keys_of(other), strict=True)]
    count = equal.index(False) if False in equal else len(equal)
    assert not any(equal[count:]), "a page is shared behind one that is not"
    return count


def test_equal_prompts_share_all_pages() -> None:
    assert num_shared(request("a", range(12)), request("b", range(12))) == 3


def test_a_different_token_separates_its_page_and_all_behind() -> None:
    tokens = list(range(12))
    tokens[5] = 99
    assert num_shared(request("a", range(12)), request("b", tokens)) == 1


def test_a_different_salt_separates_everything() -> None:
    assert num_shared(request("a", range(12)), request("b", range(12), salt="x")) == 0


def test_different_items_under_equal_placeholders_separate() -> None:
    span = MediaSpan(0, (0, 3), offset=5, length=3)
    assert num_shared(with_item(b"cat", span), with_item(b"dog", span)) == 1
    assert num_shared(with_item(b"cat", span), with_item(b"cat", span)) == 3


def test_an_item_that_began_on_an_earlier_page_counts_on_later_ones() -> None:
    span = MediaSpan(0, (0, 8), offset=2, length=8)
    cat, dog = with_item(b"cat", span), with_item(b"dog", span)
    same_parent = bytes(32)
    cat_keys, dog_keys = [same_parent], [same_parent]
    extend_page_keys(cat_keys, cat, cat.token_ids, 2, PAGE)
    extend_page_keys(dog_keys, dog, dog.token_ids, 2, PAGE)
    assert cat_keys[1] != dog_keys[1], "not only by the parent"


def test_the_rows_taken_from_an_item_count() -> None:
    head = with_item(b"cat", MediaSpan(0, (0, 4), offset=0, length=4))
    tail = with_item(b"cat", MediaSpan(0, (4, 8), offset=0, length=4))
    assert num_shared(head, tail) == 0


def test_where_an_item_stands_counts() -> None:
    early = with_item(b"cat", MediaSpan(0, (0, 2), offset=0, length=2))
    late = with_item(b"cat", MediaSpan(0, (0, 2), offset=1, length=2))
    assert num_shared(early, late) == 0


def test_rows_are_counted_through_the_mask_of_earlier_pages() -> None:
    """Page 1 takes row 1 after one masked token on page 0, row 2 after two."""
    one = with_item(b"cat", MediaSpan(0, (0, 5), 2, 6, is_embed=bytes([0, 1, 1, 1, 1, 1])))
    two = with_item(b"cat", MediaSpan(0, (0, 6), 2, 6, is_embed=bytes([1, 1, 1, 1, 1, 1])))
    parent = [bytes(32)]
    first, second = list(parent), list(parent)
    extend_page_keys(first, one, one.token_ids, 2, PAGE)
    extend_page_keys(second, two, two.token_ids, 2, PAGE)
    assert first[1] != second[1]


def test_tokens_of_a_span_that_are_not_replaced_are_just_text() -> None:
    span = MediaSpan(0, (0, 2), offset=0, length=6, is_embed=bytes([0, 0, 0, 0, 1, 1]))
    assert num_shared(with_item(b"cat", span), with_item(b"dog", span)) == 1
    assert num_shared(with_item(b"cat", span), request("t", [1] * 12)) == 1


def overlapping(first: bytes, second: bytes) -> EngineRequest:
    """Two items take turns over tokens 1 … 8."""
    mask = bytes([1, 0, 0, 1, 1, 0, 0, 1])
    inverse = bytes(1 - bit for bit in mask)
    spans = (MediaSpan(0, (0, 4), 1, 8, mask), MediaSpan(1, (0, 4), 1, 8, inverse))
    return request("r", [1] * 12, items=(item(first, 4), item(second, 4)), spans=spans)


def test_overlapping_spans_with_disjoint_masks_count_both() -> None:
    assert num_shared(overlapping(b"a", b"b"), overlapping(b"a", b"b")) == 3
    for other in (overlapping(b"b", b"a"), overlapping(b"a", b"c"), overlapping(b"c", b"b")):
        assert num_shared(overlapping(b"a", b"b"), other) == 0


def test_seeing_both_ways_differs_from_seeing_back() -> None:
    causal = MediaSpan(0, (0, 5), 2, 6, bytes([1, 1, 1, 1, 1, 0]))
    both_ways = replace(causal, non_causal=True)
    longer = replace(both_ways, length=7, is_embed=bytes([1, 1, 1, 1, 1, 0, 0]))
    assert num_shared(with_item(b"cat", both_ways), with_item(b"cat", both_ways)) == 3
    assert num_shared(with_item(b"cat", both_ways), with_item(b"cat", causal)) == 0
    assert num_shared(with_item(b"cat", both_ways), with_item(b"cat", longer)) == 0


def test_tokens_that_see_each_other_differ_from_text_without_a_row_of_an_item() -> None:
    mask = bytes([0, 0, 0, 0, 1, 1])
    span = MediaSpan(0, (0, 2), 0, 6, mask, non_causal=True)
    assert num_shared(with_item(b"cat", span), request("t", [1] * 12)) == 0


def positioned(*rows: Sequence[int], delta: int = 0) -> EngineRequest:
    return request(
        "r", [1] * len(rows[0]), positions=np.array(rows, dtype=np.int64), position_delta=delta
    )


def test_positions_count() -> None:
    plain = positioned(range(8), range(8), range(8))
    grid = positioned(range(8), [*range(6), 5, 6], range(8))
    assert num_shared(plain, grid) == 1


def test_plain_positions_on_any_number_of_axes_are_the_same() -> None:
    plain = positioned(range(8), range(8), range(8))
    assert num_shared(plain, request("r", [1] * 8)) == 2


def test_a_later_prompt_finds_the_pages_of_an_earlier_answer() -> None:
    """Its positions are given where the earlier ones followed from the delta."""
    first = positioned([0, 1, 1, 1, 2, 3], [0, 1, 1, 1, 2, 3], delta=-2)
    again = positioned([0, 1, 1, 1, 2, 3, 4, 5], [0, 1, 1, 1, 2, 3, 4, 5], delta=-2)
    assert keys_of(first, generated=[1, 1]) == keys_of(again)
    other = positioned([0, 1, 1, 1, 2, 3, 6, 7], [0, 1, 1, 1, 2, 3, 6, 7], delta=0)
    assert keys_of(first, generated=[1, 1]) != keys_of(other)


def test_keys_are_extended_not_made_again() -> None:
    asked = request("r", range(9))
    keys = [b"given"]
    extend_page_keys(keys, asked, asked.token_ids, 2, PAGE)
    assert keys[0] == b"given"
    assert len(keys) == 2
    with pytest.raises(AssertionError, match="full"):
        extend_page_keys(keys, asked, asked.token_ids, 3, PAGE)


@given(st.lists(st.sampled_from([b"a", b"b"]), min_size=4, max_size=4), st.integers(0, 3))
def test_prompts_share_just_the_pages_before_the_first_different_item(
    kinds: list[bytes], changed: int
) -> None:
    """Four items of six tokens each, over pages of four, all placeholders equal."""

    def prompt(keys: Sequence[bytes]) -> EngineRequest:
        items: list[EngineItem] = [item(key, 6) for key in keys]
        spans = [MediaSpan(i, (0, 6), 6 * i, 6) for i in range(4)]
        return request("r", [7] * 24, items=tuple(items), spans=tuple(spans))

    others = list(kinds)
    others[changed] = b"c"
    assert num_shared(prompt(kinds), prompt(others)) == 6 * changed // PAGE


def test_what_is_seen_ahead_counts_on_every_page_of_the_range() -> None:
    span = MediaSpan(0, (0, 2), 0, 9, bytes([0, 1, 1, 0, 0, 0, 0, 0, 0]), non_causal=True)
    one = with_item(b"cat", span)
    other = replace(one, token_ids=(*one.token_ids[:8], 9, *one.token_ids[9:]))
    assert num_shared(one, one) == 3
    assert num_shared(one, other) == 0, "the token at 8 is seen from the first page on"


def test_ranges_that_overlap_are_seen_as_one() -> None:
    def asked(last: bytes) -> EngineRequest:
        spans = (
            MediaSpan(0, (0, 4), 0, 6, bytes([1, 1, 1, 1, 0, 0]), non_causal=True),
            MediaSpan(1, (0, 6), 4, 6, None, non_causal=True),
        )
        return request("r", [1] * 12, items=(item(b"cat", 4), item(last, 6)), spans=spans)

    assert num_shared(asked(b"dog"), asked(b"dog")) == 3
    assert num_shared(asked(b"dog"), asked(b"emu")) == 0
