"""The Qwens' rule for an image's size: multiples of a block, within bounds of area.

The published rule ("smart resize" of Qwen2-VL's image processor): round both sides to
multiples of ``factor``; where the area is above or below the bounds, scale both by the same
factor, rounding down or up.
"""

from __future__ import annotations

import math

from sensorium.errors import MediaError

MAX_ASPECT_RATIO = 200


def smart_resize(
    height: int, width: int, factor: int, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    """The (height, width) that an image is resized to, in pixels.

    Raises:
        MediaError: one side is more than 200 times the other, or there is no pixel at all.
    """
    check_aspect_ratio(height, width)
    rounded_height = round(height / factor) * factor
    rounded_width = round(width / factor) * factor
    if rounded_height * rounded_width > max_pixels:
        scale = math.sqrt(height * width / max_pixels)
        return (
            max(factor, math.floor(height / scale / factor) * factor),
            max(factor, math.floor(width / scale / factor) * factor),
        )
    if rounded_height * rounded_width < min_pixels:
        scale = math.sqrt(min_pixels / (height * width))
        return (
            math.ceil(height * scale / factor) * factor,
            math.ceil(width * scale / factor) * factor,
        )
    return rounded_height, rounded_width


def check_aspect_ratio(height: int, width: int) -> None:
    """The families' rule for the shape of an image.

    Raises:
        MediaError: one side is more than 200 times the other, or there is no pixel at all.
    """
    if min(height, width) < 1:
        raise MediaError(f"it has {height}×{width} pixels; each side needs at least one.")
    if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
        raise MediaError(
            f"it is {width} pixels wide and {height} high; the longer side may be at most "
            f"{MAX_ASPECT_RATIO} times the shorter."
        )


def largest_size(factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """An (height, width) that becomes as many blocks as any, in pixels.

    Three kinds of size can: whole blocks that fill ``max_pixels``; strips, which a small
    ``max_pixels`` can't make thinner than a block; and strips that ``min_pixels`` enlarges.
    """
    blocks = max(1, max_pixels // factor**2)
    candidates = [(10 * factor, 10 * factor * MAX_ASPECT_RATIO)]
    candidates += [(1, width) for width in range(1, MAX_ASPECT_RATIO + 1)]
    for rows in range(math.isqrt(blocks), 0, -1):
        height = rows * factor + (factor - 1) // 2  # the highest that rounds to these rows
        columns = min(blocks // rows, MAX_ASPECT_RATIO * height // factor)
        candidates.append((height, columns * factor))

    def area(size: tuple[int, int]) -> int:
        height, width = smart_resize(size[0], size[1], factor, min_pixels, max_pixels)
        return height * width

    return max(candidates, key=area)
