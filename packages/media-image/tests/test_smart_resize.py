"""The Qwens' rule for sizes, against transformers' and at its edges."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensorium.errors import MediaError
from sensorium_media_image.smart_resize import largest_size, smart_resize

side = st.integers(1, 5000)
bounds = st.tuples(st.integers(1, 2_000_000), st.integers(1, 2_000_000)).map(sorted)


@settings(max_examples=400, deadline=None)
@given(height=side, width=side, factor=st.sampled_from([4, 28, 32]), area=bounds)
def test_sizes_are_those_of_transformers(
    height: int, width: int, factor: int, area: list[int]
) -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
        smart_resize as reference,
    )

    if max(height, width) > 200 * min(height, width):
        with pytest.raises(ValueError, match="aspect ratio"):
            reference(height, width, factor, *area)
        with pytest.raises(MediaError, match="at most 200 times the shorter"):
            smart_resize(height, width, factor, *area)
    else:
        expected = reference(height, width, factor, *area)
        assert smart_resize(height, width, factor, *area) == expected


@pytest.mark.parametrize(("height", "width"), [(0, 5), (5, 0), (0, 0)])
def test_no_pixels_are_refused(height: int, width: int) -> None:
    with pytest.raises(MediaError, match="each side needs at least one"):
        smart_resize(height, width, 28, 3136, 1003520)


@settings(max_examples=200, deadline=None)
@given(height=side, width=side, area=bounds)
def test_no_size_takes_more_than_the_largest(height: int, width: int, area: list[int]) -> None:
    if max(height, width) > 200 * min(height, width):
        width = height
    smallest, largest = area[0] // 16 + 1, area[1] + 28 * 28
    most = math.prod(smart_resize(*largest_size(28, smallest, largest), 28, smallest, largest))
    assert math.prod(smart_resize(height, width, 28, smallest, largest)) <= most


def test_the_published_bounds_allow_16384_tokens() -> None:
    size = largest_size(28, 3136, 12_845_056)
    assert math.prod(smart_resize(*size, 28, 3136, 12_845_056)) == 16384 * 28 * 28
