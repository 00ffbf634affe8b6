"""Row 13 (CVE-2026-5497, CVE-2026-34755): thousands of JPEG frames in one ``video/jpeg`` URL."""

from __future__ import annotations

import base64
import io

import pytest
from PIL import Image

from sensorium.errors import LimitError
from sensorium.media.process import resolve_all
from sensorium.types import BytesSource
from sensorium_media_video.kind import VideoKind


def url(num_frames: int) -> str:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG")
    frame = base64.b64encode(file.getvalue()).decode()
    return "data:video/jpeg;base64," + ",".join([frame] * num_frames)


def test_too_many_are_refused_before_one_is_read() -> None:
    kind = VideoKind({"max_listed_frames": 100})
    many = url(101)
    for refuse in (
        lambda: kind.split(many),
        lambda: kind.parse_part("video_url", {"url": many}),
        lambda: kind.parse_part("video_url", {"url": "data:video/jpeg;base64," + "," * 100}),
    ):
        with pytest.raises(LimitError, match="101 single frames; max_listed_frames allows 100"):
            refuse()


def test_sources_are_counted_again_before_one_is_decoded() -> None:
    """They aren't even pictures: decoding would tell."""
    kind = VideoKind({"max_listed_frames": 100})
    for refuse in (kind.probe, kind.load):
        with pytest.raises(LimitError, match="101 single frames; max_listed_frames allows 100"):
            refuse([BytesSource(b"\xff\xd8\xff no picture")] * 101)


def test_there_is_a_bound_by_default() -> None:
    with pytest.raises(LimitError, match="5000 single frames; max_listed_frames allows 4096"):
        VideoKind({}).parse_part("video_url", {"url": url(5_000)})


def test_as_many_as_are_allowed_are_read() -> None:
    kind = VideoKind({"max_listed_frames": 100})
    sources = resolve_all(kind, kind.parse_part("video_url", {"url": url(100)}).sources)
    loaded = kind.load(sources)
    assert sum(1 for _ in loaded.value.pieces()) == 100
