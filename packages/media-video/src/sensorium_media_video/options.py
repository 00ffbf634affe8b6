"""``media_io_kwargs["video"]``: how video is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sensorium.errors import ConfigError
from sensorium.plugins.options import OptionCheck, check_options, integer, positive_number

#: What ``max_duration_s`` may be set to: a day.
LARGEST_MAX_DURATION_S = 86_400.0
LARGEST_MAX_FRAMES = 2**24
LARGEST_MAX_FRAME_PIXELS = 2**27
LARGEST_RATE = 1_000.0
MOST_THREADS = 64
READERS = ("pyav", "opencv")


@dataclass(frozen=True, slots=True)
class VideoOptions:
    """Checked options.

    Attributes:
        num_frames: how many frames of an encoded clip count; the model's family chooses which.
            None: as the family's rule says. Example:
            ``media_io_kwargs={"video": {"num_frames": 16}}``.
        fps: how many frames of a second of an encoded clip count. None: as the family's rule says.
            Example: ``media_io_kwargs={"video": {"fps": 1}}``.
        max_duration_s: how long a clip may last, in seconds. Example:
            ``media_io_kwargs={"video": {"max_duration_s": 60}}`` refuses longer ones.
        max_frames: frames that a clip may have, before any are chosen. The default is an hour at 72
            frames a second. Example: ``media_io_kwargs={"video": {"max_frames": 10_000}}``.
        max_listed_frames: frames of a clip that comes as single pictures (a ``video/jpeg`` URL,
            a list of pictures or arrays), all of which count. Example:
            ``media_io_kwargs={"video": {"max_listed_frames": 64}}``.
        max_frame_pixels: width × height of a frame at most. The default is 4096×2304. Example:
            ``media_io_kwargs={"video": {"max_frame_pixels": 1920 * 1080}}``.
        reader: "pyav" or "opencv", which reads containers. None: PyAV where it is installed, else
            OpenCV. Example: ``media_io_kwargs={"video": {"reader": "opencv"}}``.
        decoder_threads: threads that decode one clip. PyAV's have a decoder each, and its memory,
            where the frames that count lie behind several key frames. Clips are prepared beside
            each other, so more help only where few come at once. Example:
            ``media_io_kwargs={"video": {"decoder_threads": 4}}``.
    """

    num_frames: int | None = None
    fps: float | None = None
    max_duration_s: float = 3_600.0
    max_frames: int = 259_200
    max_listed_frames: int = 4_096
    max_frame_pixels: int = 4096 * 2304
    reader: str | None = None
    decoder_threads: int = 1

    @classmethod
    def from_mapping(cls, given: Mapping[str, Any]) -> VideoOptions:
        """Reads the user's options.

        Raises:
            ConfigError: an unknown key or a value out of range.
        """
        return cls(**check_options('media_io_kwargs["video"]', given, _CHECKS))


def _or_none(check: OptionCheck) -> OptionCheck:
    """None stands for "not said"."""
    return lambda name, value: None if value is None else check(name, value)


def _reader(name: str, value: Any) -> str:
    if value not in READERS:
        raise ConfigError(f"{name} is {value!r}; allowed are {' and '.join(READERS)}.")
    return str(value)


_CHECKS = {
    "num_frames": _or_none(integer(1, LARGEST_MAX_FRAMES)),
    "fps": _or_none(positive_number(LARGEST_RATE, "frames a second")),
    "max_duration_s": positive_number(LARGEST_MAX_DURATION_S, "seconds"),
    "max_frames": integer(1, LARGEST_MAX_FRAMES),
    "max_listed_frames": integer(1, LARGEST_MAX_FRAMES),
    "max_frame_pixels": integer(1, LARGEST_MAX_FRAME_PIXELS),
    "reader": _or_none(_reader),
    "decoder_threads": integer(1, MOST_THREADS),
}
