"""MiniCPM-V's rule for an image's size: a view of the whole, and slices of about 448×448 pixels.

The published rule (Yao et al. 2024): as many slices as the area holds squares of ``scale`` pixels,
up to ``max_slices``. Grids of one slice fewer, of as many and of one more are tried, and the one
whose proportions are nearest to the image's on a logarithmic scale is taken. Each slice's size
follows from its own proportions, in whole patches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

PATCH = 14


@dataclass(frozen=True, slots=True)
class Slicing:
    """How an image is cut; sizes in pixels.

    Attributes:
        view: (height, width) of the view of the whole.
        rows, columns: of slices; 0: none.
        slice_size: (height, width) of each slice.
    """

    view: tuple[int, int]
    rows: int = 0
    columns: int = 0
    slice_size: tuple[int, int] = (0, 0)

    @property
    def num_views(self) -> int:
        """The view of the whole, and the slices."""
        return 1 + self.rows * self.columns


def slice_image(height: int, width: int, scale: int, max_slices: int) -> Slicing:
    """The views of an image of this size."""
    grid = _grid(height, width, scale, max_slices)
    if grid is None:
        return Slicing(_fitted(height, width, scale))
    rows, columns = grid
    cell = _fitted(_nearest(height, rows) / rows, _nearest(width, columns) / columns, scale)
    return Slicing(_fitted(height, width, scale), rows, columns, cell)


def _grid(height: int, width: int, scale: int, max_slices: int) -> tuple[int, int] | None:
    """(rows, columns); of several that are equally near, the first in the published order."""
    wanted = min(math.ceil(width * height / (scale * scale)), max_slices)
    if wanted <= 1:
        return None
    ratio = math.log(width / height)
    best, least = (1, 1), math.inf
    for count in (wanted - 1, wanted, wanted + 1):
        if not 1 < count <= max_slices:
            continue
        for columns in range(1, count + 1):
            if count % columns == 0:
                rows = count // columns
                distance = abs(ratio - math.log(columns / rows))
                if distance < least:
                    best, least = (rows, columns), distance
    return best


def _fitted(height: float, width: float, scale: int) -> tuple[int, int]:
    """(height, width) of about scale² pixels in the same proportions, in whole patches."""
    ratio = width / height
    fitted = int(scale / math.sqrt(ratio))
    return _nearest(fitted, PATCH), _nearest(int(fitted * ratio), PATCH)


def _nearest(length: float, unit: int) -> int:
    """The nearest multiple of ``unit``, ties to an even one, and at least one."""
    return max(round(length / unit) * unit, unit)
