"""Phi-3.5-vision's tiles and token counts against the published formula, on many sizes."""

from __future__ import annotations

import random

import phi3v_reference as published
import pytest

from sensorium.errors import MediaError
from sensorium_media_image.manifests import load_manifest
from sensorium_media_image.tiling import tile
from sensorium_media_image.towers.phi3v import read_phi3v_config

SIDE = 336
TOWER = read_phi3v_config(load_manifest("phi_3_5_vision").config)
EXTREMES = [(1, 1), (1, 2), (2, 1), (336, 336), (8000, 50), (50, 8000), (1, 1344), (4096, 4095)]


def sizes(count: int) -> list[tuple[int, int]]:
    """(height, width): on a logarithmic scale, and at every border between two numbers of tiles."""
    draw = random.Random(5)
    drawn = [
        (round(2 ** draw.uniform(0, 13.3)), round(2 ** draw.uniform(0, 13.3))) for _ in range(count)
    ]
    borders = []
    for scale in range(1, 18):
        for rows in range(1, scale + 1):
            # ceil(s / r) and the height in tiles step where the ratio is s / rows.
            for near in (-1, 0, 1):
                borders.append((100 * rows + near, 100 * scale))
                borders.append((100 * scale, 100 * rows + near))
    return EXTREMES + drawn + borders


def vanishes(height: int, width: int, num_crops: int) -> bool:
    long, short = max(height, width), min(height, width)
    return published.tiled_size(long, short, SIDE, num_crops)[1] < 1


@pytest.mark.parametrize("num_crops", [1, 4, 16])
def test_tiles_and_tokens_are_the_published_ones(num_crops: int) -> None:
    compared = 0
    for height, width in sizes(5000):
        if vanishes(height, width, num_crops):
            with pytest.raises(MediaError, match="nothing would be left"):
                tile(height, width, SIDE, num_crops)
            continue
        compared += 1
        tiling = tile(height, width, SIDE, num_crops)
        rows, columns = published.tiles(width, height, SIDE, num_crops)
        assert (tiling.rows, tiling.columns) == (rows, columns), (height, width)
        wide, high = published.tiled_size(max(width, height), min(width, height), SIDE, num_crops)
        resized = (high, wide) if width >= height else (wide, high)
        assert (tiling.height, tiling.width) == resized, (height, width)
        assert rows * columns <= num_crops
        assert TOWER.num_tokens(rows, columns) == published.num_tokens(rows, columns)
    assert compared > 4500


def test_published_counts() -> None:
    """A square: 757 tokens in 4 crops and 1921 … 2509 in 16, as people report them."""
    assert TOWER.num_tokens(2, 2) == 757
    tiling = tile(1000, 1000, SIDE, 16)
    assert (tiling.rows, tiling.columns) == (4, 4)
    assert TOWER.num_tokens(3, 4) == 1921


@pytest.mark.parametrize("num_crops", [1, 2, 4, 7, 16])
def test_no_size_has_more_tokens_than_a_column_of_tiles(num_crops: int) -> None:
    worst = tile(SIDE * num_crops, SIDE, SIDE, num_crops)
    most = TOWER.num_tokens(worst.rows, worst.columns)
    for height, width in sizes(1000):
        if not vanishes(height, width, num_crops):
            tiling = tile(height, width, SIDE, num_crops)
            assert TOWER.num_tokens(tiling.rows, tiling.columns) <= most
