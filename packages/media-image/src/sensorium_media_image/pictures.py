"""Opens images, decodes them, turns them upright and converts them to RGB.

Every image ends as RGB, 8 bits a channel:

    1, L, P, RGB, CMYK …     Pillow's own conversion
    LA, RGBA, PA, tRNS …     laid over the background by their alpha
    I;16 (16-bit grey)       the high byte, as Pillow reads 16-bit colour
    I, F                     as arrays of integers and floats (``arrays``)
    animated                 the first frame of a file; a Pillow value's current one
    EXIF orientation         applied

``Image.open`` isn't used: its size check is a setting of the whole process, which belongs to
the application. ``headers`` has read the format and checked the size against our budget before a
format's own class opens the bytes here.

JPEG is decoded by libjpeg-turbo (``jpeg``) where the result equals Pillow's. Pillow decodes
everything else, which is then converted and copied in strips that fit the processor's cache, so
that no second whole image is made.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from sensorium.errors import MediaError
from sensorium_media_image.arrays import Uint8Array, to_levels
from sensorium_media_image.headers import Header
from sensorium_media_image.jpeg import MODES as JPEG_MODES
from sensorium_media_image.jpeg import decode_jpeg

ORIENTATION_TAG = 0x0112
#: Bytes of a strip in Pillow's memory, at four bytes a pixel.
STRIP_BYTES = 2**20
#: Pillow decodes blocks of 64 KiB by default, and each of them gives the interpreter lock away and
#: waits to have it back: with many threads that costs more than the decoding.
WHOLE_FILE = 2**30

_OPENERS: dict[str, Callable[[io.BytesIO], ImageFile]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "WebP": WebPImageFile,
    "GIF": GifImageFile,
    "BMP": BmpImageFile,
}

# A Pillow image that was opened and not yet decoded must not be decoded by two threads at
# once, also not by two engines. Pillow images can't be keys of a weak mapping, so each can't have
# its own lock; one of these is chosen by the object's identity.
_LOCKS = tuple(threading.Lock() for _ in range(64))


def open_encoded(data: bytes, header: Header) -> Image.Image:
    """Opens encoded bytes with the one class that reads their format; decodes nothing yet.

    Raises:
        MediaError: the file is damaged, or contradicts its own header.
    """
    try:
        picture = _OPENERS[header.format](io.BytesIO(data))
    except Exception:  # Pillow raises SyntaxError, OSError, struct.error, EOFError and others
        raise _damaged(header.format) from None
    if picture.size != (header.width, header.height):
        raise _damaged(header.format)  # a second header that the budget hasn't seen
    picture.decodermaxblock = WHOLE_FILE
    return picture


def decode_encoded(data: bytes, header: Header, background: tuple[int, int, int]) -> Uint8Array:
    """Encoded bytes → (height, width, 3), contiguous and writable.

    Raises:
        MediaError: the file is damaged or cut off.
    """
    picture = open_encoded(data, header)
    try:
        if header.format == "JPEG" and picture.mode in JPEG_MODES:
            rgb = decode_jpeg(data, header.height, header.width)
            if rgb is not None:
                return turned(rgb, orientation(picture))
        picture.load()
        return to_rgb(picture, orientation(picture), background)
    except MediaError:
        raise
    except Exception:
        raise _damaged(header.format) from None


def decode_value(picture: Image.Image, background: tuple[int, int, int]) -> Uint8Array:
    """A caller's Pillow image → (height, width, 3), contiguous and writable; not modified.

    Raises:
        MediaError: its file is damaged or closed, or its mode has no conversion to RGB.
    """
    exif = load_value(picture)
    try:
        return to_rgb(picture, exif, background)
    except MediaError:
        raise
    except Exception:
        raise MediaError(f"a PIL image of mode {picture.mode} can't be turned into RGB.") from None


def load_value(picture: Image.Image) -> int:
    """Has a caller's image decoded, once, whichever threads ask; returns its orientation.

    Raises:
        MediaError: its file is damaged or closed.
    """
    try:
        with _LOCKS[id(picture) // 16 % len(_LOCKS)]:
            picture.load()
            return orientation(picture)
    except Exception:
        raise MediaError("the PIL image can't be read: its file is damaged or closed.") from None


def orientation(picture: Image.Image) -> int:
    """EXIF orientation of a decoded image, 1 … 8; 1 (upright) if none can be read."""
    try:
        return _checked_orientation(picture.getexif())
    except Exception:  # damaged metadata doesn't make an image unreadable
        return 1


def header_orientation(picture: Image.Image) -> int:
    """The same as far as the header states it: nothing is decoded, the image isn't touched.

    An orientation that stands behind the pixels, or in XMP, is only seen by ``orientation``.
    """
    exif = Image.Exif()
    try:
        exif.load(picture.info.get("exif", b""))
        return _checked_orientation(exif)
    except Exception:
        return 1


def _checked_orientation(exif: Image.Exif) -> int:
    value = exif.get(ORIENTATION_TAG)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def to_rgb(picture: Image.Image, exif: int, background: tuple[int, int, int]) -> Uint8Array:
    """A decoded image → (height, width, 3), turned upright, contiguous and writable."""
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format == "PNG"):
        rgb = _grey16_to_rgb(picture, background)
    elif picture.mode in ("I", "F"):
        rgb = grey_to_rgb(to_levels(np.asarray(picture)))
    elif picture.mode == "L" and not picture.has_transparency_data:
        rgb = grey_to_rgb(np.asarray(picture))
    else:
        rgb = _strips_to_rgb(picture, background)
    return turned(rgb, exif)


def grey_to_rgb(levels: Uint8Array) -> Uint8Array:
    """(height, width) → (height, width, 3), contiguous and writable."""
    rgb = np.empty((*levels.shape, 3), dtype=np.uint8)
    for channel in range(3):  # one after the other is faster than all at once
        rgb[:, :, channel] = levels
    return rgb


def turned(rgb: Uint8Array, exif: int) -> Uint8Array:
    """Applies an EXIF orientation: 2 … 4 flip, 5 … 8 swap height and width.

    Returns:
        (height, width, 3), contiguous; ``rgb`` itself if it is upright.
    """
    if exif == 1:
        return rgb
    pixels = rgb.view("V3")[:, :, 0]  # moved as a whole, in half the time
    if exif >= 5:
        pixels = pixels.swapaxes(0, 1)
    if exif in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if exif in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    height, width = pixels.shape
    return np.ascontiguousarray(pixels).view(np.uint8).reshape(height, width, 3)


def _strips_to_rgb(picture: Image.Image, background: tuple[int, int, int]) -> Uint8Array:
    width, height = picture.size
    rgb = np.empty((height, width, 3), dtype=np.uint8)
    num_rows = max(1, STRIP_BYTES // (4 * width))
    for top in range(0, height, num_rows):
        bottom = min(top + num_rows, height)
        strip = picture.crop((0, top, width, bottom))
        if strip.has_transparency_data:
            strip = _over(strip, background)
        elif strip.mode != "RGB":
            strip = strip.convert("RGB")
        rgb[top:bottom] = np.asarray(strip)
    return rgb


def _over(picture: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    if picture.mode == "La":  # premultiplied grey has no way to RGBA but this
        picture = picture.convert("LA")
    rgba = picture.convert("RGBA")
    result = Image.new("RGB", rgba.size, background)
    result.paste(rgba, mask=rgba.getchannel("A"))
    return result


def _grey16_to_rgb(picture: Image.Image, background: tuple[int, int, int]) -> Uint8Array:
    samples = np.asarray(picture)
    rgb = grey_to_rgb((samples >> 8).astype(np.uint8))
    key: Any = picture.info.get("transparency")
    if key is not None:  # the one sample value that is transparent
        rgb[samples == key] = background
    return rgb


def _damaged(name: str) -> MediaError:
    return MediaError(f"the {name} file is damaged or cut off.")
