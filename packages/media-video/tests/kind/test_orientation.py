"""Matrices that turn and mirror: as FFmpeg's program applies them; damaged ones are none."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from sensorium_media_video.orientation import UPRIGHT, Orientation, track_orientation

ONE = 65_536
PICTURE = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + kind + content


def file(a: int, b: int, c: int, d: int, *, version: int = 0, track: int = 1) -> bytes:
    times = 20 if version == 0 else 32
    head = bytes([version, 0, 0, 3]) + bytes(times)
    at = 12 if version == 0 else 20
    head = head[:at] + struct.pack(">I", track) + head[at + 4 :]
    head += bytes(16)
    matrix = struct.pack(">9i", a * ONE, b * ONE, 0, c * ONE, d * ONE, 0, 0, 0, 2**30)
    tkhd = box(b"tkhd", head + matrix + bytes(8))
    return box(b"ftyp", b"isom") + box(b"moov", box(b"mvhd", bytes(100)) + box(b"trak", tkhd))


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ((1, 0, 0, 1), PICTURE),
        ((-1, 0, 0, -1), np.rot90(PICTURE, 2)),
        ((0, 1, -1, 0), np.rot90(PICTURE, -1)),
        ((0, -1, 1, 0), np.rot90(PICTURE, 1)),
        ((-1, 0, 0, 1), PICTURE[:, ::-1]),
        ((1, 0, 0, -1), PICTURE[::-1]),
        ((0, 1, 1, 0), PICTURE.swapaxes(0, 1)),
    ],
)
def test_matrices(matrix: tuple[int, int, int, int], expected: np.ndarray, version: int) -> None:
    orientation = track_orientation(file(*matrix, version=version), 1)
    turned = orientation.apply(PICTURE)
    assert np.array_equal(turned, expected)
    assert turned.flags.c_contiguous
    assert orientation.size(2, 3) == expected.shape[:2]


def test_another_track_s_matrix_does_not_count() -> None:
    assert track_orientation(file(-1, 0, 0, -1, track=2), 1) == UPRIGHT
    assert track_orientation(file(-1, 0, 0, -1, track=2), 2) == Orientation(
        flips_rows=True, flips_columns=True
    )


def test_what_can_not_be_read_is_upright() -> None:
    data = file(0, 1, -1, 0)
    for end in range(len(data)):
        assert track_orientation(data[:end], 1) in (UPRIGHT, track_orientation(data, 1))
    assert track_orientation(b"", 1) == UPRIGHT
    assert track_orientation(bytes(100), 1) == UPRIGHT
