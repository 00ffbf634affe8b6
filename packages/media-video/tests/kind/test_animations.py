"""GIF, animated WebP and APNG: every frame, and how long it is shown."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sensorium.errors import LimitError, MediaError
from sensorium_media_video.clip import Clip
from sensorium_media_video.delays import read_delays
from sensorium_media_video.encoded import open_encoded
from sensorium_media_video.facts import ClipFacts
from sensorium_media_video.formats import read_format
from sensorium_media_video.options import VideoOptions

COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255)]


def pictures(mode: str = "RGB") -> list[Image.Image]:
    """A square that moves and changes colour."""
    made = []
    for step, colour in enumerate(COLOURS):
        picture = Image.new(mode, (20, 12), (9, 9, 9) if mode == "RGB" else (0, 0, 0, 0))
        picture.paste((*colour, 255)[: len(mode)], (3 * step, 2, 3 * step + 4, 8))
        made.append(picture)
    return made


def animation(format: str, durations: int | Sequence[int] = 80, **options: Any) -> bytes:
    first, *others = options.pop("pictures", pictures())
    if format == "WEBP":
        options["lossless"] = True
    file = io.BytesIO()
    first.save(file, format, save_all=True, append_images=others, duration=durations, **options)
    return file.getvalue()


def opened(data: bytes, **options: int) -> tuple[Clip, ClipFacts]:
    clip, facts, decoded_bytes = open_encoded(data, VideoOptions(**options))
    assert decoded_bytes > 0
    return clip, facts


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_frames(format: str) -> None:
    clip, facts = opened(animation(format))
    assert (facts.num_frames, facts.height, facts.width) == (5, 12, 20)
    assert (facts.fps, facts.duration, facts.times) == (12.5, pytest.approx(0.4), ())
    assert not facts.sampled
    expected = np.stack([np.asarray(picture) for picture in pictures()])
    assert np.array_equal(np.stack(list(clip.frames(range(5)))), expected)
    assert np.array_equal(np.stack(list(clip.frames([1, 1, 4]))), expected[[1, 1, 4]])


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_uneven_delays(format: str) -> None:
    _, facts = opened(animation(format, [50, 100, 200, 50, 100]))
    assert facts.times == pytest.approx((0, 0.05, 0.15, 0.35, 0.4))
    assert facts.duration == pytest.approx(0.5)
    assert facts.fps == pytest.approx(10)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_transparent_is_white(format: str) -> None:
    clip, _ = opened(animation(format, pictures=pictures("RGBA"), disposal=2))
    frames = np.stack(list(clip.frames(range(5))))
    assert (frames[:, 0, 0] == 255).all()
    for step, colour in enumerate(COLOURS):
        assert tuple(frames[step, 4, 3 * step + 1]) == colour


def test_delays_that_nobody_shows_are_a_tenth_of_a_second() -> None:
    _, facts = opened(animation("GIF", 10))
    assert facts.duration == pytest.approx(0.5)
    _, facts = opened(animation("GIF", 20))
    assert facts.duration == pytest.approx(0.1)


def test_a_picture_in_front_of_an_apng_is_no_frame() -> None:
    data = animation("PNG", default_image=True)
    clip, facts = opened(data)
    assert facts.num_frames == 4
    expected = np.stack([np.asarray(picture) for picture in pictures()[1:]])
    assert np.array_equal(np.stack(list(clip.frames(range(4)))), expected)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "JPEG"])
def test_one_picture_is_a_clip_of_one_frame(format: str) -> None:
    file = io.BytesIO()
    pictures()[0].save(file, format)
    clip, facts = opened(file.getvalue())
    assert (facts.num_frames, facts.sampled) == (1, True)
    assert next(clip.frames([0])).shape == (12, 20, 3)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_budgets_hold_before_anything_is_decoded(format: str) -> None:
    data = animation(format)
    with pytest.raises(LimitError, match="more than 4 frames, which max_frames allows"):
        opened(data, max_frames=4)
    with pytest.raises(LimitError, match="20×12, 240 pixels; max_frame_pixels allows 239"):
        opened(data, max_frame_pixels=239)
    with pytest.raises(LimitError, match=r"it lasts 0.4 s; max_duration_s allows 0.3 s"):
        open_encoded(data, VideoOptions(max_duration_s=0.3))


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_a_file_that_is_cut_off(format: str) -> None:
    data = animation(format)
    for share in (0.3, 0.6, 0.9):
        with pytest.raises(MediaError, match="damaged or cut off"):
            list(opened(data[: int(share * len(data))])[0].pieces())


def test_a_gif_frame_that_sticks_out_of_the_screen() -> None:
    data = bytearray(animation("GIF"))
    at = data.rindex(b"\x21\xf9\x04") + 8  # behind the last control block
    assert data[at] == 0x2C
    data[at + 5 : at + 9] = struct.pack("<HH", 60_000, 60_000)
    with pytest.raises(MediaError, match="sticks out of its screen"):
        read_delays(bytes(data), read_format(bytes(data)), most=10)
