"""LLaVA-OneVision's rule for sizes, against transformers' over thousands of them."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest

from sensorium_media_image.anyres import Anyres
from sensorium_media_image.families.onevision import largest_image, patch_places, row_counts

SIDES = [384 * n for n in range(1, 7)]
PUBLISHED = Anyres(tuple((h, w) for h in SIDES for w in SIDES), 384, 27, 9)
#: Even sides of tiles, some shapes missing, another limit.
OTHER = Anyres(((56, 56), (56, 112), (112, 56), (224, 112), (56, 448)), 56, 4, 4)
EXTREMES = [(1, 1), (1, 2), (2304, 2304), (2305, 2304), (10_000, 10_000), (1, 2000), (2000, 1)]
EXTREMES += [
    (384, 384),
    (385, 384),
    (384, 385),
    (1152, 1152),
    (1153, 1152),
    (3, 5000),
    (16, 20_000),
]


def theirs(anyres: Anyres) -> Any:
    """transformers' processor, of which only the rule is made."""
    from transformers.models.llava_onevision.processing_llava_onevision import (
        LlavaOnevisionProcessor,
    )

    processor = object.__new__(LlavaOnevisionProcessor)
    processor.__dict__.update(
        image_processor=SimpleNamespace(image_grid_pinpoints=[list(s) for s in anyres.sizes]),
        num_image_tokens=anyres.patches**2,
        vision_aspect_ratio=f"anyres_max_{anyres.max_tiles}",
    )
    return processor


def sizes(count: int) -> list[tuple[int, int]]:
    rng = random.Random(1)
    drawn = [(rng.randint(1, 4000), rng.randint(1, 4000)) for _ in range(count)]
    drawn += [(rng.randint(1, 60), rng.randint(1, 9000)) for _ in range(count // 4)]
    drawn += [(rng.randint(1, 9000), rng.randint(1, 60)) for _ in range(count // 4)]
    edges = [384 * n + d for n in range(1, 8) for d in (-1, 0, 1)]
    return [*EXTREMES, *drawn, *((h, w) for h in edges for w in edges)]


@pytest.mark.parametrize("anyres", [PUBLISHED, OTHER], ids=["published", "other"])
def test_rows_are_those_of_transformers(anyres: Anyres) -> None:
    processor, counts = theirs(anyres), row_counts(anyres)
    for height, width in sizes(3000):
        ours = anyres.num_rows(*anyres.fit(height, width).kept)
        expected = processor._get_number_of_features(height, width, anyres.tile, anyres.tile)
        assert ours == expected, (height, width)
        assert ours in counts, (height, width)


@pytest.mark.parametrize("anyres", [PUBLISHED, OTHER], ids=["published", "other"])
def test_no_image_takes_more_rows_than_the_largest(anyres: Anyres) -> None:
    most = anyres.num_rows(*anyres.fit(*largest_image(anyres)).kept)
    for height, width in sizes(2000):
        assert anyres.num_rows(*anyres.fit(height, width).kept) <= most, (height, width)


def test_the_image_stands_inside_its_size() -> None:
    for height, width in sizes(1000):
        fit = PUBLISHED.fit(height, width)
        assert all(0 < side <= target for side, target in zip(fit.size, fit.target, strict=True))
        assert any(side == target for side, target in zip(fit.size, fit.target, strict=True))


def test_shrinking_begins_past_the_slack() -> None:
    assert PUBLISHED.shrunk(81, 81) == (81, 81)
    assert PUBLISHED.shrunk(89, 89) == (89, 89), "1.0988 times nine tiles' side"
    assert PUBLISHED.shrunk(90, 90) == (80, 80)
    assert PUBLISHED.shrunk(162, 162) == (81, 81)


def test_places_go_through_tiles_by_rows() -> None:
    """Each patch of the grid once, in the tile in which it lies."""
    fit = OTHER.fit(224, 112)
    places = patch_places(fit, 4)
    assert places.shape == (16, 8)
    assert places[0].tolist() == [0, 1, 2, 3, 16, 17, 18, 19]
    assert places[5, 6] == 3 * 16 + 1 * 4 + 2
    assert sorted(places.flatten()) == list(range(128))
    narrow = patch_places(OTHER.fit(200, 60), 4)
    assert narrow.shape == OTHER.fit(200, 60).kept
    assert narrow[0, 0] == places[0, OTHER.fit(200, 60).margins[1]]
