"""``ImageKind``: what an image is, whatever the model.

A loaded image is a contiguous uint8 array (height, width, 3), RGB, upright, opaque. Adapters
must not write to it: it may be the caller's own memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from sensorium.errors import LimitError, MediaError
from sensorium.media.digest import Digest
from sensorium.plugins.kind import MediaKind
from sensorium.types import (
    BytesSource,
    GivenEmbeds,
    Loaded,
    MediaItem,
    MediaShape,
    Probe,
    Source,
    ValueSource,
)
from sensorium_media_image.arrays import (
    Array,
    Uint8Array,
    is_array,
    picture_size,
    to_channels_last,
    to_levels,
    to_numpy,
)
from sensorium_media_image.headers import Header, may_be_turned, read_header
from sensorium_media_image.options import LARGEST_MAX_IMAGE_PIXELS, ImageOptions
from sensorium_media_image.pictures import (
    decode_encoded,
    decode_value,
    grey_to_rgb,
    header_orientation,
    load_value,
    open_encoded,
    to_rgb,
)
from sensorium_media_image.sources import Entry, part_entry, split_value

# Pillow's buffer (4 bytes a pixel, whatever the mode needs), one to convert to or lay over a
# background, and the array of 3, rounded up: what decoding takes at its peak.
DECODE_BYTES_PER_PIXEL = 12


class ImageKind(MediaKind):
    """Images. Options (``media_io_kwargs["image"]``): see ``ImageOptions``."""

    name: ClassVar[str] = "image"
    part_types: ClassVar[tuple[str, ...]] = ("image_url", "image_pil", "image_embeds")
    offline_part_types: ClassVar[tuple[str, ...]] = ("image_pil",)
    fetch_timeout_s: ClassVar[float] = 5.0
    # The pixel budget is the effective limit; this one only has to be larger.
    max_decoded_bytes: ClassVar[int] = DECODE_BYTES_PER_PIXEL * LARGEST_MAX_IMAGE_PIXELS
    media_types: ClassVar[tuple[str, ...]] = ("image/*",)
    size_names: ClassVar[tuple[str, ...]] = ("height", "width")

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = ImageOptions.from_mapping(options)

    def options_key(self) -> Mapping[str, str | int | float | bool | None]:
        """The background; the budget changes no result."""
        red, green, blue = self._options.rgba_background_color
        return {"rgba_background_color": f"{red},{green},{blue}"}

    def split(self, value: Any) -> list[MediaItem]:
        """Every form of ``sources``; see ``MediaKind.split``."""
        return [
            _item(index, entry)
            for index, entry in enumerate(split_value(value, self.embedding_width))
        ]

    def parse_part(self, part_type: str, value: Any) -> MediaItem:
        """``image_url``, ``image_pil`` and ``image_embeds``; see ``MediaKind.parse_part``."""
        return _item(0, part_entry(part_type, value))

    def probe(self, sources: Sequence[Source]) -> Probe:
        """Size as it will be once loaded, from the header, the shape or Pillow's own record."""
        (source,) = sources
        if isinstance(source, BytesSource):
            header = self._checked_header(source.data)
            height, width = header.height, header.width
            picture: Image.Image | None = None
            # Opening a WebP file takes memory for its whole canvas, a fifth of decoding it.
            if may_be_turned(source.data, header):
                picture = open_encoded(source.data, header)
        else:
            value = _value(source)
            height, width = self._checked_value_size(value)
            picture = value if isinstance(value, Image.Image) else None
        if picture is not None and header_orientation(picture) >= 5:
            height, width = width, height
        return Probe(MediaShape((height, width)), DECODE_BYTES_PER_PIXEL * height * width)

    def load(self, sources: Sequence[Source]) -> Loaded:
        """Decodes to uint8 RGB, contiguous; shape (height, width)."""
        (source,) = sources
        background = self._options.rgba_background_color
        if isinstance(source, BytesSource):
            rgb = decode_encoded(source.data, self._checked_header(source.data), background)
        else:
            value = _value(source)
            self._checked_value_size(value)
            if isinstance(value, Image.Image):
                rgb = decode_value(value, background)
            else:
                rgb = _array_to_rgb(to_numpy(value), background, self.embedding_width)
        return Loaded(rgb, MediaShape(rgb.shape[:2]))

    def digest(self, sources: Sequence[Source]) -> bytes:
        """Hashes encoded bytes as they are, and everything that ``load`` reads of a value.

        A Pillow image that was opened and not yet read is decoded here, within the budget.
        """
        (source,) = sources
        digest = Digest("sensorium image")
        if isinstance(source, BytesSource):
            return digest.add("bytes").add(source.data).digest()
        value = _value(source)
        self._checked_value_size(value)
        if isinstance(value, Image.Image):
            _add_picture(digest, value)
        else:
            digest.add("array").add(to_numpy(value))
        return digest.digest()

    def blank(self, shape: MediaShape) -> Loaded:
        """A black image of this (height, width)."""
        height, width = shape.size
        return Loaded(np.zeros((height, width, 3), dtype=np.uint8), shape)

    def _checked_header(self, data: bytes) -> Header:
        header = read_header(data)
        self._check_size(header.height, header.width)
        return header

    def _checked_value_size(self, value: Any) -> tuple[int, int]:
        if isinstance(value, Image.Image):
            width, height = value.size
        else:
            height, width, _ = picture_size(tuple(value.shape))
        self._check_size(height, width)
        return height, width

    def _check_size(self, height: int, width: int) -> None:
        if height < 1 or width < 1:
            raise MediaError(f"it is {width}×{height} pixels; it must be at least 1×1.")
        allowed = self._options.max_image_pixels
        if height * width > allowed:
            raise LimitError(
                f"it is {width}×{height}, {height * width} pixels; max_image_pixels allows "
                f"{allowed}."
            )


def _item(index: int, entry: Entry) -> MediaItem:
    if isinstance(entry, GivenEmbeds):
        return MediaItem("image", index, embeds=entry)
    return MediaItem("image", index, () if entry is None else (entry,))


def _value(source: Source) -> Any:
    assert isinstance(source, ValueSource), "URLs and files were fetched before"
    if isinstance(source.value, Image.Image) or is_array(source.value):
        return source.value
    raise MediaError(f"it is a {type(source.value).__name__}, which is no form of an image.")


def _array_to_rgb(
    array: Array, background: tuple[int, int, int], embedding_width: int | None
) -> Uint8Array:
    levels = to_levels(to_channels_last(array), embedding_width)
    channels = levels.shape[2]
    if channels == 1:
        return grey_to_rgb(levels[:, :, 0])
    if channels == 4:
        return to_rgb(Image.fromarray(np.ascontiguousarray(levels)), 1, background)
    # Writable, because torch can't wrap memory that isn't.
    return np.require(levels, requirements=["C", "W"])


def _add_picture(digest: Digest, picture: Image.Image) -> None:
    exif = load_value(picture)
    palette = picture.palette.mode if picture.palette else None
    digest.add("PIL").add(picture.mode).add(picture.size).add(exif)
    digest.add(palette).add(bytes(picture.getpalette(None) or ()))
    digest.add(picture.info.get("transparency"))
    digest.add(picture.mode == "I" and picture.format == "PNG")  # 16-bit samples
    digest.add(picture.tobytes())
