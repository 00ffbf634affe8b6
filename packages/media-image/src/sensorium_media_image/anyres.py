"""LLaVA-OneVision's rule for an image's size ("anyres", Liu et al. 2024; Li et al. 2024).

An image is fitted, its proportions kept, into the one of the allowed sizes in which most of it is
left; of several, into the one that wastes least. That is cut into square tiles, and the tower sees
each. Of the patches only those that show the image count, and where these are more than
``max_tiles`` tiles have, all of it is shrunk.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

#: Shrinking begins where the side of what is left would be this much too long.
SLACK = 1.1


@dataclass(frozen=True, slots=True)
class Anyres:
    """How images are fitted.

    Attributes:
        sizes: (height, width) allowed, in pixels: multiples of ``tile``.
        tile: side of a tile in pixels.
        patches: patches along the side of a tile.
        max_tiles: beyond as many tiles' worth of patches the rows are shrunk.
    """

    sizes: tuple[tuple[int, int], ...]
    tile: int
    patches: int
    max_tiles: int

    def fit(self, height: int, width: int) -> Fit:
        """How an image of this size is fitted."""
        target = best_size(height, width, self.sizes)
        rows, columns = (side // self.tile * self.patches for side in target)
        top, left = _margins(height, width, rows, columns)
        return Fit(target, _scaled(height, width, target), (rows, columns), (top, left))

    def shrunk(self, rows: int, columns: int) -> tuple[int, int]:
        """(rows, columns) of an image that has so many patches."""
        ratio = math.sqrt(rows * columns / (self.max_tiles * self.patches**2))
        if ratio <= SLACK:
            return rows, columns
        return int(rows // ratio), int(columns // ratio)

    def num_rows(self, rows: int, columns: int) -> int:
        """Embedding rows of an image with so many patches: the whole, the patches, line ends."""
        rows, columns = self.shrunk(rows, columns)
        return self.patches**2 + rows * (columns + 1)


@dataclass(frozen=True, slots=True)
class Fit:
    """An image's place in one of the allowed sizes.

    Attributes:
        target: (height, width) of the allowed size, in pixels.
        size: (height, width) of the image inside it, in pixels; it stands in the middle.
        grid: (rows, columns) of patches in the allowed size.
        margins: (rows, columns) of patches on either side that don't show the image.
    """

    target: tuple[int, int]
    size: tuple[int, int]
    grid: tuple[int, int]
    margins: tuple[int, int]

    @property
    def kept(self) -> tuple[int, int]:
        """(rows, columns) of patches that show the image."""
        (rows, columns), (top, left) = self.grid, self.margins
        return rows - 2 * top, columns - 2 * left


def best_size(height: int, width: int, sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The allowed size in which most pixels of an image are left, then the one with least waste.

    Of a strip so thin that nothing is left of it in any, the smallest.
    """
    best, most, least = (0, 0), 0, math.inf
    for size in sizes:
        scale = min(size[1] / width, size[0] / height)
        left = min(int(width * scale) * int(height * scale), width * height)
        waste = size[0] * size[1] - left
        if left > most or (left == most and waste < least):
            best, most, least = size, left, waste
    return best


def _scaled(height: int, width: int, target: tuple[int, int]) -> tuple[int, int]:
    """The image's (height, width) once it fills the target along one side."""
    across, down = target[1] / width, target[0] / height
    if across < down:
        return min(math.ceil(height * across), target[0]), target[1]
    return target[0], min(math.ceil(width * down), target[1])


def _margins(height: int, width: int, rows: int, columns: int) -> tuple[int, int]:
    """(above and below, left and right) in patches.

    The published code computes them from the image's proportions, not from the pixels of the
    margins; products are rounded to seven places before they are cut off.
    """
    if width / height > columns / rows:
        return (rows - int(round(height * (columns / width), 7))) // 2, 0
    return 0, (columns - int(round(width * (rows / height), 7))) // 2
