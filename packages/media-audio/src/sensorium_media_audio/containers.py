"""Compares what a container announces with the bytes that are there: was the file cut off?

Decoders read as far as they can and don't report what is missing. So this module reads the
outermost lengths before any decoder sees the file. A length that the writer left open (a recording
that was written to a pipe) announces nothing.

Sources of the layouts: RIFF and RF64 (EBU Tech 3306), AIFF 1.3, Sun's .snd header, Apple's Core
Audio Format 1.0, Sony's Wave64, RFC 9639 (FLAC), RFC 3533 (Ogg) and 7845 (Opus in Ogg),
ISO/IEC 14496-12 (MP4), RFC 8794 (EBML) and 9559 (Matroska).
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from sensorium.errors import MediaError
from sensorium_media_audio import mpeg
from sensorium_media_audio.formats import Format

_OPEN_32 = (0, 0xFFFFFFFF)
# The elements whose length may be open; their contents are then walked through.
_EBML_SEGMENT, _EBML_CLUSTER = 0x18538067, 0x1F43B675


def check_complete(data: bytes, format: Format) -> int | None:
    """Compares what the container announces with what is there.

    Returns:
        How many samples of one channel it announces, at its codec's rate (Opus: 48,000); None where
        it doesn't say.

    Raises:
        MediaError: announced bytes are missing.
    """
    try:
        is_cut, announced = _CHECKS[format.name](data, format.start)
    except (struct.error, IndexError):
        is_cut, announced = True, None
    if is_cut:
        raise MediaError(f"the {format.name} file is cut off or damaged.")
    return announced


_Found = tuple[bool, int | None]


def _wav(data: bytes, start: int) -> _Found:
    order = ">" if data.startswith(b"RIFX") else "<"
    long_size = None
    at = 12
    while at + 8 <= len(data):
        name, (size,) = data[at : at + 4], struct.unpack_from(f"{order}I", data, at + 4)
        if name == b"ds64":
            (long_size,) = struct.unpack_from("<Q", data, at + 16)
        if name == b"data":
            if size == 0xFFFFFFFF and long_size is not None:
                size = long_size
            return size not in _OPEN_32 and at + 8 + size > len(data), None
        at += 8 + size + size % 2
    return True, None


def _aiff(data: bytes, start: int) -> _Found:
    at = 12
    while at + 8 <= len(data):
        (size,) = struct.unpack_from(">I", data, at + 4)
        if data[at : at + 4] == b"SSND":
            return size not in _OPEN_32 and at + 8 + size > len(data), None
        at += 8 + size + size % 2
    return True, None


def _au(data: bytes, start: int) -> _Found:
    offset, size = struct.unpack_from(">II", data, 4)
    return size != 0xFFFFFFFF and offset + size > len(data), None


def _caf(data: bytes, start: int) -> _Found:
    at = 8
    while at + 12 <= len(data):
        (size,) = struct.unpack_from(">q", data, at + 4)
        if data[at : at + 4] == b"data":
            return size != -1 and not 0 <= size <= len(data) - at - 12, None
        if size < 0:
            break
        at += 12 + size
    return True, None


def _w64(data: bytes, start: int) -> _Found:
    at = 40
    while at + 24 <= len(data):
        (size,) = struct.unpack_from("<Q", data, at + 16)
        if data[at : at + 4] == b"data":
            return size < 24 or at + size > len(data), None
        if size < 24:
            break
        at += size + -size % 8
    return True, None


def _flac(data: bytes, start: int) -> _Found:
    (packed,) = struct.unpack_from(">Q", data, start + 18)  # in the first block, STREAMINFO
    return False, packed & (1 << 36) - 1 or None


def _mp3(data: bytes, start: int) -> _Found:
    frames = mpeg.mp3_frames(data, start)
    return frames.is_cut, frames.announced


def _aac(data: bytes, start: int) -> _Found:
    return mpeg.adts_is_cut(data, start), None


def _ogg(data: bytes, start: int) -> _Found:
    """Pages; the last one of each stream bears a mark, and how many samples there were."""
    at = 0
    skips: dict[int, int] = {}
    granules: dict[int, int] = {}
    open_streams: set[int] = set()
    total = 0
    while data.startswith(b"OggS", at):
        kind, granule, serial = struct.unpack_from("<BqI", data, at + 5)
        num_segments = data[at + 26]
        body = at + 27 + num_segments
        end = body + sum(data[at + 27 : body])
        if end > len(data):
            return True, None
        if kind & 2:  # begins a stream
            open_streams.add(serial)
            skips[serial] = granules[serial] = 0
            if data.startswith(b"OpusHead", body):
                (skips[serial],) = struct.unpack_from("<H", data, body + 10)
        if granule > 0:
            granules[serial] = granule
        if kind & 4:  # ends it
            open_streams.discard(serial)
            total += max(0, granules.get(serial, 0) - skips.get(serial, 0))
        at = end
    return bool(open_streams) or not skips, total


def _mp4(data: bytes, start: int) -> _Found:
    at, has_index = 0, False
    while at + 8 <= len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, at + 8)
        if size == 0:  # to the end of the file
            size = len(data) - at
        if size < 8:
            return True, None
        has_index = has_index or name == b"moov"
        at += size
    return at > len(data) or not has_index, None


def _webm(data: bytes, start: int) -> _Found:
    at = 0
    while at < len(data):
        name, at = _ebml_number(data, at, keep_marker=True)
        size, at = _ebml_number(data, at, keep_marker=False)
        if size is not None:
            at += size
        elif name not in (_EBML_SEGMENT, _EBML_CLUSTER):
            return True, None  # no other element may leave its length open
    return at > len(data), None


def _ebml_number(data: bytes, at: int, *, keep_marker: bool) -> tuple[int | None, int]:
    """A number whose leading zeros say how many bytes it has; None if all its bits are set."""
    length = 9 - data[at].bit_length()
    if length > 8 or at + length > len(data):
        raise IndexError(at)
    value = int.from_bytes(data[at : at + length], "big")
    if keep_marker:
        return value, at + length
    value &= (1 << 7 * length) - 1
    return None if value == (1 << 7 * length) - 1 else value, at + length


_CHECKS: dict[str, Callable[[bytes, int], _Found]] = {
    "WAV": _wav,
    "AIFF": _aiff,
    "AU": _au,
    "CAF": _caf,
    "W64": _w64,
    "FLAC": _flac,
    "OGG": _ogg,
    "MP3": _mp3,
    "M4A": _mp4,
    "AAC": _aac,
    "WebM": _webm,
}
