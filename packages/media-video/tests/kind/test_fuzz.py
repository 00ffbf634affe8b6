"""Damaged files: our own errors, or frames; never anything else. In a process of its own."""

from __future__ import annotations

import subprocess
import sys
import zlib
from pathlib import Path

import pytest

pytest.importorskip("imageio_ffmpeg")
pytest.importorskip("av")

from mutated_files import Trial, check_few, check_many
from video_files import WIDTH, X264, encoded, source

from sensorium.types import BytesSource
from sensorium_media_video.kind import VideoKind

MOST_PIXELS = 4 * WIDTH * WIDTH
LIMITS = {"max_duration_s": 600, "max_frames": 2000, "max_frame_pixels": MOST_PIXELS}
#: One decoder in the calling thread, or several in threads of their own: half of the files each.
KINDS = [VideoKind({**LIMITS, "decoder_threads": num_threads}) for num_threads in (1, 3)]


def small_files(folder: Path) -> list[bytes]:
    """One in every format and codec, a few frames long."""
    short = source(0.4, 48, 32)
    makers = {
        "h264.mp4": X264,
        "h264.mkv": X264,
        "h264.avi": X264,
        "h265.mp4": ("-c:v", "libx265", "-x265-params", "log-level=error:pools=1"),
        "vp8.webm": ("-c:v", "libvpx"),
        "vp9.webm": ("-c:v", "libvpx-vp9", "-cpu-used", "8"),
        "av1.mp4": ("-c:v", "libaom-av1", "-usage", "realtime", "-cpu-used", "8"),
        "mpeg4.avi": (
            "-c:v",
            "mpeg4",
        ),
        "mjpeg.avi": (
            "-c:v",
            "mjpeg",
        ),
        "some.gif": (),
        "some.apng": (),
        "some.webp": ("-loop", "0"),
    }
    return [
        encoded(name.split(".")[1], *arguments, given=short) for name, arguments in makers.items()
    ]


def load(data: bytes) -> None:
    source = BytesSource(data)
    kind = KINDS[zlib.crc32(data) % 2]
    probe = kind.probe([source])
    loaded = kind.load([source])
    assert probe.shape == loaded.shape
    count, height, width = loaded.shape.size
    assert 0 < height * width <= MOST_PIXELS
    chosen = sorted({0, count // 3, count // 2, count - 1})
    try:
        for frame in loaded.value.frames(chosen):
            assert frame.shape == (height, width, 3)
    finally:
        loaded.value.close()


TRIAL = Trial(small_files, load, patience_s=60.0)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_few_hundred_files(popen: type[subprocess.Popen[str]], tmp_path: Path) -> None:
    check_few(popen, __file__, tmp_path, 200)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_hundred_thousand_files(tmp_path: Path) -> None:
    check_many(__file__, tmp_path)
