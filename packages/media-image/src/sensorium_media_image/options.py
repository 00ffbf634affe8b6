"""``media_io_kwargs["image"]``: how images are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sensorium.errors import ConfigError
from sensorium.plugins.options import as_integer, check_options, integer

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
        return cls(**check_options('media_io_kwargs["image"]', given, _CHECKS))


def _color(name: str, value: Any) -> tuple[int, int, int]:
    levels = [as_integer(entry) for entry in value] if isinstance(value, Sequence) else []
    if len(levels) != 3 or not all(level is not None and 0 <= level <= 255 for level in levels):
        raise ConfigError(
            f"{name} is {value!r}; it must be a list or tuple of three integers from 0 to 255."
        )
    red, green, blue = (level for level in levels if level is not None)
    return red, green, blue


_CHECKS = {
    "rgba_background_color": _color,
    "max_image_pixels": integer(1, LARGEST_MAX_IMAGE_PIXELS),
}
