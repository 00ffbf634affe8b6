"""The byte bound holds through any sequence, and what it holds is the most recently used."""

from __future__ import annotations

import threading
from collections import OrderedDict

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sensorium.media.cache import ByteLRU, Processed, ProcessorCache
from sensorium.types import MediaPlan

STEPS = st.lists(
    st.tuples(st.just("get"), st.integers(0, 5), st.just(0))
    | st.tuples(st.just("put"), st.integers(0, 5), st.integers(0, 12))
    | st.tuples(st.just("clear"), st.just(0), st.just(0)),
    max_size=40,
)


@settings(deadline=None)
@given(st.integers(0, 20), STEPS)
def test_against_a_plain_model(bound: int, steps: list[tuple[str, int, int]]) -> None:
    cache: ByteLRU[int] = ByteLRU(bound)
    model: OrderedDict[bytes, tuple[int, int]] = OrderedDict()
    hits = misses = 0
    for step, (action, name, size) in enumerate(steps):
        key = bytes([name])
        if action == "clear":
            cache.clear()
            model.clear()
        elif action == "get":
            expected = model.get(key)
            assert cache.get(key) == (None if expected is None else expected[0])
            hits, misses = hits + (expected is not None), misses + (expected is None)
            if expected is not None:
                model.move_to_end(key)
        else:
            size = max(1, size)
            model.pop(key, None)
            assert cache.put(key, step, size) == (size <= bound)
            if size <= bound:
                model[key] = (step, size)
                while sum(entry[1] for entry in model.values()) > bound:
                    model.popitem(last=False)
        stats = cache.stats
        assert stats.num_bytes == sum(entry[1] for entry in model.values()) <= bound
        assert stats.num_entries == len(model)
        assert (stats.num_hits, stats.num_misses) == (hits, misses)
        assert all((bytes([n]) in cache) == (bytes([n]) in model) for n in range(6))


def test_threads_leave_the_count_right() -> None:
    cache: ByteLRU[int] = ByteLRU(100)

    def work(seed: int) -> None:
        for step in range(500):
            cache.put(bytes([(seed * 7 + step) % 50]), step, step % 17)
            cache.get(bytes([step % 50]))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sizes = sum(size for _, size in cache._entries.values())
    assert cache.stats.num_bytes == sizes <= 100
    assert cache.stats.num_hits + cache.stats.num_misses == 2000


def processed(num_rows: int) -> Processed:
    return Processed(MediaPlan(num_rows, (7,) * num_rows), {"e": {"x": torch.zeros(num_rows, 4)}})


def test_features_are_counted_by_their_storages() -> None:
    one = processed(100)
    assert 1600 <= one.num_bytes < 1600 + 2000
    big = torch.zeros(1000, 4)
    views = {"e": {"a": big[:1], "b": big[1:2]}}
    held = Processed(one.plan, views).num_bytes - Processed(one.plan, {}).num_bytes
    assert held == 16000, "a small view keeps its whole storage alive, once"


def test_plans_outlive_features() -> None:
    cache = ProcessorCache(5000)
    for name in range(4):
        cache.put(bytes([name]), processed(100))
    assert cache.get(bytes([0])) is None
    plan = cache.get_plan(bytes([0]))
    assert plan is not None
    assert plan.plan.num_tokens == 100
    assert plan.features == {}
    assert cache.get(bytes([3])) is not None
    cache.clear()
    assert cache.get_plan(bytes([0])) is None
    assert cache.stats.num_bytes == 0


def test_plans_are_bounded_too() -> None:
    cache = ProcessorCache(0, max_plan_bytes=3000)
    for name in range(10):
        cache.put(bytes([name]), processed(100))
    assert cache.stats.num_entries == 0
    assert sum(cache.get_plan(bytes([n])) is not None for n in range(10)) == 2
