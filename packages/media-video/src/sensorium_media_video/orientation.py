"""Which way up a clip is to be shown: the matrix of an MP4 or MOV file's track.

Source of the layout: ISO/IEC 14496-12, 8.3.2 (track header box). FFmpeg's programs turn frames by
it; its libraries, and so PyAV, leave that to their caller.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sensorium_media_video.clip import Frame

#: Boxes that are looked at: a file with more of them is left as it is.
_MOST_BOXES = 10_000


@dataclass(frozen=True, slots=True)
class Orientation:
    """How stored pixels become shown ones: rows and columns change places, then axes flip."""

    swaps: bool = False
    flips_rows: bool = False
    flips_columns: bool = False

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) as shown."""
        return (width, height) if self.swaps else (height, width)

    def apply(self, frame: Frame) -> Frame:
        """A stored frame → as it is shown, contiguous."""
        if self == UPRIGHT:
            return frame
        if self.swaps:
            frame = frame.swapaxes(0, 1)
        if self.flips_rows:
            frame = frame[::-1]
        if self.flips_columns:
            frame = frame[:, ::-1]
        return np.ascontiguousarray(frame)


UPRIGHT = Orientation()


def track_orientation(data: bytes, track_id: int) -> Orientation:
    """The orientation of an MP4 or MOV file's track; upright where none can be read."""
    try:
        for kind, start, end in _boxes(data, 0, len(data)):
            if kind != b"moov":
                continue
            for inner, track_start, track_end in _boxes(data, start, end):
                if inner != b"trak":
                    continue
                for name, at, _ in _boxes(data, track_start, track_end):
                    if name == b"tkhd" and _track_id(data, at) == track_id:
                        return _orientation(data, at)
    except (struct.error, IndexError):
        pass  # the demuxer will tell what is wrong with the file
    return UPRIGHT


def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(type, beginning of its content, end) of each box between two places."""
    for _ in range(_MOST_BOXES):
        if start + 8 > end:
            return
        size, kind = struct.unpack_from(">I4s", data, start)
        head = 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, start + 8)
            head = 16
        stop = end if size == 0 else min(end, start + size)
        if stop < start + head:
            return
        yield kind, start + head, stop
        start = stop


def _track_id(data: bytes, at: int) -> int:
    (track_id,) = struct.unpack_from(">I", data, at + (20 if data[at] == 1 else 12))
    return int(track_id)


def _orientation(data: bytes, at: int) -> Orientation:
    a, b, _, c, d = struct.unpack_from(">5i", data, at + (52 if data[at] == 1 else 40))
    if abs(b) > abs(a):  # x' = c·y, y' = b·x
        return Orientation(swaps=True, flips_rows=b < 0, flips_columns=c < 0)
    return Orientation(flips_rows=d < 0, flips_columns=a < 0)
