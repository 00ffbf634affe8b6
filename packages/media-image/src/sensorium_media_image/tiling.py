"""Phi-3.5-vision's rule for an image's size: whole tiles, as many as the options allow.

The published rule ("HD transform"): of a landscape image with ratio r, the width becomes s tiles,
s being the largest number with s · ceil(s / r) ≤ num_crops; the height follows from the ratio,
rounded down, and is filled up to whole tiles, half above and half below. A portrait is transposed
before and after.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from sensorium.errors import MediaError


@dataclass(frozen=True, slots=True)
class Tiling:
    """How an image fills tiles.

    Attributes:
        rows, columns: of tiles.
        height, width: of the resized image inside them, in pixels; one of the two fills them.
    """

    rows: int
    columns: int
    height: int
    width: int

    @property
    def is_portrait(self) -> bool:
        """Whether the published code transposes the image."""
        return self.height > self.width


def tile(height: int, width: int, side: int, num_crops: int) -> Tiling:
    """The tiles of ``side`` pixels that an image takes.

    Raises:
        MediaError: it is so long that its shorter side would vanish.
    """
    long, short = max(height, width), min(height, width)
    ratio = long / short
    scale = 1
    while (scale + 1) * math.ceil((scale + 1) / ratio) <= num_crops:
        scale += 1
    resized_long = scale * side
    resized_short = int(resized_long / ratio)
    if resized_short < 1:
        raise MediaError(
            f"it is {width}×{height}; with num_crops {num_crops} this model makes the longer side "
            f"{resized_long} pixels, and of the shorter one nothing would be left: one side may be "
            f"at most {resized_long} times the other."
        )
    tiles = math.ceil(resized_short / side)
    if height > width:
        return Tiling(scale, tiles, resized_long, resized_short)
    return Tiling(tiles, scale, resized_short, resized_long)
