"""Reads an encoded image's format and size in pixels from its first bytes.

Only these formats are ever handed to a decoder, and only after the size that is read here was
checked against the budget. Nothing is decoded and no library is used: some decoders allocate the
whole canvas as soon as they are opened.

Sources of the layouts: PNG specification 11.2.1 (IHDR), ITU-T T.81 B.2.2 (JPEG frame
header), GIF89a 18 and 20 (logical screen and image descriptor), RFC 9649 (WebP), and the
BITMAPINFOHEADER and BITMAPCOREHEADER structures (BMP).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from sensorium.errors import MediaError

FORMATS = ("JPEG", "PNG", "WebP", "GIF", "BMP")

#: Chunks of a WebP file that are looked at for metadata; files have a handful.
_MOST_CHUNKS = 64

# Frame headers are SOF0 … SOF15 without DHT (C4), JPG (C8) and DAC (CC).
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Markers that stand alone, without a segment: TEM and RST0 … RST7.
_BARE = frozenset({0x01, *range(0xD0, 0xD8)})


@dataclass(frozen=True, slots=True)
class Header:
    """An encoded image's format, one of ``FORMATS``, and its size before any rotation."""

    format: str
    width: int
    height: int


def read_header(data: bytes) -> Header:
    """Reads format and size.

    Raises:
        MediaError: none of the formats, or a header that is cut off or contradicts itself.
    """
    for name, accepts, read_size in _READERS:
        if accepts(data):
            try:
                width, height = read_size(data)
            except (struct.error, IndexError, ValueError):
                raise MediaError(f"the {name} file's header is damaged or cut off.") from None
            return Header(name, width, height)
    raise MediaError(f"the data are no image in an allowed format ({', '.join(FORMATS)}).")


def may_be_turned(data: bytes, header: Header) -> bool:
    """Whether the file may state an orientation; False only if it surely doesn't."""
    if header.format == "WebP":
        return _webp_has_exif(data)
    return header.format in ("JPEG", "PNG")


def _jpeg_size(data: bytes) -> tuple[int, int]:
    at = 2
    while True:
        at = data.index(0xFF, at)
        while data[at] == 0xFF:  # any number of fill bytes
            at += 1
        marker = data[at]
        at += 1
        if marker in _SOF:
            height, width = struct.unpack_from(">HH", data, at + 3)
            return width, height
        if marker in (0xD9, 0xDA):
            raise ValueError("the scan begins before a frame header")
        if marker != 0 and marker not in _BARE:
            at += int.from_bytes(data[at : at + 2], "big")


def _png_size(data: bytes) -> tuple[int, int]:
    if data[12:16] != b"IHDR":
        raise ValueError("IHDR isn't the first chunk")
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


def _webp_size(data: bytes) -> tuple[int, int]:
    chunk = data[12:16]
    if chunk == b"VP8 ":
        if data[23:26] != b"\x9d\x01\x2a":
            raise ValueError("no key frame")
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    if chunk == b"VP8L":
        signature, bits = struct.unpack_from("<BI", data, 20)
        if signature != 0x2F:
            raise ValueError("no lossless stream")
        return (bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1
    if chunk == b"VP8X" and len(data) >= 30:
        width = int.from_bytes(data[24:27], "little") + 1
        return width, int.from_bytes(data[27:30], "little") + 1
    raise ValueError("no known chunk")


def _webp_has_exif(data: bytes) -> bool:
    at = 12
    for _ in range(_MOST_CHUNKS):
        if at + 8 > len(data):
            return False
        if data[at : at + 4] == b"EXIF":
            return True
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + size + size % 2
    return True


def _gif_size(data: bytes) -> tuple[int, int]:
    """The screen's size, widened to the first frame where that sticks out, as decoders do."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    while data[at] != 0x2C:  # the image descriptor's separator
        if data[at] == 0x3B:
            raise ValueError("no frame")
        if data[at] != 0x21:
            at += 1  # decoders skip stray bytes
            continue
        at += 2
        while data[at]:  # an extension's sub-blocks
            at += 1 + data[at]
        at += 1
    left, top, frame_width, frame_height = struct.unpack_from("<HHHH", data, at + 1)
    return max(width, left + frame_width), max(height, top + frame_height)


def _bmp_size(data: bytes) -> tuple[int, int]:
    (header_size,) = struct.unpack_from("<I", data, 14)
    if header_size == 12:
        width, height = struct.unpack_from("<HH", data, 18)
    else:
        width, height = struct.unpack_from("<ii", data, 18)
    if width < 0:
        raise ValueError("negative width")
    return width, abs(height)  # a negative height means that rows run downwards


_READERS: tuple[
    tuple[str, Callable[[bytes], bool], Callable[[bytes], tuple[int, int]]],
    ...,
] = (
    ("JPEG", lambda data: data.startswith(b"\xff\xd8\xff"), _jpeg_size),
    ("PNG", lambda data: data.startswith(b"\x89PNG\r\n\x1a\n"), _png_size),
    ("WebP", lambda data: data.startswith(b"RIFF") and data[8:12] == b"WEBP", _webp_size),
    ("GIF", lambda data: data.startswith((b"GIF87a", b"GIF89a")), _gif_size),
    ("BMP", lambda data: data.startswith(b"BM"), _bmp_size),
)
