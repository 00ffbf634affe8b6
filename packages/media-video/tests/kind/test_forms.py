"""Every form in which frames are given, and what is said of those that aren't one."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sensorium.errors import LimitError, MediaError
from sensorium.media.process import resolve_all
from sensorium.types import BytesSource, MediaItem, UrlSource
from sensorium_media_video.clip import Clip
from sensorium_media_video.facts import ClipFacts
from sensorium_media_video.kind import VideoKind

RNG = np.random.default_rng(3)
CLIP = RNG.integers(0, 256, (5, 8, 6, 3), dtype=np.uint8)


def read(item: MediaItem, kind: VideoKind | None = None) -> tuple[np.ndarray, ClipFacts]:
    kind = kind or VideoKind({})
    sources = resolve_all(kind, item.sources)
    probe, loaded = kind.probe(sources), kind.load(sources)
    assert probe.shape == loaded.shape
    assert isinstance(loaded.value, Clip)
    frames = list(loaded.value.pieces())
    assert all(frame.flags.c_contiguous and frame.dtype == np.uint8 for frame in frames)
    loaded.value.close()
    return np.stack(frames), ClipFacts.of(loaded.shape)


def one(value: Any) -> tuple[np.ndarray, ClipFacts]:
    (item,) = VideoKind({}).split(value)
    return read(item)


@pytest.mark.parametrize(
    "value",
    [
        CLIP,
        list(CLIP),
        [Image.fromarray(frame) for frame in CLIP],
        CLIP.transpose(0, 3, 1, 2),
        torch.from_numpy(CLIP),
        torch.from_numpy(CLIP).permute(0, 3, 1, 2),
        torch.from_numpy(CLIP).float(),
        torch.from_numpy(CLIP).bfloat16(),
        CLIP.astype(np.float64),
        CLIP.astype(np.int64),
        CLIP.astype(np.float32) / 255,
        [frame.astype(np.float32) for frame in CLIP],
        [torch.from_numpy(frame).permute(2, 0, 1) for frame in CLIP],
        (list(CLIP), {"fps": 2.0}),
        [CLIP],
        [list(CLIP)],
    ],
    ids=lambda value: type(value).__name__,
)
def test_one_clip(value: Any) -> None:
    frames, facts = one(value)
    assert np.array_equal(frames, CLIP)
    assert (facts.num_frames, facts.height, facts.width) == (5, 8, 6)
    assert facts.sampled


def test_frames_alone_have_no_rate() -> None:
    _, facts = one(CLIP)
    assert (facts.fps, facts.duration, facts.times) == (0.0, 0.0, ())


def test_a_dark_frame_of_a_bright_clip_stays_dark() -> None:
    clip = np.zeros((2, 4, 4, 3), np.float32)
    clip[1] = 200
    clip[0] = 1
    frames, _ = one(list(clip))
    assert (frames[0] == 1).all()
    assert (frames[1] == 200).all()


def test_several_clips() -> None:
    kind = VideoKind({})
    assert len(kind.split(np.stack([CLIP, CLIP, CLIP]))) == 3
    items = kind.split([CLIP, None, list(CLIP[:2]), (CLIP, {"fps": 3.0}), b"x"])
    assert [item.has_data for item in items] == [True, False, True, True, True]
    assert [item.index for item in items] == [0, 1, 2, 3, 4]
    frames, _ = read(items[2])
    assert np.array_equal(frames, CLIP[:2])


def test_a_tuple_of_two_clips_is_no_clip_with_metadata() -> None:
    items = VideoKind({}).split((list(CLIP[:2]), list(CLIP[2:4])))
    assert [read(item)[1].num_frames for item in items] == [2, 2]


@dataclass
class VideoMetadata:
    """Of transformers' form."""

    total_num_frames: int
    fps: float | None = None
    width: int | None = None
    height: int | None = None
    duration: float | None = None
    video_backend: str | None = None
    frames_indices: list[int] | None = None


@pytest.mark.parametrize(
    ("metadata", "fps", "duration", "times"),
    [
        ({"fps": 2.0}, 2.0, 2.5, ()),
        ({"fps": 30.0, "total_num_frames": 75}, 2.0, 2.5, ()),
        (
            {"fps": 30.0, "total_num_frames": 75, "frames_indices": [0, 15, 30, 45, 60]},
            2.0,
            2.5,
            (),
        ),
        (
            {
                "fps": 10.0,
                "total_num_frames": 50,
                "frames_indices": torch.tensor([0, 12, 24, 37, 49]),
            },
            1.0,
            5.0,
            (0.0, 1.2, 2.4, 3.7, 4.9),
        ),
        (VideoMetadata(50, 10.0, frames_indices=[0, 10, 20, 30, 40]), 1.0, 5.0, ()),
        ({"duration": 10.0}, 0.5, 10.0, ()),
        # What qwen-vl-utils says of a list of frames: the total is worked out from two rates.
        ({"fps": 2.0, "total_num_frames": 5.0, "frames_indices": [0, 1, 2, 3, 4]}, 2.0, 2.5, ()),
        ({"fps": 30, "total_num_frames": 75.4}, 2.0, 2.5, ()),
        ({"fps": 30, "frames_indices": [3, 18, 33, 48, 63]}, 2.0, 2.5, (0.1, 0.6, 1.1, 1.6, 2.1)),
        ({}, 0.0, 0.0, ()),
    ],
)
def test_metadata_of_sampled_frames(
    metadata: Any, fps: float, duration: float, times: tuple[float, ...]
) -> None:
    _, facts = one((CLIP, metadata))
    assert facts.sampled
    assert (facts.fps, facts.duration) == (pytest.approx(fps), pytest.approx(duration))
    assert facts.times == pytest.approx(times)


def test_frames_to_choose_from() -> None:
    _, facts = one((CLIP, {"fps": 10.0, "total_num_frames": 5, "do_sample_frames": True}))
    assert not facts.sampled
    assert (facts.fps, facts.duration) == (10.0, 0.5)
    assert facts.time_of(3) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"title": "x"}, "have 'title'; allowed are fps, total_num_frames"),
        ({"fps": 0}, "fps is 0; it must be a number above 0"),
        ({"fps": "30"}, "fps is '30'"),
        ({"total_num_frames": 0.3}, "total_num_frames is 0.3; it must be a number of at least 1"),
        ({"total_num_frames": math.inf}, "total_num_frames is inf; it must be a number of"),
        ({"total_num_frames": True}, "total_num_frames is True; it must be a number of"),
        ({"frames_indices": [1, 2]}, "2 frames_indices for 5 frames"),
        ({"frames_indices": [4, 3, 2, 1, 0]}, "must ascend"),
        ({"frames_indices": [0, 1, 2, 3, 0.5]}, "must be integers"),
        ({"frames_indices": range(5), "total_num_frames": 4}, "go to 4, and total_num_frames is 4"),
        ({"do_sample_frames": True}, "no fps to choose frames by"),
        ({"do_sample_frames": True, "fps": 2, "total_num_frames": 9}, "5 frames of 9"),
        ({"do_sample_frames": "yes"}, "do_sample_frames is 'yes'; it must be a bool"),
    ],
)
def test_metadata_that_can_not_be(metadata: Any, message: str) -> None:
    with pytest.raises(MediaError, match=message):
        one((CLIP, metadata))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (object(), "video 0: it is a object; allowed are a list of PIL images"),
        ({"frames": 1}, "video is a mapping with 'frames'; allowed are"),
        (np.zeros((4, 4), np.uint8), r"shape \(4, 4\) is no clip"),
        (np.zeros((2, 5, 6, 7), np.uint8), r"shape \(2, 5, 6, 7\) is no clip"),
        (np.zeros((2, 4, 4, 3), np.complex64), "frames of complex64 are no clip"),
        (np.full((2, 4, 4, 3), 256.0), "numbers go from 256 to 256"),
        (np.full((2, 4, 4, 3), np.nan), "numbers go from nan to nan"),
        (np.full((2, 4, 4, 3), -1), "numbers go from -1 to -1"),
        (np.zeros((0, 4, 4, 3), np.uint8), "has no frames"),
        (np.zeros((2, 0, 4, 3), np.uint8), "4×0 pixels"),
        ([CLIP[0], CLIP[1][:4]], "frame 1 is 6×4 and the first is 6×8"),
        ([CLIP[0], None], "frame 1 is a NoneType"),
        ("clip.mp4", r"must be a URL; pass a file as pathlib.Path"),
        ([b"junk"], "no video in an allowed format"),
    ],
)
def test_what_is_no_clip(value: Any, message: str) -> None:
    with pytest.raises(MediaError, match=message):
        one(value)


def test_embeddings() -> None:
    kind = VideoKind({})
    rows = torch.zeros(2, 7, 16)
    grid = torch.tensor([[1, 2, 14], [2, 2, 7]])
    assert len(kind.split(rows)) == 2
    assert len(kind.split([rows[0], None, rows[1]])) == 3
    items = kind.split({"video_embeds": rows.reshape(14, 16), "video_grid_thw": grid})
    assert [tuple(item.embeds.rows.shape) for item in items if item.embeds] == [(7, 16), (7, 16)]
    part = kind.parse_part("video_embeds", {"video_embeds": rows[:1], "video_grid_thw": grid[:1]})
    assert part.embeds is not None
    assert not kind.parse_part("video_embeds", None).has_data
    with pytest.raises(MediaError, match="the part video_embeds holds 2 clips"):
        kind.parse_part("video_embeds", {"video_embeds": rows})
    with pytest.raises(MediaError, match="video embeddings come with 'image_grid_thw'"):
        kind.split({"video_embeds": rows, "image_grid_thw": grid})


def jpeg(frame: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=95)
    return file.getvalue()


def frames_url(frames: list[bytes]) -> str:
    texts = [base64.b64encode(frame).decode() for frame in frames]
    return "data:video/jpeg;base64," + ",".join(texts)


def test_a_url_of_jpeg_frames() -> None:
    smooth = [np.full((16, 24, 3), 20 + 40 * i, np.uint8) for i in range(4)]
    url = frames_url([jpeg(frame) for frame in smooth])
    for item in (
        VideoKind({}).parse_part("video_url", {"url": url}),
        VideoKind({}).parse_part("video_url", url),
        VideoKind({}).split(url)[0],
    ):
        frames, facts = read(item)
        assert np.abs(frames.astype(int) - np.stack(smooth)).max() <= 2
        assert facts.sampled


def test_one_jpeg_frame() -> None:
    frames, facts = one(frames_url([jpeg(CLIP[0])]))
    assert frames.shape == (1, 8, 6, 3)
    assert facts.num_frames == 1


def test_a_url_of_too_many_frames_is_refused_before_any_is_decoded() -> None:
    """They aren't even pictures: decoding would tell."""
    kind = VideoKind({"max_listed_frames": 10})
    sources = [BytesSource(b"\xff\xd8\xff no picture")] * 11
    with pytest.raises(LimitError, match="11 single frames; max_listed_frames allows 10"):
        kind.probe(sources)


def test_a_damaged_frame_is_named() -> None:
    good = jpeg(CLIP[0])
    kind = VideoKind({})
    item = kind.parse_part("video_url", frames_url([good, good[: len(good) // 2]]))
    with pytest.raises(MediaError, match=r"frame 1: .* damaged or cut off"):
        read(item)


def test_chat_parts() -> None:
    kind = VideoKind({})
    url = kind.parse_part("video_url", {"url": "https://example.org/clip.mp4"})
    assert url.sources == (UrlSource("https://example.org/clip.mp4"),)
    assert not kind.parse_part("video_url", None).has_data
    assert not kind.parse_part("video_url", {"url": None}).has_data
    frames, _ = read(kind.parse_part("video", CLIP))
    assert np.array_equal(frames, CLIP)
    with pytest.raises(MediaError, match="video_url has 'detail'; allowed is url"):
        kind.parse_part("video_url", {"url": "data:,", "detail": "low"})
    with pytest.raises(MediaError, match="video_url is a int"):
        kind.parse_part("video_url", 3)


def test_asking_for_frames() -> None:
    kind = VideoKind({})
    (item,) = kind.split(CLIP)
    clip = kind.load(item.sources).value
    assert np.array_equal(np.stack(list(clip.frames([0, 2, 2, 4]))), CLIP[[0, 2, 2, 4]])
    assert list(clip.frames([])) == []
    for wrong in ([1, 0], [-1, 0], [0, 5]):
        with pytest.raises(ValueError, match="frames"):
            clip.frames(wrong)


def test_a_blank_clip() -> None:
    shape = ClipFacts(3, 4, 5, fps=2.0, sampled=True).shape
    loaded = VideoKind({}).blank(shape)
    assert [frame.shape for frame in loaded.value.frames([0, 1, 2])] == [(4, 5, 3)] * 3
    assert loaded.shape == shape
