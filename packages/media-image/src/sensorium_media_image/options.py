"""``media_io_kwargs["image"]``: how images are read."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from sensorium.errors import ConfigError

#: 256 MiB as RGB; about nine 4K screens, or one 89-megapixel photograph.
DEFAULT_MAX_IMAGE_PIXELS = 2**28 // 3
LARGEST_MAX_IMAGE_PIXELS = 2**29


@dataclass(frozen=True, slots=True)
class ImageOptions:
    """Checked options.

    Attributes:
        rgba_background_color: (red, green, blue), each 0 … 255: what shows through where an
            image is transparent.
        max_image_pixels: width × height at most, told from the header before decoding.
    """

    rgba_background_color: tuple[int, int, int] = (255, 255, 255)
    max_image_pixels: int = DEFAULT_MAX_IMAGE_PIXELS

    @classmethod
    def from_mapping(cls, given: Mapping[str, Any]) -> ImageOptions:
        """Reads the user's options.

        Raises:
            ConfigError: an unknown key or a value out of range.
        """
        known = [field.name for field in fields(cls)]
        for key in given:
            if key not in known:
                raise ConfigError(
                    f'media_io_kwargs["image"] has {key!r}; allowed are {", ".join(known)}.'
                )
        checked: dict[str, Any] = {}
        if "rgba_background_color" in given:
            checked["rgba_background_color"] = _color(given["rgba_background_color"])
        if "max_image_pixels" in given:
            checked["max_image_pixels"] = _max_pixels(given["max_image_pixels"])
        return cls(**checked)


def _color(value: Any) -> tuple[int, int, int]:
    levels = [_integer(entry) for entry in value] if isinstance(value, Sequence) else []
    if len(levels) != 3 or not all(level is not None and 0 <= level <= 255 for level in levels):
        raise ConfigError(
            f"rgba_background_color is {value!r}; it must be a list or tuple of three integers "
            "from 0 to 255."
        )
    red, green, blue = (level for level in levels if level is not None)
    return red, green, blue


def _max_pixels(value: Any) -> int:
    count = _integer(value)
    if count is None or not 1 <= count <= LARGEST_MAX_IMAGE_PIXELS:
        raise ConfigError(
            f"max_image_pixels is {value!r}; it must be an integer from 1 to "
            f"{LARGEST_MAX_IMAGE_PIXELS}."
        )
    return count


def _integer(value: Any) -> int | None:
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None
