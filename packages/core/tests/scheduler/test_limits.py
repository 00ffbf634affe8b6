"""What can never run is refused at once, with the numbers; what just fits runs."""

from __future__ import annotations

from typing import Any

import pytest
from stand_in_runner import StandInEngine, expected_answer, item, request, scheduler_config

from sensorium.errors import LimitError, RequestError
from sensorium.types import EngineRequest, MediaSpan


def two_items(num_bytes: int, *, atomic: bool = False, length: int = 6) -> EngineRequest:
    items = tuple(item(key, length, num_bytes=num_bytes) for key in (b"a", b"b"))
    mask = bytes([1, 0] * length)
    spans = (
        MediaSpan(0, (0, length), 0, 2 * length, mask, atomic),
        MediaSpan(1, (0, length), 1, 2 * length, mask, atomic),
    )
    return request("r", [1] * 30, items=items, spans=spans)


@pytest.mark.parametrize(
    ("asked", "limits", "words"),
    [
        (request("r", range(20)), {"max_model_len": 20}, "20 tokens; the context holds 20"),
        (request("r", range(17)), {"num_pages": 4}, "17 tokens, which take 5 KV pages of 4"),
        (two_items(10, atomic=True), {"max_num_batched_tokens": 12}, "13 tokens .* computes 12"),
        (two_items(60), {"encoder_cache_bytes": 59}, r"scent 0 \(6 tokens\) takes 60 bytes; .* 59"),
        (two_items(60), {"encoder_cache_bytes": 119}, "120 bytes at one time; .* holds 119"),
    ],
)
def test_too_much_is_refused_with_the_numbers(
    asked: EngineRequest, limits: dict[str, Any], words: str
) -> None:
    engine = StandInEngine(scheduler_config(**limits))
    with pytest.raises(LimitError, match=words):
        engine.scheduler.add(asked)
    assert not engine.scheduler.has_work


@pytest.mark.parametrize(
    ("asked", "limits"),
    [
        (request("r", range(19)), {"max_model_len": 20}),
        (request("r", range(16)), {"num_pages": 4}),
        (two_items(10, atomic=True), {"max_num_batched_tokens": 13}),
        (two_items(60), {"encoder_cache_bytes": 120}),
    ],
)
def test_what_just_fits_runs(asked: EngineRequest, limits: dict[str, Any]) -> None:
    config = scheduler_config(**limits)
    engine = StandInEngine(config)
    engine.add(asked)
    engine.finish()
    assert engine.answer("r") == expected_answer(asked, config)


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(RequestError, match="empty"):
        StandInEngine(scheduler_config()).scheduler.add(request("r", []))


def test_without_an_encoder_cache_no_item_fits() -> None:
    engine = StandInEngine(scheduler_config(encoder_cache_bytes=0))
    with pytest.raises(LimitError, match="holds 0"):
        engine.scheduler.add(two_items(10))


def test_a_range_longer_than_the_step_fits_where_prompts_are_not_cut() -> None:
    config = scheduler_config(max_num_batched_tokens=8, chunked_prefill=False)
    engine = StandInEngine(config)
    engine.add(two_items(10, atomic=True))
    engine.finish()
    assert engine.answer("r")[1] == "length"
