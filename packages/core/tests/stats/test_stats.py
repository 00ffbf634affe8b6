"""Histograms and recorders: every value in one bucket, from many threads."""

from __future__ import annotations

import threading
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensorium.stats import (
    TIME_EDGES_S,
    CacheStats,
    CoreStats,
    Histogram,
    HistogramRecorder,
    MediaRecorder,
    engine_stats,
)


@given(st.lists(st.floats(0, 1e4)), st.lists(st.floats(0, 100), min_size=1, unique=True))
def test_every_value_is_in_the_one_bucket_that_holds_it(
    values: list[float], edges: list[float]
) -> None:
    edges.sort()
    recorder = HistogramRecorder(edges)
    for value in values:
        recorder.add(value)
    found = recorder.snapshot()
    lower = [float("-inf"), *edges]
    upper = [*edges, float("inf")]
    for low, high, count in zip(lower, upper, found.counts, strict=True):
        assert count == sum(low < value <= high for value in values)
    assert found.count == len(values)
    assert found.total == pytest.approx(sum(values))


def test_edges_ascend_and_nothing_is_a_histogram_too() -> None:
    assert list(TIME_EDGES_S) == sorted(set(TIME_EDGES_S))
    assert HistogramRecorder().snapshot() == Histogram()
    assert Histogram().count == 0


def test_a_snapshot_stays_as_it_is() -> None:
    recorder = HistogramRecorder()
    before = recorder.snapshot()
    recorder.add(1.0)
    assert before.count == 0
    assert recorder.snapshot().count == 1


def test_media_are_recorded_by_kind_from_many_threads() -> None:
    recorder = MediaRecorder()

    def record(kind: str) -> None:
        for _ in range(500):
            recorder.fetched(kind, 10, 0.5)
            recorder.decoded(kind, 0.25)

    threads = [threading.Thread(target=record, args=(kind,)) for kind in "aabb"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    recorder.processed("c", 2.0)
    found = recorder.snapshot()
    assert list(found) == ["a", "b", "c"]
    assert found["a"].num_bytes == 10_000
    assert found["b"].fetch_s.count == 1000
    assert found["b"].decode_s.total == pytest.approx(250)
    assert found["c"].process_s.count == 1
    assert found["c"].fetch_s == Histogram()


def test_both_parts_come_together() -> None:
    core = CoreStats(num_running=3, num_ended={"stop": 2})
    whole = engine_stats(
        core,
        is_healthy=False,
        num_restarts=1,
        num_unfinished_requests=4,
        processor_cache=CacheStats(num_hits=5),
        media={},
    )
    assert all(getattr(whole, f.name) == getattr(core, f.name) for f in fields(CoreStats))
    assert (whole.is_healthy, whole.num_restarts, whole.processor_cache.num_hits) == (False, 1, 5)
