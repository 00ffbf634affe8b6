"""MiniCPM-V's slices against the published rule, on many sizes."""

from __future__ import annotations

import random

import minicpmv_reference as published
import pytest

from sensorium_media_image.slicing import slice_image

SCALE = 448
EXTREMES = [(1, 1), (1, 10000), (10000, 1), (448, 448), (449, 448), (4000, 4000), (16384, 100)]


def sizes() -> list[tuple[int, int]]:
    """(height, width): on a logarithmic scale, and around every border between two grids."""
    draw = random.Random(6)
    drawn = [
        (round(2 ** draw.uniform(0, 13)), round(2 ** draw.uniform(0, 13))) for _ in range(5000)
    ]
    borders = [
        (SCALE * rows + near, SCALE * columns - near)
        for rows in range(1, 10)
        for columns in range(1, 10)
        for near in (-1, 0, 1)
    ]
    return EXTREMES + drawn + borders


@pytest.mark.parametrize("most", [1, 2, 4, 9])
def test_slices_are_the_published_ones(most: int) -> None:
    for height, width in sizes():
        ours = slice_image(height, width, SCALE, most)
        grid = published.sliced_grid(width, height, SCALE, most)
        view = published.best_size(width, height, SCALE, grid is None)
        assert ours.view[::-1] == view, (height, width)
        assert (ours.columns, ours.rows) == (grid or (0, 0)), (height, width)
        if grid is not None:
            whole = published.refine_size(width, height, grid, SCALE)
            tall, wide = ours.slice_size
            assert (wide * grid[0], tall * grid[1]) == whole, (height, width)
            assert ours.num_views <= 1 + most
