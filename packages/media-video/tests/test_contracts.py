"""The contract of `sensorium.testing`, on the video kind."""

from __future__ import annotations

import base64
import importlib.util
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from video_files import clip

from sensorium.plugins import MediaKind
from sensorium.testing.kind import MediaKindContract
from sensorium_media_video.kind import VideoKind

CLIP = np.random.default_rng(7).integers(0, 256, (4, 10, 12, 3), dtype=np.uint8)


def _jpeg(seed: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def _url(*frames: bytes) -> str:
    return "data:video/jpeg;base64," + ",".join(base64.b64encode(f).decode() for f in frames)


def _animation(format: str) -> bytes:
    frames = [Image.fromarray(np.roll(CLIP[0], step, axis=1)) for step in range(4)]
    file = io.BytesIO()
    options = {"lossless": True} if format == "WEBP" else {}
    frames[0].save(file, format, save_all=True, append_images=frames[1:], duration=80, **options)
    return file.getvalue()


class TestVideoKind(MediaKindContract):
    def make_kind(self, options: Mapping[str, Any]) -> MediaKind:
        return VideoKind(options)

    def values(self) -> Sequence[Any]:
        return [
            CLIP,
            list(CLIP[:2]),
            torch.from_numpy(CLIP[:3]),
            [Image.fromarray(frame) for frame in CLIP[1:]],
            (CLIP, {"fps": 2.0}),
            (CLIP, {"fps": 4.0}),
            (CLIP, {"fps": 4.0, "do_sample_frames": True}),
            _url(_jpeg(1), _jpeg(2)),
            _url(_jpeg(1)),
            _animation("GIF"),
        ]

    def changed(self) -> Iterable[tuple[Any, Any]]:
        other = CLIP.copy()
        other[3, 9, 11, 2] ^= 1
        yield CLIP, other
        yield list(CLIP), list(other)
        yield [Image.fromarray(f) for f in CLIP], [Image.fromarray(f) for f in other]
        yield _url(_jpeg(1), _jpeg(2)), _url(_jpeg(1), _jpeg(3))

    def lookalikes(self) -> Iterable[tuple[Any, Any]]:
        yield CLIP, CLIP.reshape(4, 12, 10, 3)
        yield CLIP, CLIP.reshape(2, 20, 12, 3)
        yield (CLIP, {"fps": 2.0}), (CLIP, {"fps": 2.5})
        yield CLIP, (CLIP, {"fps": 2.0})
        yield _url(_jpeg(1), _jpeg(2)), _url(_jpeg(2), _jpeg(1))

    def encoded(self) -> Sequence[bytes]:
        """Of the containers one whose index is at its end: others are served as far as they go."""
        files = [_animation("GIF"), _animation("WEBP"), _animation("PNG")]
        if importlib.util.find_spec("av") and importlib.util.find_spec("imageio_ffmpeg"):
            files.append(clip("h264"))
        return files

    def hostile(self) -> Iterable[Any]:
        yield np.zeros((0, 4, 4, 3), np.uint8)
        yield np.zeros((4, 4, 4, 5), np.uint8)
        yield np.full((2, 4, 4, 3), np.inf)
        yield (CLIP, {"fps": -1})
        yield (CLIP, {"frames_indices": [0]})
        yield [CLIP[0], CLIP[1][:3]]
        yield np.lib.stride_tricks.as_strided(CLIP, (10_000, 10, 12, 3), (0, 36, 3, 1))
        yield np.lib.stride_tricks.as_strided(CLIP, (1, 10_000, 10_000, 3), (0, 0, 0, 1))
        yield "data:video/jpeg;base64," + ",".join(["/9j/"] * 5_000)

    def loading_options(self) -> Sequence[Mapping[str, Any]]:
        return [{"num_frames": 3}, {"fps": 1.0}]

    def parts(self) -> Sequence[tuple[str, Any, Any]]:
        url = _url(_jpeg(1), _jpeg(2))
        return [("video_url", {"url": url}, url), ("video", CLIP, CLIP)]
