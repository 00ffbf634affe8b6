"""A prompt is cut to a number of tokens, from either side, unless it holds items."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sensorium.errors import RequestError
from sensorium.frontend.frontend import PreparedPrompt, truncated
from sensorium.sampling_params import SamplingParams
from sensorium.types import Composition, MediaSpan


def prompt(count: int, **more: Any) -> PreparedPrompt:
    return PreparedPrompt("text", Composition(tuple(range(count)), **more), (), "", 0)


@pytest.mark.parametrize(
    ("kept", "side", "expected"),
    [
        (None, "left", [0, 1, 2, 3, 4]),
        (3, "left", [2, 3, 4]),
        (3, "right", [0, 1, 2]),
        (5, "left", [0, 1, 2, 3, 4]),
        (9, "right", [0, 1, 2, 3, 4]),
        (-1, "left", [1, 2, 3, 4]),
    ],
)
def test_what_is_kept(kept: int | None, side: str, expected: list[int]) -> None:
    sampling = SamplingParams(truncate_prompt_tokens=kept, truncation_side=side)
    positions = np.tile(np.arange(5), (3, 1))
    found = truncated(prompt(5, positions=positions), sampling, room=4).composition
    assert list(found.token_ids) == expected
    assert found.positions is not None
    assert found.positions.tolist() == [list(range(len(expected)))] * 3


def test_a_prompt_with_items_is_refused_only_if_it_is_too_long() -> None:
    span = MediaSpan(0, (0, 2), 1, 2)
    sampling = SamplingParams(truncate_prompt_tokens=4)
    short = prompt(4, spans=(span,))
    assert truncated(short, sampling, room=9) is short
    with pytest.raises(RequestError, match="5 tokens and truncate_prompt_tokens keeps 4"):
        truncated(prompt(5, spans=(span,)), sampling, room=9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"truncate_prompt_tokens": 0}, "at least one token"),
        ({"truncate_prompt_tokens": -2}, "at least -1"),
        ({"truncation_side": "middle"}, '"left" or "right"'),
    ],
)
def test_what_is_no_truncation(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        SamplingParams(**options)
