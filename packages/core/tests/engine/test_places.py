"""Places: as many as there are, each given back, and a hint when to come again."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from sensorium.engine import places as module
from sensorium.engine.places import Places
from sensorium.errors import EngineError, OverloadedError


def test_one_more_than_there_are_is_refused_and_each_comes_back() -> None:
    places = Places(2, 1)
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(places)
        assert places.num_taken == 3
        with (
            pytest.raises(OverloadedError, match=r"holds 3 requests; .* lets 1 wait") as caught,
            places,
        ):
            pytest.fail("there was a place")
        assert caught.value.retry_after_s >= 1
        assert isinstance(caught.value, EngineError)
    assert places.num_taken == 0
    with pytest.raises(KeyError), places:
        raise KeyError
    assert places.num_taken == 0


def test_without_a_bound_all_are_taken() -> None:
    places = Places(1, None)
    with ExitStack() as stack:
        for _ in range(1000):
            stack.enter_context(places)
    assert places.num_taken == 0


def test_the_hint_follows_the_time_between_two_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 0.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now_s)
    places = Places(0, 1)

    def hint() -> float:
        with places, pytest.raises(OverloadedError) as caught, places:
            pytest.fail("there was a place")
        return caught.value.retry_after_s

    for _ in range(100):
        now_s += 5.0
        with places:
            pass
    assert 4.0 < hint() <= 5.0
    now_s += 1e6
    with places:
        pass
    assert hint() == 60.0
