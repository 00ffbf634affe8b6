"""Encoded clips, made by an FFmpeg program, which is also the reference for their frames.

The program comes with ``imageio-ffmpeg``; the readers under test use libraries of their own.
"""

from __future__ import annotations

import functools
import re
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]

WIDTH, HEIGHT, RATE = 96, 64, 25


def ffmpeg(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Runs the program; its standard output and error."""
    import imageio_ffmpeg

    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-nostdin", "-y", *arguments]
    return subprocess.run(command, capture_output=True, check=False, timeout=100)


def source(
    seconds: float = 2, width: int = WIDTH, height: int = HEIGHT, rate: float = RATE
) -> tuple[str, ...]:
    """A moving picture with a counter, as an input."""
    description = f"testsrc2=size={width}x{height}:rate={rate}:duration={seconds}"
    return ("-f", "lavfi", "-i", description)


X264 = (
    *("-c:v", "libx264", "-preset", "veryfast", "-bf", "3", "-g", "12", "-keyint_min", "12"),
    *("-sc_threshold", "0", "-pix_fmt", "yuv420p", "-threads", "1"),
)
X265 = ("-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=error:pools=1")
VP9 = ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-b:v", "300k")
AV1 = ("-c:v", "libaom-av1", "-usage", "realtime", "-cpu-used", "8", "-g", "12")


@functools.cache
def clip(name: str) -> bytes:
    """A clip's file; ``NAMES`` has the names."""
    return CLIPS[name]()


def encoded(suffix: str, *arguments: str, given: tuple[str, ...] | None = None) -> bytes:
    """What the program makes of an input (``source()`` by default)."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"clip.{suffix}"
        done = ffmpeg(*(source() if given is None else given), *arguments, str(file))
        assert done.returncode == 0, done.stderr.decode()[-2000:]
        return file.read_bytes()


def remuxed(name: str, suffix: str, before: tuple[str, ...], *after: str) -> bytes:
    """Another clip, its packets copied."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "given"
        file.write_bytes(clip(name))
        return encoded(suffix, *after, "-c", "copy", given=(*before, "-i", str(file)))


def cut(name: str, share: float) -> bytes:
    """The first part of a clip's bytes."""
    data = clip(name)
    return data[: int(share * len(data))]


def _wrong_count() -> bytes:
    """An AVI file whose headers announce a thousand frames."""
    data = bytearray(clip("mjpeg_avi"))
    at = data.index(b"avih") + 8 + 16
    data[at : at + 4] = (1000).to_bytes(4, "little")
    at = data.index(b"strh") + 8 + 32
    data[at : at + 4] = (1000).to_bytes(4, "little")
    return bytes(data)


_UNEVEN = ("-vf", "select='not(mod(n,3))+lt(n,11)'", "-fps_mode", "vfr")
_FRONT = ("-movflags", "+faststart")

CLIPS: Mapping[str, Callable[[], bytes]] = {
    "h264": lambda: encoded("mp4", *X264),
    "h264_front": lambda: remuxed("h264", "mp4", (), *_FRONT),
    "h264_fragments": lambda: remuxed("h264", "mp4", (), "-movflags", "+frag_keyframe+empty_moov"),
    "h264_mov": lambda: remuxed("h264", "mov", ()),
    "h264_mkv": lambda: remuxed("h264", "mkv", ()),
    "h264_avi": lambda: remuxed("h264", "avi", ()),
    "h264_open": lambda: encoded("mp4", *X264, "-x264-params", "open-gop=1"),
    "h264_one_key": lambda: encoded("mp4", *X264[:-6], "-g", "1000", "-pix_fmt", "yuv420p"),
    "h264_refresh": lambda: encoded("mp4", *X264, "-x264-params", "intra-refresh=1"),
    "h265": lambda: encoded("mp4", *X265, "-g", "12", "-pix_fmt", "yuv420p"),
    "h265_10bit": lambda: encoded("mp4", *X265, "-g", "12", "-pix_fmt", "yuv420p10le"),
    "av1": lambda: encoded("mp4", *AV1, given=source(1)),
    "av1_webm": lambda: remuxed("av1", "webm", ()),
    "vp8": lambda: encoded("webm", "-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8"),
    "vp8_hidden": lambda: encoded(
        *("webm", "-c:v", "libvpx", "-auto-alt-ref", "1", "-lag-in-frames", "10", "-b:v", "200k"),
        *("-deadline", "good", "-cpu-used", "5"),
    ),
    "vp9": lambda: encoded("webm", *VP9),
    "vp9_odd": lambda: encoded("webm", *VP9, "-vf", "crop=83:57:0:0:exact=1"),
    "vp9_hidden": lambda: encoded(
        *("webm", "-c:v", "libvpx-vp9", "-auto-alt-ref", "1", "-lag-in-frames", "10"),
        *("-deadline", "good", "-cpu-used", "8", "-b:v", "200k"),
    ),
    "h264_odd": lambda: encoded(
        "mp4", *X264, "-pix_fmt", "yuv444p", "-vf", "format=yuv444p,crop=83:57:0:0:exact=1"
    ),
    "mjpeg_avi": lambda: encoded("avi", "-c:v", "mjpeg", "-q:v", "3"),
    "mpeg4_avi": lambda: encoded("avi", "-c:v", "mpeg4", "-bf", "2", "-g", "12"),
    "uneven_mp4": lambda: encoded("mp4", *_UNEVEN, *X264),
    "uneven_mkv": lambda: encoded("mkv", *_UNEVEN, *X264),
    "edit_list": lambda: remuxed("h264", "mp4", ("-ss", "0.5")),
    "late_start": lambda: remuxed("h264", "mkv", (), "-output_ts_offset", "5"),
    "late_start_mp4": lambda: remuxed("h264", "mp4", (), "-output_ts_offset", "5"),
    "turned_90": lambda: remuxed("h264", "mp4", ("-display_rotation", "90")),
    "turned_180": lambda: remuxed("h264", "mov", ("-display_rotation", "180")),
    "turned_270": lambda: remuxed("h264", "mp4", ("-display_rotation", "270")),
    "mirrored": lambda: remuxed("h264", "mp4", ("-display_hflip",)),
    "turned_and_mirrored": lambda: remuxed(
        "h264", "mp4", ("-display_rotation", "90", "-display_hflip")
    ),
    "wrong_count": _wrong_count,
    "cut_mp4": lambda: cut("h264_front", 0.7),
    "cut_mkv": lambda: cut("h264_mkv", 0.7),
    "cut_webm": lambda: cut("vp9", 0.7),
    "cut_avi": lambda: cut("mjpeg_avi", 0.7),
    "with_sound": lambda: encoded(
        *("mp4", *X264, "-c:a", "aac", "-shortest"),
        given=("-f", "lavfi", "-i", "sine=frequency=440:duration=2", *source()),
    ),
    "bt709": lambda: encoded(
        *("mp4", *X264, "-vf", "scale=out_color_matrix=bt709:out_range=tv"),
        *("-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709"),
    ),
}
NAMES = tuple(CLIPS)


@dataclass(frozen=True, slots=True)
class Reference:
    """What the program decodes.

    Attributes:
        frames: (frames, height, width, 3).
        times: of each frame, in seconds from the first.
    """

    frames: Bytes
    times: npt.NDArray[np.float64]


@functools.cache
def reference(name: str) -> Reference:
    """The clip's frames and times, by the program."""
    return decoded(clip(name))


def decoded(data: bytes) -> Reference:
    """A file's frames and times, by the program."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "clip"
        file.write_bytes(data)
        arguments = (
            "-i",
            str(file),
            "-map",
            "0:V:0",
            "-vf",
            "showinfo",
            "-fps_mode",
            "passthrough",
        )
        done = ffmpeg(*arguments, "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    log = done.stderr.decode()
    shown = [line for line in log.splitlines() if "pts_time:" in line]
    times = [float(re.search(r"pts_time:\s*(\S+)", line)[1]) for line in shown]  # type: ignore[index]
    width, height = re.search(r" s:(\d+)x(\d+)", shown[0]).groups()  # type: ignore[union-attr]
    frames = np.frombuffer(done.stdout, np.uint8).reshape(-1, int(height), int(width), 3)
    assert len(frames) == len(times)
    return Reference(frames, np.asarray(times) - times[0])
