"""The book of embeddings: bytes, pins, and what is dropped for what."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensorium.scheduler.encoder_book import EncoderBook


def test_an_entry_stays_when_nobody_needs_it_any_more() -> None:
    book = EncoderBook(100)
    book.insert(b"a", 60)
    assert (book.used_bytes, book.pinned_bytes, book.room_bytes) == (60, 60, 40)
    book.unpin(b"a")
    assert b"a" in book
    assert (book.used_bytes, book.pinned_bytes, book.room_bytes) == (60, 0, 100)
    assert book.take_evicted() == ()


def test_two_pins_hold_one_entry() -> None:
    book = EncoderBook(100)
    book.insert(b"a", 60)
    book.pin(b"a")
    assert book.used_bytes == 60
    book.unpin(b"a")
    assert book.is_pinned(b"a")
    book.unpin(b"a")
    assert not book.is_pinned(b"a")


def test_the_least_recently_used_goes_first() -> None:
    book = EncoderBook(100)
    for key in (b"a", b"b", b"c"):
        book.insert(key, 30)
        book.unpin(key)
    book.touch(b"a")
    book.insert(b"d", 50)
    assert book.take_evicted() == (b"b", b"c")
    assert b"a" in book
    assert not book.has_evicted


def test_pinned_entries_are_never_dropped() -> None:
    book = EncoderBook(100)
    book.insert(b"a", 60)
    with pytest.raises(AssertionError, match="no room"):
        book.insert(b"b", 50)
    with pytest.raises(AssertionError, match="twice"):
        book.insert(b"a", 1)
    with pytest.raises(KeyError):
        book.unpin(b"b")


def test_discard_takes_pins_with_it() -> None:
    book = EncoderBook(100)
    book.insert(b"a", 60)
    book.discard(b"a")
    assert (book.used_bytes, book.pinned_bytes) == (0, 0)
    assert book.has_evicted
    assert book.take_evicted() == (b"a",)


def test_discard_unpinned_keeps_what_is_needed() -> None:
    book = EncoderBook(100)
    book.insert(b"a", 10)
    book.insert(b"b", 10)
    book.unpin(b"a")
    book.discard_unpinned()
    assert (b"a" in book, b"b" in book) == (False, True)


def test_integrity_finds_a_lost_pin() -> None:
    book = EncoderBook(100)
    book.insert(b"a", 10)
    book.check_integrity([b"a"])
    with pytest.raises(AssertionError, match="pins"):
        book.check_integrity([])


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 7)), max_size=80))
def test_the_budget_is_kept_after_any_history(moves: list[tuple[bool, int]]) -> None:
    """The runner's cache, following the orders, holds exactly what the book says."""
    book = EncoderBook(50)
    cache: dict[bytes, int] = {}
    pins: list[bytes] = []
    for take, n in moves:
        key, num_bytes = bytes([n]), 5 + 3 * n
        if not take:
            if key in pins:
                pins.remove(key)
                book.unpin(key)
        elif key in book:
            book.pin(key)
            pins.append(key)
        elif num_bytes <= book.room_bytes:
            book.insert(key, num_bytes)
            pins.append(key)
            for evicted in book.take_evicted():
                del cache[evicted]
            cache[key] = num_bytes
        book.check_integrity(pins)
        assert sum(cache.values()) == book.used_bytes <= 50
        assert all(key in book for key in cache)
