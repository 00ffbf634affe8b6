"""Row 14 (vLLM 0.33): long or huge video took gigabytes before any budget was looked at."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path

import pytest

pytest.importorskip("imageio_ffmpeg")
pytest.importorskip("av")

from video_files import X264, clip, encoded, source

from sensorium.errors import LimitError, MediaError
from sensorium.types import BytesSource
from sensorium_media_video.facts import ClipFacts
from sensorium_media_video.kind import VideoKind


def refused(options: dict[str, float], data: bytes, message: str) -> None:
    """Neither ``probe`` nor ``load`` get as far as decoding."""
    kind = VideoKind(options)
    for refuse in (kind.probe, kind.load):
        with pytest.raises(LimitError, match=message):
            refuse([BytesSource(data)])


@pytest.mark.parametrize("name", ["h264", "h264_mkv", "h264_avi", "vp9", "turned_90"])
def test_budgets_hold_by_the_container_alone(name: str) -> None:
    refused({"max_duration_s": 1.5}, clip(name), r"it lasts 2.0 s; max_duration_s allows 1.5 s")
    refused({"max_frames": 49}, clip(name), "more than 49 frames, which max_frames allows")
    refused({"max_frame_pixels": 6_143}, clip(name), "6144 pixels; max_frame_pixels allows 6143")


def test_a_header_that_says_less_than_the_packets() -> None:
    """An MP4 file whose headers say that it lasts 40 ms."""
    data = bytearray(clip("h264"))
    at = data.index(b"mvhd") + 4 + 16
    data[at : at + 4] = struct.pack(">I", 40)
    for box in (b"tkhd", b"mdhd"):
        at = data.index(box) + 4 + (20 if box == b"tkhd" else 16)
        data[at : at + 4] = struct.pack(">I", 1)
    edits = data.find(b"elst")
    if edits >= 0:
        data[edits : edits + 4] = b"free"
    refused({"max_duration_s": 1.5}, bytes(data), "max_duration_s allows 1.5 s")


def test_frames_that_are_larger_than_the_header_says_are_not_decoded() -> None:
    """A stream of 640×480 in a file that says 96×64, where 96×64 is all that is allowed.

    Either the demuxer sees through it, or the decoder is stopped, or the frame comes out as small
    as was said.
    """
    small, large = clip("h264"), encoded("mp4", *X264, given=source(0.4, 640, 480))
    data = large.replace(struct.pack(">HH", 640, 480), struct.pack(">HH", 96, 64))
    assert data != large
    assert small
    kind = VideoKind({"max_frame_pixels": 96 * 64})
    tracemalloc.start()
    try:
        loaded = kind.load([BytesSource(data)])
        height, width = loaded.shape.size[1:]
        frames = list(loaded.value.frames([0]))
        assert frames[0].shape == (height, width, 3)
        assert height * width <= 96 * 64
    except (LimitError, MediaError):
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 4 * 2**20


def test_one_frame_at_a_time_is_held() -> None:
    """Sixty frames of 720p would be 166 MB; numpy's memory is traced."""
    data = encoded("mp4", *X264, given=source(2.4, 1280, 720))
    kind = VideoKind({})
    frame_bytes = 1280 * 720 * 3
    tracemalloc.start()
    try:
        loaded = kind.load([BytesSource(data)])
        assert ClipFacts.of(loaded.shape).num_frames == 60
        for _ in loaded.value.pieces():
            pass
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * frame_bytes + 2 * len(data)


def ten_minutes(folder: Path) -> bytes:
    """Ten seconds, sixty times: copying packets takes no time, encoding them would take minutes."""
    part = folder / "part.mp4"
    ultrafast = ("-c:v", "libx264", "-preset", "ultrafast", "-g", "60", "-crf", "35")
    part.write_bytes(encoded("mp4", *ultrafast, given=source(10, 1920, 1080)))
    return encoded("mp4", "-c", "copy", given=("-stream_loop", "59", "-i", str(part)))


def resident_peak() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads /proc")
@pytest.mark.parametrize("num_threads", [1, 4])
def test_ten_minutes_of_1080p(tmp_path: Path, num_threads: int) -> None:
    """768 frames would be 4.8 GB; resident memory grows by no more than was announced."""
    data = ten_minutes(tmp_path)
    kind = VideoKind({"decoder_threads": num_threads})
    probe = kind.probe([BytesSource(data)])
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = resident_peak()
    loaded = kind.load([BytesSource(data)])
    count = loaded.shape.size[0]
    assert count == 15_000
    taken = sum(1 for _ in loaded.value.frames(range(0, count, count // 64)))
    assert taken >= 64
    assert resident_peak() - before < probe.decoded_bytes + 2 * len(data)
