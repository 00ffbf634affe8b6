"""Pages: who holds them, and what free ones are still good for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensorium.scheduler.page_pool import PagePool


def test_every_page_is_given_out_once_and_comes_back() -> None:
    pool = PagePool(3)
    pages = pool.allocate(3)
    assert sorted(pages) == [0, 1, 2]
    assert (pool.num_free, pool.num_used) == (0, 3)
    pool.check_integrity([pages])
    pool.release(pages)
    assert (pool.num_free, pool.num_used) == (3, 0)
    pool.check_integrity([])


def test_more_than_is_free_is_a_fault() -> None:
    with pytest.raises(AssertionError, match="more pages"):
        PagePool(1).allocate(2)


def test_a_free_page_is_found_by_its_key_until_it_is_reused() -> None:
    pool = PagePool(2)
    pages = pool.allocate(2)
    pool.register(pages[0], b"a")
    pool.register(pages[1], b"b")
    pool.release(pages)
    assert pool.match([b"a", b"b", b"c"]) == pages
    assert pool.num_known == 2
    taken = pool.allocate(1)
    assert taken == [pages[1]], "the end of the table goes before its beginning"
    assert pool.match([b"a", b"b"]) == [pages[0]]


def test_match_stops_at_the_first_gap() -> None:
    pool = PagePool(2)
    pages = pool.allocate(2)
    pool.register(pages[1], b"b")
    assert pool.match([b"a", b"b"]) == []


def test_pages_without_content_go_first_then_the_least_recently_used() -> None:
    pool = PagePool(3)
    old, new, blank = pool.allocate(3)
    pool.register(old, b"old")
    pool.register(new, b"new")
    pool.release([old])
    pool.release([new])
    pool.release([blank])
    pool.share(pool.match([b"old"]))
    pool.release([old])
    assert pool.allocate(3) == [blank, new, old]
    assert pool.num_known == 0


def test_a_shared_page_is_free_only_when_all_gave_it_back() -> None:
    pool = PagePool(2)
    [page] = pool.allocate(1)
    pool.register(page, b"a")
    pool.share([page])
    pool.release([page])
    assert pool.num_free_among([page]) == 0
    pool.check_integrity([[page]])
    pool.release([page])
    assert pool.num_free_among([page]) == 1
    with pytest.raises(AssertionError, match="nobody holds"):
        pool.release([page])


def test_the_first_page_with_a_content_stays_the_known_one() -> None:
    pool = PagePool(2)
    first, second = pool.allocate(2)
    pool.register(first, b"a")
    pool.register(second, b"a")
    assert pool.match([b"a"]) == [first]
    pool.release([first, second])
    pool.check_integrity([])


def test_forget_all_keeps_references() -> None:
    pool = PagePool(2)
    pages = pool.allocate(1)
    pool.register(pages[0], b"a")
    pool.forget_all()
    assert pool.match([b"a"]) == []
    pool.check_integrity([pages])


@pytest.mark.parametrize("tables", [[[0, 1]], [[0], [0]], []])
def test_integrity_finds_a_wrong_table(tables: list[list[int]]) -> None:
    pool = PagePool(2)
    assert pool.allocate(1) == [0]
    with pytest.raises(AssertionError, match="differ"):
        pool.check_integrity(tables)


@given(st.lists(st.tuples(st.sampled_from("ars"), st.integers(0, 5)), max_size=60))
def test_books_balance_after_any_history(moves: list[tuple[str, int]]) -> None:
    pool = PagePool(6)
    tables: list[list[int]] = []
    for number, (move, n) in enumerate(moves):
        if move == "a" and n <= pool.num_free:
            tables.append(pool.allocate(n))
            for i, page in enumerate(tables[-1][: number % 3]):
                pool.register(page, bytes([n, i]))
        elif move == "r" and tables:
            pool.release(tables.pop(n % len(tables)))
        elif move == "s":
            tables.append(pool.match(bytes([n, i]) for i in range(6)))
            pool.share(tables[-1])
        pool.check_integrity(tables)
    for table in tables:
        pool.release(table)
    assert pool.num_used == 0
