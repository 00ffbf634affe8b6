"""How long each frame of a GIF, WebP or APNG file is shown, read from its blocks, undecoded.

Sources of the layouts: GIF89a 20, 22 and 23; RFC 9649 2.7; PNG specification (3rd edition) 11.3.6.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from sensorium.errors import LimitError, MediaError
from sensorium_media_video.formats import Format, damaged

#: Shorter delays are shown as 100 ms by browsers, and by FFmpeg.
SHORTEST_GIF_MS, SHORTEST_MS, DEFAULT_MS = 20, 11, 100


@dataclass(frozen=True, slots=True)
class Delays:
    """How long each frame is shown.

    Attributes:
        milliseconds: one a frame.
        first: the number that Pillow gives to the first of them: an APNG may hold a picture in
            front, for readers that know no animations.
    """

    milliseconds: tuple[float, ...]
    first: int = 0


def read_delays(data: bytes, format: Format, *, most: int) -> Delays:
    """Reads a file's frames; one where it isn't animated.

    Args:
        most: frames at most.

    Raises:
        MediaError: the file is damaged.
        LimitError: more frames than ``most``.
    """
    try:
        if format.name == "GIF":
            found = Delays(tuple(_counted(_gif(data), most)))
        elif format.name == "WebP":
            found = Delays(tuple(_counted(_webp(data), most)))
        else:
            found = _png(data, most)
    except (struct.error, IndexError, ZeroDivisionError):
        raise damaged(format) from None
    return found if found.milliseconds else Delays((float(DEFAULT_MS),))


def _counted(delays: Iterator[float], most: int) -> Iterator[float]:
    for number, delay in enumerate(delays):
        if number >= most:
            raise LimitError(f"it has more than {most} frames, which max_frames allows.")
        yield delay


def _gif(data: bytes) -> Iterator[float]:
    """Delays stand in the control block before each image."""
    screen_width, screen_height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    delay_ms = 0
    first = True
    while at < len(data) and data[at] != 0x3B:
        if data[at] == 0x21:
            if data[at + 1] == 0xF9 and data[at + 2] >= 4:
                (delay,) = struct.unpack_from("<H", data, at + 4)
                delay_ms = 10 * delay
            at = _after_blocks(data, at + 2)
        elif data[at] == 0x2C:
            left, top, width, height, flags = struct.unpack_from("<HHHHB", data, at + 1)
            sticks_out = left + width > screen_width or top + height > screen_height
            if sticks_out and not first:
                raise MediaError("a frame of the GIF file sticks out of its screen.")
            if first:  # decoders widen the screen to the first frame
                screen_width = max(screen_width, left + width)
                screen_height = max(screen_height, top + height)
            first = False
            yield float(delay_ms if delay_ms >= SHORTEST_GIF_MS else DEFAULT_MS)
            delay_ms = 0
            at += 10 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
            at = _after_blocks(data, at + 1)
        else:
            at += 1  # decoders skip stray bytes


def _after_blocks(data: bytes, at: int) -> int:
    """Behind a chain of sub-blocks; an IndexError where it is cut off."""
    while data[at]:
        at += 1 + data[at]
    return at + 1


def _webp(data: bytes) -> Iterator[float]:
    """Each frame is a chunk "ANMF" with its delay in it."""
    at = 12
    while at + 8 <= len(data):
        (size,) = struct.unpack_from("<I", data, at + 4)
        if data[at : at + 4] == b"ANMF":
            delay_ms = int.from_bytes(data[at + 20 : at + 23], "little")
            yield float(delay_ms if delay_ms >= SHORTEST_MS else DEFAULT_MS)
        at += 8 + size + size % 2


def _png(data: bytes, most: int) -> Delays:
    """Each frame has a chunk "fcTL"; a picture without one isn't part of the animation."""
    at, first, seen_picture = 8, 0, False
    delays: list[float] = []
    stated = 0
    while at + 12 <= len(data):
        (size,) = struct.unpack_from(">I", data, at)
        kind = data[at + 4 : at + 8]
        if kind == b"acTL":
            (stated,) = struct.unpack_from(">I", data, at + 8)
        elif kind == b"IEND" and len(delays) == stated:
            return Delays(tuple(delays), first if delays else 0)
        elif kind == b"IDAT" and not seen_picture:
            seen_picture = True
            first = 0 if delays else 1
        elif kind == b"fcTL" and stated:
            number, parts = struct.unpack_from(">HH", data, at + 28)
            delay_ms = 1000 * number / (parts or 100)
            delays.append(delay_ms if delay_ms >= SHORTEST_MS else float(DEFAULT_MS))
            if len(delays) > most:
                raise LimitError(f"it has more than {most} frames, which max_frames allows.")
        at += 12 + size
    raise IndexError("no end, or other frames than it states")
