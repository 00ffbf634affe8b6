"""``media_io_kwargs["video"]``: every option, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sensorium.errors import ConfigError, LimitError
from sensorium.types import ValueSource
from sensorium_media_video.facts import ClipFacts
from sensorium_media_video.frames import GivenClip
from sensorium_media_video.kind import VideoKind

METADATA = {"fps": 10.0, "do_sample_frames": True}


def clip(num_frames: int, height: int = 4, width: int = 6) -> ValueSource:
    frames = np.zeros((num_frames, height, width, 3), np.uint8)
    return ValueSource(GivenClip(frames, METADATA))


def test_what_is_wanted_is_told_to_the_families() -> None:
    kind = VideoKind({"num_frames": 16, "fps": 1})
    facts = ClipFacts.of(kind.probe([clip(8)]).shape)
    assert (facts.wanted_frames, facts.wanted_fps) == (16, 1.0)
    assert kind.options_key() == {"num_frames": 16, "fps": 1.0, "reader": None}
    sampled = ValueSource(GivenClip(np.zeros((8, 4, 6, 3), np.uint8)))
    facts = ClipFacts.of(kind.probe([sampled]).shape)
    assert (facts.wanted_frames, facts.wanted_fps) == (None, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_listed_frames": 7}, "8 single frames; max_listed_frames allows 7"),
        ({"max_frame_pixels": 23}, "6×4, 24 pixels; max_frame_pixels allows 23"),
    ],
)
def test_budgets(options: dict[str, Any], message: str) -> None:
    with pytest.raises(LimitError, match=message):
        VideoKind(options).probe([clip(8)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 3}, "has 'frames'; allowed are num_frames, fps, max_duration_s"),
        ({"num_frames": 0}, "num_frames is 0; it must be an integer from 1"),
        ({"num_frames": 2.5}, "num_frames is 2.5"),
        ({"num_frames": True}, "num_frames is True"),
        ({"fps": 0}, "fps is 0; it must be a number of frames a second above 0"),
        ({"fps": float("nan")}, "fps is nan"),
        ({"max_duration_s": -1}, "max_duration_s is -1; it must be a number of seconds"),
        ({"max_frame_pixels": 2**40}, "max_frame_pixels is"),
        ({"max_frames": "many"}, "max_frames is 'many'"),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        VideoKind(options)


def test_none_is_what_the_family_says() -> None:
    assert VideoKind({"num_frames": None, "fps": None}).options_key() == {
        "num_frames": None,
        "fps": None,
        "reader": None,
    }


def test_a_limit_keeps_the_duration_in_step() -> None:
    shape = ClipFacts(768, 480, 640, fps=2.0, duration=384.0, sampled=True).shape
    limited = ClipFacts.of(VideoKind({}).limited(shape, {"num_frames": 32, "width": 320}))
    assert (limited.num_frames, limited.height, limited.width) == (32, 480, 320)
    assert limited.duration == 16.0
